//! Node: addresses, pod ranges, and the annotations by which Calico and Ringway publish tunnel ends.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::field::{Cidr, null_default, parse_cidr};
use super::meta::{Metadata, RawMetadata, Scope};

/// core/v1 Node with its annotations read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawNode")]
pub struct Node {
    /// Name, labels, annotations.
    pub meta: Metadata,
    /// All addresses, no duplicates; the first of a family is the main one: the annotation
    /// `projectcalico.org/IPv4Address` (or `IPv6Address`), then `InternalIP`, then `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNet>,
    /// The subnets that the node's main addresses live in, where annotations give a prefix length.
    pub subnets: Vec<IpNet>,
    /// `projectcalico.org/IPv4VXLANTunnelAddr`.
    pub vxlan_v4: Option<IpAddr>,
    /// `projectcalico.org/IPv4IPIPTunnelAddr`.
    pub ipip_v4: Option<IpAddr>,
    /// `projectcalico.org/IPv6VXLANTunnelAddr`.
    pub vxlan_v6: Option<IpAddr>,
    /// `projectcalico.org/VXLANTunnelMACAddr`.
    pub vxlan_mac_v4: Option<[u8; 6]>,
    /// `projectcalico.org/VXLANTunnelMACAddrV6`.
    pub vxlan_mac_v6: Option<[u8; 6]>,
    /// `ringway.io/uplink-mac`.
    pub uplink_mac: Option<[u8; 6]>,
    /// `ringway.io/uplink-mtu`, bytes of IP packet.
    pub uplink_mtu: Option<u32>,
}

impl Node {
    /// The first address of a family.
    pub fn main_address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().find(|a| a.is_ipv4() == v4).copied()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    #[serde(deserialize_with = "null_default")]
    metadata: RawMetadata,
    #[serde(deserialize_with = "null_default")]
    spec: RawSpec,
    #[serde(deserialize_with = "null_default")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Cidr>,
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pod_cidrs: Vec<Cidr>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    #[serde(deserialize_with = "null_default")]
    addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
struct RawAddress {
    r#type: String,
    address: String,
}

impl TryFrom<RawNode> for Node {
    type Error = String;

    fn try_from(raw: RawNode) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Cluster)?;
        let notes = Annotations(&meta.annotations);
        let calico = [
            notes.read("projectcalico.org/IPv4Address", |t| parse_interface(t, true))?,
            notes.read("projectcalico.org/IPv6Address", |t| parse_interface(t, false))?,
        ];
        let mut addresses: Vec<IpAddr> = calico.iter().flatten().map(IpNet::addr).collect();
        for kind in ["InternalIP", "ExternalIP"] {
            for entry in raw.status.addresses.iter().filter(|a| a.r#type == kind) {
                let address = entry.address.parse().map_err(|_| {
                    format!(
                        "status.addresses: {kind} is {:?}, expected an IPv4 or IPv6 address",
                        entry.address
                    )
                })?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        let mut pod_cidrs: Vec<IpNet> = raw.spec.pod_cidrs.iter().map(|c| c.0).collect();
        if let (true, Some(one)) = (pod_cidrs.is_empty(), raw.spec.pod_cidr) {
            pod_cidrs.push(one.0);
        }
        let parse_mtu = |text: &str| {
            let mtu = text.parse().ok().filter(|mtu| (576..=65535).contains(mtu));
            mtu.ok_or_else(|| format!("is {text:?}, expected bytes between 576 and 65535"))
        };
        Ok(Self {
            addresses,
            pod_cidrs,
            subnets: calico
                .iter()
                .flatten()
                .filter(|net| net.prefix_len() < net.max_prefix_len())
                .map(IpNet::trunc)
                .collect(),
            vxlan_v4: notes.read("projectcalico.org/IPv4VXLANTunnelAddr", |t| parse_ip(t, true))?,
            ipip_v4: notes.read("projectcalico.org/IPv4IPIPTunnelAddr", |t| parse_ip(t, true))?,
            vxlan_v6: notes.read("projectcalico.org/IPv6VXLANTunnelAddr", |t| parse_ip(t, false))?,
            vxlan_mac_v4: notes.read("projectcalico.org/VXLANTunnelMACAddr", parse_mac)?,
            vxlan_mac_v6: notes.read("projectcalico.org/VXLANTunnelMACAddrV6", parse_mac)?,
            uplink_mac: notes.read("ringway.io/uplink-mac", parse_mac)?,
            uplink_mtu: notes.read("ringway.io/uplink-mtu", parse_mtu)?,
            meta,
        })
    }
}

struct Annotations<'a>(&'a super::meta::Annotations);

impl Annotations<'_> {
    fn read<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        match self
            .0
            .get(key)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
        {
            Some(text) => parse(text).map(Some).map_err(|e| format!("annotation {key} {e}")),
            None => Ok(None),
        }
    }
}

fn parse_ip(text: &str, v4: bool) -> Result<IpAddr, String> {
    let address = text.parse().ok().filter(|a: &IpAddr| a.is_ipv4() == v4);
    address.ok_or_else(|| format!("is {text:?}, expected an {} address", family(v4)))
}

/// Reads `10.0.0.1/24` or a bare address.
fn parse_interface(text: &str, v4: bool) -> Result<IpNet, String> {
    let net = parse_cidr(text).or_else(|| text.parse().ok().map(|a: IpAddr| a.into()));
    net.filter(|n| n.addr().is_ipv4() == v4).ok_or_else(|| {
        format!(
            "is {text:?}, expected an {} address with its prefix length",
            family(v4)
        )
    })
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// Reads a unicast MAC address, six bytes in hexadecimal with colons.
pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("is {text:?}, expected a unicast MAC address such as 02:00:0a:00:00:01");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        Err(wrong())
    } else {
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotation: &str) -> Result<Node, String> {
        let text = format!(
            "metadata: {{name: a, annotations: {{{annotation}}}}}\nstatus: {{addresses: [{{type: Hostname, address: a}}, \
             {{type: InternalIP, address: 10.0.0.1}}, {{type: InternalIP, address: 'fd00::1'}}]}}\n"
        );
        serde_saphyr::from_str(&text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_annotated_address_is_the_main_one() {
        let plain = node("").unwrap();
        assert_eq!(plain.main_address(true), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(plain.main_address(false), Some("fd00::1".parse().unwrap()));
        assert!(plain.subnets.is_empty());
        let annotated = node("projectcalico.org/IPv4Address: 192.168.1.5/24").unwrap();
        assert_eq!(annotated.main_address(true), Some("192.168.1.5".parse().unwrap()));
        assert_eq!(annotated.addresses.len(), 3);
        assert_eq!(annotated.subnets, ["192.168.1.0/24".parse().unwrap()]);
    }

    #[test]
    fn a_wrong_annotation_is_named() {
        for (annotation, expected) in [
            (
                "projectcalico.org/VXLANTunnelMACAddr: 'ff:00:00:00:00:01'",
                "unicast MAC",
            ),
            ("ringway.io/uplink-mtu: '100'", "between 576 and 65535"),
            (
                "projectcalico.org/IPv4VXLANTunnelAddr: 'fd00::1'",
                "expected an IPv4 address",
            ),
        ] {
            let error = node(annotation).unwrap_err();
            let key = annotation.split(':').next().unwrap();
            assert!(error.contains(key) && error.contains(expected), "{error}");
        }
    }
}
