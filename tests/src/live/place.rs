//! Network namespaces: threads and processes of a test that are on a node or in a pod.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `action` on a thread of its own in the namespace `netns`. Sockets and processes that it makes stay there.
///
/// # Panics
/// When there is no such namespace, or `action` panics.
pub fn within<T: Send>(netns: &str, action: impl FnOnce() -> T + Send) -> T {
    let path = Path::new("/run/netns").join(netns);
    let entered = || {
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        setns(file, CloneFlags::CLONE_NEWNET).expect("root enters any namespace");
        action()
    };
    match thread::scope(|scope| scope.spawn(entered).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A process that ends with the test, its output in a file.
#[derive(Debug)]
pub struct Background {
    child: Child,
    output: PathBuf,
}

impl Background {
    /// Starts `command` in `netns`, its output in the file `output`.
    pub fn start(netns: &str, mut command: Command, output: PathBuf) -> Self {
        let file = File::create(&output).expect("a file in the lab's folder");
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second descriptor"))
            .stderr(file);
        let child = within(netns, || command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// Interrupts it as Ctrl-C does, waits for its end and returns all it said.
    pub fn interrupt(mut self) -> String {
        // Ended meanwhile: nothing to signal.
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGINT);
        self.child.wait().expect("it is our child");
        self.said()
    }

    /// Its exit code, when it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .expect("it is our child")
            .map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
