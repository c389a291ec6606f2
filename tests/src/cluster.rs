//! The cluster of the golden cases: three nodes, `node-a` is the one under test, and who sends what on which link.
//!
//! `node-a` and `node-b` share a subnet, `node-c` is behind a router. Pods: `default/a` and `default/b` on node-a, `other/c` too,
//! `default/d` on node-b, `default/e` on node-c. Each has an address of either family that ends alike: .10, .11, .12.

use crate::packet::IpPacket;

/// A frame and the port it comes by.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Name of the port.
    pub port: &'static str,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

/// A pod of node-a.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// Its port.
    pub port: &'static str,
    /// Its MAC.
    pub mac: [u8; 6],
}

/// `default/a`, 10.244.1.10.
pub const A: Pod = Pod {
    port: "pod:default/a",
    mac: [2, 1, 10, 244, 1, 10],
};
/// `default/b`, 10.244.1.11.
pub const B: Pod = Pod {
    port: "pod:default/b",
    mac: [2, 1, 10, 244, 1, 11],
};
/// `other/c`, 10.244.1.12.
pub const C: Pod = Pod {
    port: "pod:other/c",
    mac: [2, 1, 10, 244, 1, 12],
};

/// Our end of every pod link.
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// Where the underlay's router is.
pub const ROUTER_MAC: [u8; 6] = [2, 0xfe, 0, 0, 0, 1];

/// A node as the underlay sees it.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// MAC of its uplink.
    pub mac: [u8; 6],
    /// Its address.
    pub v4: &'static str,
    /// Its IPv6 address.
    pub v6: &'static str,
    /// MAC of its VXLAN device, inner IPv4.
    pub vtep: [u8; 6],
    /// The same, inner IPv6.
    pub vtep6: [u8; 6],
}

/// The node under test.
pub const NODE_A: Node = Node {
    mac: [2, 0, 192, 0, 2, 11],
    v4: "192.0.2.11",
    v6: "2001:db8:2::11",
    vtep: [0x66, 0x07, 0x02, 0xc1, 0xcc, 0x60],
    vtep6: [0x66, 0xd4, 0xd5, 0x51, 0x3d, 0x42],
};
/// In the same subnet.
pub const NODE_B: Node = Node {
    mac: [2, 0, 192, 0, 2, 12],
    v4: "192.0.2.12",
    v6: "2001:db8:2::12",
    vtep: [0x66, 0x89, 0x3a, 0x22, 0x7a, 0xac],
    vtep6: [0x66, 0x35, 0xbe, 0x36, 0xcf, 0x19],
};
/// In another subnet.
pub const NODE_C: Node = Node {
    mac: [2, 0, 198, 51, 100, 13],
    v4: "198.51.100.13",
    v6: "2001:db8:3::13",
    vtep: [0x66, 0x1a, 0xb9, 0xf1, 0x6e, 0xaf],
    vtep6: [0x66, 0x71, 0x75, 0xd1, 0x6d, 0x83],
};

impl Pod {
    /// A packet from this pod to its gateway.
    pub fn sends(self, packet: &IpPacket) -> Sent {
        Sent {
            port: self.port,
            frame: packet.frame(self.mac, GATEWAY_MAC),
        }
    }
}

/// A frame on a port, as it is.
pub fn raw(port: &'static str, frame: Vec<u8>) -> Sent {
    Sent { port, frame }
}

/// A packet from the kernel of node-a.
pub fn host_sends(packet: &IpPacket) -> Sent {
    Sent {
        port: "host",
        frame: packet.frame(NODE_A.mac, GATEWAY_MAC),
    }
}

/// A packet from outside of the cluster, by the router.
pub fn router_sends(packet: &IpPacket) -> Sent {
    Sent {
        port: "uplink",
        frame: packet.frame(ROUTER_MAC, NODE_A.mac),
    }
}

/// The IP packets that one node sends to node-a.
impl Node {
    /// A packet of the underlay itself.
    pub fn sends(self, packet: &IpPacket) -> Sent {
        Sent {
            port: "uplink",
            frame: packet.frame(self.mac, NODE_A.mac),
        }
    }

    /// `inner` in VXLAN over IPv4 with VNI 4096 to node-a.
    pub fn sends_vxlan(self, inner: &IpPacket) -> Sent {
        let (src, dst) = if inner.src.is_ipv4() {
            (self.vtep, NODE_A.vtep)
        } else {
            (self.vtep6, NODE_A.vtep6)
        };
        let data = [&VXLAN_HEADER[..], &inner.frame(src, dst)].concat();
        let (from, to) = (format!("{}:50000", self.v4), format!("{}:4789", NODE_A.v4));
        self.sends(&without_udp_checksum(crate::packet::udp_with(&from, &to, &data)))
    }

    /// `inner` in VXLAN over IPv6 with VNI 4096 to node-a.
    pub fn sends_vxlan6(self, inner: &IpPacket) -> Sent {
        let (src, dst) = if inner.src.is_ipv4() {
            (self.vtep, NODE_A.vtep)
        } else {
            (self.vtep6, NODE_A.vtep6)
        };
        let data = [&VXLAN_HEADER[..], &inner.frame(src, dst)].concat();
        let (from, to) = (format!("[{}]:50000", self.v6), format!("[{}]:4789", NODE_A.v6));
        self.sends(&crate::packet::udp_with(&from, &to, &data))
    }

    /// `inner` in IPIP to node-a.
    pub fn sends_ipip(self, inner: &IpPacket) -> Sent {
        let (src, dst) = (crate::packet::ip(self.v4), crate::packet::ip(NODE_A.v4));
        let proto = if inner.src.is_ipv4() {
            etherparse::IpNumber::IPV4
        } else {
            etherparse::IpNumber::IPV6
        };
        self.sends(&IpPacket::new(src, dst, proto, inner.bytes()))
    }
}

/// VXLAN with VNI 4096, RFC 7348 section 5.
pub const VXLAN_HEADER: [u8; 8] = [8, 0, 0, 0, 0, 0x10, 0, 0];

/// As VXLAN over IPv4 sends it.
fn without_udp_checksum(mut packet: IpPacket) -> IpPacket {
    packet.payload[6..8].fill(0);
    packet
}

/// Short names for MACs in descriptions of frames.
pub fn mac_name(mac: [u8; 6]) -> String {
    let named = [
        (GATEWAY_MAC, "gw"),
        (ROUTER_MAC, "router"),
        (A.mac, "a"),
        (B.mac, "b"),
        (C.mac, "c"),
        (NODE_A.mac, "node-a"),
        (NODE_B.mac, "node-b"),
        (NODE_C.mac, "node-c"),
        (NODE_A.vtep, "vtep-a"),
        (NODE_B.vtep, "vtep-b"),
        (NODE_C.vtep, "vtep-c"),
        (NODE_A.vtep6, "vtep6-a"),
        (NODE_B.vtep6, "vtep6-b"),
        (NODE_C.vtep6, "vtep6-c"),
    ];
    let found = named.iter().find(|(known, _)| *known == mac);
    found.map_or_else(
        || mac.map(|byte| format!("{byte:02x}")).join(":"),
        |(_, name)| (*name).to_owned(),
    )
}

/// The three nodes, five pods and ranges, as manifests. `more` is appended: pools, policies, services.
pub fn state(more: &str) -> String {
    format!("{BASE}{more}")
}

const BASE: &str = r#"apiVersion: v1
kind: Node
metadata:
  name: node-a
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.11/24
    projectcalico.org/IPv6Address: 2001:db8:2::11/64
    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.1
    projectcalico.org/IPv4IPIPTunnelAddr: 10.244.1.2
    projectcalico.org/IPv6VXLANTunnelAddr: fd00:10:244:1::1
spec: { podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"] }
---
apiVersion: v1
kind: Node
metadata:
  name: node-b
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.12/24
    projectcalico.org/IPv6Address: 2001:db8:2::12/64
    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.2.1
    projectcalico.org/IPv4IPIPTunnelAddr: 10.244.2.2
    projectcalico.org/IPv6VXLANTunnelAddr: fd00:10:244:2::1
spec: { podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"] }
---
apiVersion: v1
kind: Node
metadata:
  name: node-c
  annotations:
    projectcalico.org/IPv4Address: 198.51.100.13/24
    projectcalico.org/IPv6Address: 2001:db8:3::13/64
    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.3.1
    projectcalico.org/IPv4IPIPTunnelAddr: 10.244.3.2
    projectcalico.org/IPv6VXLANTunnelAddr: fd00:10:244:3::1
spec: { podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"] }
---
apiVersion: v1
kind: Namespace
metadata: { name: other, labels: { team: blue } }
---
apiVersion: v1
kind: Pod
metadata: { namespace: default, name: a, labels: { app: a } }
spec: { nodeName: node-a }
status: { phase: Running, podIPs: [{ ip: 10.244.1.10 }, { ip: "fd00:10:244:1::10" }] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: default, name: b, labels: { app: b } }
spec:
  nodeName: node-a
  containers:
    - name: b
      ports:
        - { name: http, containerPort: 8080, protocol: TCP }
        - { name: dns, containerPort: 5353, protocol: UDP }
status: { phase: Running, podIPs: [{ ip: 10.244.1.11 }, { ip: "fd00:10:244:1::11" }] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: other, name: c, labels: { app: c } }
spec: { nodeName: node-a }
status: { phase: Running, podIPs: [{ ip: 10.244.1.12 }, { ip: "fd00:10:244:1::12" }] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: default, name: d, labels: { app: d } }
spec: { nodeName: node-b }
status: { phase: Running, podIPs: [{ ip: 10.244.2.10 }, { ip: "fd00:10:244:2::10" }] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: default, name: e, labels: { app: e } }
spec: { nodeName: node-c }
status: { phase: Running, podIPs: [{ ip: 10.244.3.10 }, { ip: "fd00:10:244:3::10" }] }
"#;
