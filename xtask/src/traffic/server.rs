//! The serving side.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{Bytes, PIECE, Receipt, hexadecimal};

/// A client that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bound sockets of both protocols, for both families.
pub(super) struct Bound {
    tcp: TcpListener,
    udp: Vec<UdpSocket>,
}

pub(super) fn serve(name: &str, tcp: u16, udp: u16, udp_addresses: &[IpAddr]) -> Result<()> {
    let bound = bind(tcp, udp, udp_addresses)?;
    println!("ready");
    io::stdout().flush()?;
    bound.serve(name);
    Ok(())
}

pub(super) fn bind(tcp: u16, udp: u16, udp_addresses: &[IpAddr]) -> Result<Bound> {
    let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = if udp_addresses.is_empty() {
        &everywhere
    } else {
        udp_addresses
    };
    let bind_udp = |address: &IpAddr| {
        UdpSocket::bind((*address, udp)).with_context(|| format!("binding UDP {udp} of {address}"))
    };
    Ok(Bound {
        tcp: TcpListener::bind((Ipv6Addr::UNSPECIFIED, tcp)).with_context(|| format!("binding TCP {tcp}"))?,
        udp: addresses.iter().map(bind_udp).collect::<Result<_>>()?,
    })
}

impl Bound {
    #[cfg(test)]
    pub(super) fn tcp_port(&self) -> io::Result<u16> {
        Ok(self.tcp.local_addr()?.port())
    }

    #[cfg(test)]
    pub(super) fn udp_port(&self) -> io::Result<u16> {
        Ok(self.udp.first().expect("one is bound").local_addr()?.port())
    }

    /// Serves for ever.
    pub(super) fn serve(&self, name: &str) {
        thread::scope(|scope| {
            for socket in &self.udp {
                scope.spawn(|| echo(socket, name));
            }
            for client in self.tcp.incoming().flatten() {
                // What goes wrong with a client, the client reports.
                scope.spawn(move || exchange(&client, name));
            }
        });
    }
}

fn exchange(client: &TcpStream, name: &str) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let seen_as = plain(client.peer_addr()?);
    let mut input = BufReader::with_capacity(PIECE, client);
    let (mut length, mut seed) = ([0; 8], [0; 8]);
    input.read_exact(&mut length)?;
    input.read_exact(&mut seed)?;
    let (length, seed) = (u64::from_be_bytes(length), u64::from_be_bytes(seed));

    let mut digest = Sha256::new();
    io::copy(&mut input.take(length), &mut digest)?;
    let receipt = Receipt {
        server: name.to_owned(),
        seen_as,
        sha256: hexadecimal(digest),
    };
    let mut output = client;
    output.write_all(&line(&receipt))?;
    let mut bytes = Bytes::new(seed.wrapping_add(1), length);
    while let Some(piece) = bytes.next_piece() {
        output.write_all(piece)?;
    }
    Ok(())
}

fn echo(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; PIECE];
    loop {
        // An error here is a port-unreachable about an earlier answer.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let data = buffer.get(..length).unwrap_or_default();
        let digest = Sha256::new_with_prefix(data);
        let receipt = Receipt {
            server: name.to_owned(),
            seen_as: plain(from),
            sha256: hexadecimal(digest),
        };
        let mut answer = line(&receipt);
        answer.extend_from_slice(data);
        // A client that is gone needs no answer.
        let _ = socket.send_to(&answer, from);
    }
}

fn line(receipt: &Receipt) -> Vec<u8> {
    let mut line = serde_json::to_vec(receipt).unwrap_or_default();
    line.push(b'\n');
    line
}

/// An IPv4 client on a socket of both families, as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
