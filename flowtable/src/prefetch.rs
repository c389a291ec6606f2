//! Asks the CPU to bring a cache line nearer.
#![allow(unsafe_code)]

/// Prefetches the cache line that holds `place`, for reading.
#[inline]
pub fn prefetch<T>(place: &T) {
    prefetch_at(std::ptr::from_ref(place));
}

/// The same for an address that may be anything: a wrong one costs time, nothing else.
#[inline]
pub(crate) fn prefetch_at<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it faults on no address, and reads no value, so it cannot race.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(loom), not(miri)))]
    {
        // SAFETY: as above; `prfm` faults on no address and changes no register or flag.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) place, options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(loom), not(miri))))]
    let _ = place;
}
