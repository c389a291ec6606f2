//! Programs that forward frames between two interfaces as they are, each by another binding of AF_XDP.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ::machine::HugePages;
use anyhow::{Context as _, Result};

use super::dialogue::Dialogue;
use super::forwarder::{Books, Forwarder};
use super::lab::Lab;
use super::machine::{self, FORWARDER_CPU};

/// A program that forwards in a lab of its own, whose node forwards nothing else to these pods.
#[derive(Debug)]
pub(crate) struct Binding {
    // Before the lab that it is in, which goes after it.
    dialogue: Dialogue,
    lab: Lab,
    _pages: HugePages,
}

/// A binding that this program is not linked with, since it builds C libraries: a workspace of its own in `bench/`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    program: &'static str,
}

/// Beside Ringway's own.
pub(crate) const OTHERS: [Other; 2] = [
    Other {
        name: "xsk-rs",
        version: "0.11.0",
        program: "l2-xsk-rs",
    },
    Other {
        name: "afxdp",
        version: "0.4.0",
        program: "l2-afxdp",
    },
];

/// Of packet buffers: 64 MiB.
const PAGES: u64 = 32;

impl Other {
    /// Builds it. `Err` with what a person can do about it.
    pub(crate) fn build(self, programs: &Path) -> Result<PathBuf, String> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(self.name)
            .join("Cargo.toml");
        let target = programs.parent().unwrap_or(programs).join("bindings");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--release", "--quiet", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = target.join("release").join(self.program);
        if command.status().is_ok_and(|status| status.success()) && program.is_file() {
            return Ok(program);
        }
        Err(format!(
            "it does not build; `apt-get install libelf-dev zlib1g-dev pkg-config clang m4`, then \
             `cargo build --release --manifest-path bench/{}/Cargo.toml` tells more",
            self.name
        ))
    }
}

impl Binding {
    /// Brings up a lab and starts `words` on its node, followed by the names of the two interfaces.
    pub(crate) fn up(programs: &Path, name: &'static str, words: &[&Path], states: &[&str]) -> Result<Self> {
        let pages = HugePages::reserve(PAGES)?;
        let lab = Lab::up(programs, name, "kernel", states)?;
        let cpu = FORWARDER_CPU.to_string();
        let mut command = lab.exec("node-a", &["taskset", "--cpu-list", &cpu]);
        command.args(words);
        for pod in ["default/source", "default/sink"] {
            command.arg(lab.interface(pod)?);
        }
        let mut dialogue = Dialogue::start(name, &mut command)?;
        dialogue.wait_for("ready")?;
        Ok(Self {
            dialogue,
            lab,
            _pages: pages,
        })
    }
}

/// This program, as a forwarder by Ringway's own sockets.
pub(crate) fn own_words() -> Result<[PathBuf; 2]> {
    Ok([machine::own_program()?, PathBuf::from("l2-forward")])
}

impl Forwarder for Binding {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    /// It is no router.
    fn hops(&self) -> u8 {
        0
    }

    fn begin(&mut self) -> Result<()> {
        self.dialogue.say("start")
    }

    fn end(&mut self) -> Result<Option<Books>> {
        self.dialogue.say("stop")?;
        let said = self.dialogue.wait_for("dropped")?;
        let last = said.last().context("it said what was waited for")?;
        books(last)
            .with_context(|| format!("its counts: {last}"))
            .map(Some)
    }

    fn down(self: Box<Self>) -> Result<()> {
        drop(self.dialogue);
        self.lab.down()
    }
}

/// `rx N tx N dropped N`.
fn books(line: &str) -> Option<Books> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let ["rx", rx, "tx", tx, "dropped", dropped] = words[..] else {
        return None;
    };
    let dropped = dropped.parse().ok()?;
    let mut books = Books {
        rx: rx.parse().ok()?,
        tx: tx.parse().ok()?,
        ..Books::default()
    };
    if dropped > 0 {
        books.dropped.push(("tx-ring-full".to_owned(), dropped));
    }
    Some(books)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_counts_are_read() {
        let read = books("rx 10 tx 8 dropped 2").unwrap();
        assert_eq!((read.rx, read.tx), (10, 8));
        assert_eq!(read.dropped, [("tx-ring-full".to_owned(), 2)]);
        assert!(books("rx 10 tx 8").is_none());
        assert!(books("rx x tx 8 dropped 0").is_none());
    }
}
