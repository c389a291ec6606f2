//! What a person mistypes, program by program: one line that names the fault, and exit code 2.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tests::binary;

/// A folder with something wrong of every sort.
fn wrong_files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a file");
    write("empty", b"");
    write("bytes", b"\xff\xfe\x00bad");
    write("broken.yaml", b"kind: [Node\n");
    write("zero.toml", b"[workers]\ncount = 0\n");
    write("unknown.toml", b"[workers]\nthreads = 1\n");
    write(
        "node.yaml",
        b"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDRs: [10.244.1.0/24]}\n\
          status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}\n",
    );
    fs::create_dir(folder.path().join("folder")).expect("a folder");
    folder
}

fn run(program: &Path, folder: &Path, words: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(program)
        .args(words)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Runs `program` with the words of each line, and looks for what follows ` => ` in the one line that it says.
fn refuses(program: &str, lines: &[&str]) {
    let path = match binary::find(program) {
        Ok(path) => path,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let folder = wrong_files();
    for line in lines {
        let (typed, named) = line.split_once("=> ").expect("words => what is named");
        let words: Vec<&str> = typed.split_whitespace().collect();
        let output = run(&path, folder.path(), &words, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{program} {typed}: {said}");
        assert!(output.stdout.is_empty(), "{program} {typed}");
        assert_eq!(said.lines().count(), 1, "{program} {typed}: {said}");
        assert!(said.contains(named), "{program} {typed}: no {named:?} in {said}");
    }
}

#[test]
fn the_command_says_on_one_line_what_it_expected() {
    let replay = "replay --state node.yaml --node a --in bytes --out out.pcapng";
    let and = |rest: &str| format!("{replay} {rest}");
    let lines = [
        "=> expected one of lab, replay, status".to_owned(),
        "fly => expected one of lab, replay, status".to_owned(),
        "--fly => '--fly'".to_owned(),
        "lab => expected one of up, exec, down, status".to_owned(),
        "lab fly => expected one of up, exec, down, status".to_owned(),
        "lab up => --state".to_owned(),
        "lab up --state none => none: No such file".to_owned(),
        "lab up --state empty => empty: no Node".to_owned(),
        "lab up --state folder => folder: no *.yaml".to_owned(),
        "lab up --state bytes => bytes:1: not text in UTF-8".to_owned(),
        "lab up --state broken.yaml => broken.yaml:1: ".to_owned(),
        "lab up --state node.yaml --queues x => expected a whole number".to_owned(),
        "lab up --state node.yaml --queues 99 => 1..=16".to_owned(),
        "lab up --state node.yaml --dataplane x => ringway, kernel".to_owned(),
        "lab up --state node.yaml --name a/b => \"a/b\"".to_owned(),
        "lab exec => <TARGET>".to_owned(),
        "status --fly => '--fly'".to_owned(),
        "flows --limit x => expected a whole number".to_owned(),
        "services extra => 'extra'".to_owned(),
        "policy --socket => --socket <PATH>".to_owned(),
        "drops --json=maybe => --json".to_owned(),
        "replay => --state <DIR|FILE> --node <NAME> --in".to_owned(),
        "replay --state none --node a --in x --out y => none: No such file".to_owned(),
        "replay --state folder --node a --in x --out y => folder: no *.yaml".to_owned(),
        "replay --state node.yaml --node b --in x --out y => expected one of: a".to_owned(),
        "replay --state node.yaml --node a --in none --out y => none: No such file".to_owned(),
        "replay --state node.yaml --node a --in folder --out y => folder".to_owned(),
        "replay --state node.yaml --node a --in empty --out y => empty is neither pcap nor pcapng".to_owned(),
        and("=> bytes is neither pcap nor pcapng"),
        and("--repeat 0 => expected 1 or more"),
        and("--pace fast => expected asap, realtime or xN"),
        and("--seed x => expected a whole number"),
        and("--max-flows 0 => expected 1 or more"),
    ];
    refuses("ringway", &lines.each_ref().map(String::as_str));
}

#[test]
fn the_daemons_say_on_one_line_what_they_expected() {
    refuses(
        "ringway-fastpath",
        &[
            "--fly => '--fly'",
            "extra => 'extra'",
            "--config => --config <FILE>",
            "--config none => none: No such file",
            "--config folder => folder: Is a directory",
            "--config bytes => bytes: ",
            "--config zero.toml => zero.toml: workers.count is 0; expected 1 to 64",
            "--config unknown.toml => unknown.toml: line 2: ",
        ],
    );
    refuses(
        "ringway-control",
        &[
            "=> --node <NAME>",
            "--node a => expected --state DIR, --kubeconfig FILE, or a pod with a service account",
            "--fly => '--fly'",
            "--node a --state none => none: No such file",
            "--node a --state folder => folder: no *.yaml",
            "--node a --state empty => (no nodes at all)",
            "--node a --state bytes => bytes:1: not text in UTF-8",
            "--node b --state node.yaml => expected one of: a",
            "--node a --state node.yaml --run-dir empty => empty: ",
            "--node a --state node.yaml --cni-socket none/s => expected a path for a socket",
            "--node a --state node.yaml --install-cni => --cni-socket",
            "--node a --state node.yaml --pod-queues 0 => 1..=64",
            "uninstall-cni --fly => '--fly'",
            "--node a --state node.yaml --status-socket folder => expected a path for a socket",
            "--node a --state node.yaml --status-socket empty => expected a path for a socket",
            "--node a --state node.yaml --status-socket none/s => expected a path for a socket",
        ],
    );
    refuses("ringway-cni", &["--fly => \"--fly\""]);
}

#[test]
fn the_tools_say_on_one_line_what_they_expected() {
    refuses(
        "xtask",
        &[
            "=> expected one of test, demo, bench, fuzz, record, golden",
            "fly => expected one of test, demo, bench, fuzz, record, golden",
            "test --only lint => expected some of format, clippy",
            "fuzz 0 => 1..=",
            "fuzz x => expected a whole number",
            "fuzz --only nothing => expected some of ",
            "demo --kernel-only --replay-only => '--replay-only'",
            "record x => 'x'",
        ],
    );
    refuses(
        "bench",
        &[
            "=> expected one of core, updates, table, policy, memory, peer, live",
            "core => --case <CASE>",
            "core --case fly => io-floor, forward",
            "core --case forward --flows x => expected a whole number",
            "core --case forward --workers 0 => 1 to 64",
            "table --op hit --impl fly => ringway, hashbrown",
        ],
    );
}

#[test]
fn a_requirement_that_nothing_is_skipped_for_is_refused() {
    let path = match binary::find("xtask") {
        Ok(path) => path,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let folder = wrong_files();
    let output = run(
        &path,
        folder.path(),
        &["test", "--only", "format"],
        &[("RINGWAY_REQUIRE", "root,gpu")],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("\"gpu\"") && said.contains("root, afxdp"), "{said}");
}

#[test]
fn help_is_whole_and_has_examples() {
    let programs = [
        ("ringway", &[][..]),
        ("ringway", &["replay"]),
        ("ringway-fastpath", &[]),
        ("ringway-control", &[]),
        ("ringway-cni", &[]),
        ("xtask", &[]),
        ("bench", &[]),
    ];
    let folder = wrong_files();
    for (program, words) in programs {
        let path = match binary::find(program) {
            Ok(path) => path,
            Err(reason) => return println!("SKIPPED: {reason}"),
        };
        let output = run(&path, folder.path(), &[words, &["--help"]].concat(), &[]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{program} {words:?}");
        assert!(
            said.contains("Usage:") && said.contains("Example") && said.lines().count() > 5,
            "{program} {words:?}: {said}"
        );
    }
}
