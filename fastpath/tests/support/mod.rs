//! What tests with real interfaces need: a network namespace, links, raw sockets; and how they are skipped.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]
#![allow(unsafe_code)]

pub mod netns;
pub mod packet_socket;

/// `true` when the test may go on. Without root, or without `AF_XDP` in the kernel, it prints `SKIPPED`, and fails if
/// `RINGWAY_REQUIRE` names what is missing.
pub fn root_or_skip() -> bool {
    // SAFETY: plain system call without arguments.
    let missing = if unsafe { libc::geteuid() } != 0 {
        "root"
    } else if !kernel_has_af_xdp() {
        "afxdp"
    } else {
        return true;
    };
    let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|need| need == missing),
        "needs {missing}, and RINGWAY_REQUIRE={required}"
    );
    println!("SKIPPED: needs {missing}");
    false
}

fn kernel_has_af_xdp() -> bool {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: the socket is ours, or -1, for which close does nothing.
    unsafe { libc::close(fd) };
    fd >= 0
}

/// Takes all capabilities from this thread, for good.
pub fn drop_capabilities() {
    // Version 3, this thread; then effective, permitted and inheritable sets, twice 32 bits each.
    let (head, sets) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // SAFETY: `head` and `sets` are laid out as version 3 of capset(2) wants.
    let result = unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
