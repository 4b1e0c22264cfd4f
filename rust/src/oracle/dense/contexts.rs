//! Contexts to table rows: FNV-1a over the context's tokens, one 32-bit word each, oldest first.
//!
//! The mapping is part of the oracle's file format. Order 1 has one row; order 2 is exact, the row
//! being the previous token; from order 3 on the row is the hash of the n − 1 tokens before the
//! position, modulo the rows. With words below 256 the hash is FNV-1a over octets, so the published
//! test vectors apply.

use crate::simd;

pub const OFFSET_BASIS: u32 = 2_166_136_261;
pub const PRIME: u32 = 16_777_619;

/// Contexts hashed side by side: four registers of sixteen lanes, which hides the latency of multiplication.
const LANES: usize = 64;

/// The longest context is `MAX_ORDER - 1` tokens.
pub const MAX_ORDER: usize = 8;

/// FNV-1a (Fowler, Noll and Vo) over 32-bit words.
pub fn fnv1a(words: &[u16]) -> u32 {
    words.iter().fold(OFFSET_BASIS, |hash, &word| (hash ^ u32::from(word)).wrapping_mul(PRIME))
}

/// Writes the row of the context before each of `tokens[order - 1..]`.
///
/// `tokens` is a stretch of the stream that begins with the first position's context, so
/// `out.len() == tokens.len() - (order - 1)`. `rows` is at least 1 and `order` 1 to [`MAX_ORDER`].
pub fn context_rows(tokens: &[u16], order: usize, rows: u32, out: &mut [u32]) {
    simd::wide_registers(|| write_rows(tokens, order, rows, out));
}

/// Writes the number of a cell, row × `row_stride` + token × `token_stride`, for the token at each position, with
/// arguments as in [`context_rows`]. Returns the largest number, so that one bounds check serves all.
pub fn context_cells(
    tokens: &[u16],
    order: usize,
    rows: u32,
    (row_stride, token_stride): (u32, u32),
    out: &mut [u32],
) -> u32 {
    let mut largest = 0;
    simd::wide_registers(
        #[inline(always)]
        || {
            write_rows(tokens, order, rows, out);
            for (cell, &token) in out.iter_mut().zip(&tokens[order - 1..]) {
                *cell = *cell * row_stride + u32::from(token) * token_stride;
            }
            largest = out.iter().fold(0, |largest, &cell| largest.max(cell));
        },
    );
    largest
}

#[inline(always)]
fn write_rows(tokens: &[u16], order: usize, rows: u32, out: &mut [u32]) {
    match order {
        1 => out.fill(0),
        2 => out.iter_mut().zip(tokens).for_each(|(row, &token)| *row = u32::from(token)),
        3 => hashed_rows::<2>(tokens, rows, out),
        4 => hashed_rows::<3>(tokens, rows, out),
        5 => hashed_rows::<4>(tokens, rows, out),
        6 => hashed_rows::<5>(tokens, rows, out),
        7 => hashed_rows::<6>(tokens, rows, out),
        8 => hashed_rows::<7>(tokens, rows, out),
        _ => unreachable!("orders are checked where they come in"),
    }
}

#[inline(always)]
fn hashed_rows<const CONTEXT: usize>(tokens: &[u16], rows: u32, out: &mut [u32]) {
    let tokens = &tokens[..out.len() + CONTEXT];
    if rows.is_power_of_two() && rows <= 1 << 16 {
        // The low bits of a product depend on the low bits of its factors only, so 16-bit lanes, of which a register
        // holds twice as many as of 32 bits, give the right low 16 bits of the hash.
        let mask = (rows - 1) as u16;
        let add = |hash: u16, token: u16| (hash ^ token).wrapping_mul(PRIME as u16);
        let whole = out.len() / LANES * LANES;
        let (lanes, rest) = out.split_at_mut(whole);
        for (part, out) in lanes.chunks_exact_mut(LANES).enumerate() {
            let mut hashes = [OFFSET_BASIS as u16; LANES];
            for age in 0..CONTEXT {
                let tokens = &tokens[part * LANES + age..][..LANES];
                hashes.iter_mut().zip(tokens).for_each(|(hash, &token)| *hash = add(*hash, token));
            }
            out.iter_mut().zip(hashes).for_each(|(row, hash)| *row = u32::from(hash & mask));
        }
        for (row, context) in rest.iter_mut().zip(tokens[whole..].windows(CONTEXT)) {
            *row =
                u32::from(context.iter().fold(OFFSET_BASIS as u16, |hash, &token| add(hash, token)) & mask);
        }
        return;
    }
    for (index, row) in out.iter_mut().enumerate() {
        let mut hash = OFFSET_BASIS;
        for age in 0..CONTEXT {
            hash = (hash ^ u32::from(tokens[index + age])).wrapping_mul(PRIME);
        }
        *row = hash;
    }
    if rows.is_power_of_two() {
        out.iter_mut().for_each(|row| *row &= rows - 1);
    } else {
        out.iter_mut().for_each(|row| *row %= rows);
    }
}

/// The row of the context that ends just before position `position` of the stream `tokens`, positions
/// before the stream's start counting as token 0.
pub fn context_row_at(tokens: &[u16], position: usize, order: usize, rows: u32) -> u32 {
    let context = order - 1;
    let known = &tokens[position.saturating_sub(context)..position];
    match order {
        1 => 0,
        2 => known.first().map_or(0, |&token| u32::from(token)),
        _ => {
            let mut words = [0u16; MAX_ORDER - 1];
            words[context - known.len()..context].copy_from_slice(known);
            fnv1a(&words[..context]) % rows
        }
    }
}

/// Writes the row of the context before each position of `range`, as [`context_row_at`] does.
pub fn context_rows_in(
    tokens: &[u16],
    range: std::ops::Range<usize>,
    order: usize,
    rows: u32,
    out: &mut [u32],
) {
    let context = order - 1;
    // Only the first positions reach back beyond the stream's start.
    let head = context.clamp(range.start, range.end) - range.start;
    for (offset, row) in out[..head].iter_mut().enumerate() {
        *row = context_row_at(tokens, range.start + offset, order, rows);
    }
    let first = range.start + head;
    if first < range.end {
        context_rows(&tokens[first - context..range.end], order, rows, &mut out[head..]);
    }
}
