//! Manifests in files and directories.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::object::document::{DocumentError, Entry, read};
use crate::object::{Location, Objects};

/// Everything wrong with a set of manifests, in file order; at least one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadErrors(pub Vec<LoadError>);

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file or directory that cannot be read.
    #[error("{}: {message}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A directory without a manifest.
    #[error("{}: no *.yaml, *.yml or *.json in this directory", path.display())]
    NoManifests {
        /// As given.
        path: PathBuf,
    },
    /// Not an object, or one that fails validation.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// An object that is there twice.
    #[error("{location}: {object} is a duplicate, expected it once; the first is at {first}")]
    Duplicate {
        /// The second.
        location: Location,
        /// The first.
        first: Location,
        /// `Kind namespace/name`.
        object: String,
    },
}

impl std::error::Error for LoadErrors {}

/// One line: the first error and how many more.
impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no error"),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first} (and {} more)", rest.len()),
        }
    }
}

/// Reads all objects of `paths`: files, and the `*.yaml`, `*.yml` and `*.json` directly inside directories.
///
/// Order does not matter to the outcome: an object that is there twice is an error.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Objects, LoadErrors> {
    let mut errors = Vec::new();
    let mut objects = Objects::default();
    for file in files(paths, &mut errors) {
        let text = match read_text(&file) {
            Ok(text) => text,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut document_errors = Vec::new();
        for entry in read(&Arc::new(file), &text, &mut document_errors) {
            match entry {
                Entry::Unknown(kind) => *objects.unknown_kinds.entry(kind).or_default() += 1,
                Entry::Object(location, object) => {
                    let key = (object.kind(), object.meta().name.clone());
                    if let Some(first) = objects.locations.get(&key) {
                        let object = format!("{} {}", key.0, key.1);
                        errors.push(LoadError::Duplicate {
                            location,
                            first: first.clone(),
                            object,
                        });
                        continue;
                    }
                    objects.locations.insert(key, location);
                    objects.insert(*object);
                }
            }
        }
        errors.extend(document_errors.into_iter().map(LoadError::from));
    }
    if errors.is_empty() {
        Ok(objects)
    } else {
        Err(LoadErrors(errors))
    }
}

/// The files behind `paths`, each once, directories' in name order.
fn files<P: AsRef<Path>>(paths: &[P], errors: &mut Vec<LoadError>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let mut add = |file: PathBuf| {
            let identity = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if seen.insert(identity) {
                files.push(file);
            }
        };
        if !path.is_dir() {
            add(path.to_owned());
            continue;
        }
        match manifests(path) {
            Ok(found) if found.is_empty() => errors.push(LoadError::NoManifests {
                path: path.to_owned(),
            }),
            Ok(found) => found.into_iter().for_each(&mut add),
            Err(error) => errors.push(LoadError::Unreadable {
                path: path.to_owned(),
                message: error.to_string(),
            }),
        }
    }
    files
}

fn manifests(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file in a directory counts as a manifest: by its ending, and it is not hidden.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let ending = path
        .extension()
        .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
    ending && !hidden
}

fn read_text(file: &Path) -> Result<String, LoadError> {
    let unreadable = |message: String| LoadError::Unreadable {
        path: file.to_owned(),
        message,
    };
    let bytes = fs::read(file).map_err(|e| unreadable(e.to_string()))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error
            .as_bytes()
            .iter()
            .take(good)
            .filter(|b| **b == b'\n')
            .count() as u64;
        LoadError::Document(DocumentError {
            location: Location {
                file: Arc::new(file.to_owned()),
                line,
            },
            object: String::new(),
            message: "not text in UTF-8, expected YAML or JSON".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n";

    #[test]
    fn a_directory_is_its_manifests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("b.yml"), NODE).unwrap();
        fs::write(
            path.join("a.yaml"),
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n",
        )
        .unwrap();
        fs::write(path.join(".c.yaml"), "not: an object\n").unwrap();
        fs::write(path.join("readme.txt"), "not an object\n").unwrap();
        fs::create_dir(path.join("sub.yaml")).unwrap();
        let objects = load(&[path, &path.join("b.yml")]).unwrap();
        assert_eq!(objects.len(), 1);
        assert!(objects.node("a").is_some());
        assert_eq!(objects.unknown_kinds, [("v1 Secret".to_owned(), 1)].into());
    }

    #[test]
    fn every_error_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("1.yaml"), NODE).unwrap();
        fs::write(path.join("2.yaml"), format!("---\n{NODE}")).unwrap();
        fs::write(path.join("3.yaml"), b"# one\n\xff\n").unwrap();
        let errors = load(&[path, Path::new("/no/such/file")]).unwrap_err();
        let messages: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(
            messages[0].contains("2.yaml:2: Node a is a duplicate"),
            "{messages:?}"
        );
        assert!(messages[0].ends_with("1.yaml:1"), "{messages:?}");
        assert!(messages[1].contains("3.yaml:2: not text"), "{messages:?}");
        assert!(messages[2].starts_with("/no/such/file: "), "{messages:?}");
        assert!(errors.to_string().ends_with("(and 2 more)"));
    }

    #[test]
    fn an_empty_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            load(&[directory.path()])
                .unwrap_err()
                .to_string()
                .contains("no *.yaml")
        );
    }
}
