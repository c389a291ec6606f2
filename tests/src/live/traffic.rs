//! Real sockets that talk until they are told to stop, and remember every gap.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lab::{Lab, PATIENCE};

/// How often a quiet socket looks whether it should stop.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Echoes what every TCP connection to `address` says. Lives until the test's process ends.
///
/// # Panics
/// When it can't listen there.
pub fn tcp_echo(lab: &Lab, place: &str, address: &str) {
    let listener = lab
        .within(place, || TcpListener::bind(address))
        .expect("the address is the pod's");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Answers every datagram to `address` with the same bytes. Lives until the test's process ends.
///
/// # Panics
/// When it can't bind there.
pub fn udp_echo(lab: &Lab, place: &str, address: &str) {
    let socket = lab
        .within(place, || UdpSocket::bind(address))
        .expect("the address is the pod's");
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
}

/// A TCP connection made in `place`.
///
/// # Panics
/// When nobody answers.
pub fn connect(lab: &Lab, place: &str, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().expect("ADDRESS:PORT");
    let stream = lab.within(place, || TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.unwrap_or_else(|error| panic!("{place} to {to}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// Sends a number and waits for its echo.
///
/// # Errors
/// The connection's, a timeout included.
pub fn say(mut stream: &TcpStream, number: u64) -> std::io::Result<()> {
    stream.write_all(&number.to_be_bytes())?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    assert_eq!(u64::from_be_bytes(answer), number, "an echo of other bytes");
    Ok(())
}

/// Datagrams with rising numbers to an echo, a steady pace, until stopped.
#[derive(Debug)]
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    receiver: JoinHandle<Vec<(u64, Instant)>>,
    sender: JoinHandle<Vec<Instant>>,
}

/// What became of a stream's datagrams.
#[derive(Debug)]
pub struct Heard {
    /// When each was sent, by number.
    pub sent: Vec<Instant>,
    /// Numbers whose echo came, and when, in that order.
    pub echoes: Vec<(u64, Instant)>,
}

impl Heard {
    /// Numbers whose echo did not come.
    pub fn lost(&self) -> Vec<u64> {
        let mut heard = vec![false; self.sent.len()];
        for (number, _) in &self.echoes {
            heard[*number as usize] = true;
        }
        (0..)
            .zip(heard)
            .filter(|(_, heard)| !heard)
            .map(|(number, _)| number)
            .collect()
    }

    /// How long after `since` the first datagram left from which on every one was answered; none when the last was not.
    pub fn right_again_after(&self, since: Instant) -> Option<Duration> {
        let from = self
            .lost()
            .into_iter()
            .filter(|number| self.sent[*number as usize] >= since)
            .max();
        let after = from.map_or(since, |number| self.sent[number as usize]);
        let first = self.sent.iter().find(|at| **at > after)?;
        Some(*first - since)
    }
}

impl UdpStream {
    /// Starts one from `place` to `to`, a datagram each `pace`.
    ///
    /// # Panics
    /// When the socket can't be made.
    pub fn start(lab: &Lab, place: &str, to: &str, pace: Duration) -> Self {
        let to: SocketAddr = to.parse().expect("ADDRESS:PORT");
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = lab.within(place, || UdpSocket::bind(any)).expect("any port");
        socket.connect(to).expect("a route");
        socket.set_read_timeout(Some(LOOK_UP)).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let receiving = socket.try_clone().expect("a second descriptor");
        let receiver_stop = Arc::clone(&stop);
        let receiver = thread::spawn(move || receive(&receiving, &receiver_stop));
        let sender_stop = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut sent = Vec::new();
            // Relaxed: a flag and nothing else.
            while !sender_stop.load(Ordering::Relaxed) {
                let number = sent.len() as u64;
                sent.push(Instant::now());
                // An error is what an ICMP error left here; the datagram counts as lost.
                let _ = socket.send(&number.to_be_bytes());
                thread::sleep(pace);
            }
            sent
        });
        Self {
            stop,
            receiver,
            sender,
        }
    }

    /// Stops sending, waits for what is under way, and tells what was heard.
    ///
    /// # Panics
    /// When a thread of it did.
    pub fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let echoes = self.receiver.join().expect("the receiver does not panic");
        Heard { sent, echoes }
    }
}

/// Reads echoes until the sender has stopped and a second long nothing came.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Vec<(u64, Instant)> {
    let mut echoes = Vec::new();
    let mut quiet = Instant::now();
    let mut bytes = [0; 64];
    loop {
        match socket.recv(&mut bytes) {
            Ok(8) => {
                quiet = Instant::now();
                let number = bytes[..8].try_into().expect("eight bytes");
                echoes.push((u64::from_be_bytes(number), quiet));
            }
            Ok(len) => panic!("an echo of {len} bytes"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) && quiet.elapsed() > Duration::from_secs(1) {
                    return echoes;
                }
            }
            // An ICMP error about an earlier datagram.
            Err(_) => {}
        }
    }
}

/// `ping` of one target, until stopped.
#[derive(Debug)]
pub struct Ping(super::place::Background);

impl Ping {
    /// Starts one from `place`, 20 echoes a second.
    pub fn start(lab: &Lab, place: &str, to: &str) -> Self {
        Self(lab.start(place, &format!("ping -n -i 0.05 {to}")))
    }

    /// Echoes that were answered so far.
    pub fn answered(&self) -> usize {
        sequence_numbers(&self.0.said()).len()
    }

    /// Stops it and returns the numbers of the echoes that were not answered before another one was.
    pub fn stop(self) -> Vec<u64> {
        let said = self.0.interrupt();
        let heard = sequence_numbers(&said);
        let last = heard.iter().copied().max().unwrap_or(0);
        (1..=last).filter(|number| !heard.contains(number)).collect()
    }
}

fn sequence_numbers(said: &str) -> Vec<u64> {
    let number = |line: &str| {
        let (_, rest) = line.split_once("icmp_seq=")?;
        line.contains("time=")
            .then(|| rest.split(' ').next()?.parse().ok())?
    };
    said.lines().filter_map(number).collect()
}

/// TCP resets that a place sees on its `eth0`, from now on.
#[derive(Debug)]
pub struct Resets(super::place::Background);

impl Resets {
    /// Starts tcpdump and waits until it listens.
    pub fn watch(lab: &Lab, place: &str) -> Self {
        let filter = "(tcp[13]&4!=0)or(ip6[6]=6and(ip6[53]&4!=0))"
            .replace("and", " and ")
            .replace("or", " or ");
        let dump = lab.start(place, &format!("tcpdump --immediate-mode -l -n -i eth0 {filter}"));
        super::wait::until("tcpdump to listen", PATIENCE, || {
            dump.said().contains("listening on")
        });
        Self(dump)
    }

    /// The resets seen, a line each.
    pub fn seen(self) -> Vec<String> {
        let said = self.0.interrupt();
        said.lines()
            .filter(|line| line.contains("Flags [R"))
            .map(str::to_owned)
            .collect()
    }
}
