//! Where an uplink's program, link and maps are kept alive: `BPFFS/INTERFACE/link` and `BPFFS/INTERFACE/maps-vN`.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs, io, mem,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use super::{
    attach::AttachError,
    sys::{self, Map},
};

/// Version of the maps' layout: maps of another one are not adopted, the link is.
const MAPS: &str = "maps-v1";
/// Folder of the pods' links; an interface's name has no colon.
const PODS: &str = "pods:";
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// The pins of one interface.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// The interface's folder below `bpffs`, made and mounted if need be.
    pub(super) fn new(interface: &str, bpffs: &Path) -> Result<Self, AttachError> {
        let place = bpffs.display().to_string();
        mount(bpffs).map_err(|error| AttachError::system(&place, "mount a BPF filesystem", error))?;
        let pins = Self::at(interface, bpffs);
        fs::create_dir_all(&pins.folder).map_err(|error| pins.error("make a folder for pins", error))?;
        Ok(pins)
    }

    /// The interface's folder, if it is there.
    pub(super) fn existing(interface: &str, bpffs: &Path) -> Option<Self> {
        Some(Self::at(interface, bpffs)).filter(|pins| pins.folder.is_dir())
    }

    /// As [`new`](Self::new), for a pod's link: these stand in a folder of their own.
    pub(super) fn of_pod(interface: &str, bpffs: &Path) -> Result<Self, AttachError> {
        let place = bpffs.display().to_string();
        mount(bpffs).map_err(|error| AttachError::system(&place, "mount a BPF filesystem", error))?;
        Self::new(interface, &bpffs.join(PODS))
    }

    /// As [`existing`](Self::existing), for a pod's link.
    pub(super) fn existing_of_pod(interface: &str, bpffs: &Path) -> Option<Self> {
        Self::existing(interface, &bpffs.join(PODS))
    }

    fn at(interface: &str, bpffs: &Path) -> Self {
        // A BPF filesystem allows no dots, an interface's name no colons.
        Self {
            folder: bpffs.join(interface.replace('.', ":")),
        }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.folder.join(MAPS)
    }

    /// The link that was left on the interface with this index. One of an interface that is gone is removed.
    pub(super) fn link_on(&self, interface: u32) -> Result<Option<OwnedFd>, AttachError> {
        let path = self.folder.join("link");
        let pinned =
            sys::pinned(&c_path(&path)).map_err(|error| self.error("open the pinned link", error))?;
        let Some(link) = pinned else { return Ok(None) };
        let on = sys::link_interface(&link).map_err(|error| self.error("look at the pinned link", error))?;
        if on == interface {
            return Ok(Some(link));
        }
        fs::remove_file(&path).map_err(|error| self.error("remove a dead link", error))?;
        Ok(None)
    }

    pub(super) fn pin_link(&self, link: BorrowedFd<'_>) -> Result<(), AttachError> {
        sys::pin(link, &c_path(&self.folder.join("link"))).map_err(|error| self.error("pin the link", error))
    }

    pub(super) fn make_maps_folder(&self) -> Result<(), AttachError> {
        fs::create_dir_all(self.maps()).map_err(|error| self.error("make a folder for maps", error))
    }

    /// The pinned map of this name, whose keys and values must have these sizes.
    pub(super) fn map(&self, name: &str, key_size: usize, value_size: usize) -> Result<Map, AttachError> {
        let path = self.maps().join(name);
        let other_version = || AttachError::OtherVersion {
            path: path.display().to_string(),
        };
        let fd = sys::pinned(&c_path(&path)).map_err(|error| self.error("open a pinned map", error))?;
        let fd = fd.ok_or_else(other_version)?;
        let sizes = sys::map_sizes(&fd).map_err(|error| self.error("look at a pinned map", error))?;
        if sizes != (key_size, value_size) {
            return Err(other_version());
        }
        Ok(Map::new(fd, key_size, value_size))
    }

    /// Removes the maps of other versions, which no program uses any more.
    pub(super) fn remove_other_versions(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.path().is_dir() && entry.file_name() != MAPS)
        {
            if let Err(error) = remove_folder(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "old maps stay pinned");
            }
        }
    }

    /// Takes the program off the interface and removes everything.
    pub(super) fn remove(&self) -> Result<(), AttachError> {
        // Without this the program would stay until the kernel gets round to freeing the link, or while a process holds it. An
        // interface that is gone has nothing to be taken off.
        if let Ok(Some(link)) = sys::pinned(&c_path(&self.folder.join("link"))) {
            let _ = sys::detach_link(link.as_fd());
        }
        remove_folder(&self.folder).map_err(|error| self.error("remove pins", error))
    }

    fn error(&self, action: &'static str, source: io::Error) -> AttachError {
        AttachError::system(&self.folder.display().to_string(), action, source)
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_folder(&path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    fs::remove_dir(folder)
}

/// Makes `folder` a folder of a BPF filesystem. Where its nearest existing parent is none, one is mounted: on the folder
/// itself, or on the parent where no folder can be made, as in sysfs.
fn mount(folder: &Path) -> io::Result<()> {
    if is_bpffs(folder) {
        return Ok(());
    }
    if fs::create_dir_all(folder).is_ok() {
        return if is_bpffs(folder) {
            Ok(())
        } else {
            mount_at(folder)
        };
    }
    let parent = folder
        .ancestors()
        .find(|parent| parent.is_dir())
        .ok_or(io::ErrorKind::NotFound)?;
    mount_at(parent)?;
    fs::create_dir_all(folder)
}

fn mount_at(folder: &Path) -> io::Result<()> {
    let target = c_path(folder);
    let kind = c"bpf".as_ptr();
    // SAFETY: nul-terminated strings that live through the call, and no data.
    let result = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_bpffs(folder: &Path) -> bool {
    let path = c_path(folder);
    // SAFETY: integers only, for which all zeroes is a value.
    let mut info: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `path` is nul-terminated, `info` writable.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut info) };
    result == 0 && info.f_type == BPF_FS_MAGIC
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths from the configuration have no nul")
}
