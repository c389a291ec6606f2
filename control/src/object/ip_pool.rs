//! `IPPool` and `ServiceCIDR`: which ranges belong to pods and Services, and how pods' ranges are reached.

use ipnet::IpNet;
use serde::Deserialize;

use super::field::{Cidr, null_default};
use super::meta::{Metadata, RawMetadata, Scope};

/// projectcalico.org/v3 (or crd.projectcalico.org/v1) `IPPool`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPool")]
pub struct IpPool {
    /// Name.
    pub meta: Metadata,
    /// The range.
    pub cidr: IpNet,
    /// What carries traffic to it between nodes.
    pub tunnel: Tunnel,
    /// Only between subnets; within one, plain.
    pub cross_subnet: bool,
    /// Masquerade what leaves for no pool and no node.
    pub nat_outgoing: bool,
}

/// The tunnel of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    /// Plain routing.
    None,
    /// VXLAN, both families.
    Vxlan,
    /// IPv4 in IPv4.
    Ipip,
}

/// networking.k8s.io `ServiceCIDR`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawServiceCidr")]
pub struct ServiceCidr {
    /// Name.
    pub meta: Metadata,
    /// One range per family.
    pub cidrs: Vec<IpNet>,
}

#[derive(Deserialize)]
struct RawPool {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    spec: RawPoolSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPoolSpec {
    cidr: Cidr,
    #[serde(default, deserialize_with = "null_default")]
    vxlan_mode: Mode,
    #[serde(default, deserialize_with = "null_default")]
    ipip_mode: Mode,
    #[serde(default, deserialize_with = "null_default")]
    nat_outgoing: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Mode {
    #[default]
    #[serde(alias = "")]
    Never,
    Always,
    CrossSubnet,
}

impl TryFrom<RawPool> for IpPool {
    type Error = String;

    fn try_from(raw: RawPool) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Cluster)?;
        let RawPoolSpec {
            cidr: Cidr(cidr),
            vxlan_mode,
            ipip_mode,
            nat_outgoing,
        } = raw.spec;
        let (tunnel, mode) = match (vxlan_mode, ipip_mode) {
            (Mode::Never, Mode::Never) => (Tunnel::None, Mode::Never),
            (mode, Mode::Never) => (Tunnel::Vxlan, mode),
            (Mode::Never, mode) => (Tunnel::Ipip, mode),
            _ => return Err("spec has both vxlanMode and ipipMode, expected one of them Never".to_owned()),
        };
        if tunnel == Tunnel::Ipip && !cidr.addr().is_ipv4() {
            return Err(format!(
                "spec.ipipMode is not Never for {cidr}, expected an IPv4 range: IPIP carries IPv4 only"
            ));
        }
        Ok(Self {
            meta,
            cidr,
            tunnel,
            cross_subnet: mode == Mode::CrossSubnet,
            nat_outgoing,
        })
    }
}

#[derive(Deserialize)]
struct RawServiceCidr {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    spec: RawServiceCidrSpec,
}

#[derive(Deserialize)]
struct RawServiceCidrSpec {
    #[serde(default, deserialize_with = "null_default")]
    cidrs: Vec<Cidr>,
}

impl TryFrom<RawServiceCidr> for ServiceCidr {
    type Error = String;

    fn try_from(raw: RawServiceCidr) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Cluster)?;
        if raw.spec.cidrs.is_empty() {
            return Err("spec.cidrs is empty, expected one range per family".to_owned());
        }
        Ok(Self {
            meta,
            cidrs: raw.spec.cidrs.iter().map(|c| c.0).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(spec: &str) -> Result<IpPool, String> {
        serde_saphyr::from_str(&format!("{{metadata: {{name: p}}, spec: {{{spec}}}}}"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn modes_become_one_tunnel() {
        let plain = pool("cidr: 10.0.0.0/8").unwrap();
        assert_eq!(
            (plain.tunnel, plain.cross_subnet, plain.nat_outgoing),
            (Tunnel::None, false, false)
        );
        let vxlan = pool("cidr: fd00::/48, vxlanMode: CrossSubnet, natOutgoing: true").unwrap();
        assert_eq!(
            (vxlan.tunnel, vxlan.cross_subnet, vxlan.nat_outgoing),
            (Tunnel::Vxlan, true, true)
        );
        let ipip = pool("cidr: 10.0.0.0/8, ipipMode: Always, vxlanMode: Never").unwrap();
        assert_eq!((ipip.tunnel, ipip.cross_subnet), (Tunnel::Ipip, false));
    }

    #[test]
    fn impossible_tunnels_are_refused() {
        assert!(
            pool("cidr: fd00::/48, ipipMode: Always")
                .unwrap_err()
                .contains("IPv4 only")
        );
        assert!(
            pool("cidr: 10.0.0.0/8, ipipMode: Always, vxlanMode: Always")
                .unwrap_err()
                .contains("both")
        );
        assert!(
            pool("cidr: 10.0.0.0/8, vxlanMode: Sometimes")
                .unwrap_err()
                .contains("Sometimes")
        );
    }
}
