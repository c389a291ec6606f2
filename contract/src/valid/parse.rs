//! From messages to objects: nodes, ports, blocks and Services.

use std::collections::HashSet;

use super::{
    Backend, BackendState, Block, Encap, Family, Invalid, Node, Pool, Port, PortKind, RemoteNode, Service,
    Subject, Tier, TunnelEnd, field,
};
use crate::proto;

const VXLAN_VNI: u32 = 4096;
const VXLAN_PORT: u32 = 4789;
const SNAT_PORTS: (u32, u32) = (45_000, 65_535);

pub(super) fn node(raw: &proto::Node) -> Result<Node, Invalid> {
    let subject = Subject::new("Node", "", &raw.name);
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let vni = or(raw.vxlan_vni, VXLAN_VNI);
    let first = field::port(&subject, "snat_port_first", or(raw.snat_port_first, SNAT_PORTS.0))?;
    let last = field::port(&subject, "snat_port_last", or(raw.snat_port_last, SNAT_PORTS.1))?;
    if first > last {
        return Err(subject.invalid(
            "snat_port_last",
            format!("at least snat_port_first, {first}"),
            last,
        ));
    }
    Ok(Node {
        name: field::name(&subject, "name", &raw.name)?,
        addresses: field::addresses(&subject, "addresses", &raw.addresses)?,
        uplink_mac: field::mac(&subject, "uplink_mac", &raw.uplink_mac)?,
        uplink_mtu: field::mtu(&subject, "uplink_mtu", raw.uplink_mtu)?,
        own_blocks: field::prefixes(&subject, "own_blocks", &raw.own_blocks)?,
        tunnel_ends: tunnel_ends(&subject, &raw.tunnel_ends)?,
        vxlan_vni: vni
            .try_into()
            .map_err(|_| subject.invalid("vxlan_vni", "a number of 24 bits", vni))?,
        vxlan_port: field::port(&subject, "vxlan_port", or(raw.vxlan_port, VXLAN_PORT))?,
        snat_ports: (first, last),
    })
}

fn tunnel_ends(subject: &Subject, raw: &[proto::TunnelEnd]) -> Result<Vec<TunnelEnd>, Invalid> {
    let mut ends: Vec<TunnelEnd> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = |name: &str| format!("tunnel_ends[{index}].{name}");
        let encap = field::encap(subject, &at("encap"), raw.encap)?;
        let address = field::optional_address(subject, &at("address"), &raw.address)?;
        let mac = field::mac(subject, &at("mac"), &raw.mac)?;
        let outer_address = field::optional_address(subject, &at("outer_address"), &raw.outer_address)?;
        let family = address.or(outer_address).map_or(Family::V4, |a| Family::of(&a));
        match encap {
            Encap::None => return Err(subject.invalid(&at("encap"), "VXLAN (1) or IPIP (2)", "NONE (0)")),
            Encap::Vxlan if mac.is_none() => return Err(subject.invalid(&at("mac"), "6 bytes", "nothing")),
            Encap::Ipip => {
                if let Some(found) = [address, outer_address]
                    .into_iter()
                    .flatten()
                    .find(|a| !a.is_ipv4())
                {
                    return Err(subject.invalid(
                        &at("address"),
                        "an IPv4 address: IPIP carries IPv4 in IPv4",
                        found,
                    ));
                }
            }
            Encap::Vxlan => {}
        }
        if ends.iter().any(|end| (end.encap, end.family) == (encap, family)) {
            let expected = "one end of each encapsulation and family";
            return Err(subject.invalid("tunnel_ends", expected, format!("{encap:?} {family:?} twice")));
        }
        ends.push(TunnelEnd {
            encap,
            family,
            address,
            mac,
            outer_address,
        });
    }
    Ok(ends)
}

pub(super) fn remote_node(raw: &proto::RemoteNode) -> Result<RemoteNode, Invalid> {
    let subject = Subject::new("Node", "", &raw.name);
    Ok(RemoteNode {
        name: field::name(&subject, "name", &raw.name)?,
        addresses: field::addresses(&subject, "addresses", &raw.addresses)?,
        tunnel_ends: tunnel_ends(&subject, &raw.tunnel_ends)?,
        uplink_mac: field::mac(&subject, "uplink_mac", &raw.uplink_mac)?,
    })
}

pub(super) fn block(raw: &proto::Block) -> Result<Block, Invalid> {
    let subject = Subject::new("Block", "", &raw.node);
    let prefix = field::prefix(&subject, "prefix", raw.prefix.as_ref())?;
    let subject = Subject::new("Block", "", &prefix.to_string());
    let encap = field::encap(&subject, "encap", raw.encap)?;
    if encap == Encap::Ipip && Family::of_prefix(&prefix) == Family::V6 {
        return Err(subject.invalid("encap", "NONE or VXLAN: IPIP carries IPv4 only", "IPIP"));
    }
    Ok(Block {
        prefix,
        node: field::name(&subject, "node", &raw.node)?,
        encap,
    })
}

pub(super) fn pool(raw: &proto::Pool) -> Result<Pool, Invalid> {
    let subject = Subject::new("Pool", "", "");
    let prefix = field::prefix(&subject, "prefix", raw.prefix.as_ref())?;
    let subject = Subject::new("Pool", "", &prefix.to_string());
    let encap = field::encap(&subject, "encap", raw.encap)?;
    Ok(Pool {
        prefix,
        nat_outgoing: raw.nat_outgoing,
        encap,
        cross_subnet: raw.cross_subnet,
    })
}

pub(super) fn port(raw: &proto::Port) -> Result<Port, Invalid> {
    let subject = Subject::port(&raw.name);
    let (kind, named_well) = match proto::PortKind::try_from(raw.kind) {
        Ok(proto::PortKind::Pod) => (PortKind::Pod, pod_name(&raw.name)),
        Ok(proto::PortKind::Uplink) => (PortKind::Uplink, raw.name.starts_with("uplink")),
        Ok(proto::PortKind::Host) => (PortKind::Host, raw.name == "host"),
        _ => return Err(subject.invalid("kind", "POD (1), UPLINK (2) or HOST (3)", raw.kind)),
    };
    if !named_well {
        let expected = match kind {
            PortKind::Pod => "pod:<namespace>/<name>",
            PortKind::Uplink => "uplink, uplink1, ...",
            PortKind::Host => "host",
        };
        return Err(subject.invalid("name", expected, format!("{:?}", raw.name)));
    }
    let mac = field::mac(&subject, "mac", &raw.mac)?;
    let addresses = field::addresses(&subject, "addresses", &raw.addresses)?;
    if kind == PortKind::Pod {
        if mac.is_none() {
            return Err(subject.invalid("mac", "6 bytes", "nothing"));
        }
        if addresses.is_empty() {
            return Err(subject.invalid("addresses", "at least one", "none"));
        }
    }
    Ok(Port {
        name: field::name(&subject, "name", &raw.name)?,
        kind,
        interface: raw.interface.as_str().into(),
        mac,
        addresses,
        mtu: field::mtu(&subject, "mtu", raw.mtu)?,
        ingress: tiers(&subject, "ingress", raw.ingress.as_ref())?,
        egress: tiers(&subject, "egress", raw.egress.as_ref())?,
    })
}

fn pod_name(name: &str) -> bool {
    name.strip_prefix("pod:")
        .and_then(|pod| pod.split_once('/'))
        .is_some_and(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty() && !pod.contains('/'))
}

fn tiers(
    subject: &Subject,
    direction: &str,
    raw: Option<&proto::PolicyAttachment>,
) -> Result<Vec<Tier>, Invalid> {
    raw.map(|attachment| &attachment.tiers[..])
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, raw)| {
            let at = |name: &str| format!("{direction}.tiers[{index}].{name}");
            if raw.policies.is_empty() {
                return Err(subject.invalid(&at("policies"), "at least one", "none"));
            }
            let policies = raw
                .policies
                .iter()
                .map(|id| field::name(subject, &at("policies"), id))
                .collect::<Result<_, _>>()?;
            let default_deny = match proto::Action::try_from(raw.default_action) {
                Ok(proto::Action::Deny) => true,
                Ok(proto::Action::Pass) => false,
                _ => {
                    return Err(subject.invalid(
                        &at("default_action"),
                        "DENY (2) or PASS (3)",
                        raw.default_action,
                    ));
                }
            };
            Ok(Tier {
                name: raw.name.as_str().into(),
                policies,
                default_deny,
            })
        })
        .collect()
}

pub(super) fn service(raw: &proto::Service) -> Result<Service, Invalid> {
    let subject = Subject::new("Service", "", &raw.id);
    let id = field::name(&subject, "id", &raw.id)?;
    let origin = field::origin(&subject, raw.origin.as_ref())?;
    let subject = Subject::origin(&origin);
    let mut backends: Vec<Backend> = Vec::with_capacity(raw.backends.len());
    // A few are compared one with the other.
    let mut seen = HashSet::with_capacity(match raw.backends.len() {
        0..=BACKENDS_FEW => 0,
        many => many,
    });
    for (index, raw) in raw.backends.iter().enumerate() {
        let found =
            backend(&subject, raw).map_err(|invalid| invalid.inside(format_args!("backends[{index}]")))?;
        let end = |backend: &Backend| (backend.address, backend.port);
        let is_new = if seen.capacity() == 0 {
            backends.iter().all(|other| end(other) != end(&found))
        } else {
            seen.insert(end(&found))
        };
        if !is_new {
            let found = format!("{} port {} twice", found.address, found.port);
            return Err(subject.invalid("backends", "each backend once", found));
        }
        backends.push(found);
    }
    Ok(Service {
        id,
        protocol: field::transport(&subject, "protocol", raw.protocol)?,
        port: field::port(&subject, "port", raw.port)?,
        cluster_ips: field::addresses(&subject, "cluster_ips", &raw.cluster_ips)?,
        backends,
        affinity_s: raw.affinity_s,
        origin,
    })
}

fn backend(subject: &Subject, raw: &proto::Backend) -> Result<Backend, Invalid> {
    Ok(Backend {
        address: field::address(subject, "address", &raw.address)?,
        port: field::port(subject, "port", raw.port)?,
        state: match proto::BackendState::try_from(raw.state) {
            Ok(proto::BackendState::Ready) => BackendState::Ready,
            Ok(proto::BackendState::ServingTerminating) => BackendState::ServingTerminating,
            Ok(proto::BackendState::NotReady) => BackendState::NotReady,
            _ => {
                let expected = "READY (1), SERVING_TERMINATING (2) or NOT_READY (3)";
                return Err(subject.invalid("state", expected, raw.state));
            }
        },
        local: raw.local,
    })
}

/// Up to so many a set costs more than it spares.
const BACKENDS_FEW: usize = 16;

pub(super) fn service_ranges(raw: &[proto::Prefix]) -> Result<Vec<ipnet::IpNet>, Invalid> {
    let subject = Subject::new("ServiceRanges", "", "");
    let mut ranges = field::prefixes(&subject, "ranges", raw)?;
    ranges.sort_unstable();
    ranges.dedup();
    Ok(ranges)
}

pub(super) fn removed_prefix(kind: &str, raw: &proto::Prefix) -> Result<ipnet::IpNet, Invalid> {
    field::prefix(&Subject::new(kind, "", ""), "prefix", Some(raw))
}

pub(super) fn removed_name(kind: &str, raw: &str) -> Result<std::sync::Arc<str>, Invalid> {
    let subject = if kind == "Port" {
        Subject::port(raw)
    } else {
        Subject::new(kind, "", raw)
    };
    field::name(&subject, "name", raw)
}
