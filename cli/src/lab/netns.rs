//! Named network namespaces, kept where `ip netns` keeps them, and code that runs inside one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where iproute2 looks for names too, so that `ip netns exec NAME` works.
const DIRECTORY: &str = "/run/netns";

/// The file that names the namespace `name`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Makes a namespace with a name of its own. Its loopback is down.
pub(crate) fn create(name: &str) -> Result<()> {
    prepare_directory().with_context(|| format!("preparing {DIRECTORY}"))?;
    let path = path(name);
    match File::create_new(&path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("a network namespace named {name} exists already")
        }
        Err(error) => return Err(error).with_context(|| format!("creating {}", path.display())),
    }
    let made = on_thread(|| -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare of the network namespace")?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("mounting {}", path.display()))
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Removes the name. The namespace itself goes with its last process and socket.
pub(crate) fn delete(name: &str) -> Result<()> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not mounted: left by a crash between the file and the mount.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmounting {}", path.display())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Moves the calling thread into the namespace for good.
pub(crate) fn enter(name: &str) -> Result<()> {
    let path = path(name);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {name}"))
}

/// Moves the calling thread into the namespace for good, with a `/sys` that shows the devices there: a mounted sysfs
/// shows those of the namespace that it was mounted in.
pub(crate) fn enter_with_sysfs(name: &str) -> Result<()> {
    enter(name)?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare of the mounts")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )
    .context("keeping mounts to ourselves")?;
    // Without one before, there is none to take away.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mounting /sys")
}

/// Runs `work` on a thread inside the namespace. Processes that it spawns stay there.
pub(crate) fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        enter(name)?;
        work()
    })
}

/// The processes in the namespace.
pub(crate) fn processes(name: &str) -> Result<Vec<i32>> {
    let namespace = fs::metadata(path(name)).with_context(|| format!("looking at {name}"))?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Gone meanwhile, or not ours to look at.
        let Ok(theirs) = fs::metadata(format!("/proc/{pid}/ns/net")) else {
            continue;
        };
        if (theirs.dev(), theirs.ino()) == (namespace.dev(), namespace.ino()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// As iproute2 does: a mount point of its own, shared, so that names appear and vanish in every mount namespace.
fn prepare_directory() -> Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let share = || {
        mount(
            None::<&str>,
            DIRECTORY,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if share() == Err(Errno::EINVAL) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)?;
        share()?;
    }
    Ok(())
}

/// As [`within`], with the namespace's own `/sys`.
pub(crate) fn within_with_sysfs<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        enter_with_sysfs(name)?;
        work()
    })
}

/// A thread of its own, since a namespace belongs to the thread that enters it.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
