//! Sets of addresses and prefixes, and of addresses with ports.

use std::net::IpAddr;

use contract::valid::{AddressPort, Member, Members, SetKind};
use ipnet::IpNet;

use super::lpm::Prefixes;
use super::trie::Trie;

/// A persistent set: whole addresses by hash, shorter prefixes by longest match.
#[derive(Clone, Debug)]
pub enum IpSet {
    /// Of addresses and prefixes.
    Addresses {
        /// Members of full length, IPv4.
        v4: Trie<u32, ()>,
        /// Members of full length, IPv6.
        v6: Trie<u128, ()>,
        /// Every other member.
        prefixes: Prefixes<()>,
    },
    /// Of addresses with a protocol and port.
    AddressPorts(Trie<AddressPort, ()>),
}

impl IpSet {
    /// An empty set.
    pub fn new(kind: SetKind) -> Self {
        match kind {
            SetKind::Addresses => Self::Addresses {
                v4: Trie::default(),
                v6: Trie::default(),
                prefixes: Prefixes::default(),
            },
            SetKind::AddressPorts => Self::AddressPorts(Trie::default()),
        }
    }

    /// What its members are.
    pub const fn kind(&self) -> SetKind {
        match self {
            Self::Addresses { .. } => SetKind::Addresses,
            Self::AddressPorts(_) => SetKind::AddressPorts,
        }
    }

    /// Does a member contain `address`? Never in a set of ports.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        let Self::Addresses { v4, v6, prefixes } = self else {
            return false;
        };
        let whole = match address {
            IpAddr::V4(address) => v4.contains(&address.to_bits()),
            IpAddr::V6(address) => v6.contains(&address.to_bits()),
        };
        whole || prefixes.lookup(address).is_some()
    }

    /// Is this address, protocol and port a member? Never in a set of addresses.
    #[inline]
    pub fn contains_port(&self, member: &AddressPort) -> bool {
        match self {
            Self::AddressPorts(members) => members.contains(member),
            Self::Addresses { .. } => false,
        }
    }

    /// Is this very member there?
    pub fn has(&self, member: &Member) -> bool {
        match (self, member) {
            (Self::Addresses { v4, v6, prefixes }, Member::Prefix(prefix)) => match whole(prefix) {
                Some(IpAddr::V4(address)) => v4.contains(&address.to_bits()),
                Some(IpAddr::V6(address)) => v6.contains(&address.to_bits()),
                None => prefixes.exact(*prefix).is_some(),
            },
            (Self::AddressPorts(members), Member::AddressPort(member)) => members.contains(member),
            _ => false,
        }
    }

    /// Puts a member in. `false` when it is there already, or of the other kind.
    pub fn insert(&mut self, member: Member) -> bool {
        match (self, member) {
            (Self::Addresses { v4, v6, prefixes }, Member::Prefix(prefix)) => match whole(&prefix) {
                Some(IpAddr::V4(address)) => v4.insert(address.to_bits(), ()).is_none(),
                Some(IpAddr::V6(address)) => v6.insert(address.to_bits(), ()).is_none(),
                None => prefixes.insert(prefix, ()).is_none(),
            },
            (Self::AddressPorts(members), Member::AddressPort(member)) => {
                members.insert(member, ()).is_none()
            }
            _ => false,
        }
    }

    /// Takes a member out. `false` when it is not there.
    pub fn remove(&mut self, member: &Member) -> bool {
        match (self, member) {
            (Self::Addresses { v4, v6, prefixes }, Member::Prefix(prefix)) => match whole(prefix) {
                Some(IpAddr::V4(address)) => v4.remove(&address.to_bits()).is_some(),
                Some(IpAddr::V6(address)) => v6.remove(&address.to_bits()).is_some(),
                None => prefixes.remove(*prefix).is_some(),
            },
            (Self::AddressPorts(members), Member::AddressPort(member)) => members.remove(member).is_some(),
            _ => false,
        }
    }

    /// Are `members`, of which none is there twice, just those of this set?
    pub fn equals(&self, members: &Members) -> bool {
        if self.kind() != members.kind() || self.len() != members.len() {
            return false;
        }
        match members {
            Members::Addresses(members) => members.iter().all(|m| self.has(&Member::Prefix(*m))),
            Members::AddressPorts(members) => members.iter().all(|m| self.has(&Member::AddressPort(*m))),
        }
    }

    /// How many members there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::Addresses { v4, v6, prefixes } => v4.len() + v6.len() + prefixes.len(),
            Self::AddressPorts(members) => members.len(),
        }
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits every member.
    pub fn each(&self, mut visit: impl FnMut(Member)) {
        match self {
            Self::Addresses { v4, v6, prefixes } => {
                for (bits, ()) in v4 {
                    visit(Member::Prefix(IpAddr::V4((*bits).into()).into()));
                }
                for (bits, ()) in v6 {
                    visit(Member::Prefix(IpAddr::V6((*bits).into()).into()));
                }
                prefixes.each(|prefix, ()| visit(Member::Prefix(prefix)));
            }
            Self::AddressPorts(members) => members
                .iter()
                .for_each(|(member, ())| visit(Member::AddressPort(*member))),
        }
    }
}

/// The address of a prefix of full length.
fn whole(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}
