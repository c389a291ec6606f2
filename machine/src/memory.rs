//! What the kernel says of the machine's memory.

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// A figure of `/proc/meminfo`: kilobytes, or a count.
///
/// # Errors
/// When there is none of that name.
pub fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

/// Asks whether so many bytes are available: swapping measures the disk.
///
/// # Errors
/// When they are not.
pub fn ensure_available(bytes: u64) -> Result<()> {
    let available = meminfo("MemAvailable")? << 10;
    ensure!(
        bytes <= available,
        "{} MiB of memory are needed and {} available",
        bytes >> 20,
        available >> 20
    );
    Ok(())
}

/// Threads that wanted a CPU, on average over the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_ascii_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused() {
        let total = meminfo("MemTotal").unwrap() << 10;
        ensure_available(1 << 20).unwrap();
        let refused = ensure_available(total * 2).unwrap_err().to_string();
        assert!(refused.contains("MiB of memory are needed"), "{refused}");
        meminfo("Memory").unwrap_err();
    }
}
