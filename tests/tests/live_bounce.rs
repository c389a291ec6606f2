//! One flow whose packets come to two workers in turn: the CPU that sends chooses the queue (XPS), and the sender changes its CPU
//! with every packet. A queue is a worker.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;
use tests::interop::{one_backend, scapy, text};
use tests::live::lab::{Lab, PATIENCE, succeed};
use tests::live::traffic::say;
use tests::live::wait;

const CLIENT: &str = "default/client";
const SERVER: &str = "default/api-0";
/// Exchanges of each kind.
const EXCHANGES: u64 = 1000;

fn up(test: &str) -> Option<Lab> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIPPED: one CPU sends by one queue");
        return None;
    }
    let lab = Lab::up_with(test, &["--workers", "2", "--queues", "2"], |state| {
        one_backend(state, ["10.244.1.11", "fd00:10:244:1::11"]);
    })?;
    for place in [CLIENT, SERVER] {
        for (queue, mask) in [(0, 1), (1, 2)] {
            let file = format!("/sys/class/net/eth0/queues/tx-{queue}/xps_cpus");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &lab.netns(place), "sh", "-c"]);
            command.arg(format!("echo {mask} > {file}"));
            succeed(&command.output().expect("ip is there"), "setting XPS");
        }
    }
    Some(lab)
}

/// This thread goes on on that CPU.
fn move_to(cpu: u64) {
    let mut cpus = CpuSet::new();
    cpus.set((cpu % 2) as usize).expect("a small number");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("two CPUs");
}

/// What each worker of node-a received.
fn received(lab: &Lab) -> Vec<u64> {
    let status = lab.status("node-a");
    let workers = status["workers"].as_array().expect("a table").iter();
    workers.map(|row| row["rx"].as_u64().expect("a count")).collect()
}

/// Both workers took part, about equally: at least a third each.
#[track_caller]
fn assert_shared(lab: &Lab, before: &[u64], least: u64) {
    let after = received(lab);
    let each: Vec<u64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    let all: u64 = each.iter().sum();
    assert!(each.len() == 2 && all >= least, "{each:?}");
    assert!(each.iter().all(|worker| worker * 3 >= all), "{each:?}");
}

/// Flows from this port of the client, as `ringway flows` lists them.
fn flows_from(lab: &Lab, from: SocketAddr) -> Vec<Value> {
    let answer = lab.ask("node-a", "flows").expect("fastpath answers");
    let rows = answer["flows"].as_array().expect("a list of flows");
    let starts = format!(" {from} > ");
    rows.iter()
        .filter(|row| row["orig"].as_str().expect("a tuple").contains(&starts))
        .cloned()
        .collect()
}

/// What was dropped of the traffic: not what the pods' kernels tell their link by themselves (MLD, router solicitations).
fn drops(lab: &Lab) -> Vec<Value> {
    let mut drops = lab.status("node-a")["drops"].as_array().expect("a list").clone();
    drops.retain(|drop| drop["reason"] != "not-for-us");
    drops
}

/// Echoes datagrams, each from the other CPU.
fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    let (mut bytes, mut number) = ([0; 2048], 0);
    while !stop.load(Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            number += 1;
            // Every second answer by the queue that the question did not come by.
            move_to(number / 2);
            let _ = socket.send_to(&bytes[..len], from);
        }
    }
}

/// One numbered datagram and its echo; false when none comes.
fn ask(socket: &UdpSocket, to: SocketAddr, number: u64) -> bool {
    socket.send_to(&number.to_be_bytes(), to).expect("sent");
    let mut answer = [0; 8];
    // What was late for an earlier question is not the answer to this one.
    while let Ok((8, _)) = socket.recv_from(&mut answer) {
        if u64::from_be_bytes(answer) == number {
            return true;
        }
    }
    false
}

#[test]
fn datagrams_of_one_flow_by_two_workers_through_a_service() {
    let Some(lab) = up("bounce-udp") else { return };
    for (any, server, vip, own) in [
        (
            "0.0.0.0:7100",
            "10.244.1.11:8081",
            "10.96.0.10:7",
            "10.244.1.10:7100",
        ),
        (
            "[::]:7100",
            "[fd00:10:244:1::11]:8081",
            "[fd00:10:96::10]:7",
            "[fd00:10:244:1::10]:7100",
        ),
    ] {
        let (vip, own): (SocketAddr, SocketAddr) = (vip.parse().unwrap(), own.parse().unwrap());
        let server = lab
            .within(SERVER, || UdpSocket::bind(server))
            .expect("the pod's address");
        // Not connected: a connected socket would stay on its queue.
        let client = lab.within(CLIENT, || UdpSocket::bind(any)).expect("a free port");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| echo(&server, &stop));
            let stopping = Stop(&stop);
            let (before, dropped) = (received(&lab), drops(&lab));
            for number in 0..EXCHANGES {
                move_to(number);
                assert!(
                    ask(&client, vip, number),
                    "datagram {number} to {vip}: {:?}",
                    drops(&lab)
                );
            }
            assert_shared(&lab, &before, EXCHANGES * 2);
            assert_eq!(drops(&lab), dropped);
            let flows = flows_from(&lab, own);
            assert_eq!(flows.len(), 1, "one flow, not one for each worker: {flows:?}");

            // Policy cuts the flow and admits it again, for both workers.
            let path = lab.state().join("30-policies.yaml");
            let policies = fs::read_to_string(&path).expect("the lab's copy");
            client
                .set_read_timeout(Some(Duration::from_millis(200)))
                .expect("a timeout");
            write_whole(&path, &policies.replace("values: [client, api]", "values: [api]"));
            let mut number = EXCHANGES;
            let mut next = || {
                number += 1;
                move_to(number);
                ask(&client, vip, number)
            };
            wait::until("policy to cut the flow at both workers", PATIENCE, || {
                !next() && !next() && !next()
            });
            write_whole(&path, &policies);
            wait::until("policy to admit the flow again", PATIENCE, || {
                next() && next() && next() && next()
            });
            assert_eq!(flows_from(&lab, own).len(), 1);
            drop(stopping);
        });
    }
    lab.assert_conservation();
}

#[test]
fn a_connection_by_two_workers_through_a_service() {
    let Some(lab) = up("bounce-tcp") else { return };
    for (server, vip) in [
        ("10.244.1.11:8080", "10.96.0.10:80"),
        ("[fd00:10:244:1::11]:8080", "[fd00:10:96::10]:80"),
    ] {
        let vip: SocketAddr = vip.parse().unwrap();
        let listener = lab
            .within(SERVER, || TcpListener::bind(server))
            .expect("the pod's address");
        let stream = lab
            .within(CLIENT, || TcpStream::connect_timeout(&vip, PATIENCE))
            .expect("a connection");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let own = stream.local_addr().expect("connected");
        let (mut served, _) = listener.accept().expect("a client");
        served.set_nodelay(true).expect("an option");
        thread::scope(|scope| {
            scope.spawn(move || {
                use std::io::{Read as _, Write as _};
                let (mut bytes, mut number) = ([0; 8], 0);
                while served.read_exact(&mut bytes).is_ok() {
                    number += 1;
                    move_to(number / 2);
                    served.write_all(&bytes).expect("the client reads");
                }
            });
            let before = received(&lab);
            for number in 0..EXCHANGES {
                // Nothing is under way: the kernel chooses the queue anew.
                move_to(number);
                say(&stream, number).unwrap_or_else(|error| panic!("{number} to {vip}: {error}"));
            }
            assert_shared(&lab, &before, EXCHANGES * 2);
            let flows = flows_from(&lab, own);
            assert_eq!(flows.len(), 1, "one flow, not one for each worker: {flows:?}");
            drop(stream);
        });
    }
    lab.assert_conservation();
}

#[test]
fn the_parts_of_a_datagram_by_two_workers_through_a_service() {
    const DATAGRAMS: usize = 200;
    let Some(lab) = up("bounce-parts") else { return };
    let Some(python) = scapy::python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/bounce.py");
    for (own, server, vip) in [
        ("10.244.1.10", "10.244.1.11:8081", "10.96.0.10"),
        ("fd00:10:244:1::10", "[fd00:10:244:1::11]:8081", "fd00:10:96::10"),
    ] {
        let server = lab
            .within(SERVER, || UdpSocket::bind(server))
            .expect("the pod's address");
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (before, dropped) = (received(&lab), drops(&lab));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.netns(CLIENT)]);
        command
            .arg(python)
            .arg(&script)
            .args([own, vip, "7", &DATAGRAMS.to_string()]);
        let mut numbers = thread::scope(|scope| {
            let sending = scope.spawn(|| command.output());
            let numbers: Vec<usize> = (0..DATAGRAMS).map(|_| numbered(&lab, &server)).collect();
            let output = sending.join().expect("no panic").expect("ip is there");
            assert!(output.status.success(), "{}", text(&output));
            numbers
        });
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..DATAGRAMS), "each once");
        assert_shared(&lab, &before, DATAGRAMS as u64 * 2);
        assert_eq!(drops(&lab), dropped);
    }
    lab.assert_conservation();
}

/// The number of the next datagram of `bounce.py`, all of whose bytes are right.
fn numbered(lab: &Lab, server: &UdpSocket) -> usize {
    let mut bytes = [0; 2048];
    let (len, _) = server
        .recv_from(&mut bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", lab.status("node-a")));
    let number: usize = std::str::from_utf8(&bytes[..6]).unwrap().parse().unwrap();
    let rest = (0..994).map(|at| (number * 7 + at) as u8);
    assert!(
        len == 1000 && bytes[6..1000].iter().copied().eq(rest),
        "datagram {number}"
    );
    number
}

/// Control never sees half of a file.
fn write_whole(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("the lab's state");
    fs::rename(&beside, path).expect("the lab's state");
}

/// Ends the echo, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
