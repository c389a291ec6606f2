//! From messages to objects: policies, their rules, and IP sets.

use std::collections::HashSet;
use std::hash::Hash;

use super::{
    Action, AddressPort, Invalid, IpSet, IpSetDelta, Member, Members, Peer, Policy, PortMatch, Ports, Rule,
    Subject, field,
};
use crate::proto;

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
    let members = match proto::ip_set::Kind::try_from(raw.kind) {
        Ok(proto::ip_set::Kind::Addresses) => {
            let members = whole_members(&raw.members, |raw| prefix_member(&subject, "members", raw))?;
            each_once(&subject, &members, ToString::to_string)?;
            Members::Addresses(members)
        }
        Ok(proto::ip_set::Kind::AddressPorts) => {
            let members = whole_members(&raw.members, |raw| address_port_member(&subject, "members", raw))?;
            each_once(&subject, &members, |member| format!("{member:?}"))?;
            Members::AddressPorts(members)
        }
        _ => return Err(subject.invalid("kind", "ADDRESSES (1) or ADDRESS_PORTS (2)", raw.kind)),
    };
    Ok(IpSet { id, members })
}

fn whole_members<T>(
    raw: &[proto::Member],
    read: impl Fn(&proto::Member) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    raw.iter()
        .enumerate()
        .map(|(index, raw)| read(raw).map_err(|invalid| invalid.at(index)))
        .collect()
}

/// Ours come in order, and then one look at each is enough.
fn each_once<T: Ord + Hash>(
    subject: &Subject,
    members: &[T],
    shown: impl Fn(&T) -> String,
) -> Result<(), Invalid> {
    if members.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(members.len());
    match members.iter().find(|member| !seen.insert(*member)) {
        None => Ok(()),
        Some(member) => {
            Err(subject.invalid("members", "each member once", format!("{} twice", shown(member))))
        }
    }
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
