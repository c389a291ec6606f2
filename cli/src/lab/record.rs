//! The lab's record on disk, by which a later command finds the lab and takes down what was made, also after a crash.
//!
//! `plan.json` is written before anything is made; `made`, a line per thing, before each thing is made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::netns;
use super::plan::{Plan, directory};
use super::process::{Process, end_all_in};

/// A lab's directory, open for the record of what is made.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) plan: Plan,
    made: File,
}

/// Something outside the lab's directory that has to be undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Made {
    /// A network namespace, by name.
    Netns(String),
    /// A mount point.
    Mount(PathBuf),
    /// A daemon.
    Process(Process),
}

impl Record {
    /// Opens the record of a lab that does not exist yet.
    pub(crate) fn create(plan: Plan) -> Result<Self> {
        let directory = directory(&plan.name);
        fs::create_dir_all(directory.parent().context("the lab directory has a parent")?)?;
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = &plan.name;
                bail!(
                    "a lab named {name} exists already: `ringway lab down --name {name}` removes it, `--name` gives this one another name"
                )
            }
            other => other.with_context(|| format!("creating {}", directory.display()))?,
        }
        fs::write(directory.join("plan.json"), serde_json::to_vec_pretty(&plan)?)?;
        let made = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(directory.join("made"))?;
        Ok(Self { plan, made })
    }

    /// Makes a namespace, noted before. Refuses a name that exists already, since that one is not ours.
    pub(crate) fn netns(&mut self, name: &str) -> Result<()> {
        if netns::exists(name) {
            bail!("a network namespace named {name} exists already and is not this lab's");
        }
        self.note(&Made::Netns(name.to_owned()))?;
        netns::create(name)
    }

    /// Notes something that is about to be made, or a process that has just been started.
    pub(crate) fn note(&mut self, made: &Made) -> Result<()> {
        let mut line = serde_json::to_vec(made)?;
        line.push(b'\n');
        self.made.write_all(&line).context("writing the lab's record")
    }
}

/// The names of the labs that there are.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory("")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// The plan of a lab.
pub(crate) fn plan(lab: &str) -> Result<Plan> {
    let path = directory(lab).join("plan.json");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("there is no lab named {lab}"),
        other => other.with_context(|| format!("reading {}", path.display()))?,
    };
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

/// What was made for a lab, in order. A line cut by a crash tells of nothing that was made.
pub(crate) fn made(lab: &str) -> Vec<Made> {
    let text = fs::read_to_string(directory(lab).join("made")).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The lab's daemons.
pub(crate) fn processes(lab: &str) -> Vec<Process> {
    let process = |made| match made {
        Made::Process(process) => Some(process),
        _ => None,
    };
    made(lab).into_iter().filter_map(process).collect()
}

/// Undoes everything that was made for a lab, last first, and forgets it. Goes on after an error and reports the first.
pub(crate) fn remove(lab: &str) -> Result<()> {
    let directory = directory(lab);
    if !directory.is_dir() {
        bail!("there is no lab named {lab}");
    }
    let mut first_error = None;
    for made in made(lab).iter().rev() {
        if let Err(error) = undo(made) {
            first_error.get_or_insert(error);
        }
    }
    match first_error {
        // Kept, so that the next attempt knows what is left.
        Some(error) => Err(error.context(format!("lab {lab} is not wholly removed"))),
        None => fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display())),
    }
}

fn undo(made: &Made) -> Result<()> {
    match made {
        Made::Process(process) => process.stop(),
        Made::Netns(name) => {
            if !netns::exists(name) {
                return Ok(());
            }
            end_all_in(name)?;
            netns::delete(name)
        }
        Made::Mount(path) => match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("unmounting {}", path.display())),
        },
    }
}
