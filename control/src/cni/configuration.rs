//! The network configuration that comes on standard input, checked.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::environment::{Verb, is_identifier, parse_address};
use super::failure::{Code, Failure};
use crate::object::parse_mac as parse_mac_text;

/// Versions of the specification that are served, oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Where control listens unless the configuration's key `socket` says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/ringway/cni.sock";

/// A network configuration as a plugin gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// `cniVersion`: one of [`VERSIONS`].
    pub version: String,
    /// `name`: the network.
    pub network: String,
    /// Where control listens.
    pub socket: PathBuf,
    /// `runtimeConfig.ips`, else `args.cni.ips`: addresses that the pod must get.
    pub addresses: Vec<IpAddr>,
    /// `runtimeConfig.mac`.
    pub mac: Option<[u8; 6]>,
    /// `dns`, handed on in the result.
    pub dns: Map<String, Value>,
    /// `prevResult`.
    pub previous: Option<Value>,
    /// `cni.dev/valid-attachments` as (container, interface), for GC.
    pub valid_attachments: Option<BTreeSet<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    socket: Option<PathBuf>,
    ipam: Option<Map<String, Value>>,
    #[serde(default)]
    runtime_config: Map<String, Value>,
    args: Option<Value>,
    dns: Option<Map<String, Value>>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The version that a configuration says, for answers to it; the newest where it says none.
pub fn version_of(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let version = value.as_ref().and_then(|value| value["cniVersion"].as_str());
    version.unwrap_or("1.1.0").to_owned()
}

impl Configuration {
    /// Reads and checks what `verb` needs.
    ///
    /// # Errors
    /// Codes 1, 2, 6 and 7.
    pub fn parse(verb: Verb, text: &str) -> Result<Self, Failure> {
        let undecodable = |error: serde_json::Error| {
            Failure::new(
                Code::Decoding,
                "the network configuration cannot be decoded",
                error.to_string(),
            )
        };
        let value: Value = serde_json::from_str(text).map_err(undecodable)?;
        let version = match &value["cniVersion"] {
            Value::String(version) => version.clone(),
            Value::Null => return Err(incompatible("no cniVersion", VERSIONS[0])),
            other => {
                return Err(Failure::new(
                    Code::Decoding,
                    "the network configuration cannot be decoded",
                    format!("cniVersion: {other}, expected a string"),
                ));
            }
        };
        let since = verb.since();
        let (at, since_at) = (position(&version), position(since));
        if at.is_none() || at < since_at {
            return Err(incompatible(&version, since));
        }
        let raw: Raw = serde_json::from_value(value).map_err(undecodable)?;
        Self::check(verb, version, raw)
    }

    fn check(verb: Verb, version: String, raw: Raw) -> Result<Self, Failure> {
        let invalid = |what: &str, details: String| Failure::new(Code::Configuration, what, details);
        if !is_identifier(&raw.name) {
            return Err(invalid(
                "the network's name makes no sense",
                format!(
                    "name: {:?}, expected a letter or digit, then letters, digits, '_', '.' and '-'",
                    raw.name
                ),
            ));
        }
        if let Some(kind) = raw.ipam.as_ref().and_then(|ipam| ipam.get("type"))
            && kind != "ringway"
        {
            return Err(unsupported("ipam.type", kind));
        }
        let mut addresses = Vec::new();
        let mut mac = None;
        // What the runtime adds is for ADD and CHECK alone; a DEL must not fail by it.
        if matches!(verb, Verb::Add | Verb::Check) {
            for (key, value) in &raw.runtime_config {
                match key.as_str() {
                    _ if is_nothing(value) => {}
                    "ips" => addresses = parse_addresses("runtimeConfig.ips", value)?,
                    "mac" => mac = Some(parse_mac("runtimeConfig.mac", value)?),
                    other => return Err(unsupported(&format!("runtimeConfig.{other}"), value)),
                }
            }
            let by_args = raw.args.as_ref().map(|args| &args["cni"]["ips"]);
            if let Some(value) = by_args.filter(|value| !is_nothing(value) && addresses.is_empty()) {
                addresses = parse_addresses("args.cni.ips", value)?;
            }
        }
        if verb == Verb::Check && raw.prev_result.is_none() {
            return Err(invalid(
                "CHECK without a prevResult",
                "prevResult: expected the result of ADD".to_owned(),
            ));
        }
        if verb == Verb::Gc && raw.valid_attachments.is_none() {
            return Err(invalid(
                "GC without a list of attachments",
                "cni.dev/valid-attachments: expected a list; without one nothing is removed".to_owned(),
            ));
        }
        Ok(Self {
            version,
            network: raw.name,
            socket: raw.socket.unwrap_or_else(|| SOCKET_DEFAULT.into()),
            addresses,
            mac,
            dns: raw.dns.unwrap_or_default(),
            previous: raw.prev_result,
            valid_attachments: raw.valid_attachments.map(|list| {
                let pairs = list.into_iter().map(|one| (one.container_id, one.ifname));
                pairs.collect()
            }),
        })
    }
}

fn position(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn incompatible(found: &str, since: &str) -> Failure {
    let from = position(since).unwrap_or(0);
    Failure::new(
        Code::IncompatibleVersion,
        "incompatible CNI version",
        format!("{found}, expected one of {}", VERSIONS[from..].join(", ")),
    )
}

fn unsupported(key: &str, value: &Value) -> Failure {
    Failure::new(
        Code::UnsupportedField,
        format!("unsupported field {key}"),
        format!("{key} is {value}, which Ringway does not serve"),
    )
}

fn parse_addresses(key: &str, value: &Value) -> Result<Vec<IpAddr>, Failure> {
    let wrong = |found: &Value| {
        Failure::new(
            Code::Configuration,
            format!("{key} makes no sense"),
            format!("{key}: {found}, expected a list of <address>[/<length>]"),
        )
    };
    let list = value.as_array().ok_or_else(|| wrong(value))?;
    let one = |value: &Value| value.as_str().and_then(parse_address).ok_or_else(|| wrong(value));
    list.iter().map(one).collect()
}

fn parse_mac(key: &str, value: &Value) -> Result<[u8; 6], Failure> {
    let parsed = value.as_str().and_then(|text| parse_mac_text(text).ok());
    parsed.ok_or_else(|| {
        Failure::new(
            Code::Configuration,
            format!("{key} makes no sense"),
            format!("{key}: {value}, expected the MAC address of one station, such as 02:01:0a:f4:01:05"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(verb: Verb, text: &str) -> u32 {
        Configuration::parse(verb, text).unwrap_err().code
    }

    #[test]
    fn what_makes_no_sense_has_the_code_of_the_specification() {
        for (verb, text, expected) in [
            (Verb::Add, "not json", 6),
            (Verb::Add, r#"{"cniVersion": 1}"#, 6),
            (Verb::Add, r#"{"cniVersion": "1.1.0", "name": 5}"#, 6),
            (Verb::Add, r#"{"cniVersion": "9.0.0", "name": "n"}"#, 1),
            (Verb::Add, r#"{"name": "n"}"#, 1),
            (Verb::Check, r#"{"cniVersion": "0.3.1", "name": "n"}"#, 1),
            (Verb::Gc, r#"{"cniVersion": "1.0.0", "name": "n"}"#, 1),
            (Verb::Status, r#"{"cniVersion": "1.0.0", "name": "n"}"#, 1),
            (Verb::Add, r#"{"cniVersion": "1.1.0"}"#, 7),
            (Verb::Add, r#"{"cniVersion": "1.1.0", "name": "a/b"}"#, 7),
            (Verb::Check, r#"{"cniVersion": "1.1.0", "name": "n"}"#, 7),
            (Verb::Gc, r#"{"cniVersion": "1.1.0", "name": "n"}"#, 7),
            (
                Verb::Add,
                r#"{"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "dhcp"}}"#,
                2,
            ),
            (
                Verb::Add,
                r#"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"bandwidth": {"ingressRate": 1}}}"#,
                2,
            ),
            (
                Verb::Add,
                r#"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"ips": ["x"]}}"#,
                7,
            ),
            (
                Verb::Add,
                r#"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"mac": "01:00:00:00:00:01"}}"#,
                7,
            ),
        ] {
            assert_eq!(code(verb, text), expected, "{verb:?} {text}");
        }
        let failure = Configuration::parse(
            Verb::Add,
            r#"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"bandwidth": {"ingressRate": 1}}}"#,
        )
        .unwrap_err();
        assert!(failure.msg.contains("runtimeConfig.bandwidth") && failure.details.contains("ingressRate"));
    }

    #[test]
    fn what_the_runtime_asks_for_is_read() {
        let text = r#"{"cniVersion": "1.1.0", "name": "n", "type": "ringway-cni", "other": 1, "socket": "/s",
            "runtimeConfig": {"ips": ["10.0.0.5/24", "fd00::5"], "mac": "02:00:00:00:00:05", "portMappings": []},
            "args": {"cni": {"ips": ["10.9.9.9"]}}, "dns": {"nameservers": ["10.0.0.2"]}}"#;
        let read = Configuration::parse(Verb::Add, text).unwrap();
        let expected: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(read.addresses, expected);
        assert_eq!(read.mac, Some([2, 0, 0, 0, 0, 5]));
        assert_eq!(read.socket, PathBuf::from("/s"));
        assert!(read.dns.contains_key("nameservers"));
        // A DEL does not fail by what the runtime adds.
        let text = text.replace("10.0.0.5/24", "x");
        assert!(Configuration::parse(Verb::Del, &text).is_ok());
    }
}
