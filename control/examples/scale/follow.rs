//! `ringway-control` between an API server of the whole size and a fastpath that takes what it is sent.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use contract::{frame, proto};
use proto::from_fastpath::Body as From;
use proto::to_fastpath::Body as To;
use serde_json::json;

use crate::cluster::{LOCAL, Size};
use crate::memory_mib;
use crate::server::Server;

/// How many endpoints change, one after another.
const CHANGES: usize = 40;

/// The daemon, ended with us.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn follow(size: Size) {
    let mut server = Server::start(size);
    let directory = tempfile::tempdir().expect("a temporary folder");
    let kubeconfig = directory.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n",
        server.address
    );
    fs::write(&kubeconfig, text).expect("a file of ours");
    let socket = directory.path().join("fastpath.sock");
    let listener = UnixListener::bind(&socket).expect("a socket of ours");
    let began = Instant::now();
    let child = Command::new(program())
        .args(["--node", LOCAL, "--uplink", "lo", "--kubeconfig"])
        .arg(&kubeconfig)
        .arg("--fastpath-socket")
        .arg(&socket)
        .arg("--run-dir")
        .arg(directory.path().join("run"))
        .env("RINGWAY_LOG", "error")
        .spawn()
        .expect("ringway-control beside this program's folder: build it with the same profile");
    let control = Control(child);
    let process = control.0.id().to_string();

    let (mut stream, _) = listener.accept().expect("control connects");
    let first = receive(&mut stream);
    assert!(matches!(first, To::Hello(_)), "{first:?}");
    send(
        &mut stream,
        From::Welcome(proto::Welcome {
            protocol: contract::PROTOCOL,
            needs_snapshot: true,
            ..proto::Welcome::default()
        }),
    );
    let To::Snapshot(state) = receive(&mut stream) else {
        panic!("a snapshot comes first");
    };
    let (ready_s, ready_cpu_s) = (began.elapsed().as_secs_f64(), cpu(&process));
    let ready_mib = memory_mib(&process, "VmRSS");
    applied(&mut stream, state.version);

    // Watches begin when lists end.
    while server.watched() < 6 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = cpu(&process);
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|change| {
            let began = Instant::now();
            // Every Service once, so that each change is one.
            server.change_slice(change % size.services, false);
            let To::Delta(delta) = receive(&mut stream) else {
                panic!("a delta after the snapshot");
            };
            let time = began.elapsed();
            assert_eq!(delta.changes.len(), 1, "one endpoint, one change");
            applied(&mut stream, delta.version);
            time
        })
        .collect();
    let change_cpu_ms = (cpu(&process) - before) * 1e3 / CHANGES as f64;
    times.sort();
    let ms = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let line = json!({
        "pods": size.pods, "ready_s": ready_s, "ready_cpu_s": ready_cpu_s, "ready_mib": ready_mib,
        "change_ms_median": ms(CHANGES / 2), "change_ms_max": ms(CHANGES - 1), "change_cpu_ms": change_cpu_ms,
        "end_mib": memory_mib(&process, "VmRSS"), "peak_mib": memory_mib(&process, "VmHWM"),
    });
    println!("{line}");
}

/// `target/PROFILE/ringway-control`, beside the folder of examples.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a path of our own");
    own.parent()
        .and_then(|folder| folder.parent())
        .map(|folder| folder.join("ringway-control"))
        .unwrap_or_default()
}

fn receive(stream: &mut UnixStream) -> To {
    let message = frame::read::<proto::ToFastpath>(stream)
        .expect("a whole message")
        .expect("control lives");
    message.body.expect("a message that we know")
}

fn send(stream: &mut UnixStream, body: From) {
    frame::write(stream, &proto::FromFastpath { body: Some(body) }).expect("control lives");
}

fn applied(stream: &mut UnixStream, version: u64) {
    send(
        stream,
        From::Applied(proto::Applied {
            version,
            ..proto::Applied::default()
        }),
    );
}

/// CPU time of a process, all threads, seconds.
fn cpu(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // The name in brackets may hold anything; user and system time are fields 14 and 15, the 12th and 13th after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_S
}

/// `USER_HZ`, which is 100 on every architecture that we build for.
const TICKS_PER_S: f64 = 100.0;
