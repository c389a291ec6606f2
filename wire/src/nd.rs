//! Neighbour discovery, RFC 4861: solicitations and advertisements with their options.

use core::net::Ipv6Addr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Mac;
use crate::checksum::Sum;
use crate::icmp::{self, IcmpHeader};
use crate::icmpv6;
use crate::ipv6::{self, Ipv6Header};
use crate::packet::Packet;
use crate::proto::IpProtocol;

/// The hop limit that proves a message came from its own link.
pub const HOP_LIMIT: u8 = 255;
/// Length of what [`Advertisement::write`] writes, in bytes.
pub const ADVERTISEMENT_LEN: usize = ipv6::HEADER_LEN + 24 + 8;
/// The multicast address of all nodes on the link, `ff02::1`.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why a neighbour discovery message is to be ignored, RFC 4861 sections 6.1 and 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the message, or a fragment (RFC 6980).
    Truncated,
    /// The hop limit is not 255: it came from beyond the link.
    HopLimit,
    /// The checksum is wrong.
    Checksum,
    /// The code is not 0.
    Code,
    /// An option has length 0 or runs out of the message.
    Option,
    /// The target is a multicast address.
    Target,
    /// A source or destination that this message may not have.
    Address,
}

/// A message of neighbour discovery. Redirects are not read, they are [`Message::Redirect`].
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// A host asks for routers.
    RouterSolicitation(Options<'a>),
    /// A router tells of itself.
    RouterAdvertisement(&'a RouterAdvertisement, Options<'a>),
    /// Somebody asks for the owner of an address, or probes whether there is one.
    NeighbourSolicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// A probe for duplicate addresses (RFC 4862): it comes from no address and asks for the sender's own.
        is_probe: bool,
        /// Options.
        options: Options<'a>,
    },
    /// The owner of an address tells of itself.
    NeighbourAdvertisement {
        /// The address told.
        target: Ipv6Addr,
        /// Flags.
        flags: AdvertisementFlags,
        /// Options.
        options: Options<'a>,
    },
    /// A router knows a better way.
    Redirect,
}

/// Flags of a neighbour advertisement, RFC 4861 section 4.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdvertisementFlags {
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what caches hold.
    pub overrides: bool,
}

/// Router advertisement behind its ICMPv6 type, code and checksum, RFC 4861 section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RouterAdvertisement {
    /// Hop limit that hosts should use, 0 for unspecified.
    pub hop_limit: u8,
    /// Managed and other configuration, preference.
    pub flags: u8,
    /// Lifetime as default router, in seconds.
    pub lifetime_s: U16,
    /// How long a neighbour counts as reachable, in milliseconds.
    pub reachable_ms: U32,
    /// Between solicitations, in milliseconds.
    pub retransmit_ms: U32,
}

/// Reads the message of `packet`, parsed from `l3`. `None` when it is no neighbour discovery at all.
///
/// Everything RFC 4861 asks a receiver to check is checked, the checksum included.
pub fn parse<'a>(packet: &Packet, l3: &'a [u8]) -> Result<Option<Message<'a>>, Malformed> {
    if !packet.is_icmp() || packet.proto != IpProtocol::ICMPV6 {
        return Ok(None);
    }
    if !icmpv6::is_neighbour_discovery(packet.icmp_type) {
        return Ok(None);
    }
    if packet.ttl != HOP_LIMIT {
        return Err(Malformed::HopLimit);
    }
    if packet.fragment.is_some() {
        return Err(Malformed::Truncated);
    }
    if packet.icmp_code != 0 {
        return Err(Malformed::Code);
    }
    let message = l3
        .get(usize::from(packet.l4_offset)..packet.total_len as usize)
        .ok_or(Malformed::Truncated)?;
    if !packet.l4_checksum_is_valid(l3) {
        return Err(Malformed::Checksum);
    }
    let header = Ipv6Header::prefix(l3).ok_or(Malformed::Truncated)?;
    let (icmp, body) = message
        .split_at_checked(icmp::HEADER_LEN)
        .ok_or(Malformed::Truncated)?;
    Ok(Some(match packet.icmp_type {
        icmpv6::ROUTER_SOLICITATION => {
            let options = Options::checked(body)?;
            if header.src().is_unspecified() && options.source_mac().is_some() {
                return Err(Malformed::Address);
            }
            Message::RouterSolicitation(options)
        }
        icmpv6::ROUTER_ADVERTISEMENT => {
            let fields = message.get(4..).unwrap_or_default();
            let (advertisement, options) =
                RouterAdvertisement::ref_from_prefix(fields).map_err(|_| Malformed::Truncated)?;
            if !header.src().is_unicast_link_local() {
                return Err(Malformed::Address);
            }
            Message::RouterAdvertisement(advertisement, Options::checked(options)?)
        }
        icmpv6::NEIGHBOUR_SOLICITATION => {
            let (target, options) = target_and_options(body)?;
            let is_probe = header.src().is_unspecified();
            let asks_group = header.dst() == solicited_node(target);
            if is_probe && (!asks_group || options.source_mac().is_some()) {
                return Err(Malformed::Address);
            }
            Message::NeighbourSolicitation {
                target,
                is_probe,
                options,
            }
        }
        icmpv6::NEIGHBOUR_ADVERTISEMENT => {
            let (target, options) = target_and_options(body)?;
            let bits = icmp.get(4).copied().unwrap_or_default();
            let flags = AdvertisementFlags {
                router: bits & 0x80 != 0,
                solicited: bits & 0x40 != 0,
                overrides: bits & 0x20 != 0,
            };
            if flags.solicited && header.dst().is_multicast() {
                return Err(Malformed::Address);
            }
            Message::NeighbourAdvertisement {
                target,
                flags,
                options,
            }
        }
        _ => Message::Redirect,
    }))
}

fn target_and_options(body: &[u8]) -> Result<(Ipv6Addr, Options<'_>), Malformed> {
    let (target, options) = body.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let target = Ipv6Addr::from_octets(*target);
    if target.is_multicast() {
        return Err(Malformed::Target);
    }
    Ok((target, Options::checked(options)?))
}

/// The group that owners of `address` listen to, RFC 4291 section 2.7.1: `ff02::1:ff` and its last three bytes.
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from_octets([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Options of a message, every one of which has a length and stays within it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [u8]);

/// Walks options as (type, whole option).
#[derive(Clone, Debug)]
pub struct OptionsIter<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
    /// Prefix information.
    pub const PREFIX: u8 = 3;
    /// MTU of the link.
    pub const MTU: u8 = 5;

    /// Checks that every option has a length and stays within `bytes`.
    fn checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut walk = OptionsIter(bytes);
        while walk.next().is_some() {}
        // The walk stops where it can't go on: at the end, or at an option that lies.
        if walk.0.is_empty() {
            Ok(Self(bytes))
        } else {
            Err(Malformed::Option)
        }
    }

    /// All options in order.
    pub const fn iter(self) -> OptionsIter<'a> {
        OptionsIter(self.0)
    }

    fn mac(self, kind: u8) -> Option<Mac> {
        let (_, option) = self.iter().find(|(found, _)| *found == kind)?;
        option.get(2..)?.first_chunk().copied().map(Mac)
    }

    /// The source link-layer address option.
    pub fn source_mac(self) -> Option<Mac> {
        self.mac(Self::SOURCE_LINK_LAYER)
    }

    /// The target link-layer address option.
    pub fn target_mac(self) -> Option<Mac> {
        self.mac(Self::TARGET_LINK_LAYER)
    }
}

impl<'a> IntoIterator for Options<'a> {
    type Item = (u8, &'a [u8]);
    type IntoIter = OptionsIter<'a>;

    fn into_iter(self) -> OptionsIter<'a> {
        self.iter()
    }
}

impl<'a> Iterator for OptionsIter<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [kind, units, ..] = *self.0 else { return None };
        if units == 0 {
            return None;
        }
        let (option, rest) = self.0.split_at_checked(usize::from(units) * 8)?;
        self.0 = rest;
        Some((kind, option))
    }
}

/// A neighbour advertisement to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Source of the packet, an address of ours.
    pub src: Ipv6Addr,
    /// Destination of the packet.
    pub dst: Ipv6Addr,
    /// The address told.
    pub target: Ipv6Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// Flags.
    pub flags: AdvertisementFlags,
}

impl Advertisement {
    /// Answers a solicitation for `target` from `solicitor`: to it, or to all nodes when it has no address yet (RFC
    /// 4861 section 7.2.4). The Ethernet destination of the latter is [`Mac::of_ipv6_multicast`] of `dst`.
    pub const fn answer(solicitor: Ipv6Addr, target: Ipv6Addr, mac: Mac, router: bool) -> Self {
        let solicited = !solicitor.is_unspecified();
        let flags = AdvertisementFlags {
            router,
            solicited,
            overrides: true,
        };
        let dst = if solicited { solicitor } else { ALL_NODES };
        Self {
            src: target,
            dst,
            target,
            mac,
            flags,
        }
    }

    /// Writes the IPv6 packet to `out`. Returns its length, [`ADVERTISEMENT_LEN`]; `None` when `out` is shorter.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        const MESSAGE_LEN: u16 = (ADVERTISEMENT_LEN - ipv6::HEADER_LEN) as u16;
        let (header, message) = out
            .get_mut(..ADVERTISEMENT_LEN)?
            .split_at_mut_checked(ipv6::HEADER_LEN)?;
        Ipv6Header::new(self.src, self.dst, IpProtocol::ICMPV6, HOP_LIMIT, MESSAGE_LEN)
            .write_to(header)
            .ok()?;

        let (icmp, body) = message.split_at_mut_checked(icmp::HEADER_LEN)?;
        let AdvertisementFlags {
            router,
            solicited,
            overrides,
        } = self.flags;
        let bits = u32::from(router) << 31 | u32::from(solicited) << 30 | u32::from(overrides) << 29;
        IcmpHeader::new(icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, bits)
            .write_to(icmp)
            .ok()?;
        let (target, option) = body.split_at_mut_checked(16)?;
        self.target.octets().write_to(target).ok()?;
        let (start, mac) = option.split_at_mut_checked(2)?;
        [Options::TARGET_LINK_LAYER, 1].write_to(start).ok()?;
        self.mac.write_to(mac).ok()?;

        let pseudo = Sum::pseudo_v6(
            self.src.octets(),
            self.dst.octets(),
            IpProtocol::ICMPV6,
            u32::from(MESSAGE_LEN),
        );
        icmp::write_checksum(message, pseudo);
        Some(ADVERTISEMENT_LEN)
    }
}

#[cfg(test)]
mod tests;
