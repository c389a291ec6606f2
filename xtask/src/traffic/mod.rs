//! Traffic of the demo over real sockets: bytes both ways whose SHA-256 is compared, and datagrams that are echoed.
//!
//! A TCP exchange: the client sends a header (length and seed, 8 bytes each, big-endian) and that many bytes made from the
//! seed; the server answers with a [`Receipt`] (a JSON line) and as many bytes made from the seed plus one.
//! A datagram is answered by a datagram with a receipt line and the same bytes.

mod client;
mod server;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) use self::client::Outcome;

/// A role in an exchange.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Traffic {
    /// Serve TCP and UDP until killed. Prints `ready` when both are bound
    Serve {
        /// How the server calls itself in receipts
        #[arg(long)]
        name: String,
        /// TCP port
        #[arg(long)]
        tcp: u16,
        /// UDP port
        #[arg(long)]
        udp: u16,
        /// Addresses to serve UDP on, where answers must come from one of several; every one unless given
        #[arg(long)]
        udp_address: Vec<IpAddr>,
    },
    /// Exchange bytes over TCP connections, one after another. Prints an outcome (a JSON line) for each
    Tcp(client::Options),
    /// Exchange datagrams, each from a socket of its own. Prints an outcome (a JSON line) for each
    Udp(client::Options),
}

/// What a server saw of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) server: String,
    /// The client's address as the server saw it.
    pub(crate) seen_as: SocketAddr,
    /// SHA-256 of what came, in hexadecimal.
    pub(crate) sha256: String,
}

/// Plays a role.
pub(crate) fn run(role: &Traffic) -> anyhow::Result<()> {
    match role {
        Traffic::Serve {
            name,
            tcp,
            udp,
            udp_address,
        } => server::serve(name, *tcp, *udp, udp_address),
        Traffic::Tcp(options) => client::run(options, client::tcp),
        Traffic::Udp(options) => client::run(options, client::udp),
    }
}

/// `length` bytes that follow from `seed`, in pieces.
struct Bytes {
    state: u64,
    left: u64,
    piece: Vec<u8>,
}

/// Bytes made and written at once.
const PIECE: usize = 64 << 10;

impl Bytes {
    fn new(seed: u64, length: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            left: length,
            piece: Vec::new(),
        }
    }

    /// The next piece; none at the end.
    fn next_piece(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        let length = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        self.piece.clear();
        while self.piece.len() < length {
            // xorshift64
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.piece.extend_from_slice(&self.state.to_be_bytes());
        }
        self.piece.truncate(length);
        self.left -= length as u64;
        Some(&self.piece)
    }

    /// SHA-256 of all bytes, in hexadecimal.
    fn digest(mut self) -> String {
        let mut digest = Sha256::new();
        while let Some(piece) = self.next_piece() {
            digest.update(piece);
        }
        hexadecimal(digest)
    }

    /// All bytes at once, for a datagram.
    fn collect(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = self.next_piece() {
            all.extend_from_slice(piece);
        }
        all
    }
}

fn hexadecimal(digest: Sha256) -> String {
    let mut text = String::new();
    for byte in digest.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};
    use std::time::Duration;

    use super::*;

    fn server() -> (SocketAddr, SocketAddr) {
        let bound = server::bind(0, 0, &[]).unwrap();
        let at = |port| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let addresses = (at(bound.tcp_port().unwrap()), at(bound.udp_port().unwrap()));
        std::thread::spawn(move || bound.serve("here"));
        addresses
    }

    #[test]
    fn an_exchange_reports_who_served_and_as_whom_it_came() {
        let (tcp, udp) = server();
        let patience = Duration::from_secs(10);
        for (exchange, to, bytes) in [
            (client::tcp as client::Exchange, tcp, 200_001),
            (client::udp as client::Exchange, udp, 1200),
        ] {
            let receipt = exchange(to, bytes, 7, patience).unwrap();
            assert_eq!(receipt.server, "here");
            assert_eq!(receipt.seen_as.ip(), Ipv6Addr::LOCALHOST);
        }
    }

    #[test]
    fn bytes_depend_on_the_seed_and_have_the_length() {
        assert_eq!(Bytes::new(1, 100_003).collect().len(), 100_003);
        assert_eq!(Bytes::new(1, 1000).digest(), Bytes::new(1, 1000).digest());
        assert_ne!(Bytes::new(1, 1000).digest(), Bytes::new(2, 1000).digest());
    }
}
