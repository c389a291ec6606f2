//! What `ringway-cni` answers. So far that is VERSION; every other verb is answered with an error as the CNI
//! specification 1.1 (section 5, "Error") lays it down.

use serde::Deserialize;
use serde_json::{Value, json};

/// Versions of the specification that the plugin takes, oldest first.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The answer: what goes to standard output, and whether it is a success.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A JSON object.
    pub body: Value,
    /// Exit code 0 or 1.
    pub success: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    cni_version: Option<String>,
}

/// Answers `command` (`CNI_COMMAND`) with the network configuration that came on standard input.
pub fn answer(command: Option<&str>, input: &str) -> Answer {
    let configuration = serde_json::from_str::<Configuration>(input);
    let version = configuration.as_ref().ok().and_then(|c| c.cni_version.clone());
    let version = version.unwrap_or_else(|| "1.1.0".to_owned());
    let error = |code: u32, message: &str, details: &str| Answer {
        body: json!({"cniVersion": version, "code": code, "msg": message, "details": details}),
        success: false,
    };
    match command {
        Some("VERSION") => Answer {
            body: json!({"cniVersion": version, "supportedVersions": VERSIONS}),
            success: true,
        },
        Some("ADD" | "DEL" | "CHECK" | "GC" | "STATUS") => {
            if let Err(problem) = configuration {
                return error(
                    6,
                    "the network configuration cannot be decoded",
                    &problem.to_string(),
                );
            }
            if !VERSIONS.contains(&version.as_str()) {
                return error(
                    1,
                    "incompatible CNI version",
                    &format!("{version}, expected one of {}", VERSIONS.join(", ")),
                );
            }
            error(
                50,
                "ringway-cni cannot serve this verb yet",
                "it asks ringway-control for addresses and ports, and ringway-control has no CNI support in this release",
            )
        }
        Some(other) => error(
            4,
            "invalid CNI_COMMAND",
            &format!("{other:?}, expected ADD, DEL, CHECK, GC, STATUS or VERSION"),
        ),
        None => error(
            4,
            "CNI_COMMAND is not set",
            "a container runtime runs this program; see the CNI specification",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_answered() {
        let answer = answer(Some("VERSION"), "{\"cniVersion\": \"1.0.0\"}");
        assert!(answer.success);
        assert_eq!(answer.body["cniVersion"], "1.0.0");
        assert_eq!(
            answer.body["supportedVersions"],
            json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }

    #[test]
    fn what_cannot_be_served_is_an_error_of_the_specification() {
        for (command, input, code) in [
            (Some("ADD"), "{\"cniVersion\": \"1.1.0\"}", 50),
            (Some("STATUS"), "{\"cniVersion\": \"1.1.0\"}", 50),
            (Some("ADD"), "{\"cniVersion\": \"9.0.0\"}", 1),
            (Some("DEL"), "not json", 6),
            (Some("FLY"), "{}", 4),
            (None, "", 4),
        ] {
            let answer = answer(command, input);
            assert!(!answer.success);
            assert_eq!(answer.body["code"], code, "{command:?} {input}");
            assert!(answer.body["msg"].is_string() && answer.body["cniVersion"].is_string());
        }
    }
}
