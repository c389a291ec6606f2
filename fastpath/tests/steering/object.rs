//! The committed object is what its source gives.

use std::{fs, path::PathBuf, process::Command};

/// Where the compiler that made it is at hand.
#[test]
fn the_committed_program_is_built_from_its_source() {
    let version = Command::new("clang").arg("--version").output();
    let version = version
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if !version.contains("version 14.") {
        println!("SKIPPED: needs clang 14, the committed object's compiler");
        return;
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let output = tempfile::tempdir().unwrap();
    let built = output.path().join("steer.bpf.o");
    let status = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .args(["-c", "steer.bpf.c", "-o"])
        .arg(&built)
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(status.success());
    let (built, committed) = (
        fs::read(built).unwrap(),
        fs::read(folder.join("steer.bpf.o")).unwrap(),
    );
    for section in ["xdp.frags", ".maps", ".relxdp.frags"] {
        let ours =
            elf_section(&committed, section).unwrap_or_else(|| panic!("{section} in the committed object"));
        let same = elf_section(&built, section).is_some_and(|theirs| theirs.len() == ours.len());
        assert!(
            same,
            "{section} differs: run `make` in fastpath/bpf and commit the object"
        );
    }
    assert_eq!(
        elf_section(&built, "xdp.frags"),
        elf_section(&committed, "xdp.frags"),
        "instructions differ: run `make` in fastpath/bpf and commit the object"
    );
}

/// The bytes of a section of a 64-bit little-endian ELF file.
fn elf_section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let word = |at: usize, len: usize| {
        file[at..at + len]
            .iter()
            .rev()
            .fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, entry_len, entries, names) = (word(40, 8), word(58, 2), word(60, 2), word(62, 2));
    let section = |index: usize| {
        let entry = table + index * entry_len;
        (word(entry, 4), word(entry + 24, 8), word(entry + 32, 8))
    };
    let (_, names, _) = section(names);
    (0..entries).map(section).find_map(|(name_at, start, len)| {
        let found = file[names + name_at..].split(|byte| *byte == 0).next()?;
        (found == name.as_bytes()).then(|| &file[start..start + len])
    })
}
