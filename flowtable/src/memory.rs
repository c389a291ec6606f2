//! Where a table lives: anonymous memory of this process, or a file that a successor can adopt.
//!
//! All of it is taken and touched when the region is made, so that nothing faults, and nothing runs out, later.
#![allow(unsafe_code)]

use std::{fmt, io, os::fd::OwnedFd};

use crate::sync::AtomicU64;

/// Where a new table's memory comes from.
#[derive(Debug)]
pub enum Memory {
    /// This process's own: explicit 2 MiB pages if enough are free, else transparent ones, else 4 KiB.
    Anonymous,
    /// This process's own, of 4 KiB pages whatever there is: to measure what the others save.
    Small,
    /// A file that other processes can map: a memfd ([`Memory::memfd`]), a file in hugetlbfs or tmpfs, or a plain one.
    Shared(OwnedFd),
}

/// The pages that back a region, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages (hugetlb), of this many bytes.
    Huge(usize),
    /// Transparent huge pages, at least in part.
    Transparent,
    /// 4 KiB pages: expect a TLB miss for nearly every lookup in a large table.
    Small,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Huge(bytes) => write!(f, "hugetlb pages of {} KiB", bytes / 1024),
            Self::Transparent => f.write_str("transparent huge pages"),
            Self::Small => f.write_str("small pages"),
        }
    }
}

impl Memory {
    /// A new memfd, sealable; with `huge`, of reserved 2 MiB pages (a table then needs that many free ones).
    #[cfg(not(loom))]
    pub fn memfd(name: &std::ffi::CStr, huge: bool) -> io::Result<OwnedFd> {
        mapped::memfd(name, huge)
    }
}

/// A zeroed or adopted stretch of words, alive as long as this value: what a table lies in, and what measures a machine
/// as tables find it.
pub struct Region {
    #[cfg(not(loom))]
    mapping: mapped::Mapping,
    #[cfg(loom)]
    words: Vec<AtomicU64>,
    pages: Pages,
}

#[cfg(not(loom))]
impl Region {
    /// A zeroed region of at least `words`. A file must be empty and is grown.
    pub fn create(memory: Memory, words: usize) -> io::Result<Self> {
        let (mapping, pages) = match memory {
            Memory::Anonymous => mapped::Mapping::anonymous(words * 8)?,
            Memory::Small => mapped::Mapping::small(words * 8)?,
            Memory::Shared(fd) => mapped::Mapping::create(fd, words * 8)?,
        };
        Ok(Self { mapping, pages })
    }

    /// Maps the whole of a file that holds a region already.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        let (mapping, pages) = mapped::Mapping::open(fd)?;
        Ok(Self { mapping, pages })
    }

    /// All words, at least as many as were asked for.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }
}

/// Under loom, words are loom's and live in a `Vec`.
#[cfg(loom)]
impl Region {
    /// Zeroed words.
    pub fn create(_: Memory, words: usize) -> io::Result<Self> {
        Ok(Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            pages: Pages::Small,
        })
    }

    pub(crate) fn open(_: OwnedFd) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }
}

impl Region {
    /// The pages that it got.
    pub fn pages(&self) -> Pages {
        self.pages
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("words", &self.words().len())
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
mod mapped {
    use std::{
        ffi::CStr,
        fs::File,
        io,
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
        ptr::{self, NonNull},
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::Pages;

    const HUGE: usize = 2 << 20;
    const SMALL: usize = 4096;

    /// An `mmap` of `len` bytes that begins `offset` bytes into what was reserved.
    pub(super) struct Mapping {
        start: NonNull<u8>,
        len: usize,
        /// Kept open: the inode must outlive us only by the mapping, but a hot restart passes it on.
        _fd: Option<OwnedFd>,
    }

    // SAFETY: the mapping is reached through `&[AtomicU64]` alone, which any thread may use; unmapping needs `Drop`.
    unsafe impl Send for Mapping {}
    // SAFETY: as for Send.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub(super) fn anonymous(bytes: usize) -> io::Result<(Self, Pages)> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // A small region would waste a reserved page; it is hot in the TLB anyway.
            if bytes >= HUGE {
                let len = round_up(bytes, HUGE);
                // Without MAP_NORESERVE the kernel reserves the pages here, so that touching them cannot fail.
                if let Ok(mapping) = Self::map(len, flags | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, None) {
                    mapping.touch()?;
                    return Ok((mapping, Pages::Huge(HUGE)));
                }
            }
            let mapping = Self::map(
                round_up(bytes, if bytes >= HUGE { HUGE } else { SMALL }),
                flags,
                None,
            )?;
            let pages = mapping.touch_transparent()?;
            Ok((mapping, pages))
        }

        pub(super) fn small(bytes: usize) -> io::Result<(Self, Pages)> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapping = Self::map(round_up(bytes, SMALL), flags, None)?;
            // SAFETY: advice on a range we own; contents are not affected.
            unsafe { libc::madvise(mapping.start.as_ptr().cast(), mapping.len, libc::MADV_NOHUGEPAGE) };
            mapping.touch()?;
            Ok((mapping, Pages::Small))
        }

        pub(super) fn create(fd: OwnedFd, bytes: usize) -> io::Result<(Self, Pages)> {
            let file = File::from(fd);
            let found = file.metadata()?.len();
            if found != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("the file holds {found} bytes; adopt it, or give an empty one"),
                ));
            }
            let len = round_up(bytes, page_size(&file)?);
            file.set_len(len as u64)?;
            // SAFETY: no memory involved; the descriptor is open. Takes the blocks now instead of a SIGBUS later.
            let reserved =
                unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len.cast_signed() as libc::off_t) };
            if reserved != 0 && reserved != libc::EOPNOTSUPP {
                return Err(io::Error::from_raw_os_error(reserved));
            }
            // Nobody may truncate it under us. Refused unless a memfd was made sealable: then the owner of the file
            // answers for it, as the documentation says.
            // SAFETY: no memory involved.
            unsafe {
                libc::fcntl(
                    file.as_raw_fd(),
                    libc::F_ADD_SEALS,
                    libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
                )
            };
            Self::open(file.into())
        }

        pub(super) fn open(fd: OwnedFd) -> io::Result<(Self, Pages)> {
            let file = File::from(fd);
            let page = page_size(&file)?;
            let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            if len == 0 || len % SMALL != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the file is {len} bytes long"),
                ));
            }
            let mapping = Self::map(len, libc::MAP_SHARED, Some(file.into()))?;
            if page > SMALL {
                mapping.touch()?;
                return Ok((mapping, Pages::Huge(page)));
            }
            let pages = mapping.touch_transparent()?;
            Ok((mapping, pages))
        }

        fn map(len: usize, flags: libc::c_int, fd: Option<OwnedFd>) -> io::Result<Self> {
            let raw = fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            // Room to move the start to a huge page boundary: transparent pages need it, hugetlb gives it.
            let spare = if len.is_multiple_of(HUGE) && flags & libc::MAP_HUGETLB == 0 {
                HUGE
            } else {
                0
            };
            // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing of ours.
            let reserved = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    len + spare,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if reserved == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let address = reserved as usize;
            let aligned = if spare == 0 {
                address
            } else {
                round_up(address, HUGE)
            };
            let _ = unmap(address, aligned - address);
            let _ = unmap(aligned + len, address + spare - aligned);
            // SAFETY: MAP_FIXED replaces only the reservation that we made just now and no one else knows. A hugetlb
            // mapping at an unaligned address fails; it is retried below at the kernel's choice.
            let at = unsafe {
                libc::mmap(
                    aligned as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    flags | libc::MAP_FIXED,
                    raw,
                    0,
                )
            };
            if at != libc::MAP_FAILED {
                let start = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
                return Ok(Self { start, len, _fd: fd });
            }
            let refused = io::Error::last_os_error();
            unmap(aligned, len)?;
            if flags & libc::MAP_HUGETLB == 0 && refused.raw_os_error() != Some(libc::EINVAL) {
                return Err(refused);
            }
            // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing of ours.
            let at = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    flags,
                    raw,
                    0,
                )
            };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { start, len, _fd: fd })
        }

        #[inline]
        pub(super) fn words(&self) -> &[AtomicU64] {
            // SAFETY: in bounds: `len` bytes are mapped from `start`, and `len` is a multiple of a page. Alive until
            // `Drop`, which the borrow outlasts. Aligned to a page. Any bytes are a valid u64. Aliases are atomic too:
            // this is the only accessor, and other processes that map the file go through the same one.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / 8) }
        }

        /// Asks for transparent huge pages, touches everything and tells what came of it.
        fn touch_transparent(&self) -> io::Result<Pages> {
            // SAFETY: advice on a range we own; contents are not affected.
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
            self.touch()?;
            Ok(if self.has_transparent_pages() {
                Pages::Transparent
            } else {
                Pages::Small
            })
        }

        /// Makes every page present and writable without changing its contents.
        fn touch(&self) -> io::Result<()> {
            // SAFETY: populating a range we own does not change its contents.
            let done =
                unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_POPULATE_WRITE) };
            if done == 0 {
                return Ok(());
            }
            let refused = io::Error::last_os_error();
            if refused.raw_os_error() != Some(libc::EINVAL) {
                return Err(refused);
            }
            // Before Linux 5.14. An atomic no-op write faults the page in and is safe beside any other writer.
            for word in self.words().iter().step_by(SMALL / 8) {
                word.fetch_or(0, Relaxed);
            }
            Ok(())
        }

        /// Looks for us in `/proc/self/smaps`; without it, the answer is no.
        pub(super) fn has_transparent_pages(&self) -> bool {
            if self.len < HUGE {
                return false;
            }
            let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
                return false;
            };
            let (from, to) = (
                self.start.as_ptr() as usize,
                self.start.as_ptr() as usize + self.len,
            );
            let mut ours = false;
            for line in maps.lines() {
                let mut fields = line.split_whitespace();
                let Some(name) = fields.next() else { continue };
                if let Some((start, end)) = name.split_once('-')
                    && let (Ok(start), Ok(end)) =
                        (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
                {
                    // The kernel may have merged or split neighbours.
                    ours = start < to && end > from;
                } else if ours
                    && matches!(name, "AnonHugePages:" | "ShmemPmdMapped:" | "FilePmdMapped:")
                    && fields.next().is_some_and(|kib| kib != "0")
                {
                    return true;
                }
            }
            false
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            let _ = unmap(self.start.as_ptr() as usize, self.len);
        }
    }

    /// Unmaps a range of ours that nothing borrows any more; nothing to do for an empty one.
    fn unmap(address: usize, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the callers pass parts of their own reservation, or of a `Mapping` being dropped, so no reference
        // into it is left.
        match unsafe { libc::munmap(address as *mut libc::c_void, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn memfd(name: &CStr, huge: bool) -> io::Result<OwnedFd> {
        let huge = if huge {
            libc::MFD_HUGETLB | libc::MFD_HUGE_2MB
        } else {
            0
        };
        // SAFETY: `name` is a C string alive during the call.
        let fd =
            unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel has just given us, and nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The size of the pages that back `file`: its filesystem's block for hugetlbfs, else 4 KiB.
    fn page_size(file: &File) -> io::Result<usize> {
        // SAFETY: all-zero bytes are a valid `statfs`, a struct of integers.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is ours and large enough; the descriptor is open.
        if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let huge = stat.f_type == libc::HUGETLBFS_MAGIC;
        Ok(if huge {
            usize::try_from(stat.f_bsize).map_err(io::Error::other)?
        } else {
            SMALL
        })
    }

    fn round_up(bytes: usize, unit: usize) -> usize {
        bytes.div_ceil(unit) * unit
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Relaxed;

    #[test]
    fn every_word_of_a_new_region_is_zero_and_writable() {
        for words in [1, 512, 513, 1 << 18, (1 << 18) + 1] {
            for memory in [Memory::Anonymous, Memory::Small] {
                let region = Region::create(memory, words).unwrap();
                assert!(region.words().len() >= words);
                for word in region.words() {
                    assert_eq!(word.fetch_add(1, Relaxed), 0);
                }
            }
        }
    }

    #[test]
    fn small_pages_are_small_even_where_large_ones_would_do() {
        let region = Region::create(Memory::Small, 1 << 20).unwrap();
        assert_eq!(region.pages(), Pages::Small);
        assert!(!region.mapping.has_transparent_pages());
    }

    #[test]
    fn a_memfd_shows_one_region_to_two_mappings() {
        let fd = Memory::memfd(c"region", false).unwrap();
        let other = fd.try_clone().unwrap();
        let first = Region::create(Memory::Shared(fd), 1000).unwrap();
        first.words()[999].store(7, Relaxed);
        let second = Region::open(other).unwrap();
        assert_eq!(second.words()[999].load(Relaxed), 7);
    }

    /// Needs 2 free reserved pages: `echo 2 > /proc/sys/vm/nr_hugepages`.
    #[test]
    fn reserved_huge_pages_are_used_when_there_are_some() {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let free = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("HugePages_Free:"));
        let free: usize = free.map_or(0, |pages| pages.trim().parse().unwrap());
        if free < 2 {
            println!("skipped: {free} free huge pages, 2 needed");
            return;
        }
        let words = (2 << 20) / 8;
        let anonymous = Region::create(Memory::Anonymous, words).unwrap();
        let shared = Region::create(Memory::Shared(Memory::memfd(c"huge", true).unwrap()), 1).unwrap();
        for region in [anonymous, shared] {
            assert_eq!(
                (region.pages(), region.words().len()),
                (Pages::Huge(2 << 20), words)
            );
            assert_eq!(region.words()[words - 1].fetch_add(1, Relaxed), 0);
        }
    }

    #[test]
    fn a_file_with_contents_is_not_overwritten() {
        let fd = Memory::memfd(c"region", false).unwrap();
        let other = fd.try_clone().unwrap();
        let _first = Region::create(Memory::Shared(fd), 1).unwrap();
        let error = Region::create(Memory::Shared(other), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
