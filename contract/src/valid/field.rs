//! Checks of single fields: each takes what crossed the socket and gives the typed value, or says what is wrong.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use wire::addr::Mac;

use super::{Encap, Invalid, Origin, Subject};
use crate::proto;

/// Longest name, bytes. Kubernetes names are at most 253; ids join a few of them.
const NAME_MAX: usize = 1024;

/// A name or id: not empty, bounded, printable.
pub(super) fn name(subject: &Subject, field: &str, raw: &str) -> Result<Arc<str>, Invalid> {
    if raw.is_empty() {
        return Err(subject.invalid(field, "a name", "nothing"));
    }
    if raw.len() > NAME_MAX {
        return Err(subject.invalid(field, format!("at most {NAME_MAX} bytes"), raw.len()));
    }
    if raw.chars().any(char::is_control) {
        return Err(subject.invalid(field, "printable characters", format!("{raw:?}")));
    }
    Ok(raw.into())
}

/// Any address of 4 or 16 bytes.
fn any_address(subject: &Subject, field: &str, raw: &[u8]) -> Result<IpAddr, Invalid> {
    if let Ok(v4) = <[u8; 4]>::try_from(raw) {
        return Ok(IpAddr::from(v4));
    }
    match <[u8; 16]>::try_from(raw) {
        Ok(v6) => Ok(IpAddr::from(v6)),
        Err(_) => Err(subject.invalid(
            field,
            "an address of 4 or 16 bytes",
            format!("{} bytes", raw.len()),
        )),
    }
}

/// An address that a host may have: not unspecified, multicast, broadcast or IPv4-mapped.
pub(super) fn address(subject: &Subject, field: &str, raw: &[u8]) -> Result<IpAddr, Invalid> {
    let address = any_address(subject, field, raw)?;
    let odd = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.to_ipv4_mapped().is_some(),
    };
    if odd {
        Err(subject.invalid(field, "a unicast address", address))
    } else {
        Ok(address)
    }
}

/// Addresses, no one twice.
pub(super) fn addresses(subject: &Subject, field: &str, raw: &[Vec<u8>]) -> Result<Vec<IpAddr>, Invalid> {
    let mut found = Vec::with_capacity(raw.len());
    for (index, bytes) in raw.iter().enumerate() {
        let address = address(subject, field, bytes).map_err(|invalid| invalid.at(index))?;
        // A node, pod or Service has a handful.
        if found.contains(&address) {
            return Err(subject.invalid(field, "each address once", format!("{address} twice")));
        }
        found.push(address);
    }
    Ok(found)
}

/// An address, or none where the field is empty.
pub(super) fn optional_address(
    subject: &Subject,
    field: &str,
    raw: &[u8],
) -> Result<Option<IpAddr>, Invalid> {
    if raw.is_empty() {
        Ok(None)
    } else {
        address(subject, field, raw).map(Some)
    }
}

/// A MAC of one station, or none where the field is empty.
pub(super) fn mac(subject: &Subject, field: &str, raw: &[u8]) -> Result<Option<Mac>, Invalid> {
    if raw.is_empty() {
        return Ok(None);
    }
    let Ok(bytes) = <[u8; 6]>::try_from(raw) else {
        return Err(subject.invalid(field, "6 bytes", format!("{} bytes", raw.len())));
    };
    let mac = Mac(bytes);
    if mac.is_multicast() || mac == Mac::ZERO {
        return Err(subject.invalid(field, "the MAC address of one station", mac));
    }
    Ok(Some(mac))
}

/// A prefix whose host bits are zero.
pub(super) fn prefix(subject: &Subject, field: &str, raw: Option<&proto::Prefix>) -> Result<IpNet, Invalid> {
    let Some(raw) = raw else {
        return Err(subject.invalid(field, "a prefix", "nothing"));
    };
    let address = any_address(subject, field, &raw.address)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let prefix = u8::try_from(raw.length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| subject.invalid(field, format!("a length of 0 to {max}"), raw.length))?;
    if prefix.trunc() != prefix {
        return Err(subject.invalid(field, format!("host bits of zero, {}", prefix.trunc()), prefix));
    }
    Ok(prefix)
}

/// Prefixes.
pub(super) fn prefixes(subject: &Subject, field: &str, raw: &[proto::Prefix]) -> Result<Vec<IpNet>, Invalid> {
    raw.iter()
        .enumerate()
        .map(|(index, raw)| prefix(subject, field, Some(raw)).map_err(|invalid| invalid.at(index)))
        .collect()
}

/// An MTU, or `None` for 0.
pub(super) fn mtu(subject: &Subject, field: &str, raw: u32) -> Result<Option<u16>, Invalid> {
    match u16::try_from(raw) {
        Ok(0) => Ok(None),
        Ok(mtu) if mtu >= MTU_MIN => Ok(Some(mtu)),
        _ => Err(subject.invalid(field, format!("0, or {MTU_MIN} to 65535"), raw)),
    }
}

/// Every IPv4 link carries this much, RFC 791 section 3.2.
const MTU_MIN: u16 = 68;

/// A transport port that is not 0.
pub(super) fn port(subject: &Subject, field: &str, raw: u32) -> Result<u16, Invalid> {
    match u16::try_from(raw) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(subject.invalid(field, "1 to 65535", raw)),
    }
}

/// A transport port, 0 included.
pub(super) fn port_or_zero(subject: &Subject, field: &str, raw: u32) -> Result<u16, Invalid> {
    u16::try_from(raw).map_err(|_| subject.invalid(field, "0 to 65535", raw))
}

/// A protocol number.
pub(super) fn protocol(subject: &Subject, field: &str, raw: u32) -> Result<u8, Invalid> {
    u8::try_from(raw).map_err(|_| subject.invalid(field, "0 to 255", raw))
}

/// The protocol of something with ports: TCP, UDP or SCTP.
pub(super) fn transport(subject: &Subject, field: &str, raw: u32) -> Result<u8, Invalid> {
    match raw {
        6 | 17 | 132 => Ok(raw as u8),
        _ => Err(subject.invalid(field, "6 (TCP), 17 (UDP) or 132 (SCTP)", raw)),
    }
}

/// An encapsulation.
pub(super) fn encap(subject: &Subject, field: &str, raw: i32) -> Result<Encap, Invalid> {
    match proto::Encap::try_from(raw) {
        Ok(proto::Encap::None) => Ok(Encap::None),
        Ok(proto::Encap::Vxlan) => Ok(Encap::Vxlan),
        Ok(proto::Encap::Ipip) => Ok(Encap::Ipip),
        Err(_) => Err(subject.invalid(field, "NONE (0), VXLAN (1) or IPIP (2)", raw)),
    }
}

/// An origin with at least a kind and a name.
pub(super) fn origin(subject: &Subject, raw: Option<&proto::Origin>) -> Result<Arc<Origin>, Invalid> {
    let raw = raw.cloned().unwrap_or_default();
    for (field, value) in [("origin.kind", &raw.kind), ("origin.name", &raw.name)] {
        name(subject, field, value)?;
    }
    let proto::Origin {
        group,
        kind,
        namespace,
        name,
    } = raw;
    Ok(Arc::new(Origin {
        group,
        kind,
        namespace,
        name,
    }))
}

/// Refuses the second of two equal keys.
pub(super) fn unique<K: Hash + Eq>(
    seen: &mut HashSet<K>,
    key: K,
    subject: &Subject,
    field: &str,
    shown: &str,
) -> Result<(), Invalid> {
    if seen.insert(key) {
        Ok(())
    } else {
        Err(subject.invalid(field, "one of this name", format!("{shown} twice")))
    }
}
