//! The hash of contexts.

/// A bijective finaliser (Stafford's variant 13): every input bit reaches every output bit.
pub(crate) fn finalise(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
