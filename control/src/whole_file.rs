//! Files that are replaced whole or not at all: written beside the old one, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Puts `contents` in place of whatever is at `path`.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside(path))?;
    file.write_all(contents)?;
    finish(&file, path)
}

/// Where a new file is written before it takes the place of the one at `path`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

/// The file [`beside`] `path` is written: it takes its place.
pub(crate) fn finish(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(beside(path), path)?;
    // The rename is durable when its directory is.
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
