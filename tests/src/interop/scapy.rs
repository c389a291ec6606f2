//! Scapy: a Python that has it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::text;

/// A Python with scapy, made once beside the test programs; or why there is none.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = own
            .parent()
            .ok_or("an executable lies in a folder")?
            .join("scapy-venv");
        let python = folder.join("bin/python");
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{command:?}: {}", text(&output))),
            Err(error) => Err(format!("{command:?}: {error}")),
        };
        let has_scapy = || run(Command::new(&python).args(["-c", "import scapy.all"]));
        if has_scapy().is_ok() {
            return Ok(python);
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "scapy"]))?;
        has_scapy()?;
        Ok(python)
    });
    found
        .as_deref()
        .map_err(|reason| println!("SKIPPED: no scapy: {reason}"))
        .ok()
}
