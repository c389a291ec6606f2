//! What happens to a frame, and why: one table yields the enums, counters, metric names, help texts and docs.

use crate::port::PortId;

/// What happens to a frame. Every received frame leaves a batch with exactly one, or is held (a fragment that waits).
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of a port, rewritten; an answer that we made counts here when the question is thereby served (ARP, ND, echo).
    Tx(PortId),
    /// Unchanged to the kernel, by the host port.
    Punt(PuntReason),
    /// Nowhere. A refusal with an answer (ICMP error, reset) is a drop whose answer counts as generated.
    Drop(DropReason),
}

macro_rules! reasons {
    ($(#[$meta:meta])* $enum:ident { $($(#[doc = $help:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $enum { $($(#[doc = $help])+ $variant,)+ }

        impl $enum {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: in verdict lines, metrics and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, for the person on call.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help,)+).trim_start(),)+ }
            }

            /// The index of its counter.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// Why a frame was dropped.
    DropReason {
        /// Policy does not allow the flow.
        PolicyDenied = "policy-denied",
        /// The source address does not belong to the port it came from, or came plain where a tunnel is demanded.
        SpoofedSource = "spoofed-source",
        /// The source MAC is not that of the pod behind the port.
        SpoofedMac = "spoofed-mac",
        /// The inner source does not belong to the node that sent the tunnel packet, or a pod made a tunnel packet.
        TunnelSpoofed = "tunnel-spoofed",
        /// TTL or hop limit ran out; answered with time exceeded.
        TtlExceeded = "ttl-exceeded",
        /// Larger than the MTU towards its destination and not to be fragmented; answered with the right MTU.
        TooBig = "too-big",
        /// The Service has no endpoints; rejected.
        NoEndpoints = "no-endpoints",
        /// The Service's traffic policy is Local and this node has no endpoint of it.
        NoLocalEndpoints = "no-local-endpoints",
        /// The VIP exists, but not with this protocol and port; rejected.
        NoSuchPort = "no-such-port",
        /// An address inside a service range that no Service has.
        UnassignedServiceAddress = "unassigned-service-address",
        /// The bytes are no valid packet.
        Malformed = "malformed",
        /// A fragment whose first part did not arrive in time.
        FragmentTimeout = "fragment-timeout",
        /// More waiting fragments or datagrams than a source, or all of them, may have.
        FragmentQuota = "fragment-quota",
        /// The flow table is at its limit and keeps the flows that it has.
        TableFull = "table-full",
        /// No source port is free for masquerade towards this destination.
        SnatExhausted = "snat-exhausted",
        /// No route to the destination; answered with unreachable.
        NoRoute = "no-route",
        /// The port's TX ring had no room.
        TxRingFull = "tx-ring-full",
        /// The next hop's MAC address did not become known in time.
        NeighbourUnresolved = "neighbour-unresolved",
        /// A router advertisement, redirect or DHCP server message from a pod.
        ForbiddenFromPod = "forbidden-from-pod",
        /// An Ethernet type or address that a routed link has no use for.
        NotForUs = "not-for-us",
        /// An ICMP error, or a TCP segment outside the window, that belongs to no flow of ours.
        NoFlow = "no-flow",
        /// Another worker was deciding the flow for too long.
        FlowBusy = "flow-busy",
        /// The frame pool was empty when a copy, fragment or answer was needed.
        NoBuffer = "no-buffer",
        /// The port went away while the frame was on its way.
        PortGone = "port-gone",
    }
}

reasons! {
    /// Why a frame was handed to the kernel.
    PuntReason {
        /// For the node itself and of no flow or Service of ours.
        ToHost = "to-host",
        /// ARP or ND on the uplink: the kernel keeps the neighbours there.
        NeighbourProtocol = "neighbour-protocol",
        /// Multicast or broadcast that the node's kernel may want.
        Multicast = "multicast",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.extend(PuntReason::ALL.iter().map(|r| r.name()));
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        );
    }

    #[test]
    fn every_reason_has_a_sentence() {
        assert!(DropReason::ALL.iter().all(|r| r.help().ends_with('.')));
        assert!(PuntReason::ALL.iter().all(|r| r.help().ends_with('.')));
    }

    #[test]
    fn every_reason_stands_in_the_docs() {
        let page = include_str!("../../docs/verdicts.md");
        let drops = DropReason::ALL.iter().map(|r| (r.name(), r.help()));
        let punts = PuntReason::ALL.iter().map(|r| (r.name(), r.help()));
        let expected: Vec<String> = drops
            .chain(punts)
            .map(|(name, help)| format!("| `{name}` | {help} |"))
            .collect();
        let found: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(found, expected, "docs/verdicts.md");
    }
}
