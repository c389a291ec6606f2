//! Finds the programs under test: beside our own executable, where cargo puts them.

use std::path::PathBuf;

/// The program `name` beside this executable or one folder up (tests live in `deps`).
///
/// # Errors
/// Where it was looked for; whoever can't go on prints that as `SKIPPED: ...` or fails.
pub fn find(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("no path of our own: {error}"))?;
    let folder = own.parent().ok_or("an executable lies in a folder")?;
    let places = [folder.join(name), folder.join("..").join(name)];
    places
        .iter()
        .find(|place| place.is_file())
        .cloned()
        .ok_or_else(|| format!("{name} is not built: no {}", places[1].display()))
}
