//! `IPPool`, `IPReservation` and `ServiceCIDR`: which ranges belong to pods and Services, how pods' ranges are reached and
//! how their addresses are handed out.

use ipnet::IpNet;
use serde::Deserialize;

use super::expression::Expression;
use super::field::{Cidr, null_default, parse_cidr};
use super::meta::{Metadata, RawMetadata, Scope};

/// projectcalico.org/v3 (or crd.projectcalico.org/v1) `IPPool`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPool")]
#[allow(clippy::struct_excessive_bools, reason = "the object has them")]
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
    /// Prefix length of the blocks that nodes take from it.
    pub block_size: u8,
    /// Nothing new is handed out of it; what was given stays.
    pub disabled: bool,
    /// Nodes that may take blocks of it.
    pub node_selector: Expression,
    /// Pods get addresses of it.
    pub for_workloads: bool,
    /// Nodes get tunnel addresses of it.
    pub for_tunnels: bool,
}

impl IpPool {
    /// `spec.allowedUses`, as Calico writes it.
    pub(super) fn uses(&self) -> Vec<&'static str> {
        let uses = [(self.for_workloads, "Workload"), (self.for_tunnels, "Tunnel")];
        let mut uses: Vec<_> = uses
            .into_iter()
            .filter_map(|(is_allowed, name)| is_allowed.then_some(name))
            .collect();
        // Without any it would read as with both.
        if uses.is_empty() {
            uses.push("LoadBalancer");
        }
        uses
    }
}

/// projectcalico.org/v3 (or crd.projectcalico.org/v1) `IPReservation`: addresses that are never handed out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawReservation")]
pub struct IpReservation {
    /// Name.
    pub meta: Metadata,
    /// Ranges and single addresses.
    pub cidrs: Vec<IpNet>,
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
    block_size: Option<u8>,
    #[serde(default, deserialize_with = "null_default")]
    disabled: bool,
    #[serde(default, deserialize_with = "null_default")]
    node_selector: Expression,
    #[serde(default, deserialize_with = "null_default")]
    allowed_uses: Vec<String>,
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
            block_size,
            disabled,
            node_selector,
            allowed_uses,
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
        let allows = |wanted: &str| allowed_uses.is_empty() || allowed_uses.iter().any(|one| one == wanted);
        Ok(Self {
            meta,
            cidr,
            tunnel,
            cross_subnet: mode == Mode::CrossSubnet,
            nat_outgoing,
            block_size: block_size_of(cidr, block_size)?,
            disabled,
            node_selector,
            for_workloads: allows("Workload"),
            for_tunnels: allows("Tunnel"),
        })
    }
}

/// Calico's bounds. A pool that is smaller than the default block is one block.
fn block_size_of(cidr: IpNet, written: Option<u8>) -> Result<u8, String> {
    let (default, bounds) = match cidr {
        IpNet::V4(_) => (26, 20..=32),
        IpNet::V6(_) => (122, 116..=128),
    };
    let Some(size) = written else {
        return Ok(cidr.prefix_len().max(default));
    };
    if !bounds.contains(&size) {
        return Err(format!(
            "spec.blockSize is {size} for {cidr}, expected {} to {}",
            bounds.start(),
            bounds.end()
        ));
    }
    if size < cidr.prefix_len() {
        return Err(format!(
            "spec.blockSize is {size} for {cidr}: a block of it is larger than the pool, expected {} at least",
            cidr.prefix_len()
        ));
    }
    Ok(size)
}

#[derive(Deserialize)]
struct RawReservation {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawReservationSpec,
}

#[derive(Default, Deserialize)]
struct RawReservationSpec {
    #[serde(default, rename = "reservedCIDRs", deserialize_with = "null_default")]
    reserved: Vec<String>,
}

impl TryFrom<RawReservation> for IpReservation {
    type Error = String;

    fn try_from(raw: RawReservation) -> Result<Self, String> {
        let read = |text: &String| {
            let one = parse_cidr(text).map(|net| net.trunc());
            let one = one.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
            one.ok_or_else(|| format!("spec.reservedCIDRs has {text:?}, expected a range or an address"))
        };
        Ok(Self {
            meta: raw.metadata.check(Scope::Cluster)?,
            cidrs: raw.spec.reserved.iter().map(read).collect::<Result<_, _>>()?,
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
    fn blocks_have_a_size_within_bounds() {
        for (spec, expected) in [
            ("cidr: 10.0.0.0/16", 26),
            ("cidr: 10.0.0.0/28", 28),
            ("cidr: fd00::/64", 122),
            ("cidr: 10.0.0.0/16, blockSize: 20", 20),
            ("cidr: fd00::/64, blockSize: 128", 128),
        ] {
            assert_eq!(pool(spec).unwrap().block_size, expected, "{spec}");
        }
        for (spec, expected) in [
            ("cidr: 10.0.0.0/16, blockSize: 19", "expected 20 to 32"),
            ("cidr: fd00::/64, blockSize: 26", "expected 116 to 128"),
            ("cidr: 10.0.0.0/28, blockSize: 26", "larger than the pool"),
        ] {
            let error = pool(spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn uses_and_nodes_are_chosen() {
        let open = pool("cidr: 10.0.0.0/8").unwrap();
        assert!(open.for_workloads && open.for_tunnels && !open.disabled);
        let pool =
            pool("cidr: 10.0.0.0/8, allowedUses: [Tunnel], disabled: true, nodeSelector: \"zone == 'a'\"");
        let pool = pool.unwrap();
        assert!(!pool.for_workloads && pool.for_tunnels && pool.disabled);
        let labels = |zone| [("zone", zone)].into_iter().collect();
        assert!(pool.node_selector.matches(&labels("a")) && !pool.node_selector.matches(&labels("b")));
    }

    #[test]
    fn reservations_are_ranges_or_addresses() {
        let read = |list: &str| {
            let text = format!("{{metadata: {{name: r}}, spec: {{reservedCIDRs: [{list}]}}}}");
            serde_saphyr::from_str::<IpReservation>(&text).map_err(|e| e.to_string())
        };
        let cidrs = read("10.0.0.1, 10.0.1.0/30, 'fd00::1'").unwrap().cidrs;
        assert_eq!(
            cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1/32", "10.0.1.0/30", "fd00::1/128"]
        );
        assert!(read("x").unwrap_err().contains("expected a range or an address"));
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
