//! Output files: written beside their place under another name, and put there whole at the end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::BadInput;

/// A file that is being written. Dropped without [`commit`](Self::commit), it leaves nothing behind.
pub(super) struct Output {
    file: BufWriter<File>,
    path: PathBuf,
    /// Where it is meanwhile; `None` for what is no regular file (`/dev/null`, a pipe), which is written in place.
    partial: Option<PathBuf>,
}

impl Output {
    /// Begins `path`.
    pub(super) fn create(path: &Path) -> Result<Self, BadInput> {
        let bad = |error: io::Error| BadInput(format!("{}: {error}", path.display()));
        let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
        if special {
            let file = File::options().write(true).open(path).map_err(bad)?;
            return Ok(Self::over(file, path, None));
        }
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(BadInput(format!(
                "{}: a directory, expected a file",
                path.display()
            )));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(hidden);
        let file = File::create(&partial).map_err(bad)?;
        Ok(Self::over(file, path, Some(partial)))
    }

    fn over(file: File, path: &Path, partial: Option<PathBuf>) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            path: path.to_owned(),
            partial,
        }
    }

    /// Puts the whole file in its place.
    pub(super) fn commit(mut self) -> Result<()> {
        let writing = || format!("writing {}", self.path.display());
        self.file.flush().with_context(writing)?;
        if let Some(partial) = &self.partial {
            fs::rename(partial, &self.path).with_context(writing)?;
            self.partial = None;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // Nobody is left to tell; a file that stays is hidden and named after this process.
            let _ = fs::remove_file(partial);
        }
    }
}

const BUFFER_LEN: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut output = Output::create(&path).unwrap();
        output.write_all(b"whole").unwrap();
        assert!(!path.exists());
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_written_in_place() {
        let mut output = Output::create(Path::new("/dev/null")).unwrap();
        output.write_all(b"gone").unwrap();
        output.commit().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
