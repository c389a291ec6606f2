//! Names and MAC addresses that follow from an object's name or address, so that no one has to hand them out.

use std::fmt::Write as _;
use std::net::IpAddr;

use sha1::{Digest, Sha1};

use crate::object::{Node, ObjectName, Pod};

/// The node-side interface of a pod: `rw` and 11 hexadecimal digits of SHA-1(`namespace.name`), 13 of the 15
/// characters that the kernel allows.
pub fn interface(pod: &ObjectName) -> String {
    let digest = Sha1::digest(format!("{}.{}", pod.namespace, pod.name));
    let mut name = String::from("rw");
    for byte in digest.iter().take(6) {
        write!(name, "{byte:02x}").expect("writing to a String does not fail");
    }
    name.truncate(13);
    name
}

/// The MAC of a node's uplink where no kernel tells it: the annotation, else `02:00` and the main address.
pub fn uplink_mac(node: &Node) -> [u8; 6] {
    let main = node.main_address(true).or(node.main_address(false));
    node.uplink_mac
        .unwrap_or_else(|| from_address([0x02, 0x00], main))
}

/// A pod's MAC: the annotation `ringway.io/mac`, else `02:01` and its main address.
pub fn pod_mac(pod: &Pod, addresses: &[IpAddr]) -> [u8; 6] {
    pod.mac.unwrap_or_else(|| mac_of_addresses(addresses))
}

/// A pod's MAC where nothing says another: `02:01` and its main address.
pub fn mac_of_addresses(addresses: &[IpAddr]) -> [u8; 6] {
    let main = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first());
    from_address([0x02, 0x01], main.copied())
}

/// A node's VXLAN MAC: Calico's annotation, else as Calico derives it.
pub fn vxlan_mac(node: &Node, v4: bool) -> [u8; 6] {
    let (annotated, suffix) = if v4 {
        (node.vxlan_mac_v4, "")
    } else {
        (node.vxlan_mac_v6, "-v6")
    };
    annotated.unwrap_or_else(|| {
        let digest = Sha1::digest(format!("{}{suffix}", node.meta.name.name));
        [0x66, digest[0], digest[1], digest[2], digest[3], digest[4]]
    })
}

/// Two fixed bytes and the last four of the address.
fn from_address(fixed: [u8; 2], address: Option<IpAddr>) -> [u8; 6] {
    let octets = match address {
        Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
        None => vec![0; 4],
    };
    let mut mac = [0; 6];
    let (head, tail) = mac.split_at_mut(2);
    head.copy_from_slice(&fixed);
    tail.copy_from_slice(&octets[octets.len() - 4..]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_made_of_the_address() {
        let mac = |text: &str| from_address([2, 1], Some(text.parse().unwrap()));
        assert_eq!(mac("10.244.1.5"), [2, 1, 10, 244, 1, 5]);
        assert_eq!(mac("fd00::1:2:3"), [2, 1, 0, 2, 0, 3]);
    }

    #[test]
    fn a_vxlan_mac_is_calicos() {
        let node: Node = serde_saphyr::from_str("metadata: {name: node-a}").unwrap();
        // `printf node-a | sha1sum` and `printf node-a-v6 | sha1sum`
        assert_eq!(vxlan_mac(&node, true), [0x66, 0x07, 0x02, 0xc1, 0xcc, 0x60]);
        assert_eq!(vxlan_mac(&node, false), [0x66, 0xd4, 0xd5, 0x51, 0x3d, 0x42]);
    }

    #[test]
    fn an_interface_name_fits_the_kernel() {
        // `printf default.web | sha1sum`
        assert_eq!(interface(&ObjectName::new("default", "web")), "rw68caf03a5f4");
    }
}
