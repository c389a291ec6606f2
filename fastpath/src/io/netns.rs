//! Network namespaces: sockets belong to the namespace of the thread that made them, so such a thread is what we make.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

/// A network namespace, alive while this value (or a socket, process or mount in it) is.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// A fresh one, with nothing but `lo`, down. Needs `CAP_SYS_ADMIN`.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            // SAFETY: a plain system call without pointers; it moves only this new thread, which ends after it.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            Ok(Self {
                file: File::open("/proc/thread-self/ns/net")?,
            })
        })
    }

    /// The one at `path`: `/run/netns/<name>`, `/proc/<pid>/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
        })
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Panics
    /// Panics with the panic of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            // SAFETY: the descriptor is open while `self.file` is; it moves only this new thread, which ends after `work`.
            check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })?;
            Ok(work())
        })
    }
}

impl AsRawFd for NetworkNamespace {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
