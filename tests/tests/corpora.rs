//! Every committed corpus through its fuzz target's harness: what the fuzzers once found stays found, without a nightly toolchain.

use std::fs;
use std::path::Path;

use tests::fuzz::TARGETS;

#[test]
fn every_target_takes_its_corpus() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, run) in TARGETS {
        let inputs = fs::read_dir(corpora.join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut count = 0;
        for input in inputs {
            let path = input.expect("a directory that can be read").path();
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
                eprintln!("the input is {}", path.display());
                std::panic::resume_unwind(panic);
            }
            count += 1;
        }
        assert!(count > 0, "{target} has no corpus");
    }
}

#[test]
fn every_corpus_and_every_fuzz_binary_is_of_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |directory: &str| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(fuzz.join(directory))
            .expect("it is committed")
            .map(|entry| entry.expect("a directory that can be read").path())
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}
