//! Any text as a manifest: objects or errors with file and line; what was read resolves for each of its nodes, or is refused
//! in one sentence; what resolves is a state that fastpath takes.

use std::path::PathBuf;
use std::sync::Arc;

use contract::valid::ValidState;
use control::object::document::{Entry, read};
use control::object::{Location, Objects, Text};
use control::resolve::{Mode, Options, resolve};

use super::input::Input;

/// One input: a byte that chooses JSON or YAML, and whether addresses may be handed out; then the text.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let options = input.byte();
    let Ok(text) = std::str::from_utf8(input.0) else {
        return;
    };
    let file = Arc::new(PathBuf::from(if options & 1 == 1 { "x.json" } else { "x.yaml" }));
    let mut errors = Vec::new();
    let entries = read(&file, text, &mut errors);
    // YAML breaks lines at a lone carriage return too (YAML 1.2 section 5.4).
    let lines = text.split(['\n', '\r']).count() as u64;
    let inside = |location: &Location| location.file == file && (1..=lines).contains(&location.line);
    for error in &errors {
        assert!(inside(&error.location), "{error}, of {lines} lines");
        one_sentence(&error.to_string());
    }

    let mut objects = Objects::default();
    for entry in entries {
        match entry {
            Entry::Object(location, object) => {
                assert!(inside(&location), "{location} of {lines} lines");
                objects
                    .locations
                    .insert((object.kind(), object.meta().name.clone()), location);
                objects.insert(*object);
            }
            Entry::Unknown(kind) => *objects.unknown_kinds.entry(kind).or_default() += 1,
        }
    }
    let options = Options {
        mode: if options & 2 == 2 {
            Mode::Live
        } else {
            Mode::Replay
        },
        ..Options::default()
    };
    let nodes: Vec<_> = objects.nodes.keys().map(|name| name.name.clone()).collect();
    for node in nodes.iter().map(Text::as_str).chain(["nobody"]).take(4) {
        match resolve(&objects, node, &options) {
            Ok(resolved) => {
                assert_eq!(
                    resolve(&objects, node, &options).as_ref(),
                    Ok(&resolved),
                    "equal in, equal out"
                );
                if let Err(invalid) = ValidState::try_from(resolved.state) {
                    panic!("fastpath refuses what control resolves: {invalid}");
                }
            }
            Err(error) => one_sentence(&error.to_string()),
        }
    }
}

fn one_sentence(error: &str) {
    assert!(!error.trim().is_empty() && !error.contains('\n'), "{error:?}");
}
