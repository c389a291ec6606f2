//! Ethernet II frames and the 802.1Q tag.

use core::fmt;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Mac;

/// Length of an Ethernet header without tag, in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of one 802.1Q tag, in bytes.
pub const TAG_LEN: usize = 4;

/// Ethernet header as it starts every frame, IEEE 802.3 clause 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EtherHeader {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// What follows, possibly a tag.
    pub ether_type: EtherType,
}

const _: () = assert!(size_of::<EtherHeader>() == HEADER_LEN);

impl EtherHeader {
    /// A header from its fields.
    pub const fn new(dst: Mac, src: Mac, ether_type: EtherType) -> Self {
        Self { dst, src, ether_type }
    }

    /// The header at the start of `frame`, writable; `None` when the frame is shorter.
    #[inline]
    pub fn prefix_mut(frame: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(frame).ok().map(|(header, _)| header)
    }
}

/// The type field of Ethernet, in wire order.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct EtherType([u8; 2]);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self::new(0x0800);
    /// ARP.
    pub const ARP: Self = Self::new(0x0806);
    /// Customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: Self = Self::new(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self::new(0x86dd);
    /// Service VLAN tag, IEEE 802.1ad.
    pub const SERVICE_VLAN: Self = Self::new(0x88a8);

    /// From its number.
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtherType({:#06x})", self.get())
    }
}

/// Tag control information of 802.1Q: priority, drop eligible, VLAN id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct VlanTag(U16);

impl VlanTag {
    /// A tag of priority 0 for `id`, of which the low 12 bits count.
    pub const fn new(id: u16) -> Self {
        Self(U16::new(id & 0x0fff))
    }

    /// VLAN id, 0 to 4095.
    pub const fn id(self) -> u16 {
        self.0.get() & 0x0fff
    }

    /// Priority code point, 0 to 7.
    pub const fn priority(self) -> u8 {
        (self.0.get() >> 13) as u8
    }
}

/// Why a frame has no Ethernet payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// Ends inside its VLAN tag.
    Tag,
    /// The type field is a length: an 802.3 frame (LLC), not Ethernet II.
    Length,
}

/// Where the payload of a frame is, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Type of the payload, behind the tag if there is one.
    pub ether_type: EtherType,
    /// The outermost tag. A second one shows as `ether_type` [`EtherType::VLAN`].
    pub vlan: Option<VlanTag>,
    /// Offset of the payload, 14 or 18.
    pub l3_offset: u8,
}

/// Finds the payload of `frame` behind at most one VLAN tag. `frame.len() >= l3_offset` holds.
#[inline]
pub fn split(frame: &[u8]) -> Result<Split, Malformed> {
    let (header, rest) = EtherHeader::ref_from_prefix(frame).map_err(|_| Malformed::Truncated)?;
    match header.ether_type {
        EtherType::VLAN | EtherType::SERVICE_VLAN => {
            let [t0, t1, e0, e1] = *rest.first_chunk().ok_or(Malformed::Tag)?;
            let vlan = Some(VlanTag(U16::from_bytes([t0, t1])));
            checked(EtherType([e0, e1]), vlan, (HEADER_LEN + TAG_LEN) as u8)
        }
        ether_type => checked(ether_type, None, HEADER_LEN as u8),
    }
}

#[inline]
fn checked(ether_type: EtherType, vlan: Option<VlanTag>, l3_offset: u8) -> Result<Split, Malformed> {
    // 0x0600 is the smallest type, IEEE 802.3 clause 3.2.6.
    if ether_type.0[0] < 0x06 {
        Err(Malformed::Length)
    } else {
        Ok(Split {
            ether_type,
            vlan,
            l3_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_frame_is_split_behind_its_tag() {
        let mut frame = [0u8; 60];
        frame[12..18].copy_from_slice(&[0x81, 0x00, 0xe0, 0x2a, 0x86, 0xdd]);
        let split = split(&frame).unwrap();
        assert_eq!(split.ether_type, EtherType::IPV6);
        assert_eq!(split.l3_offset, 18);
        let tag = split.vlan.unwrap();
        assert_eq!((tag.id(), tag.priority()), (42, 7));
    }

    #[test]
    fn an_untagged_frame_starts_at_14() {
        let header = EtherHeader::new(Mac::BROADCAST, Mac([2; 6]), EtherType::ARP);
        assert_eq!(
            split(header.as_bytes()),
            Ok(Split {
                ether_type: EtherType::ARP,
                vlan: None,
                l3_offset: 14
            })
        );
    }

    #[test]
    fn what_is_cut_or_llc_is_refused() {
        assert_eq!(split(&[0; 13]), Err(Malformed::Truncated));
        let mut frame = [0u8; 17];
        frame[12] = 0x81;
        assert_eq!(split(&frame), Err(Malformed::Tag));
        frame[12..14].copy_from_slice(&[0x00, 0x26]);
        assert_eq!(split(&frame), Err(Malformed::Length));
    }
}
