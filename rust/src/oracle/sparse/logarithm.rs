//! Natural logarithms of many probabilities at once.

/// Replaces each value by its natural logarithm, correct to about one unit in the last place. Values
/// are positive and normal; the loop has no branches, so it runs in vector registers.
pub fn ln_in_place(values: &mut [f32]) {
    for value in values {
        *value = ln(*value);
    }
}

/// The method of Cephes (Moshier 1989): x = 2^e · (1 + f) with 1 + f between √½ and √2, and a
/// polynomial in f.
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = ((shifted as i32) >> 23) as f32;
    let f = f32::from_bits((shifted & 0x007F_FFFF) + SQRT_HALF) - 1.0;
    let square = f * f;
    let mut y = 7.037_683_6e-2;
    y = y * f - 1.151_461e-1;
    y = y * f + 1.167_699_9e-1;
    y = y * f - 1.242_014_1e-1;
    y = y * f + 1.424_932_3e-1;
    y = y * f - 1.666_805_8e-1;
    y = y * f + 2.000_071_5e-1;
    y = y * f - 2.499_999_4e-1;
    y = y * f + 0.333_333_3;
    y = y * f * square + exponent * LN2_LOW - 0.5 * square;
    f + y + exponent * LN2_HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_double_precision() {
        let mut x = 1e-37f32;
        while x <= 1.0 {
            let exact = f64::from(x).ln();
            let found = f64::from(ln(x));
            assert!((found - exact).abs() <= 1.5e-7 * exact.abs(), "{x}: {found}, not {exact}");
            x *= 1.000_37;
        }
        assert_eq!(ln(1.0), 0.0);
    }
}
