//! bpf(2): the few commands that we use, as safe calls over descriptors and byte slices.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_long},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const MAP_CREATE: c_long = 0;
const MAP_LOOKUP_ELEM: c_long = 1;
const MAP_UPDATE_ELEM: c_long = 2;
const MAP_DELETE_ELEM: c_long = 3;
const MAP_GET_NEXT_KEY: c_long = 4;
const PROG_LOAD: c_long = 5;
const OBJ_PIN: c_long = 6;
const OBJ_GET: c_long = 7;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const LINK_CREATE: c_long = 28;
const LINK_UPDATE: c_long = 29;
const LINK_DETACH: c_long = 34;

pub(super) const MAP_TYPE_XSKMAP: u32 = 17;
pub(super) const PROG_TYPE_XDP: u32 = 6;
pub(super) const ATTACH_XDP: u32 = 37;
/// The program takes packets of several buffers: without it, interfaces of large MTU are refused.
pub(super) const PROG_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Attach in the driver, not on the generic path, which would see segmented super-packets.
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Tries again of a load that a pending signal interrupted.
pub(super) const LOAD_RETRIES: usize = 10;

/// One instruction: the kernel's `bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// Destination in the low half, source in the high half.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// A command's argument: a prefix of the kernel's `union bpf_attr`, with zeroes for what is not said.
trait Attribute {}

macro_rules! attributes {
    ($($name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        #[derive(Default)]
        #[repr(C)]
        #[allow(clippy::struct_field_names, reason = "the kernel's names")]
        struct $name { $($field: $kind),* }
        impl Attribute for $name {}
    )*};
}

attributes! {
    MapCreate { map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32, inner_map: u32,
        numa_node: u32, name: [u8; 16] }
    MapElement { map: u32, padding: u32, key: u64, value: u64, flags: u64 }
    ProgLoad { prog_type: u32, instruction_count: u32, instructions: u64, license: u64, log_level: u32, log_size: u32,
        log: u64, kernel_version: u32, flags: u32, name: [u8; 16], interface: u32, attach_type: u32 }
    Object { path: u64, fd: u32, file_flags: u32 }
    Info { fd: u32, info_len: u32, info: u64 }
    LinkCreate { program: u32, interface: u32, attach_type: u32, flags: u32 }
    LinkDetach { link: u32 }
    LinkUpdate { link: u32, program: u32, flags: u32, old_program: u32 }
}

fn bpf<A: Attribute>(command: c_long, attribute: &mut A) -> io::Result<i32> {
    let (attribute, len) = (std::ptr::from_mut(attribute), size_of::<A>());
    // SAFETY: `attribute` is `len` bytes laid out as the kernel's union, whose pointers point to memory that the callers below
    // borrow over the call, as long as the lengths beside them say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, len) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// As [`bpf`], for commands that give a descriptor (close-on-exec by itself).
fn bpf_fd<A: Attribute>(command: c_long, attribute: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attribute)?;
    // SAFETY: the kernel just made `fd` and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A program's or map's name: at most 15 bytes.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..15]
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = from);
    bytes
}

pub(super) fn create_map(
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    name: &str,
) -> io::Result<OwnedFd> {
    let mut attribute = MapCreate {
        map_type: kind,
        key_size,
        value_size,
        max_entries: entries,
        name: object_name(name),
        ..MapCreate::default()
    };
    bpf_fd(MAP_CREATE, &mut attribute)
}

/// A map with the sizes of its keys and values, which every call is checked against.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Map {
    /// Takes `fd`, a map whose keys and values have these sizes; a wrong size would let the kernel read beyond a slice.
    pub(super) fn new(fd: OwnedFd, key_size: usize, value_size: usize) -> Self {
        Self {
            fd,
            key_size,
            value_size,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key_size, self.value_size));
        let mut attribute = MapElement {
            map: raw(self.fd()),
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            ..MapElement::default()
        };
        bpf(MAP_UPDATE_ELEM, &mut attribute).map(drop)
    }

    /// `false` when there is no such key.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        assert_eq!(key.len(), self.key_size);
        let mut attribute = MapElement {
            map: raw(self.fd()),
            key: key.as_ptr() as u64,
            ..MapElement::default()
        };
        match bpf(MAP_DELETE_ELEM, &mut attribute) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// All keys, as they are while nobody else changes the map.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let mut attribute = MapElement {
                map: raw(self.fd()),
                key: keys.last().map_or(0, |key| key.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                ..MapElement::default()
            };
            match bpf(MAP_GET_NEXT_KEY, &mut attribute) {
                Ok(_) => keys.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills `value`; for a per-CPU map the values of all possible CPUs, each rounded up to 8 bytes.
    pub(super) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        assert_eq!(key.len(), self.key_size);
        assert!(value.len() >= self.value_size);
        let mut attribute = MapElement {
            map: raw(self.fd()),
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            ..MapElement::default()
        };
        match bpf(MAP_LOOKUP_ELEM, &mut attribute) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            result => result.map(|_| true),
        }
    }
}

/// Loads an XDP program that takes frags.
pub(super) fn load_xdp(instructions: &[Instruction], license: &CStr, name: &str) -> io::Result<OwnedFd> {
    let mut attribute = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        flags: PROG_XDP_HAS_FRAGS,
        name: object_name(name),
        attach_type: ATTACH_XDP,
        ..ProgLoad::default()
    };
    let mut result = bpf_fd(PROG_LOAD, &mut attribute);
    for _ in 0..LOAD_RETRIES {
        if !result
            .as_ref()
            .is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
        {
            break;
        }
        result = bpf_fd(PROG_LOAD, &mut attribute);
    }
    result
}

/// Attaches a program to an interface's driver; it stays until the last descriptor or pin of the link goes.
pub(super) fn create_xdp_link(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: raw(program),
        interface,
        attach_type: ATTACH_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf_fd(LINK_CREATE, &mut attribute)
}

/// Puts another program into a link, without a packet in between that meets none.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = LinkUpdate {
        link: raw(link),
        program: raw(program),
        ..LinkUpdate::default()
    };
    bpf(LINK_UPDATE, &mut attribute).map(drop)
}

/// Takes a link's program off its interface, now, whoever else holds the link.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut LinkDetach { link: raw(link) }).map(drop)
}

/// Keeps an object alive under a path of a bpf filesystem.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let mut attribute = Object {
        path: path.as_ptr() as u64,
        fd: raw(object),
        file_flags: 0,
    };
    bpf(OBJ_PIN, &mut attribute).map(drop)
}

/// The object that is pinned at a path; `None` when nothing is.
pub(super) fn pinned(path: &CStr) -> io::Result<Option<OwnedFd>> {
    let mut attribute = Object {
        path: path.as_ptr() as u64,
        fd: 0,
        file_flags: 0,
    };
    match bpf_fd(OBJ_GET, &mut attribute) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// Index of the interface that an XDP link is on, 0 when it is gone.
pub(super) fn link_interface(link: &OwnedFd) -> io::Result<u32> {
    // type, id, program id, padding, interface: the start of the kernel's `bpf_link_info`.
    info::<5>(link).map(|words| words[4])
}

/// Sizes of a map's keys and values.
pub(super) fn map_sizes(map: &OwnedFd) -> io::Result<(usize, usize)> {
    // type, id, key size, value size: the start of the kernel's `bpf_map_info`.
    info::<4>(map).map(|words| (words[2] as usize, words[3] as usize))
}

fn info<const N: usize>(object: &OwnedFd) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let mut attribute = Info {
        fd: object.as_raw_fd().cast_unsigned(),
        info_len: size_of_val(&words) as u32,
        info: words.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attribute)?;
    Ok(words)
}
