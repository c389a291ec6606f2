//! ARP for IPv4 over Ethernet, RFC 826, with the probe and announcement of RFC 5227.

use core::net::Ipv4Addr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Mac;
use crate::ethernet::{EtherHeader, EtherType, HEADER_LEN};

/// Length of the packet, in bytes.
pub const PACKET_LEN: usize = 28;
/// Length of an ARP frame without padding, in bytes.
pub const FRAME_LEN: usize = HEADER_LEN + PACKET_LEN;

/// Asks for the owner of the target address.
pub const REQUEST: u16 = 1;
/// Tells the sender's address.
pub const REPLY: u16 = 2;

/// Why bytes are not ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the packet.
    Truncated,
    /// Other hardware or protocol, or address lengths that don't fit them.
    Kind,
    /// Neither request nor reply.
    Operation,
    /// The sender's hardware address is a group's.
    Sender,
}

/// ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    hardware: U16,
    protocol: EtherType,
    hardware_len: u8,
    protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// Sender's hardware address.
    pub sender_mac: Mac,
    sender: [u8; 4],
    /// Target's hardware address, zero in requests.
    pub target_mac: Mac,
    target: [u8; 4],
}

const _: () = assert!(size_of::<ArpPacket>() == PACKET_LEN);

impl ArpPacket {
    /// A packet for IPv4 over Ethernet.
    pub const fn new(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: EtherType::IPV4,
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender: sender.1.octets(),
            target_mac: target.0,
            target: target.1.octets(),
        }
    }

    /// The packet at the start of `bytes`, which follow the Ethernet header; padding may follow.
    pub fn parse(bytes: &[u8]) -> Result<&Self, Malformed> {
        let (packet, _) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        let kind = (
            packet.hardware.get(),
            packet.protocol,
            packet.hardware_len,
            packet.protocol_len,
        );
        if kind != (1, EtherType::IPV4, 6, 4) {
            return Err(Malformed::Kind);
        }
        if !matches!(packet.operation.get(), REQUEST | REPLY) {
            return Err(Malformed::Operation);
        }
        if packet.sender_mac.is_multicast() {
            return Err(Malformed::Sender);
        }
        Ok(packet)
    }

    /// Sender's protocol address; unspecified in probes.
    pub const fn sender(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.sender)
    }

    /// Target's protocol address.
    pub const fn target(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.target)
    }

    /// True for a request.
    pub const fn is_request(&self) -> bool {
        self.operation.get() == REQUEST
    }

    /// True for an address probe, RFC 5227 section 1.1: a request from no address.
    pub const fn is_probe(&self) -> bool {
        self.is_request() && self.sender().is_unspecified()
    }

    /// True for a gratuitous packet: sender and target are one address.
    pub fn is_announcement(&self) -> bool {
        self.sender == self.target
    }

    /// The reply to this request, saying that `mac` owns the target address.
    #[must_use]
    pub const fn reply(&self, mac: Mac) -> Self {
        Self::new(REPLY, (mac, self.target()), (self.sender_mac, self.sender()))
    }

    /// Writes this packet as a frame to `dst` from the sender. Returns its length, [`FRAME_LEN`]; `None`, and nothing
    /// is written, when `out` is shorter.
    pub fn write_frame(&self, dst: Mac, out: &mut [u8]) -> Option<usize> {
        let (header, packet) = out.get_mut(..FRAME_LEN)?.split_at_mut_checked(HEADER_LEN)?;
        EtherHeader::new(dst, self.sender_mac, EtherType::ARP)
            .write_to(header)
            .ok()?;
        self.write_to(packet).ok()?;
        Some(FRAME_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: (Mac, Ipv4Addr) = (Mac([2, 1, 10, 244, 1, 5]), Ipv4Addr::new(10, 244, 1, 5));
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

    #[test]
    fn a_request_is_answered_to_its_sender() {
        let request = ArpPacket::new(REQUEST, POD, (Mac::ZERO, GATEWAY));
        let mut frame = [0; 60];
        let len = request
            .reply(Mac([0xee; 6]))
            .write_frame(request.sender_mac, &mut frame)
            .unwrap();
        assert_eq!(len, 42);
        assert_eq!(
            &frame[..14],
            &[2, 1, 10, 244, 1, 5, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 8, 6]
        );
        let reply = ArpPacket::parse(&frame[14..]).unwrap();
        assert_eq!((reply.sender_mac, reply.sender()), (Mac([0xee; 6]), GATEWAY));
        assert_eq!((reply.target_mac, reply.target()), POD);
        assert!(!reply.is_request());
        assert_eq!(reply.write_frame(Mac::ZERO, &mut [0; 41]), None);
    }

    #[test]
    fn a_probe_has_no_sender_address() {
        let probe = ArpPacket::new(REQUEST, (POD.0, Ipv4Addr::UNSPECIFIED), (Mac::ZERO, POD.1));
        assert!(probe.is_probe() && !probe.is_announcement());
        assert!(ArpPacket::new(REQUEST, POD, POD).is_announcement());
    }

    #[test]
    fn other_kinds_are_refused() {
        let mut bytes = [0; 28];
        let mut refused = |at: usize, value: u8| {
            ArpPacket::new(REQUEST, POD, (Mac::ZERO, GATEWAY))
                .write_to(&mut bytes)
                .unwrap();
            bytes[at] = value;
            ArpPacket::parse(&bytes).unwrap_err()
        };
        assert_eq!(refused(1, 6), Malformed::Kind);
        assert_eq!(refused(4, 8), Malformed::Kind);
        assert_eq!(refused(7, 8), Malformed::Operation);
        assert_eq!(refused(8, 3), Malformed::Sender);
        assert_eq!(ArpPacket::parse(&[0; 27]), Err(Malformed::Truncated));
    }
}
