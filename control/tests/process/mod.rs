//! `ringway-control` as a process, and a fastpath made of a socket and the contract's reference merge.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use contract::{frame, merge, proto};
use proto::from_fastpath::Body as From;
use proto::to_fastpath::Body as To;

const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon, ended when the test ends.
pub struct Control {
    child: Child,
    log: Receiver<String>,
}

impl Control {
    /// Serves node `a`, with all that it keeps in `directory`; `source` says where objects come from.
    pub fn start(directory: &Path, source: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway-control"))
            .args(["--node", "a", "--uplink", "lo"])
            .args(source)
            .arg("--fastpath-socket")
            .arg(directory.join("fastpath.sock"))
            .arg("--status-socket")
            .arg(directory.join("status.sock"))
            .arg("--run-dir")
            .arg(directory.join("run"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log }
    }

    pub fn wait_for_log(&self, expected: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(expected) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: no log line with {expected:?} in {seen:#?}"),
            }
        }
    }

    pub fn terminate(mut self) -> ExitStatus {
        let killed = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection and the state that it led to.
pub struct Fastpath {
    stream: UnixStream,
    pub state: proto::State,
}

impl Fastpath {
    /// Welcomes the next control that lives: a killed one may have left a connection, and its Hello, in the queue.
    pub fn accept(listener: &UnixListener) -> Self {
        loop {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut fastpath = Self {
                stream,
                state: proto::State::default(),
            };
            let Ok(Some(hello)) = frame::read::<proto::ToFastpath>(&mut fastpath.stream) else {
                continue;
            };
            assert!(matches!(hello.body, Some(To::Hello(_))));
            let welcome = From::Welcome(proto::Welcome {
                protocol: contract::PROTOCOL,
                needs_snapshot: true,
                ..Default::default()
            });
            let welcome = proto::FromFastpath { body: Some(welcome) };
            if frame::write(&mut fastpath.stream, &welcome).is_ok() {
                return fastpath;
            }
        }
    }

    pub fn receive(&mut self) -> To {
        frame::read::<proto::ToFastpath>(&mut self.stream)
            .unwrap()
            .unwrap()
            .body
            .unwrap()
    }

    pub fn send(&mut self, body: From) {
        frame::write(&mut self.stream, &proto::FromFastpath { body: Some(body) }).unwrap();
    }

    /// Takes the next version, acknowledges it and returns the names of its ports.
    pub fn next(&mut self) -> Vec<String> {
        self.state = match self.receive() {
            To::Snapshot(state) => state,
            To::Delta(delta) => merge::apply(&self.state, &delta).unwrap(),
            To::Hello(_) => panic!("a second Hello"),
        };
        self.send(From::Applied(proto::Applied {
            version: self.state.version,
            ..Default::default()
        }));
        self.state.ports.iter().map(|port| port.name.clone()).collect()
    }
}

/// What its status socket tells.
pub fn status(directory: &Path) -> serde_json::Value {
    let mut text = String::new();
    UnixStream::connect(directory.join("status.sock"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str(&text).unwrap()
}
