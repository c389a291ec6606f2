//! `golden [--bless] [CASE]...`: plays the golden cases, all or those named, and compares with `tests/golden/`, or writes it.

use std::process::ExitCode;

use tests::replay::Replay;
use tests::{cases, golden};

fn main() -> ExitCode {
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let bless = match flags.as_slice() {
        [] => false,
        [flag] if flag == "--bless" => true,
        _ => {
            eprintln!("usage: golden [--bless] [CASE]...");
            return ExitCode::from(2);
        }
    };
    let replay = match Replay::find() {
        Ok(replay) => replay,
        Err(error) => {
            eprintln!("golden: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut all = cases::all();
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|case| case.name == **name))
    {
        eprintln!("golden: no case {unknown}");
        return ExitCode::from(2);
    }
    all.retain(|case| names.is_empty() || names.contains(&case.name));
    let mut failed = 0;
    for case in &all {
        let folder = golden::folder().join(&case.name);
        let faults = match golden::play(&replay, case) {
            Err(error) => vec![format!("{error:#}")],
            Ok(played) if !played.faults.is_empty() => played.faults,
            Ok(played) if bless => {
                golden::bless(&folder, case, &played).map_or_else(|e| vec![format!("{e:#}")], |()| vec![])
            }
            Ok(played) => golden::compare(&folder, case, &played).err().unwrap_or_default(),
        };
        if faults.is_empty() {
            println!("{}: {}", case.name, if bless { "blessed" } else { "ok" });
        } else {
            failed += 1;
            println!("{}: FAILED\n    {}", case.name, faults.join("\n    "));
        }
    }
    println!(
        "{} of {} cases {}",
        all.len() - failed,
        all.len(),
        if bless { "blessed" } else { "kept" }
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
