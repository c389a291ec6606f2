//! Addresses whose byte order and range belong to the type.

use core::fmt;
use core::str::FromStr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An Ethernet address (EUI-48).
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station of the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No address at all.
    pub const ZERO: Self = Self([0; 6]);

    /// True for multicast and broadcast, the group bit of IEEE 802.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for the all-ones address.
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// The multicast address that `group` maps to on Ethernet: `33:33` and its last four bytes, RFC 2464 section 7.
    pub const fn of_ipv6_multicast(group: [u8; 16]) -> Self {
        Self([0x33, 0x33, group[12], group[13], group[14], group[15]])
    }

    /// The EUI-64 link-local address of this interface, RFC 4291 appendix A.
    pub const fn link_local(self) -> core::net::Ipv6Addr {
        let m = self.0;
        core::net::Ipv6Addr::from_octets([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            m[0] ^ 2,
            m[1],
            m[2],
            0xff,
            0xfe,
            m[3],
            m[4],
            m[5],
        ])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            m[0], m[1], m[2], m[3], m[4], m[5]
        )
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six bytes of two hexadecimal digits with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address of the form 02:00:0a:00:00:01")
    }
}

impl core::error::Error for NotAMac {}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or(NotAMac)?;
            // from_str_radix alone would take "+1".
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() {
            Err(NotAMac)
        } else {
            Ok(Self(mac))
        }
    }
}

/// A transport port, stored in wire order so keys and headers share one layout.
///
/// Not `Ord`: comparing stored bytes would lie on little-endian hosts.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Port(U16);

impl Port {
    /// Port 0: none.
    pub const ZERO: Self = Self::new(0);

    /// From the number that people write.
    pub const fn new(number: u16) -> Self {
        Self(U16::new(number))
    }

    /// The number that people write.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// From the two bytes of a header.
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(U16::from_bytes(bytes))
    }

    /// The two bytes of a header.
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_bytes()
    }
}

impl From<u16> for Port {
    fn from(number: u16) -> Self {
        Self::new(number)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.get())
    }
}

/// VXLAN network identifier, 24 bits, RFC 7348 section 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// From the three bytes of a header.
    pub const fn from_wire(bytes: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]))
    }

    /// The three bytes of a header.
    pub const fn to_wire(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

/// The number does not fit the 24 bits of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniTooLarge(pub u32);

impl fmt::Display for VniTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} does not fit 24 bits", self.0)
    }
}

impl core::error::Error for VniTooLarge {}

impl TryFrom<u32> for Vni {
    type Error = VniTooLarge;

    fn try_from(raw: u32) -> Result<Self, VniTooLarge> {
        if raw <= Self::MAX.0 {
            Ok(Self(raw))
        } else {
            Err(VniTooLarge(raw))
        }
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_what_it_prints() {
        let mac = Mac([0x02, 0x01, 10, 244, 1, 5]);
        assert_eq!(mac.to_string(), "02:01:0a:f4:01:05");
        assert_eq!("02:01:0a:f4:01:05".parse(), Ok(mac));
        for wrong in [
            "",
            "02:01:0a:f4:01",
            "02:01:0a:f4:01:05:06",
            "+2:01:0a:f4:01:05",
            "2:01:0a:f4:01:05",
        ] {
            assert_eq!(wrong.parse::<Mac>(), Err(NotAMac), "{wrong}");
        }
    }

    #[test]
    fn a_link_local_address_flips_the_universal_bit() {
        assert_eq!(
            Mac([0xee; 6]).link_local().to_string(),
            "fe80::ecee:eeff:feee:eeee"
        );
    }

    #[test]
    fn a_vni_has_24_bits() {
        assert_eq!(Vni::try_from(4096).map(Vni::to_wire), Ok([0, 0x10, 0]));
        assert_eq!(Vni::try_from(0x0100_0000), Err(VniTooLarge(0x0100_0000)));
        assert_eq!(Vni::from_wire([0xff; 3]), Vni::MAX);
    }

    #[test]
    fn a_port_is_in_wire_order() {
        assert_eq!(Port::new(80).to_wire(), [0, 80]);
        assert_eq!(Port::from_wire([1, 187]).get(), 443);
    }
}
