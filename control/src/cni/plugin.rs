//! What `ringway-cni` does: reads a call, asks control, tells the answer. Blocking; no tokio, no netlink.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::configuration::{Configuration, VERSIONS, version_of};
use super::environment::{Parameters, Verb};
use super::failure::{Code, Failure};
use super::protocol::{self, PROTOCOL, Reply, Request};

/// What goes to standard output, and whether it is a success.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A JSON object, or nothing.
    pub body: Option<Value>,
    /// Exit code 0 or 1.
    pub is_success: bool,
}

/// Serves one call, with `variable` for the environment and `input` for what came on standard input.
pub fn call(variable: impl Fn(&str) -> Option<String>, input: io::Result<Vec<u8>>) -> Answer {
    let (input, trouble) = match input {
        Ok(bytes) => (String::from_utf8_lossy(&bytes).into_owned(), None),
        Err(error) => (String::new(), Some(error)),
    };
    let served = match trouble {
        None => serve(variable, &input),
        Some(error) => Err(Failure::new(
            Code::Io,
            "the network configuration cannot be read",
            format!("standard input: {error}"),
        )),
    };
    match served {
        Ok(body) => Answer {
            body,
            is_success: true,
        },
        Err(Failure { code, msg, details }) => {
            let version = version_of(&input);
            let body = json!({"cniVersion": version, "code": code, "msg": msg, "details": details});
            Answer {
                body: Some(body),
                is_success: false,
            }
        }
    }
}

fn serve(variable: impl Fn(&str) -> Option<String>, input: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    let verb = Verb::parse(&command).ok_or_else(|| {
        Failure::new(
            Code::Environment,
            "CNI_COMMAND makes no sense",
            format!("CNI_COMMAND: {command:?}, expected ADD, DEL, CHECK, GC, STATUS or VERSION"),
        )
    })?;
    if verb == Verb::Version {
        return Ok(Some(
            json!({"cniVersion": version_of(input), "supportedVersions": VERSIONS}),
        ));
    }
    let parameters = Parameters::read(verb, variable)?;
    let configuration = Configuration::parse(verb, input)?;
    let namespace = open_namespace(verb, &parameters)?;
    let request = Request {
        protocol: PROTOCOL,
        verb,
        parameters,
        configuration: input.to_owned(),
    };
    let reply = ask(&configuration.socket, &request, namespace.as_ref())
        .map_err(|error| unreachable(verb, &configuration.socket, &error))?;
    match reply {
        Reply::Success(body) => Ok(body),
        Reply::Failure(failure) => Err(failure),
    }
}

/// DEL does without a namespace: it may be gone.
fn open_namespace(verb: Verb, parameters: &Parameters) -> Result<Option<File>, Failure> {
    if parameters.netns.is_empty() {
        return Ok(None);
    }
    match File::open(&parameters.netns) {
        Ok(file) => Ok(Some(file)),
        Err(_) if verb == Verb::Del => Ok(None),
        Err(error) => Err(Failure::new(
            Code::Environment,
            "CNI_NETNS leads to no network namespace",
            format!("CNI_NETNS: {}: {error}", parameters.netns),
        )),
    }
}

fn ask(socket: &Path, request: &Request, namespace: Option<&File>) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(SEND_PATIENCE))?;
    stream.set_read_timeout(Some(REPLY_PATIENCE))?;
    protocol::send_request(&mut stream, request, namespace.map(AsFd::as_fd))?;
    protocol::receive_reply(&mut stream)
}

/// Control is down, starts, or went away half way: the runtime calls again.
fn unreachable(verb: Verb, socket: &Path, error: &io::Error) -> Failure {
    let code = match verb {
        Verb::Status => Code::NotAvailable,
        _ => Code::TryAgainLater,
    };
    Failure::new(
        code,
        "ringway-control does not answer",
        format!("{}: {error}", socket.display()),
    )
}

/// Far beyond what a request takes on a machine that is alive.
const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// Longer than control has patience with anything.
const REPLY_PATIENCE: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    fn call_with(variables: &[(&str, &str)], input: &str) -> Answer {
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        call(variable, Ok(input.as_bytes().to_vec()))
    }

    #[test]
    fn version_is_answered_without_control() {
        let answer = call_with(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion": "1.0.0"}"#);
        assert!(answer.is_success);
        let body = answer.body.unwrap();
        assert_eq!(body["cniVersion"], "1.0.0");
        assert_eq!(
            body["supportedVersions"],
            json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }

    #[test]
    fn without_control_the_runtime_is_to_try_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("cni.sock");
        let input =
            json!({"cniVersion": "1.1.0", "name": "n", "socket": socket, "cni.dev/valid-attachments": []});
        let attachment = [
            ("CNI_CONTAINERID", "a"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
        ];
        for (verb, code) in [("ADD", 11), ("DEL", 11), ("GC", 11), ("STATUS", 50)] {
            let variables = [&[("CNI_COMMAND", verb)], &attachment[..]].concat();
            let answer = call_with(&variables, &input.to_string());
            assert!(!answer.is_success);
            let body = answer.body.unwrap();
            assert_eq!(body["code"], code, "{verb}: {body}");
            assert_eq!(body["cniVersion"], "1.1.0");
        }
    }

    #[test]
    fn an_unreadable_configuration_is_an_io_failure() {
        let answer = call(
            |_| Some("VERSION".to_owned()),
            Err(io::ErrorKind::BrokenPipe.into()),
        );
        assert_eq!(answer.body.unwrap()["code"], 5);
    }

    #[test]
    fn a_wrong_call_is_an_error_with_the_variables_name() {
        let input = r#"{"cniVersion": "1.0.0", "name": "n"}"#;
        for (variables, named) in [
            (&[][..], "CNI_COMMAND"),
            (&[("CNI_COMMAND", "FLY")], "CNI_COMMAND"),
            (&[("CNI_COMMAND", "ADD")], "CNI_CONTAINERID"),
            (
                &[
                    ("CNI_COMMAND", "ADD"),
                    ("CNI_CONTAINERID", "a"),
                    ("CNI_NETNS", "/no/such/namespace"),
                    ("CNI_IFNAME", "eth0"),
                ],
                "CNI_NETNS",
            ),
        ] {
            let body = call_with(variables, input).body.unwrap();
            assert_eq!(body["code"], 4, "{body}");
            assert!(body["msg"].as_str().unwrap().contains(named), "{body}");
        }
    }
}
