//! Huge pages lent for a while. Several programs may lend at once: each adds its own under a lock and gives back as many.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Pages of 2 MiB added, taken away again when this is dropped, or, after a kill, by whoever adds some next.
#[derive(Debug)]
pub struct HugePages {
    added: u64,
    pool: Pool,
    /// Says how many, for the next run; there while they are.
    note: PathBuf,
}

impl HugePages {
    /// Adds `count` pages of 2 MiB to whatever there are: those that are free now may be another program's, which has not
    /// taken them yet.
    ///
    /// # Errors
    /// When the machine gives fewer; needs root.
    pub fn reserve(count: u64) -> Result<Self> {
        Pool::of_machine().reserve(count)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let given_back = self.pool.lock().and_then(|_lock| self.pool.take_away(self.added));
        match given_back {
            Ok(()) => drop(fs::remove_file(&self.note)),
            Err(error) => eprintln!("{} huge pages are left: {error:#}", self.added),
        }
    }
}

/// The kernel's pool of pages, and what programs of ours added to it.
#[derive(Clone, Debug)]
struct Pool {
    /// How many pages it has.
    count: PathBuf,
    /// A file for each time that some were added, named after the process; and the lock.
    notes: PathBuf,
}

impl Pool {
    fn of_machine() -> Self {
        Self {
            count: "/proc/sys/vm/nr_hugepages".into(),
            notes: "/run/ringway-bench".into(),
        }
    }

    fn reserve(self, count: u64) -> Result<HugePages> {
        fs::create_dir_all(&self.notes).with_context(|| format!("making {}", self.notes.display()))?;
        // Relaxed: a number that nobody else has is all that is wanted.
        let number = NOTE.fetch_add(1, Relaxed);
        let note = self.notes.join(format!("{}-{number}", std::process::id()));
        let lock = self.lock()?;
        self.remove_stale()?;
        let before = self.size()?;
        fs::write(&note, count.to_string()).with_context(|| format!("writing {}", note.display()))?;
        let resized = self.resize(before + count);
        let added = self.size()?.saturating_sub(before);
        // Dropped from here on, and that takes the lock.
        drop(lock);
        let pages = HugePages {
            added,
            pool: self,
            note,
        };
        resized?;
        if added < count {
            bail!("the machine gave {added} of {count} huge pages");
        }
        Ok(pages)
    }

    /// Takes away the pages of runs that were killed.
    fn remove_stale(&self) -> Result<()> {
        for entry in fs::read_dir(&self.notes)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((pid, _)) = name.split_once('-') else {
                continue;
            };
            if Path::new("/proc").join(pid).exists() {
                continue;
            }
            let added: u64 = fs::read_to_string(entry.path())?.trim().parse().unwrap_or(0);
            eprintln!("taking away {added} huge pages of a run that was killed");
            self.take_away(added)?;
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    /// Nobody else who asks changes the pool while this lives.
    fn lock(&self) -> Result<Flock<fs::File>> {
        let path = self.notes.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("locking {}", path.display()))
    }

    fn size(&self) -> Result<u64> {
        let path = &self.count;
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    fn resize(&self, pages: u64) -> Result<()> {
        fs::write(&self.count, pages.to_string()).with_context(|| format!("writing {}", self.count.display()))
    }

    fn take_away(&self, pages: u64) -> Result<()> {
        if pages == 0 {
            return Ok(());
        }
        self.resize(self.size()?.saturating_sub(pages))
    }
}

/// Number of the next note of this process.
static NOTE: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(folder: &Path, pages: u64) -> Pool {
        let pool = Pool {
            count: folder.join("count"),
            notes: folder.join("notes"),
        };
        fs::write(&pool.count, pages.to_string()).unwrap();
        pool
    }

    fn notes(pool: &Pool) -> usize {
        let entries = fs::read_dir(&pool.notes).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name() != "lock")
            .count()
    }

    #[test]
    fn who_lends_at_once_gives_back_what_was_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), 7);
        std::thread::scope(|scope| {
            for count in 1..=8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        let pages = pool.clone().reserve(count).unwrap();
                        // A file is empty for a moment while it is written, which the kernel's is not.
                        let lock = pool.lock().unwrap();
                        assert!(pool.size().unwrap() >= 7 + count);
                        drop(lock);
                        drop(pages);
                    }
                });
            }
        });
        assert_eq!((pool.size().unwrap(), notes(&pool)), (7, 0));
    }

    #[test]
    fn pages_of_a_killed_run_are_taken_away_and_of_a_living_one_left() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), 10);
        let mine = pool.clone().reserve(5).unwrap();
        // No process has that number: the kernel's largest is 4194304.
        fs::write(pool.notes.join("4194305-0"), "3").unwrap();
        let others = pool.clone().reserve(4).unwrap();
        assert_eq!((pool.size().unwrap(), notes(&pool)), (16, 2));
        drop((mine, others));
        assert_eq!((pool.size().unwrap(), notes(&pool)), (7, 0));
    }
}
