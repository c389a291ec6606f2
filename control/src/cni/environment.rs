//! Parameters of one call: the environment variables `CNI_*`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::failure::{Code, Failure};

/// A verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Makes an attachment.
    Add,
    /// Undoes one.
    Del,
    /// Compares one with what ADD made.
    Check,
    /// Undoes all but those that are named.
    Gc,
    /// Whether ADD can be served.
    Status,
    /// Which versions of the specification are served.
    Version,
}

impl Verb {
    /// The verb of `CNI_COMMAND`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Whether it is about one attachment.
    fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    /// The first version of the specification that has it, as an index of [`super::configuration::VERSIONS`].
    pub(super) fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.1",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

/// The variables of a call about an attachment; empty for the other verbs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Parameters {
    /// `CNI_CONTAINERID`.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`, empty if not set: DEL does without.
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub args: String,
}

impl Parameters {
    /// Reads and checks the variables that `verb` needs.
    ///
    /// # Errors
    /// Code 4 with the names of all variables that are missing, or of the first that makes no sense.
    pub fn read(verb: Verb, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        if !verb.has_attachment() {
            return Ok(Self::default());
        }
        let read = |name: &str| variable(name).unwrap_or_default();
        let parameters = Self {
            container_id: read("CNI_CONTAINERID"),
            netns: read("CNI_NETNS"),
            ifname: read("CNI_IFNAME"),
            args: read("CNI_ARGS"),
        };
        parameters.check(verb)?;
        Ok(parameters)
    }

    /// See [`Self::read`].
    pub(super) fn check(&self, verb: Verb) -> Result<(), Failure> {
        if !verb.has_attachment() {
            return Ok(());
        }
        let missing: Vec<&str> = [
            ("CNI_CONTAINERID", &self.container_id, true),
            ("CNI_NETNS", &self.netns, verb != Verb::Del),
            ("CNI_IFNAME", &self.ifname, true),
        ]
        .into_iter()
        .filter(|(_, value, is_needed)| *is_needed && value.is_empty())
        .map(|(name, ..)| name)
        .collect();
        if !missing.is_empty() {
            let names = missing.join(", ");
            return Err(Failure::new(
                Code::Environment,
                format!("{names} not set"),
                format!("{names}: expected a value"),
            ));
        }
        if !is_identifier(&self.container_id) {
            return Err(wrong(
                "CNI_CONTAINERID",
                &self.container_id,
                "a letter or digit, then letters, digits, '_', '.' and '-'",
            ));
        }
        let fits = self.ifname.len() <= IFNAME_LEN_MAX && !matches!(self.ifname.as_str(), "." | ".." | "lo");
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if !fits || self.ifname.contains(forbidden) {
            return Err(wrong(
                "CNI_IFNAME",
                &self.ifname,
                "the name of an interface, at most 15 bytes without '/', ':' and spaces",
            ));
        }
        if let Some(pair) = self
            .args
            .split(';')
            .find(|pair| !pair.is_empty() && !pair.contains('='))
        {
            return Err(wrong("CNI_ARGS", pair, "KEY=VALUE;KEY=VALUE"));
        }
        Ok(())
    }

    /// The value of `key` in `CNI_ARGS`, unless empty.
    pub fn argument(&self, key: &str) -> Option<&str> {
        let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, value)| *name == key && !value.is_empty())
            .map(|(_, value)| value)
            .next()
    }

    /// The addresses that `CNI_ARGS` asks for by `IP=`, a prefix length left out.
    pub(super) fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        self.argument("IP")
            .map(|text| parse_address(text).ok_or_else(|| wrong("CNI_ARGS", text, "IP=<address>[/<length>]")))
            .into_iter()
            .collect()
    }
}

/// An address, with or without a prefix length.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address.parse::<IpAddr>().ok()?, Some(length.parse::<u8>().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let length_max = if address.is_ipv4() { 32 } else { 128 };
    length
        .is_none_or(|length| length <= length_max)
        .then_some(address)
}

/// Of a container or a network: a letter or digit, then letters, digits, `_`, `.` and `-`.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn wrong(variable: &str, value: &str, expected: &str) -> Failure {
    Failure::new(
        Code::Environment,
        format!("{variable} makes no sense"),
        format!("{variable}: {value:?}, expected {expected}"),
    )
}

/// As in the kernel: `IFNAMSIZ` less the final zero.
const IFNAME_LEN_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verb: Verb, variables: &[(&str, &str)]) -> Result<Parameters, Failure> {
        Parameters::read(verb, |name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_missing_is_named() {
        let failure = read(Verb::Add, &[]).unwrap_err();
        assert!(failure.is(Code::Environment));
        assert_eq!(failure.msg, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME not set");
        assert!(read(Verb::Del, &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")]).is_ok());
        assert!(read(Verb::Gc, &[]).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (container, ifname, args, named) in [
            ("-a", "eth0", "", "CNI_CONTAINERID"),
            ("a/b", "eth0", "", "CNI_CONTAINERID"),
            ("a", "a-name-too-long-", "", "CNI_IFNAME"),
            ("a", "..", "", "CNI_IFNAME"),
            ("a", "e/0", "", "CNI_IFNAME"),
            ("a", "eth0", "FOO", "CNI_ARGS"),
        ] {
            let variables = [
                ("CNI_CONTAINERID", container),
                ("CNI_NETNS", "/n"),
                ("CNI_IFNAME", ifname),
                ("CNI_ARGS", args),
            ];
            let failure = read(Verb::Add, &variables).unwrap_err();
            assert!(
                failure.is(Code::Environment) && failure.msg.contains(named),
                "{failure}"
            );
        }
    }

    #[test]
    fn arguments_are_found_by_their_key() {
        let parameters = Parameters {
            args: "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.0.5/24;EMPTY=".to_owned(),
            ..Parameters::default()
        };
        assert_eq!(parameters.argument("K8S_POD_NAME"), Some("web"));
        assert_eq!(parameters.argument("EMPTY"), None);
        assert_eq!(
            parameters.addresses().unwrap(),
            ["10.0.0.5".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(parse_address("fd00::1/200"), None);
    }
}
