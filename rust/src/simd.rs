//! Code compiled for the vector registers that the processor at hand has.

/// Runs `work`, compiled for this processor's 256-bit registers if it has them.
#[inline(always)]
pub fn wide_registers(work: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2(work: impl FnOnce()) {
            work();
        }
        if cfg!(not(feature = "portable")) && is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { with_avx2(work) };
        }
    }
    work();
}
