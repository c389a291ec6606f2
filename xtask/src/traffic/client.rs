//! The asking side.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Bytes, PIECE, Receipt, hexadecimal};

/// What to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Address and port
    to: SocketAddr,
    /// Bytes each way
    #[arg(long, default_value_t = 1000)]
    bytes: u64,
    /// How many exchanges
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Milliseconds after which an exchange has failed
    #[arg(long, default_value_t = 5000)]
    patience_ms: u64,
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Every byte arrived, both ways.
    Served(Receipt),
    /// A reset, or port unreachable.
    Refused,
    /// Nothing came in time.
    Timeout,
    /// Network or host unreachable, or prohibited.
    Unreachable,
    /// Anything else, bytes that differ above all.
    Broken(String),
}

/// One exchange with `to` of so many bytes made from a seed.
pub(super) type Exchange = fn(SocketAddr, u64, u64, Duration) -> io::Result<Receipt>;

pub(super) fn run(options: &Options, exchange: Exchange) -> anyhow::Result<()> {
    for seed in 1..=options.count {
        let patience = Duration::from_millis(options.patience_ms);
        let outcome = match exchange(options.to, options.bytes, seed, patience) {
            Ok(receipt) => Outcome::Served(receipt),
            Err(error) => error_outcome(&error),
        };
        println!("{}", serde_json::to_string(&outcome)?);
        io::stdout().flush()?;
    }
    Ok(())
}

fn error_outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::Timeout,
        // EACCES is ICMP "administratively prohibited".
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied => Outcome::Unreachable,
        _ => Outcome::Broken(error.to_string()),
    }
}

pub(super) fn tcp(to: SocketAddr, length: u64, seed: u64, patience: Duration) -> io::Result<Receipt> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut output = &stream;
    output.write_all(&[length.to_be_bytes(), seed.to_be_bytes()].concat())?;
    let mut bytes = Bytes::new(seed, length);
    while let Some(piece) = bytes.next_piece() {
        output.write_all(piece)?;
    }
    let mut input = BufReader::with_capacity(PIECE, &stream);
    let receipt = receipt(&mut input)?;
    compare("sent", &receipt.sha256, &Bytes::new(seed, length).digest())?;

    let mut digest = Sha256::new();
    io::copy(&mut input.take(length), &mut digest)?;
    let expected = Bytes::new(seed.wrapping_add(1), length).digest();
    compare("received", &hexadecimal(digest), &expected)?;
    Ok(receipt)
}

/// A datagram may be lost: it is sent again each quarter of the patience.
pub(super) fn udp(to: SocketAddr, length: u64, seed: u64, patience: Duration) -> io::Result<Receipt> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some((patience / 4).max(Duration::from_millis(1))))?;
    let data = Bytes::new(seed, length).collect();
    let deadline = Instant::now() + patience;
    let mut buffer = vec![0; PIECE];
    loop {
        socket.send(&data)?;
        match socket.recv(&mut buffer) {
            Ok(received) => {
                let mut answer = buffer.get(..received).unwrap_or_default();
                let receipt = receipt(&mut answer)?;
                compare("sent", &receipt.sha256, &Bytes::new(seed, length).digest())?;
                compare(
                    "received",
                    &hexadecimal(Sha256::new_with_prefix(answer)),
                    &Bytes::new(seed, length).digest(),
                )?;
                return Ok(receipt);
            }
            Err(error) if error_outcome(&error) != Outcome::Timeout || Instant::now() >= deadline => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

fn receipt(input: &mut impl io::BufRead) -> io::Result<Receipt> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "closed before the receipt",
        ));
    }
    Ok(serde_json::from_str(&line)?)
}

fn compare(which: &str, got: &str, expected: &str) -> io::Result<()> {
    if got == expected {
        return Ok(());
    }
    let message = format!("SHA-256 of the bytes {which} is {got}, expected {expected}");
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}
