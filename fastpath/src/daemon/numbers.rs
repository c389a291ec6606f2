//! The numbers of ports and nodes, in a file beside the flow tables whose keys hold them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::compile::Numbers;

/// The file, and what it says.
pub(super) struct NumberFile {
    path: PathBuf,
    kept: Numbers,
}

impl NumberFile {
    /// What the process before kept in `folder`; nothing if there is none, or nothing that can be read.
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join("numbers.json");
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "numbers of ports are given anew; adopted connections may be cut");
                Numbers::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "numbers of ports are given anew; adopted connections may be cut");
                }
                Numbers::default()
            }
        };
        Self { path, kept }
    }

    /// What was kept last.
    pub(super) fn kept(&self) -> &Numbers {
        &self.kept
    }

    /// Keeps `numbers`, before anyone uses them. The file is whole at any time.
    pub(super) fn keep(&mut self, numbers: Numbers) {
        if numbers == self.kept {
            return;
        }
        let next = self.path.with_extension("next");
        let written = serde_json::to_vec(&numbers)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&next, bytes))
            .and_then(|()| fs::rename(&next, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "connections may be cut by the next restart");
        }
        self.kept = numbers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_and_a_broken_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NumberFile::open(folder.path());
        assert_eq!(*file.kept(), Numbers::default());
        let numbers = Numbers {
            ports: [("pod:default/web".to_owned(), 7)].into(),
            peers: [("node-b".to_owned(), 1)].into(),
        };
        file.keep(numbers.clone());
        assert_eq!(*NumberFile::open(folder.path()).kept(), numbers);
        fs::write(folder.path().join("numbers.json"), "{").unwrap();
        assert_eq!(*NumberFile::open(folder.path()).kept(), Numbers::default());
    }
}
