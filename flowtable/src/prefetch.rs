//! Asks the CPU to bring a cache line nearer.
#![allow(unsafe_code)]

/// Prefetches the cache line that holds `place`, for reading.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: in bounds and alive: the address is that of a live reference. Aliasing: a prefetch is a hint that
        // reads no value, so it cannot race.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(loom), not(miri)))]
    {
        // SAFETY: as above; `prfm` faults on no address and changes no register or flag.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) std::ptr::from_ref(place), options(nostack, readonly, preserves_flags));
        }
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(loom), not(miri))))]
    let _ = place;
}
