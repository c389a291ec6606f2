//! The file that keeps the addresses of the cluster's API servers: JSON, versioned, replaced whole or not at all.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::whole_file;

/// The format that this file has.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    api_servers: Vec<SocketAddr>,
}

/// Where they are kept within a directory.
pub(super) fn path(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("api-servers-{node}.json"))
}

/// Reads them; none where there is no file.
pub(super) fn load(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(told(error)),
    };
    let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| told(error.into()))?;
    if contents.version != VERSION {
        let found = contents.version;
        return Err(told(io::Error::other(format!(
            "version {found}, expected {VERSION}"
        ))));
    }
    Ok(contents.api_servers)
}

/// Replaces them.
pub(super) fn save(path: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    let contents = Contents {
        version: VERSION,
        api_servers: addresses.to_vec(),
    };
    let text = serde_json::to_vec_pretty(&contents).expect("addresses are text");
    whole_file::replace(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_anything_else_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        assert!(load(&path).unwrap().is_empty());
        let addresses = [
            "10.0.0.1:6443".parse().unwrap(),
            "[fd00::1]:6443".parse().unwrap(),
        ];
        save(&path, &addresses).unwrap();
        assert_eq!(load(&path).unwrap(), addresses);
        std::fs::write(&path, "{\"version\":2,\"api_servers\":[]}").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(
            error.contains("api-servers-a.json: version 2, expected 1"),
            "{error}"
        );
    }
}
