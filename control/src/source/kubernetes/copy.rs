//! The copy of the last good state on disk, which brings up a node that restarts while no API server answers.
//!
//! ```text
//! {"apiVersion":"ringway.io/v1","kind":"Copy","format":1,"node":"node-a"}
//! {"apiVersion":"v1","kind":"Node","metadata":{...},...}          one object per line
//! {"apiVersion":"ringway.io/v1","kind":"CopyEnd","objects":N,"sha256":"..."}
//! ```
//! The checksum is over all lines before the last. A file of another format, of another node, cut short or changed is
//! refused whole. It is replaced whole or not at all. `ringway replay --state` reads it as manifests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::object::{Kind, ObjectName, Objects};
use crate::whole_file;

/// The format that this file has.
const FORMAT: u32 = 1;
const API_VERSION: &str = "ringway.io/v1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    api_version: String,
    kind: String,
    format: u32,
    node: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Trailer {
    api_version: String,
    kind: String,
    objects: usize,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed<'a> {
    api_version: &'a str,
    kind: &'a str,
}

/// Why a copy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what we wrote.
    #[error("{}: {message}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
}

/// Where the copy is kept within a directory.
pub fn path(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("objects-{node}.json"))
}

/// Reads a copy; `None` where there is none.
pub fn load(path: &Path, node: &str) -> Result<Option<Objects>, CopyError> {
    let io_error = |source| CopyError::Io {
        path: path.to_owned(),
        source,
    };
    let unusable = |message: String| CopyError::Unusable {
        path: path.to_owned(),
        message,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let mut lines = Lines {
        reader: BufReader::new(file),
        line: String::new(),
    };
    let mut sum = Sha256::new();
    let header = lines.next().map_err(io_error)?.unwrap_or_default();
    sum.update(header);
    let header: Header =
        serde_json::from_str(header).map_err(|error| unusable(format!("no copy of a state: {error}")))?;
    if (header.format, header.kind.as_str(), header.api_version.as_str()) != (FORMAT, "Copy", API_VERSION) {
        let found = header.format;
        return Err(unusable(format!("format {found}, expected {FORMAT}")));
    }
    if header.node != node {
        return Err(unusable(format!(
            "it is of node {:?}, expected {node:?}",
            header.node
        )));
    }
    let mut objects = Objects::default();
    loop {
        let Some(line) = lines.next().map_err(io_error)? else {
            return Err(unusable("it is cut short".to_owned()));
        };
        let typed: Typed<'_> =
            serde_json::from_str(line).map_err(|error| unusable(format!("a line is no object: {error}")))?;
        if typed.kind == "CopyEnd" {
            let trailer: Trailer =
                serde_json::from_str(line).map_err(|error| unusable(format!("a wrong end: {error}")))?;
            let found = hexadecimal(&sum.finalize());
            if (trailer.sha256.as_str(), trailer.objects) != (found.as_str(), objects.len()) {
                return Err(unusable("its checksum is wrong".to_owned()));
            }
            return Ok(Some(objects));
        }
        sum.update(line);
        let kind = Kind::parse(typed.api_version, typed.kind).ok_or_else(|| {
            unusable(format!(
                "{} {} is no kind that we write",
                typed.api_version, typed.kind
            ))
        })?;
        let object = kind
            .read(&mut serde_json::Deserializer::from_str(line))
            .map_err(|error| unusable(format!("a {kind} that makes no sense: {error}")))?;
        objects.insert(object);
    }
}

/// Lines with their ends, one at a time.
struct Lines {
    reader: BufReader<File>,
    line: String,
}

impl Lines {
    fn next(&mut self) -> io::Result<Option<&str>> {
        self.line.clear();
        let len = self.reader.read_line(&mut self.line)?;
        Ok((len > 0).then_some(self.line.as_str()))
    }
}

/// A new copy on its way, beside the old one: some objects at a time, because whoever keeps the objects has changes to take
/// in meanwhile. Each object is written as it is when its turn comes.
struct Writing {
    file: Summed,
    /// Kinds that are not written whole, the current one first.
    kinds: std::slice::Iter<'static, Kind>,
    kind: Option<Kind>,
    /// The last object that was written.
    after: Option<ObjectName>,
    count: usize,
    took: Duration,
}

impl Writing {
    fn begin(path: &Path, node: &str) -> io::Result<Self> {
        let mut file = Summed {
            writer: BufWriter::with_capacity(256 << 10, File::create(whole_file::beside(path))?),
            sum: Sha256::new(),
        };
        file.line(&Header {
            api_version: API_VERSION.to_owned(),
            kind: "Copy".to_owned(),
            format: FORMAT,
            node: node.to_owned(),
        })?;
        let mut kinds = Kind::ALL.iter();
        Ok(Self {
            file,
            kind: kinds.next().copied(),
            kinds,
            after: None,
            count: 0,
            took: Duration::ZERO,
        })
    }

    /// Writes up to `objects_max` objects more. Whether that was all.
    fn go_on(&mut self, objects: &Objects, objects_max: usize) -> io::Result<bool> {
        let began = Instant::now();
        let mut left = objects_max;
        while let (Some(kind), true) = (self.kind, left > 0) {
            let mut last = None;
            for (name, object) in objects.after(kind, self.after.as_ref()).take(left) {
                self.file.line(&object)?;
                self.count += 1;
                left -= 1;
                last = Some(name);
            }
            if left > 0 {
                (self.kind, self.after) = (self.kinds.next().copied(), None);
            } else {
                self.after = last.cloned();
            }
        }
        self.took += began.elapsed();
        Ok(self.kind.is_none())
    }

    /// The file, whole but for the disk's part.
    fn end(self) -> io::Result<File> {
        let Summed { writer, sum } = self.file;
        let mut last = Summed {
            writer,
            sum: Sha256::new(),
        };
        last.line(&Trailer {
            api_version: API_VERSION.to_owned(),
            kind: "CopyEnd".to_owned(),
            objects: self.count,
            sha256: hexadecimal(&sum.finalize()),
        })?;
        last.writer.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

struct Summed {
    writer: BufWriter<File>,
    sum: Sha256,
}

impl Summed {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.sum.update(&line);
        self.writer.write_all(&line)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

/// Keeps the copy up to date, at a pace at which that costs little.
pub(super) struct Keeper {
    path: PathBuf,
    node: String,
    /// Whether there is something that no copy has, begun ones neither.
    is_stale: bool,
    /// When [`Keeper::keep`] may do something; `None` for nothing to do.
    due: Option<Instant>,
    pause: Duration,
    pause_min: Duration,
    written: Option<Instant>,
    writing: Option<Writing>,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Keeper {
    pub(super) fn new(directory: &Path, node: &str, pause_min: Duration) -> Self {
        Self {
            path: path(directory, node),
            node: node.to_owned(),
            is_stale: false,
            due: None,
            pause: pause_min,
            pause_min,
            written: None,
            writing: None,
            syncing: None,
        }
    }

    /// There is a newer good state.
    pub(super) fn note(&mut self) {
        self.is_stale = true;
        if self.writing.is_none() {
            let earliest = self.written.map_or_else(Instant::now, |at| at + self.pause);
            self.due.get_or_insert(earliest);
        }
    }

    /// When [`Keeper::keep`] should be called; `None` for never.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes a piece of the copy. The disk's own time is spent elsewhere.
    pub(super) async fn keep(&mut self, objects: &Objects) {
        self.finish().await;
        if let Err(error) = self.write(objects, PIECE_OBJECTS) {
            self.give_up(&error);
        }
    }

    fn write(&mut self, objects: &Objects, objects_max: usize) -> io::Result<()> {
        let mut writing = if let Some(writing) = self.writing.take() {
            writing
        } else {
            self.is_stale = false;
            Writing::begin(&self.path, &self.node)?
        };
        if !writing.go_on(objects, objects_max)? {
            self.writing = Some(writing);
            self.due = Some(Instant::now() + PIECE_PAUSE);
            return Ok(());
        }
        self.pause = self.pause_min.max(writing.took * COST);
        self.written = Some(Instant::now());
        self.due = None;
        let (file, path) = (writing.end()?, self.path.clone());
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            whole_file::finish(&file, &path)
        }));
        if self.is_stale {
            self.note();
        }
        Ok(())
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the copy of the last good state cannot be written");
        self.writing = None;
        self.written = Some(Instant::now());
        self.due = None;
        self.note();
    }

    /// Waits for the disk.
    pub(super) async fn finish(&mut self) {
        if let Some(syncing) = &mut self.syncing {
            // The handle fails where the runtime ends: then there is nobody to tell.
            if let Ok(Err(error)) = syncing.await {
                tracing::warn!(%error, "the copy of the last good state cannot be written");
            }
            self.syncing = None;
        }
    }

    /// Writes what no copy has, without a pause: the daemon ends.
    pub(super) async fn stop(&mut self, objects: &Objects) {
        self.finish().await;
        if self.is_stale || self.writing.is_some() {
            self.writing = None;
            if let Err(error) = self.write(objects, usize::MAX) {
                self.give_up(&error);
            }
        }
        self.finish().await;
    }
}

/// Objects that are written in one go: about a millisecond.
const PIECE_OBJECTS: usize = 250;
/// For changes that wait.
const PIECE_PAUSE: Duration = Duration::from_millis(5);
/// The pause between two copies is this many times as long as writing one takes: one percent of a core at most.
const COST: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Object;

    fn objects(names: &[&str]) -> Objects {
        let mut objects = Objects::default();
        for name in names {
            let text = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"a":"b"}}}}}}"#);
            let object = Kind::Namespace
                .read(&mut serde_json::Deserializer::from_str(&text))
                .unwrap();
            objects.insert(object);
        }
        let pod = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"a"},"status":{"podIP":"10.0.0.1"}}"#;
        objects.insert(Object::Pod(serde_json::from_str(pod).unwrap()));
        objects
    }

    #[tokio::test]
    async fn what_is_kept_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        assert!(load(&path, "a").unwrap().is_none());
        let mut keeper = Keeper::new(directory.path(), "a", Duration::from_hours(1));
        assert!(keeper.due().is_none());
        keeper.note();
        assert!(keeper.due().unwrap() <= Instant::now());
        keeper.keep(&objects(&["x"])).await;
        assert!(keeper.due().is_none(), "a few objects are one piece");
        keeper.note();
        assert!(
            keeper.due().unwrap() > Instant::now() + Duration::from_mins(50),
            "at a pace"
        );
        keeper.stop(&objects(&["x", "y"])).await;
        let loaded = load(&path, "a").unwrap().unwrap();
        assert_eq!(loaded, objects(&["x", "y"]));
        assert!(loaded.namespaces.contains_key(&ObjectName::new("", "y")));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        // It is manifests, too.
        let manifests = crate::source::directory::load(&[&path]).unwrap();
        assert_eq!(manifests.pods, loaded.pods);
    }

    #[tokio::test]
    async fn a_copy_is_written_in_pieces_while_objects_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        let names: Vec<String> = (0..2 * PIECE_OBJECTS).map(|n| format!("n{n:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut objects = objects(&names);
        let mut keeper = Keeper::new(directory.path(), "a", Duration::ZERO);
        keeper.note();
        keeper.keep(&objects).await;
        assert!(keeper.due().is_some() && !path.exists(), "one piece of three");
        // Before and after the place that the copy has come to.
        for name in ["n0000", "n0499"] {
            objects.remove(Kind::Namespace, &ObjectName::new("", name));
        }
        keeper.note();
        while keeper.writing.is_some() {
            keeper.keep(&objects).await;
        }
        keeper.finish().await;
        let loaded = load(&path, "a").unwrap().unwrap();
        assert_eq!(
            loaded.namespaces.len(),
            names.len() - 1,
            "as each was when its turn came"
        );
        assert!(
            keeper.due().is_some(),
            "what changed meanwhile is written next time"
        );
        keeper.stop(&objects).await;
        assert_eq!(load(&path, "a").unwrap().unwrap(), objects);
    }

    #[tokio::test]
    async fn a_copy_that_is_not_whole_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "a");
        let mut keeper = Keeper::new(directory.path(), "a", Duration::ZERO);
        keeper.note();
        keeper.stop(&objects(&["x"])).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let without_second = [&lines[..1], &lines[2..]].concat().concat();
        for (text, node, expected) in [
            (String::new(), "a", "no copy of a state"),
            (text.clone(), "b", "of node \"a\", expected \"b\""),
            (
                text.replacen("\"format\":1", "\"format\":2", 1),
                "a",
                "format 2, expected 1",
            ),
            (lines[..2].concat(), "a", "cut short"),
            (text[..text.len() - 5].to_owned(), "a", "EOF"),
            (text.replace("10.0.0.1", "10.0.0.2"), "a", "checksum"),
            (without_second, "a", "checksum"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path, node).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}; expected {expected}");
        }
    }
}
