//! The transport checksum of a [`Packet`]: where it is, whether it is partial, checking and completing it.

use zerocopy::network_endian::U16;

use super::{Family, Packet};
use crate::checksum::Sum;
use crate::proto::IpProtocol;
use crate::{icmp, tcp, udp};

impl Packet {
    /// Offset of the 16-bit transport checksum from the IP header; `None` for later fragments and for protocols
    /// without one (SCTP has a CRC, see [`crate::sctp`]).
    #[inline]
    pub const fn checksum_offset(&self) -> Option<usize> {
        if self.is_later_fragment() {
            return None;
        }
        let within = match (self.proto, self.family) {
            (IpProtocol::TCP, _) => tcp::CHECKSUM_OFFSET,
            (IpProtocol::UDP, _) => udp::CHECKSUM_OFFSET,
            (IpProtocol::ICMP, Family::V4) | (IpProtocol::ICMPV6, Family::V6) => icmp::CHECKSUM_OFFSET,
            _ => return None,
        };
        Some(self.l4_offset as usize + within)
    }

    /// True when the checksum covers the addresses: TCP, UDP and ICMPv6, so that NAT has to touch it.
    #[inline]
    pub const fn checksum_covers_addresses(&self) -> bool {
        matches!(
            (self.proto, self.family),
            (IpProtocol::TCP | IpProtocol::UDP, _) | (IpProtocol::ICMPV6, Family::V6)
        )
    }

    /// The sum of the pseudo-header over the packet's transport length. `l3` are the bytes that were parsed.
    #[inline]
    pub fn pseudo_sum(&self, l3: &[u8]) -> Sum {
        match self.family {
            Family::V4 => {
                let (src, dst) = self.addresses_v4(l3);
                Sum::pseudo_v4(src, dst, self.proto, self.l4_len() as u16)
            }
            Family::V6 => {
                let (src, dst) = self.addresses_v6(l3);
                Sum::pseudo_v6(src, dst, self.proto, self.l4_len())
            }
        }
    }

    /// The checksum field, or `None` as [`Self::checksum_offset`].
    #[inline]
    pub fn l4_checksum(&self, l3: &[u8]) -> Option<U16> {
        let field = l3.get(self.checksum_offset()?..)?.first_chunk::<2>()?;
        Some(U16::from_bytes(*field))
    }

    /// The checksum field, writable, or `None` as [`Self::checksum_offset`].
    #[inline]
    pub fn l4_checksum_mut<'a>(&self, l3: &'a mut [u8]) -> Option<&'a mut U16> {
        let field = l3.get_mut(self.checksum_offset()?..)?.first_chunk_mut::<2>()?;
        Some(zerocopy::transmute_mut!(field))
    }

    /// True when TCP or UDP carries a *partial* checksum: the sum of the pseudo-header alone, as sockets leave it for
    /// the device to complete. A complete one may look like that by chance; completing it gives the same value.
    #[inline]
    pub fn has_partial_checksum(&self, l3: &[u8]) -> bool {
        matches!(self.proto, IpProtocol::TCP | IpProtocol::UDP)
            && self.fragment.is_none()
            && self.l4_checksum(l3) == Some(self.pseudo_sum(l3).folded())
    }

    /// Computes and writes the transport checksum of a whole packet. Returns false, and writes nothing, for fragments,
    /// for protocols without one, and when `l3` does not hold the whole packet.
    pub fn write_l4_checksum(&self, l3: &mut [u8]) -> bool {
        if self.fragment.is_some() {
            return false;
        }
        let Some(field) = self.l4_checksum_mut(l3) else {
            return false;
        };
        let before = *field;
        *field = U16::ZERO;
        let sum = self.l4_sum(l3);
        let Some(field) = self.l4_checksum_mut(l3) else {
            return false;
        };
        let Some(sum) = sum else {
            *field = before;
            return false;
        };
        *field = if self.proto == IpProtocol::UDP {
            sum.udp_checksum()
        } else {
            sum.checksum()
        };
        true
    }

    /// True when the transport checksum is right, or there is none to check: fragments, other protocols, UDP over
    /// IPv4 without checksum. False also when `l3` does not hold the whole packet.
    pub fn l4_checksum_is_valid(&self, l3: &[u8]) -> bool {
        let Some(field) = self.l4_checksum(l3) else {
            return true;
        };
        if self.fragment.is_some() {
            return true;
        }
        if self.proto == IpProtocol::UDP && field == U16::ZERO {
            return self.family == Family::V4;
        }
        self.l4_sum(l3).is_some_and(Sum::is_valid)
    }

    /// The sum of everything the checksum covers. UDP covers what its own length says, which may be less than the
    /// packet holds.
    fn l4_sum(&self, l3: &[u8]) -> Option<Sum> {
        let l4 = l3.get(usize::from(self.l4_offset)..self.total_len as usize)?;
        let l4 = if self.proto == IpProtocol::UDP {
            l4.get(..usize::from(udp::UdpHeader::prefix(l4)?.len.get()))?
        } else {
            l4
        };
        let (proto, len) = (self.proto, l4.len());
        let pseudo = match self.family {
            Family::V4 if proto == IpProtocol::ICMP => Sum::ZERO,
            Family::V4 => {
                let (src, dst) = self.addresses_v4(l3);
                Sum::pseudo_v4(src, dst, proto, len as u16)
            }
            Family::V6 => {
                let (src, dst) = self.addresses_v6(l3);
                Sum::pseudo_v6(src, dst, proto, len as u32)
            }
        };
        Some(pseudo + Sum::of(l4))
    }
}
