//! The captures of `examples/two-nodes` through `ringway replay`, without root: every verdict as recorded.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::process;
use crate::workspace;

/// Replays `NODE.pcapng` for each node that has one and compares with `NODE.verdicts.jsonl`. Gives how many packets
/// were compared, by node.
pub(crate) fn run(programs: &Path) -> Result<Vec<(String, usize)>> {
    let example = workspace().join("examples/two-nodes");
    let mut nodes: Vec<String> = fs::read_dir(&example)?
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".pcapng")
                .map(str::to_owned)
        })
        .collect();
    nodes.sort_unstable();
    let scratch = std::env::temp_dir().join(format!("ringway-demo-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let compared = nodes.into_iter().map(|node| {
        let packets =
            replay(programs, &example, &node, &scratch).with_context(|| format!("replay of {node}"))?;
        Ok((node, packets))
    });
    let compared: Result<Vec<_>> = compared.collect();
    let _ = fs::remove_dir_all(&scratch);
    compared
}

fn replay(programs: &Path, example: &Path, node: &str, scratch: &Path) -> Result<usize> {
    let verdicts = scratch.join("verdicts.jsonl");
    let mut command = Command::new(programs.join("ringway"));
    command
        .arg("replay")
        .arg("--state")
        .arg(example)
        .args(["--node", node]);
    command.arg("--in").arg(example.join(format!("{node}.pcapng")));
    command
        .arg("--out")
        .arg(scratch.join("out.pcapng"))
        .arg("--verdicts")
        .arg(&verdicts);
    let output = process::output(&mut command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}", process::display(&command), said.trim());
    }
    let expected = fs::read_to_string(example.join(format!("{node}.verdicts.jsonl")))?;
    compare(&fs::read_to_string(&verdicts)?, &expected)
}

fn compare(got: &str, expected: &str) -> Result<usize> {
    for (number, (got, expected)) in got.lines().zip(expected.lines()).enumerate() {
        if got != expected {
            bail!("verdict {} is\n  {got}\nexpected\n  {expected}", number + 1);
        }
    }
    let (lines, expected_lines) = (got.lines().count(), expected.lines().count());
    if lines != expected_lines {
        bail!("{lines} verdicts, expected {expected_lines}");
    }
    if lines == 0 {
        bail!("no verdict at all");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        assert_eq!(compare("a\nb\n", "a\nb\n").unwrap(), 2);
        assert!(
            compare("a\nb\n", "a\nc\n")
                .unwrap_err()
                .to_string()
                .contains("verdict 2")
        );
        assert!(compare("a\n", "a\nc\n").is_err());
        assert!(compare("", "").is_err());
    }
}
