//! The file that keeps addresses over a restart of control: JSON, versioned, replaced whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ipam::{Assignment, Assignments};
use crate::object::ObjectName;
use crate::whole_file;

/// The format that this file has.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    /// By `namespace/name`.
    pods: BTreeMap<String, Assignment>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentFileError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {message}; remove it to hand out all addresses anew", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
}

/// Where a node's assignments are kept within a directory.
pub fn path(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("addresses-{node}.json"))
}

/// Reads the file; none is no assignments.
pub fn load(path: &Path) -> Result<Assignments, AssignmentFileError> {
    let unusable = |message: String| AssignmentFileError::Unusable {
        path: path.to_owned(),
        message,
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Assignments::default()),
        Err(source) => {
            return Err(AssignmentFileError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let contents: Contents =
        serde_json::from_slice(&bytes).map_err(|e| unusable(format!("not what we wrote: {e}")))?;
    if contents.version != VERSION {
        return Err(unusable(format!(
            "version {}, expected {VERSION}",
            contents.version
        )));
    }
    let mut assignments = Assignments::default();
    for (name, assignment) in contents.pods {
        let (namespace, pod) = name
            .split_once('/')
            .ok_or_else(|| unusable(format!("{name:?} is no pod")))?;
        assignments.insert(ObjectName::new(namespace, pod), assignment);
    }
    Ok(assignments)
}

/// Replaces the file: written beside it, synced, renamed.
pub fn save(path: &Path, assignments: &Assignments) -> Result<(), AssignmentFileError> {
    let pods = assignments
        .iter()
        .map(|(name, assignment)| (name.to_string(), assignment.clone()))
        .collect();
    let contents = serde_json::to_vec_pretty(&Contents {
        version: VERSION,
        pods,
    })
    .expect("strings and addresses");
    whole_file::replace(path, &contents).map_err(|source| AssignmentFileError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        assert_eq!(load(&path).unwrap(), Assignments::default());
        let mut assignments = Assignments::default();
        let addresses = vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assignments.insert(
            ObjectName::new("default", "web"),
            Assignment {
                node: "a".into(),
                addresses,
            },
        );
        save(&path, &assignments).unwrap();
        assert_eq!(load(&path).unwrap(), assignments);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        for (text, expected) in [
            ("{}", "not what we wrote"),
            ("{\"version\":2,\"pods\":{}}", "version 2, expected 1"),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
