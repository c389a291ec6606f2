//! What the process must be allowed to do, looked at before anything is made.

use std::fs;

/// Capabilities that no part of the daemon works without: bit in `CapEff` and name.
///
/// `CAP_IPC_LOCK` is not here: a large enough memlock limit does as well, and registering memory says so.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF")];
/// `CAP_SYS_ADMIN` includes `CAP_BPF`.
const SYS_ADMIN: u32 = 21;
/// Bit of `CAP_BPF`.
const BPF: u32 = 39;

/// Names of the capabilities that this process lacks. Nothing where the kernel does not tell.
pub(super) fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status).map_or_else(Vec::new, lacking)
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn lacking(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let lacks = |&(bit, _): &(u32, &str)| !(has(bit) || bit == BPF && has(SYS_ADMIN));
    NEEDED.into_iter().filter(lacks).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing_and_nobody_everything() {
        let root = effective("Name:\tx\nCapEff:\t000001ffffffffff\n").unwrap();
        assert_eq!(lacking(root), [""; 0]);
        assert_eq!(lacking(0), ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]);
        assert_eq!(lacking(1 << SYS_ADMIN | 1 << 12), ["CAP_NET_RAW"]);
    }
}
