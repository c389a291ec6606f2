//! Addresses, ranges and origins as the contract writes them.

use std::net::IpAddr;

use contract::proto;
use ipnet::IpNet;

use crate::object::ObjectName;

pub(super) fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn addresses(all: &[IpAddr]) -> Vec<Vec<u8>> {
    all.iter().copied().map(address).collect()
}

pub(super) fn prefix(net: IpNet) -> proto::Prefix {
    proto::Prefix {
        address: address(net.network()),
        length: u32::from(net.prefix_len()),
    }
}

pub(super) fn origin(group: &str, kind: &str, name: &ObjectName) -> proto::Origin {
    proto::Origin {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    }
}
