//! A forwarder of another program: a child that is told what to do on its standard input and says what it did.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const PATIENCE: Duration = Duration::from_secs(30);

/// The child, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Dialogue {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Dialogue {
    /// Starts `command`; `name` is for messages.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        // A group of its own: Ctrl-C is for us, who take everything down in order.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("its output")?;
        let stderr = child.stderr.take().context("its errors")?;
        let (sender, lines) = channel();
        listen(stdout, sender.clone());
        listen(stderr, sender);
        Ok(Self {
            name,
            child,
            stdin,
            lines,
        })
    }

    /// Of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn say(&mut self, words: &str) -> Result<()> {
        let name = self.name;
        let stdin = self.stdin.as_mut().context("it is ending")?;
        writeln!(stdin, "{words}").with_context(|| format!("telling {name}"))?;
        stdin.flush().with_context(|| format!("telling {name}"))
    }

    /// All lines up to the one that has `awaited`.
    pub(crate) fn wait_for(&mut self, awaited: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        let name = self.name;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.contains(awaited);
                    said.push(line);
                    if found {
                        return Ok(said);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{name} did not say {awaited:?} within {PATIENCE:?}, but:\n{}",
                        said.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{name} ended; it said:\n{}", said.join("\n")),
            }
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // It ends where its input does, having closed its ports.
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes on each line of `from`, to its end.
fn listen(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}
