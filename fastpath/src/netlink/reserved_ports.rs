//! Source ports that masquerade uses on the node's addresses: the kernel must give them to no socket of its own.
//!
//! XDP on the uplinks takes what comes to these ports for ours. A socket of the host with such a port would be heard by
//! fastpath's leave alone, and not at all while that is down; and it could have the port of a pod's connection.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

/// The kernel's list, of the network namespace of the calling thread; for TCP, UDP and SCTP, IPv4 and IPv6.
const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The kernel's list can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error(
    "{PATH}: {source}; sockets of the host may get ports that masquerade uses, add {first}-{last} to it by hand"
)]
pub struct ReserveError {
    first: u16,
    last: u16,
    #[source]
    source: io::Error,
}

/// Keeps the kernel from choosing `ports` for sockets that don't ask for one. What is in its list already stays there; sockets
/// that have such a port keep it. True when the list was changed.
pub fn reserve(ports: &RangeInclusive<u16>) -> Result<bool, ReserveError> {
    let failed = |source| ReserveError {
        first: *ports.start(),
        last: *ports.end(),
        source,
    };
    let list = fs::read_to_string(PATH).map_err(failed)?;
    if contains(&list, ports) {
        return Ok(false);
    }
    fs::write(PATH, with(&list, ports)).map_err(failed)?;
    Ok(true)
}

/// The list's ranges; the kernel keeps them sorted and merged.
fn contains(list: &str, ports: &RangeInclusive<u16>) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse(), last.parse()), (Ok::<u16, _>(first), Ok::<u16, _>(last))
            if first <= *ports.start() && *ports.end() <= last)
    })
}

fn with(list: &str, ports: &RangeInclusive<u16>) -> String {
    let ours = format!("{}-{}", ports.start(), ports.end());
    match list.trim() {
        "" => ours,
        others => format!("{others},{ours}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_added_once_beside_what_is_there() {
        let ports = 45_000..=65_535;
        for (list, is_there, after) in [
            ("\n", false, "45000-65535"),
            ("8080,9148-9150\n", false, "8080,9148-9150,45000-65535"),
            ("8080,45000-65535\n", true, ""),
            ("40000-65535", true, ""),
            ("45001-65535", false, "45001-65535,45000-65535"),
        ] {
            assert_eq!(contains(list, &ports), is_there, "{list:?}");
            if !is_there {
                assert_eq!(with(list, &ports), after);
            }
        }
    }
}
