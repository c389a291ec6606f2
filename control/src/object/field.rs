//! Scalar fields as Kubernetes writes them, checked while they are read so that an error has a line.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// An IP address in text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

/// A range of addresses; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr(pub IpNet);

/// A transport port, 1–65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortNumber(pub u16);

/// A transport protocol that Services and policies may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The default wherever a protocol is absent.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port given by number or by the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortOrName {
    /// 1–65535.
    Number(u16),
    /// An IANA service name, at most 15 characters.
    Name(String),
}

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// An IPv6 address that merely wraps an IPv4 one has two spellings on the wire, so it is refused.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        _ => Some(address),
    }
}

/// A range as written, `address/length`.
pub(crate) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length = length.parse().ok().filter(|_| plain)?;
    IpNet::new(parse_address(address)?, length).ok()
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_address(&text)
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"an IPv4 or IPv6 address"))
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_cidr(&text).map(|net| Self(net.trunc())).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Str(&text), &"a range such as 10.0.0.0/8 or fd00::/64")
        })
    }
}

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        port_number(number).map(Self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(D::Error::invalid_value(
                Unexpected::Str(other),
                &"protocol TCP, UDP or SCTP",
            )),
        }
    }
}

fn port_number<E: Error>(number: i64) -> Result<u16, E> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &"a port between 1 and 65535"))
}

/// Whether `name` may name a container port: RFC 6335 section 5.1, in lower case.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = PortOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number between 1 and 65535 or a port name of at most 15 characters a-z, 0-9 and -")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<PortOrName, E> {
                port_number(number).map(PortOrName::Number)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PortOrName, E> {
                port_number(i64::try_from(number).unwrap_or(i64::MAX)).map(PortOrName::Number)
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<PortOrName, E> {
                if is_port_name(name) {
                    Ok(PortOrName::Name(name.to_owned()))
                } else {
                    Err(E::invalid_value(Unexpected::Str(name), &self))
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Reads null as the default value: the API server drops nulls, and people write `labels:` with nothing after it.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map of strings in which null means the empty string.
pub(crate) fn string_map<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    Ok(map
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_name() {
        let read = |text: &str| serde_saphyr::from_str::<PortOrName>(text).map_err(|e| e.to_string());
        assert_eq!(read("80"), Ok(PortOrName::Number(80)));
        assert_eq!(read("http"), Ok(PortOrName::Name("http".into())));
        for bad in [
            "0",
            "65536",
            "-1",
            "\"80\"",
            "Http",
            "a--b",
            "-a",
            "sixteen-letters-x",
            "1.5",
            "true",
        ] {
            assert!(read(bad).is_err(), "{bad} was taken for a port");
        }
    }

    #[test]
    fn a_range_loses_its_host_bits() {
        let read = |text: &str| serde_saphyr::from_str::<Cidr>(text).ok().map(|c| c.0.to_string());
        assert_eq!(read("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("fd00::1/64").as_deref(), Some("fd00::/64"));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::ffff:10.0.0.0/120",
            "x/8",
        ] {
            assert_eq!(read(bad), None, "{bad} was taken for a range");
        }
    }
}
