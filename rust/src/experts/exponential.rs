//! Exponentials of many numbers at once.

/// Replaces each value by its exponential, correct to about one unit in the last place; below −87, by next to
/// nothing. The loop has no branches, so it runs in vector registers.
#[inline(always)]
pub fn exp_in_place(values: &mut [f32]) {
    for value in values {
        *value = exp(*value);
    }
}

/// The method of Cephes (Moshier 1989): e^x = 2^n · e^r with r between −½ ln 2 and ½ ln 2, and a polynomial in r.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Added and taken away again, it rounds to a whole number.
    const ROUNDING: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let whole = (x * std::f32::consts::LOG2_E + ROUNDING) - ROUNDING;
    let r = x - whole * LN2_HIGH - whole * LN2_LOW;
    let mut y = 1.987_569_1e-4;
    y = y * r + 1.398_2e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    y * f32::from_bits(((whole as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_double_precision() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let found = f64::from(exp(x));
            assert!((found - exact).abs() <= 2e-7 * exact, "{x}: {found}, not {exact}");
            x += 0.000_917;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
