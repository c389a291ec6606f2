//! The file of attachments: versioned, checksummed, replaced whole or not at all.
//!
//! Two lines of JSON: the format's version and the SHA-256 of what follows, then the attachments with the boot that they
//! belong to. No network namespace outlives a boot, so attachments of an earlier one are dropped.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::attachment::Attachment;
use crate::whole_file;

/// The format that this file has.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Contents {
    boot_id: String,
    attachments: Vec<Attachment>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{}: {message}; remove it to forget all attachments, and then restart this node's pods",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
}

/// Where attachments are kept.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
    boot_id: String,
}

impl Journal {
    /// The file within `directory`.
    pub fn within(directory: &Path) -> Self {
        // Without one every start is taken for the same boot, and attachments stay until DEL or GC.
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            path: directory.join("attachments.json"),
            boot_id: boot_id.trim().to_owned(),
        }
    }

    /// Reads the file; none is no attachments.
    pub fn load(&self) -> Result<Vec<Attachment>, JournalError> {
        let unusable = |message: String| JournalError::Unusable {
            path: self.path.clone(),
            message,
        };
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(unusable("not text".to_owned()));
            }
            Err(source) => return Err(self.io(source)),
        };
        let (header, body) = text
            .split_once('\n')
            .ok_or_else(|| unusable("not what we wrote: no second line".to_owned()))?;
        let not_ours = |error: serde_json::Error| unusable(format!("not what we wrote: {error}"));
        let header: Header = serde_json::from_str(header).map_err(not_ours)?;
        if header.version != VERSION {
            return Err(unusable(format!(
                "version {}, expected {VERSION}",
                header.version
            )));
        }
        if header.sha256 != checksum(body) {
            return Err(unusable("its checksum is wrong, so it is damaged".to_owned()));
        }
        let contents: Contents = serde_json::from_str(body).map_err(not_ours)?;
        if contents.boot_id != self.boot_id {
            tracing::info!(
                count = contents.attachments.len(),
                "attachments of an earlier boot are forgotten"
            );
            return Ok(Vec::new());
        }
        Ok(contents.attachments)
    }

    /// Replaces the file.
    pub fn save(&self, attachments: Vec<Attachment>) -> Result<(), JournalError> {
        let contents = Contents {
            boot_id: self.boot_id.clone(),
            attachments,
        };
        let body = serde_json::to_string(&contents).expect("strings and addresses") + "\n";
        let header = Header {
            version: VERSION,
            sha256: checksum(&body),
        };
        let header = serde_json::to_string(&header).expect("a number and a string");
        whole_file::replace(&self.path, format!("{header}\n{body}").as_bytes())
            .map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

fn checksum(body: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::attachment::Key;
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            key: Key {
                container_id: "c1".into(),
                ifname: "eth0".into(),
            },
            network: "n".into(),
            netns: "/run/netns/x".into(),
            pod_namespace: "default".into(),
            pod_name: "web".into(),
            interface: "rw0".into(),
            mac: [2, 1, 10, 244, 1, 5],
            mtu: 1450,
            addresses: vec!["10.244.1.5".parse().unwrap()],
            is_complete: false,
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::within(directory.path());
        assert_eq!(journal.load().unwrap(), []);
        journal.save(vec![attachment()]).unwrap();
        assert_eq!(journal.load().unwrap(), [attachment()]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn attachments_of_an_earlier_boot_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let before = Journal {
            boot_id: "another".into(),
            ..Journal::within(directory.path())
        };
        before.save(vec![attachment()]).unwrap();
        assert_eq!(Journal::within(directory.path()).load().unwrap(), []);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::within(directory.path());
        journal.save(vec![attachment()]).unwrap();
        let good = fs::read_to_string(&journal.path).unwrap();
        for (text, expected) in [
            (good.replace("10.244.1.5", "10.244.1.6"), "checksum"),
            (good[..good.len() - 20].to_owned(), "checksum"),
            (
                good.replace("\"version\":1", "\"version\":2"),
                "version 2, expected 1",
            ),
            (String::new(), "no second line"),
            ("{}\n{}".to_owned(), "not what we wrote"),
        ] {
            fs::write(&journal.path, text).unwrap();
            let error = journal.load().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
