//! Network namespaces for tests.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Moves this thread, and the commands it starts, into a fresh network namespace, which goes when its last socket goes.
pub fn enter_fresh() {
    // SAFETY: changes this thread alone.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    run("ip link set lo up");
}

/// Runs a command in the thread's namespace.
///
/// # Panics
/// When it fails.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .expect("command starts");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writes a sysctl of the thread's namespace, such as `net/ipv6/conf/a/disable_ipv6`.
pub fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/thread-self/root/proc/sys/{name}"), value)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A pair of interfaces with `queues` queues and no traffic of the kernel's own.
pub fn quiet_veth(a: &str, b: &str, queues: u16, mtu: u32) {
    run(&format!(
        "ip link add {a} numrxqueues {queues} numtxqueues {queues} type veth peer name {b} numrxqueues {queues} numtxqueues {queues}"
    ));
    for name in [a, b] {
        run(&format!("ip link set {name} addrgenmode none mtu {mtu}"));
        run(&format!("ip link set {name} up"));
    }
}

/// A number that the driver counts, by its name in `ethtool -S`.
pub fn driver_counter(interface: &str, name: &str) -> u64 {
    let output = Command::new("ethtool")
        .args(["-S", interface])
        .output()
        .expect("ethtool tells");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .parse()
        .expect("a number")
}

/// A named namespace beside the thread's, deleted on drop.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A fresh namespace.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rwio-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        run(&format!("ip netns add {name}"));
        let namespace = Self { name };
        namespace.run("ip link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command inside.
    pub fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.name));
    }

    /// Moves the calling thread into the namespace of this name. The guard stays where a failing test drops it.
    pub fn enter(name: &str) {
        let file = File::open(format!("/run/netns/{name}")).expect("the namespace");
        // SAFETY: changes this thread alone.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
