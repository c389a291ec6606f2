//! The cases, by subject. Most exist twice, for IPv4 and IPv6.

mod echo;
mod forward;
mod fragments;
mod host;
mod icmp_errors;
mod ipip;
mod limits;
mod malformed;
mod masquerade;
mod neighbour;
mod policy;
mod service;
mod size;
mod spoofing;
mod timeouts;
mod ttl;
mod vxlan;

use crate::case::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    GROUPS.iter().flat_map(|(_, cases)| cases()).collect()
}

/// Makes the cases of one subject.
pub type Make = fn() -> Vec<Case>;

/// The cases by the name of their subject.
pub const GROUPS: [(&str, Make); 17] = [
    ("forward", forward::cases),
    ("spoofing", spoofing::cases),
    ("neighbour", neighbour::cases),
    ("echo", echo::cases),
    ("ttl", ttl::cases),
    ("size", size::cases),
    ("fragments", fragments::cases),
    ("policy", policy::cases),
    ("service", service::cases),
    ("masquerade", masquerade::cases),
    ("vxlan", vxlan::cases),
    ("ipip", ipip::cases),
    ("host", host::cases),
    ("icmp_errors", icmp_errors::cases),
    ("timeouts", timeouts::cases),
    ("malformed", malformed::cases),
    ("limits", limits::cases),
];

/// The addresses of one family, so that a case is written once.
#[derive(Clone, Copy)]
struct Family {
    /// `v4` or `v6`.
    name: &'static str,
    /// Pod `default/a`.
    a: &'static str,
    /// Pod `default/b`.
    b: &'static str,
    /// Pod `other/c`.
    c: &'static str,
    /// Pod `default/d` on node-b.
    d: &'static str,
    /// Pod `default/e` on node-c.
    e: &'static str,
    /// An address of node-a's range that no pod has.
    nobody: &'static str,
    node_a: &'static str,
    node_b: &'static str,
    node_c: &'static str,
    /// Outside of the cluster.
    outside: &'static str,
    /// What a description says of packets that may not be fragmented.
    df: &'static str,
    /// Largest packet into a VXLAN tunnel.
    vxlan_mtu: usize,
}

const V4: Family = Family {
    name: "v4",
    a: "10.244.1.10",
    b: "10.244.1.11",
    c: "10.244.1.12",
    d: "10.244.2.10",
    e: "10.244.3.10",
    nobody: "10.244.1.99",
    node_a: "192.0.2.11",
    node_b: "192.0.2.12",
    node_c: "198.51.100.13",
    outside: "203.0.113.9",
    df: "df",
    vxlan_mtu: 1450,
};

const V6: Family = Family {
    name: "v6",
    a: "fd00:10:244:1::10",
    b: "fd00:10:244:1::11",
    c: "fd00:10:244:1::12",
    d: "fd00:10:244:2::10",
    e: "fd00:10:244:3::10",
    nobody: "fd00:10:244:1::99",
    node_a: "2001:db8:2::11",
    node_b: "2001:db8:2::12",
    node_c: "2001:db8:3::13",
    outside: "2001:db8:ffff::9",
    df: "",
    vxlan_mtu: 1430,
};

impl Family {
    fn is_v4(self) -> bool {
        self.name == "v4"
    }

    /// `name-v4` or `name-v6`.
    fn case(self, name: &str, about: &'static str, more: &str) -> Case {
        Case::new(
            format!("{name}-{}", self.name),
            about,
            crate::cluster::state(more),
        )
    }

    /// What stands before an inner frame from node-a to `node`, whose VTEP is `vtep` (`vtep-b`).
    fn vxlan_to(self, node: &str, next_hop: &str) -> String {
        let (own, theirs, vtep, checksum) = match (self.is_v4(), node) {
            (true, "b") => (self.node_a, self.node_b, "vtep-a > vtep-b", " no-checksum"),
            (true, _) => (self.node_a, self.node_c, "vtep-a > vtep-c", " no-checksum"),
            (false, "b") => (self.node_a, self.node_b, "vtep6-a > vtep6-b", ""),
            (false, _) => (self.node_a, self.node_c, "vtep6-a > vtep6-c", ""),
        };
        format!("node-a > {next_hop} {own} > {theirs} ttl 64 udp * > 4789{checksum} vxlan 4096 | {vtep}")
    }

    /// `inner` by VXLAN from `node` to node-a, over the underlay of its own family.
    fn by_vxlan(self, node: crate::cluster::Node, inner: &crate::packet::IpPacket) -> crate::cluster::Sent {
        if self.is_v4() {
            node.sends_vxlan(inner)
        } else {
            node.sends_vxlan6(inner)
        }
    }
}

/// An address with a port.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// The case for either family.
fn both(make: impl Fn(Family) -> Case) -> Vec<Case> {
    vec![make(V4), make(V6)]
}
