//! From messages to objects, one object at a time.

use std::collections::HashSet;

use super::{
    Action, AddressPort, Backend, BackendState, Block, Encap, Family, Invalid, IpSet, IpSetDelta, Member,
    Members, Node, Peer, Policy, Pool, Port, PortKind, PortMatch, Ports, RemoteNode, Rule, Service, Subject,
    Tier, TunnelEnd, field,
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

pub(super) fn policy(raw: &proto::Policy) -> Result<Policy, Invalid> {
    let subject = Subject::new("Policy", "", &raw.id);
    let id = field::name(&subject, "id", &raw.id)?;
    let origin = field::origin(&subject, raw.origin.as_ref())?;
    let subject = Subject::origin(&origin);
    Ok(Policy {
        id,
        ingress: rules(&subject, "ingress", &raw.ingress)?,
        egress: rules(&subject, "egress", &raw.egress)?,
        origin,
    })
}

fn rules(subject: &Subject, direction: &str, raw: &[proto::Rule]) -> Result<Vec<Rule>, Invalid> {
    raw.iter()
        .enumerate()
        .map(|(index, raw)| rule(subject, &format!("{direction}[{index}]"), raw))
        .collect()
}

fn rule(subject: &Subject, at: &str, raw: &proto::Rule) -> Result<Rule, Invalid> {
    let action = match proto::Action::try_from(raw.action) {
        Ok(proto::Action::Allow) => Action::Allow,
        Ok(proto::Action::Deny) => Action::Deny,
        Ok(proto::Action::Pass) => Action::Pass,
        Ok(proto::Action::Log) => Action::Log,
        _ => {
            let expected = "ALLOW (1), DENY (2), PASS (3) or LOG (4)";
            return Err(subject.invalid(&format!("{at}.action"), expected, raw.action));
        }
    };
    let peers = raw
        .peers
        .iter()
        .map(|raw| peer(subject, at, raw))
        .collect::<Result<Vec<_>, _>>()?;
    let ports = raw
        .ports
        .iter()
        .map(|raw| port_match(subject, at, raw))
        .collect::<Result<Vec<_>, _>>()?;
    if raw.any_peer && !peers.is_empty() {
        return Err(subject.invalid(&format!("{at}.peers"), "none beside any_peer", peers.len()));
    }
    if raw.any_port && !ports.is_empty() {
        return Err(subject.invalid(&format!("{at}.ports"), "none beside any_port", ports.len()));
    }
    Ok(Rule {
        index: raw.index,
        action,
        peers: (!raw.any_peer).then_some(peers),
        ports: (!raw.any_port).then_some(ports),
    })
}

fn peer(subject: &Subject, at: &str, raw: &proto::Peer) -> Result<Peer, Invalid> {
    match &raw.peer {
        Some(proto::peer::Peer::IpSet(id)) => Ok(Peer::IpSet(field::name(
            subject,
            &format!("{at}.peers.ip_set"),
            id,
        )?)),
        Some(proto::peer::Peer::IpBlock(block)) => {
            let prefix = field::prefix(
                subject,
                &format!("{at}.peers.ip_block.prefix"),
                block.prefix.as_ref(),
            )?;
            let field = format!("{at}.peers.ip_block.except");
            let except = field::prefixes(subject, &field, &block.except)?;
            if let Some(outside) = except.iter().find(|except| !prefix.contains(*except)) {
                return Err(subject.invalid(&field, format!("a prefix inside {prefix}"), outside));
            }
            Ok(Peer::IpBlock { prefix, except })
        }
        None => Err(subject.invalid(&format!("{at}.peers"), "ip_set or ip_block", "nothing")),
    }
}

fn port_match(subject: &Subject, at: &str, raw: &proto::PortMatch) -> Result<PortMatch, Invalid> {
    let protocol = field::protocol(subject, &format!("{at}.ports.protocol"), raw.protocol)?;
    let ports = match &raw.port {
        None => Ports::Any,
        Some(proto::port_match::Port::Range(range)) => {
            let first = field::port_or_zero(subject, &format!("{at}.ports.range.first"), range.first)?;
            let last = field::port_or_zero(subject, &format!("{at}.ports.range.last"), range.last)?;
            if first > last {
                return Err(subject.invalid(
                    &format!("{at}.ports.range.last"),
                    format!("at least first, {first}"),
                    last,
                ));
            }
            Ports::Range(first, last)
        }
        Some(proto::port_match::Port::NamedSet(id)) => {
            Ports::Named(field::name(subject, &format!("{at}.ports.named_set"), id)?)
        }
    };
    Ok(PortMatch { protocol, ports })
}

pub(super) fn ip_set(raw: &proto::IpSet) -> Result<IpSet, Invalid> {
    let subject = Subject::new("IpSet", "", &raw.id);
    let id = field::name(&subject, "id", &raw.id)?;
    let twice = |shown: String| subject.invalid("members", "each member once", format!("{shown} twice"));
    let members = match proto::ip_set::Kind::try_from(raw.kind) {
        Ok(proto::ip_set::Kind::Addresses) => {
            let mut seen = HashSet::with_capacity(raw.members.len());
            let mut members = Vec::with_capacity(raw.members.len());
            for (index, raw) in raw.members.iter().enumerate() {
                let prefix = prefix_member(&subject, &format!("members[{index}]"), raw)?;
                if !seen.insert(prefix) {
                    return Err(twice(prefix.to_string()));
                }
                members.push(prefix);
            }
            Members::Addresses(members)
        }
        Ok(proto::ip_set::Kind::AddressPorts) => {
            let mut seen = HashSet::with_capacity(raw.members.len());
            let mut members = Vec::with_capacity(raw.members.len());
            for (index, raw) in raw.members.iter().enumerate() {
                let member = address_port_member(&subject, &format!("members[{index}]"), raw)?;
                if !seen.insert(member) {
                    return Err(twice(format!("{member:?}")));
                }
                members.push(member);
            }
            Members::AddressPorts(members)
        }
        _ => return Err(subject.invalid("kind", "ADDRESSES (1) or ADDRESS_PORTS (2)", raw.kind)),
    };
    Ok(IpSet { id, members })
}

fn prefix_member(subject: &Subject, at: &str, raw: &proto::Member) -> Result<ipnet::IpNet, Invalid> {
    if raw.protocol != 0 || raw.port != 0 {
        return Err(subject.invalid(
            at,
            "a prefix alone",
            format!("protocol {} port {}", raw.protocol, raw.port),
        ));
    }
    field::prefix(subject, at, raw.prefix.as_ref())
}

fn address_port_member(subject: &Subject, at: &str, raw: &proto::Member) -> Result<AddressPort, Invalid> {
    let prefix = field::prefix(subject, at, raw.prefix.as_ref())?;
    if prefix.prefix_len() != prefix.max_prefix_len() {
        return Err(subject.invalid(at, "a prefix of full length", prefix));
    }
    let protocol = field::transport(subject, at, raw.protocol)?;
    Ok(AddressPort {
        address: prefix.addr(),
        protocol,
        port: field::port(subject, at, raw.port)?,
    })
}

pub(super) fn ip_set_delta(raw: &proto::IpSetDelta) -> Result<IpSetDelta, Invalid> {
    let subject = Subject::new("IpSet", "", &raw.id);
    let members = |field: &str, raw: &[proto::Member]| {
        let mut seen = HashSet::with_capacity(raw.len());
        let mut members = Vec::with_capacity(raw.len());
        for (index, raw) in raw.iter().enumerate() {
            let at = format!("{field}[{index}]");
            let member = if raw.protocol == 0 && raw.port == 0 {
                Member::Prefix(prefix_member(&subject, &at, raw)?)
            } else {
                Member::AddressPort(address_port_member(&subject, &at, raw)?)
            };
            if !seen.insert(member) {
                return Err(subject.invalid(&at, "each member once", format!("{member:?} twice")));
            }
            members.push(member);
        }
        Ok(members)
    };
    Ok(IpSetDelta {
        id: field::name(&subject, "id", &raw.id)?,
        removed: members("removed", &raw.removed)?,
        added: members("added", &raw.added)?,
    })
}

pub(super) fn service(raw: &proto::Service) -> Result<Service, Invalid> {
    let subject = Subject::new("Service", "", &raw.id);
    let id = field::name(&subject, "id", &raw.id)?;
    let origin = field::origin(&subject, raw.origin.as_ref())?;
    let subject = Subject::origin(&origin);
    let mut seen = HashSet::with_capacity(raw.backends.len());
    let mut backends = Vec::with_capacity(raw.backends.len());
    for (index, raw) in raw.backends.iter().enumerate() {
        let at = |name: &str| format!("backends[{index}].{name}");
        let backend = Backend {
            address: field::address(&subject, &at("address"), &raw.address)?,
            port: field::port(&subject, &at("port"), raw.port)?,
            state: match proto::BackendState::try_from(raw.state) {
                Ok(proto::BackendState::Ready) => BackendState::Ready,
                Ok(proto::BackendState::ServingTerminating) => BackendState::ServingTerminating,
                Ok(proto::BackendState::NotReady) => BackendState::NotReady,
                _ => {
                    let expected = "READY (1), SERVING_TERMINATING (2) or NOT_READY (3)";
                    return Err(subject.invalid(&at("state"), expected, raw.state));
                }
            },
            local: raw.local,
        };
        if !seen.insert((backend.address, backend.port)) {
            let found = format!("{} port {} twice", backend.address, backend.port);
            return Err(subject.invalid("backends", "each backend once", found));
        }
        backends.push(backend);
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
