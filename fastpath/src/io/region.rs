//! One mapping of shared memory: what the chunks of a [`Memory`](super::Memory) lie in.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

/// The pages that back a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages reserved by the administrator (`vm.nr_hugepages`).
    Huge,
    /// 2 MiB pages made by the kernel on request (`transparent_hugepage/shmem_enabled`).
    Transparent,
    /// 4 KiB pages: random access over much memory costs several times more.
    Small,
}

impl std::fmt::Display for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Huge => "2 MiB (hugetlb)",
            Self::Transparent => "2 MiB (transparent)",
            Self::Small => "4 KiB",
        })
    }
}

/// Why memory could not be had. The kernel's fault or the administrator's, never the packet's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// No memory file could be made.
    #[error("no memory file of {len} bytes: {source}")]
    File {
        /// Bytes asked for.
        len: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The memory could not be mapped.
    #[error("{len} bytes of memory could not be mapped: {source}")]
    Map {
        /// Bytes asked for.
        len: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A mapping of a memory file, shared, zeroed and present from the start.
///
/// The kernel may write to it at any time (AF_XDP), so nobody makes a reference to all of it: [`Memory`](super::Memory)
/// hands out slices of single frames that it owns.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    pages: Pages,
    file: OwnedFd,
}

// SAFETY: `start` is a mapping that belongs to this value alone; nothing in it is bound to the thread that made it.
unsafe impl Send for Region {}

const HUGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4096;

impl Region {
    /// At least `len` bytes, in the largest pages that the machine grants.
    ///
    /// # Errors
    /// [`RegionError`] when not even 4 KiB pages are granted.
    pub fn new(len: usize) -> Result<Self, RegionError> {
        assert!(len > 0, "an empty region");
        if let Ok(region) = Self::of_file(len.next_multiple_of(HUGE_PAGE), libc::MFD_HUGETLB) {
            return Ok(region);
        }
        Self::of_file(len.next_multiple_of(SMALL_PAGE), 0)
    }

    /// Maps the memory file of another process or of an earlier life, `len` bytes of it.
    ///
    /// # Errors
    /// [`RegionError::Map`] when the kernel refuses.
    pub fn adopt(file: OwnedFd, len: usize) -> Result<Self, RegionError> {
        Self::map(file, len, Pages::Small)
    }

    fn of_file(len: usize, flags: libc::c_uint) -> Result<Self, RegionError> {
        // SAFETY: the name is a literal with its nul byte.
        let fd = unsafe { libc::memfd_create(c"ringway-frames".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(RegionError::File {
                len,
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: `fd` was just made and nobody else knows it.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on our own file.
        if unsafe { libc::ftruncate(file.as_raw_fd(), len.cast_signed() as libc::off_t) } != 0 {
            return Err(RegionError::File {
                len,
                source: io::Error::last_os_error(),
            });
        }
        Self::map(
            file,
            len,
            if flags & libc::MFD_HUGETLB == 0 {
                Pages::Small
            } else {
                Pages::Huge
            },
        )
    }

    fn map(file: OwnedFd, len: usize, pages: Pages) -> Result<Self, RegionError> {
        let flags = libc::MAP_SHARED
            | if pages == Pages::Huge {
                libc::MAP_POPULATE
            } else {
                0
            };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(RegionError::Map {
                len,
                source: io::Error::last_os_error(),
            });
        }
        let start = NonNull::new(start.cast::<u8>()).expect("mmap gives no null page");
        let mut region = Self {
            start,
            len,
            pages,
            file,
        };
        if pages == Pages::Small {
            region.ask_for_transparent_pages();
        }
        Ok(region)
    }

    /// Asks for transparent huge pages, then makes every page present, then looks at what came of it.
    fn ask_for_transparent_pages(&mut self) {
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: advice about our own mapping; a refusal changes nothing.
        unsafe { libc::madvise(start, self.len, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; a kernel without it leaves the pages to be made at first use.
        unsafe { libc::madvise(start, self.len, libc::MADV_POPULATE_WRITE) };
        if self.len >= HUGE_PAGE && mapped_in_huge_pages(self.start.as_ptr() as usize) >= self.len / 2 {
            self.pages = Pages::Transparent;
        }
    }

    /// First byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes, whole pages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty region is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What backs it.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// The memory file, for a successor process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, with its own length; slices of it borrow the `Memory` that owns this value. Sockets that
        // registered it hold its pages, not its addresses.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Bytes of the mapping that starts at `address` which the kernel maps in huge pages, 0 when it does not say.
fn mapped_in_huge_pages(address: usize) -> usize {
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    let head = format!("{address:x}-");
    smaps
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .filter_map(|line| line.strip_prefix("ShmemPmdMapped:"))
        .find_map(|size| size.trim().strip_suffix("kB")?.trim().parse::<usize>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_says_which_pages_it_got_and_holds_what_was_asked() {
        let region = Region::new(3 << 20).unwrap();
        assert!(region.len() >= 3 << 20);
        let page = if region.pages() == Pages::Huge {
            HUGE_PAGE
        } else {
            SMALL_PAGE
        };
        assert_eq!(region.len() % page, 0);
        assert_eq!(
            region.start().as_ptr() as usize % page,
            0,
            "chunks must not straddle pages"
        );
    }

    #[test]
    fn an_adopted_region_shows_the_same_bytes() {
        let region = Region::new(SMALL_PAGE).unwrap();
        // SAFETY: the first byte of our own mapping.
        unsafe { region.start().as_ptr().write(42) };
        let again = Region::adopt(region.file().try_clone_to_owned().unwrap(), region.len()).unwrap();
        // SAFETY: the first byte of a mapping as long as the first.
        assert_eq!(unsafe { again.start().as_ptr().read() }, 42);
    }
}
