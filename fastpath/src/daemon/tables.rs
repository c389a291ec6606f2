//! The flow tables on disk-less files: made, or taken over from the process before, so that connections survive a restart.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use flowtable::{Config as TableConfig, CreateError, Memory, Quiescence, Table, TableV4, TableV6};

use super::config::FlowTableConfig;
use crate::generations::WORDS;

/// Both tables, and the lock that keeps a second process away.
pub(super) struct Tables {
    pub(super) v4: Arc<TableV4>,
    pub(super) v6: Arc<TableV6>,
    pub(super) quiescence: Arc<Quiescence>,
    /// Connections taken over, of each family.
    pub(super) adopted: [u64; 2],
    /// Held as long as the tables are used.
    _lock: File,
}

/// Why there are no flow tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TablesError {
    /// The folder or a file in it.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process uses them.
    #[error(
        "{path} is in use by another ringway-fastpath; stop it, or give this one another [flow_table] directory"
    )]
    InUse {
        /// The lock file.
        path: String,
    },
    /// The table can't be made.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl Tables {
    /// Opens the tables in `config.directory`, adopting those that are there if they fit this version and configuration.
    pub(super) fn open(config: &FlowTableConfig, seats: usize) -> Result<Self, TablesError> {
        let folder = &config.directory;
        fs::create_dir_all(folder).map_err(|e| file_error(folder, e))?;
        let lock = lock(&folder.join("lock"))?;
        let quiescence = Quiescence::new(seats);
        let (v4, adopted_v4) = open(&folder.join("v4"), config.connections_v4, WORDS, &quiescence)?;
        let (v6, adopted_v6) = open(&folder.join("v6"), config.connections_v6, 0, &quiescence)?;
        Ok(Self {
            v4,
            v6,
            quiescence,
            adopted: [adopted_v4, adopted_v6],
            _lock: lock,
        })
    }
}

fn lock(path: &Path) -> Result<File, TablesError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| file_error(path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TablesError::InUse {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(e)) => Err(file_error(path, e)),
    }
}

fn open<const K: usize, const W: usize>(
    path: &Path,
    capacity: u32,
    user_words: usize,
    quiescence: &Arc<Quiescence>,
) -> Result<(Arc<Table<K, W>>, u64), TablesError> {
    if fs::metadata(path).is_ok_and(|m| m.len() > 0) {
        match Table::<K, W>::adopt(descriptor(path, false)?, quiescence) {
            Ok((table, adoption))
                if table.capacity() == capacity && table.user_area().len() >= user_words =>
            {
                tracing::info!(
                    table = %path.display(),
                    live = adoption.live,
                    dropped = adoption.dropped,
                    duplicates = adoption.duplicates,
                    "connections taken over"
                );
                return Ok((table, u64::from(adoption.live)));
            }
            Ok(_) => tracing::warn!(table = %path.display(), "made anew: its size was configured otherwise"),
            Err(error) => {
                tracing::warn!(table = %path.display(), %error, "made anew: it can't be taken over");
            }
        }
    }
    let config = TableConfig {
        capacity,
        seed: random_seed()?,
        user_words,
    };
    let table = Table::create(config, Memory::Shared(descriptor(path, true)?), quiescence)?;
    // Generations start where no adopted flow of the other family can have its stamp from.
    let start = random_seed()? as u64;
    for word in table.user_area() {
        // Relaxed: nobody else has the table yet.
        word.store(start, Relaxed);
    }
    Ok((table, 0))
}

fn descriptor(path: &Path, fresh: bool) -> Result<OwnedFd, TablesError> {
    if fresh
        && let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(file_error(path, e));
    }
    let file = OpenOptions::new()
        .create(fresh)
        .read(true)
        .write(true)
        .truncate(false)
        // Who talks with whom, and the secret of the hash.
        .mode(0o600)
        .open(path);
    file.map(OwnedFd::from).map_err(|e| file_error(path, e))
}

/// 128 bits that nobody outside can know: the hash is keyed by them.
fn random_seed() -> Result<u128, TablesError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| file_error(path, e))?;
    Ok(u128::from_ne_bytes(bytes))
}

fn file_error(path: &Path, source: io::Error) -> TablesError {
    TablesError::File {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> FlowTableConfig {
        FlowTableConfig {
            directory: folder.to_owned(),
            connections_v4: 1024,
            connections_v6: 1024,
        }
    }

    #[test]
    fn a_second_process_is_kept_away_and_a_successor_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let first = Tables::open(&config(folder.path()), 2).unwrap();
        assert!(matches!(
            Tables::open(&config(folder.path()), 2),
            Err(TablesError::InUse { .. })
        ));
        drop(first);
        let second = Tables::open(&config(folder.path()), 2).unwrap();
        assert_eq!(second.adopted, [0, 0]);
    }

    #[test]
    fn nobody_else_reads_the_tables() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        drop(Tables::open(&config(folder.path()), 2).unwrap());
        for family in ["v4", "v6"] {
            let mode = fs::metadata(folder.path().join(family))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{family}");
        }
    }

    #[test]
    fn another_size_or_a_broken_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        drop(Tables::open(&config(folder.path()), 2).unwrap());
        let larger = FlowTableConfig {
            connections_v4: 2048,
            ..config(folder.path())
        };
        assert_eq!(Tables::open(&larger, 2).unwrap().v4.capacity(), 2048);
        fs::write(folder.path().join("v6"), b"not a table").unwrap();
        assert_eq!(Tables::open(&larger, 2).unwrap().v6.capacity(), 1024);
    }
}
