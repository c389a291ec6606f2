//! Packets that we make ourselves, in answer to one that came: ARP and ND, echo, ICMP errors, resets.
//!
//! Pure: bytes in, an [`Answer`] out. When to answer is the pipeline's to say; what the RFCs forbid to answer is refused here.
//! [`wire`] writes the packets, this module adds the link header, the rules of a gateway and the rate limit.

pub mod arp;
pub mod echo;
pub mod icmp_error;
pub mod nd;
pub mod rate;
pub mod reset;

use wire::Mac;
use wire::ethernet::{EtherHeader, EtherType, HEADER_LEN, TAG_LEN, VlanTag};
use wire::packet::Family;
use wire::reply::ICMPV6_ERROR_LEN_MAX;
use zerocopy::IntoBytes;

use crate::io::{Frame, Memory};

/// The link that a question came by: the answer goes back by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Our MAC on it.
    pub own_mac: Mac,
    /// The MAC of who asked.
    pub peer_mac: Mac,
    /// The VLAN of the question.
    pub vlan: Option<VlanTag>,
}

/// An answer, complete from its Ethernet header on, of at most `LEN_MAX` bytes.
#[derive(Clone)]
pub struct Answer<const LEN_MAX: usize = ANSWER_LEN_MAX> {
    bytes: [u8; LEN_MAX],
    len: u16,
    l3_offset: u8,
}

/// What becomes of an ARP or ND message.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack between making and copying into a frame"
)]
pub enum Reply {
    /// Send this: verdict tx.
    Answer(Answer),
    /// Nothing to say (a probe, an announcement, the asker's own address): drop reason `not-for-us`.
    Silence,
    /// Not a valid message: drop reason `malformed`.
    Malformed,
}

impl<const LEN_MAX: usize> Answer<LEN_MAX> {
    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes behind the link header, for answers that leave by another way (a tunnel).
    pub fn l3(&self) -> &[u8] {
        &self.bytes()[usize::from(self.l3_offset)..]
    }

    /// Where the IP or ARP header starts.
    pub fn l3_offset(&self) -> usize {
        usize::from(self.l3_offset)
    }

    /// A frame with these bytes; `None` when no chunk is free.
    pub fn to_frame(&self, memory: &mut Memory) -> Option<Frame> {
        memory.allocate_copy(self.bytes())
    }

    /// What `write` writes (it returns the length), behind a header for `link`.
    fn write(
        link: &Link,
        ether_type: EtherType,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Self> {
        let mut bytes = [0; LEN_MAX];
        let outer_type = if link.vlan.is_some() {
            EtherType::VLAN
        } else {
            ether_type
        };
        EtherHeader::new(link.peer_mac, link.own_mac, outer_type)
            .write_to_prefix(&mut bytes)
            .ok()?;
        let mut l3_offset = HEADER_LEN;
        if let Some(tag) = link.vlan {
            tag.write_to_prefix(&mut bytes[HEADER_LEN..]).ok()?;
            ether_type.write_to_prefix(&mut bytes[HEADER_LEN + 2..]).ok()?;
            l3_offset += TAG_LEN;
        }
        let len = l3_offset + write(&mut bytes[l3_offset..])?;
        Some(Self {
            bytes,
            len: len as u16,
            l3_offset: l3_offset as u8,
        })
    }
}

impl<const LEN_MAX: usize> std::fmt::Debug for Answer<LEN_MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({:02x?})", self.bytes())
    }
}

/// The longest answer: an ICMPv6 error on a VLAN.
pub const ANSWER_LEN_MAX: usize = HEADER_LEN + TAG_LEN + ICMPV6_ERROR_LEN_MAX;

const fn ether_type(family: Family) -> EtherType {
    match family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_back_in_the_vlan_of_the_question() {
        let link = Link {
            own_mac: Mac([0xee; 6]),
            peer_mac: Mac([2; 6]),
            vlan: Some(VlanTag::new(42)),
        };
        let answer: Answer = Answer::write(&link, EtherType::IPV6, |out| {
            out[..3].copy_from_slice(b"abc");
            Some(3)
        })
        .unwrap();
        let split = wire::ethernet::split(answer.bytes()).unwrap();
        assert_eq!((split.ether_type, split.vlan), (EtherType::IPV6, link.vlan));
        assert_eq!(
            (answer.l3(), answer.l3_offset(), answer.bytes().len()),
            (&b"abc"[..], 18, 21)
        );
        let mut memory = Memory::heap(1, 2048);
        let frame = answer.to_frame(&mut memory).unwrap();
        assert_eq!(memory.bytes(&frame), answer.bytes());
        assert!(answer.to_frame(&mut memory).is_none());
    }
}
