//! Notices when manifests change: inotify, with changes that belong together told as one.
//!
//! A file that someone has open for writing is not whole yet, so nothing is told before it is closed (or
//! [`UNFINISHED_MAX`] has passed: links, for instance, are never closed). A directory that goes and comes back is
//! watched again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Watches files and directories of manifests.
pub struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    /// Directories: those given, and the parents of files given (a file that is replaced is a new file).
    directories: BTreeSet<PathBuf>,
    /// Those of `directories` that are not watched right now.
    lost: BTreeSet<PathBuf>,
    /// Manifests that someone has open for writing.
    unfinished: BTreeSet<PathBuf>,
    /// When the first change came that is not told yet.
    pending_since: Option<Instant>,
}

impl Watch {
    /// Starts to watch `paths`. What changes from here on is told by [`Watch::changed`].
    pub fn start<P: AsRef<Path>>(paths: &[P]) -> io::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Nobody listens any more when the watch is being dropped.
            let _ = sender.send(event);
        })
        .map_err(io::Error::other)?;
        let directories: BTreeSet<PathBuf> = paths.iter().map(|path| directory_of(path.as_ref())).collect();
        let lost = directories.clone();
        let mut watch = Self {
            watcher,
            events,
            directories,
            lost,
            unfinished: BTreeSet::new(),
            pending_since: None,
        };
        watch.find_lost();
        match watch.lost.first() {
            Some(lost) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} cannot be watched", lost.display()),
            )),
            None => Ok(watch),
        }
    }

    /// Waits until something changed and whoever did it is done. Never resolves if nothing changes.
    ///
    /// May be dropped and called again: a change that was seen half way is told by the next call.
    pub async fn changed(&mut self) {
        loop {
            let now = Instant::now();
            let until = match self.pending_since {
                Some(since) if self.unfinished.is_empty() => (now + QUIET).min(since + UNFINISHED_MAX),
                Some(since) => since + UNFINISHED_MAX,
                None if self.lost.is_empty() => now + IDLE,
                None => now + LOST_PAUSE,
            };
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => {
                    if self.matters(event) && self.pending_since.is_none() {
                        self.pending_since = Some(now);
                    }
                }
                // The watcher is ours, so its end of the channel lives as long as we do.
                Ok(None) => return std::future::pending().await,
                Err(_) if self.pending_since.is_some() => {
                    self.pending_since = None;
                    self.unfinished.clear();
                    self.find_lost();
                    return;
                }
                Err(_) => {
                    if self.find_lost() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether an event may change what is read; keeps the list of files that are being written.
    fn matters(&mut self, event: notify::Result<Event>) -> bool {
        // An error means that events were lost: look.
        let Ok(event) = event else { return true };
        match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                let manifests = event
                    .paths
                    .into_iter()
                    .filter(|path| super::directory::is_manifest(path));
                self.unfinished.extend(manifests);
                true
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.unfinished.retain(|path| !event.paths.contains(path));
                true
            }
            EventKind::Access(_) => event.need_rescan(),
            kind => {
                let gone = matches!(
                    kind,
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
                );
                for path in &event.paths {
                    self.unfinished.remove(path);
                    if gone && self.directories.contains(path) {
                        self.lost.insert(path.clone());
                    }
                }
                true
            }
        }
    }

    /// Tries to watch what is not watched. Returns whether any of it is now.
    fn find_lost(&mut self) -> bool {
        let lost = std::mem::take(&mut self.lost);
        let before = lost.len();
        for directory in lost {
            // A watch on a directory that is gone may linger in the watcher's books.
            let _ = self.watcher.unwatch(&directory);
            if self
                .watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .is_err()
            {
                self.lost.insert(directory);
            }
        }
        self.lost.len() < before
    }
}

fn directory_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Events closer together than this are one change.
const QUIET: Duration = Duration::from_millis(5);
/// Longest wait for a file that is being written.
const UNFINISHED_MAX: Duration = Duration::from_millis(500);
/// Nothing is expected: a bound for the timer, no more.
const IDLE: Duration = Duration::from_hours(1);
/// Between attempts to find a directory that is gone.
const LOST_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_change_is_told_when_the_file_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "old").unwrap();
        let mut watch = Watch::start(&[directory.path()]).unwrap();
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        let early = timeout(UNFINISHED_MAX / 4, watch.changed()).await;
        assert!(early.is_err(), "told while the file was open for writing");
        drop(file);
        // The first call was dropped half way; the next tells what it saw.
        timeout(PATIENCE, watch.changed()).await.unwrap();
        fs::rename(&path, directory.path().join("b.yaml")).unwrap();
        timeout(PATIENCE, watch.changed()).await.unwrap();
        // Reading is no change.
        fs::read(directory.path().join("b.yaml")).unwrap();
        assert!(timeout(Duration::from_millis(50), watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn a_change_seen_half_way_is_not_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = Watch::start(&[directory.path()]).unwrap();
        fs::write(directory.path().join("a.yaml"), "x").unwrap();
        let patience = Instant::now() + PATIENCE;
        // Each call is dropped well within the quiet time that it waits for.
        while watch.pending_since.is_none() {
            assert!(Instant::now() < patience, "the change was never seen");
            if timeout(QUIET / 5, watch.changed()).await.is_ok() {
                // On a busy machine the call may get to the end after all: then it was told.
                return;
            }
        }
        timeout(PATIENCE, watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_may_go_and_come_back() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        fs::create_dir(&directory).unwrap();
        let mut watch = Watch::start(&[&directory]).unwrap();
        fs::remove_dir(&directory).unwrap();
        timeout(PATIENCE, watch.changed()).await.unwrap();
        fs::create_dir(&directory).unwrap();
        timeout(PATIENCE, watch.changed()).await.unwrap();
        fs::write(directory.join("a.yaml"), "x").unwrap();
        timeout(PATIENCE, watch.changed()).await.unwrap();
    }

    #[test]
    fn what_is_not_there_cannot_be_watched() {
        let error = Watch::start(&["/no/such/directory/a.yaml"]).err().unwrap();
        assert!(error.to_string().contains("/no/such/directory"), "{error}");
    }
}
