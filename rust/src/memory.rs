//! Large tables of zeros, and prefetching.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Integers, for which all-zero bytes are a value and any bytes are valid.
///
/// # Safety
/// Implemented for such types only.
pub unsafe trait Integer: Copy + Send + Sync + 'static {}

// SAFETY: plain integers.
unsafe impl Integer for u8 {}
// SAFETY: as above.
unsafe impl Integer for u16 {}

/// A fixed number of integers, zero at first, in pages of the operating system's own.
///
/// Unlike a vector it asks for huge pages, where counting at random places is up to a third faster, and it
/// says so when there is no memory instead of ending the process.
#[derive(Debug)]
pub struct Zeroed<T: Integer> {
    map: Option<MmapMut>,
    length: usize,
    kind: PhantomData<T>,
}

impl<T: Integer> Zeroed<T> {
    /// None if there is no memory for it.
    pub fn new(length: usize) -> Option<Self> {
        let bytes = length.checked_mul(size_of::<T>())?;
        // An empty range cannot be mapped.
        let map = if bytes == 0 { None } else { Some(MmapMut::map_anon(bytes).ok()?) };
        #[cfg(all(target_os = "linux", not(miri)))] // Miri has no such call
        if let Some(map) = &map {
            // Only a hint; small pages work too.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(Self { map, length, kind: PhantomData })
    }
}

impl<T: Integer> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.map {
            // SAFETY: the mapping holds `length` integers, any bytes are valid ones, and a page's alignment
            // suits them.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.length) },
            None => &[],
        }
    }
}

impl<T: Integer> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.map {
            // SAFETY: as above, and the borrow of `self` is exclusive.
            Some(map) => unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.length) },
            None => &mut [],
        }
    }
}

/// Prefetches the cache line that `value` begins in, on processors that have an instruction for it.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: every x86-64 processor has the instruction, and it touches nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
