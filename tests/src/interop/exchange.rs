//! Real sockets in a lab: pings, TCP transfers and datagrams, every byte compared.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::{exec, text};
use crate::live::Lab;

/// No answer for so long is none. Long: a machine that builds and tests at once stalls for seconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Three pings of so many bytes from a node or pod; each must be answered.
///
/// # Panics
/// When one is not.
#[track_caller]
pub fn ping(lab: &Lab, from: &str, to: &str, size: usize) {
    let size = size.to_string();
    let output = exec(
        lab,
        from,
        "ping",
        &["-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", &size, to],
    );
    assert!(
        output.status.success() && text(&output).contains(" 0% packet loss"),
        "{from} pings {to} with {size} bytes: {}",
        text(&output)
    );
}

/// Sends `len` bytes from client to server over TCP and as many others back, and compares all of them. Gives the client's
/// address as the server saw it.
///
/// # Panics
/// When a connection can't be made or a byte is not as it was sent.
#[track_caller]
pub fn tcp(lab: &Lab, client: &str, server: &str, to: SocketAddr, len: usize) -> IpAddr {
    let listener = lab
        .within(server, || TcpListener::bind((any(to.is_ipv4()), to.port())))
        .unwrap_or_else(|error| panic!("{server} listens on {}: {error}", to.port()));
    let seen = thread::scope(|scope| {
        let serving = scope.spawn(|| -> std::io::Result<(IpAddr, Vec<u8>)> {
            let (mut stream, peer) = accept(&listener)?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            stream.write_all(&pattern(len, 2))?;
            stream.shutdown(Shutdown::Write)?;
            Ok((peer.ip(), received))
        });
        let received = lab.within(client, || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&pattern(len, 1))?;
            stream.shutdown(Shutdown::Write)?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            Ok(received)
        });
        let served = serving.join().expect("the server does not panic");
        let (peer, at_server) = match (&received, served) {
            (Ok(_), Ok(served)) => served,
            (client_says, server_says) => panic!(
                "{client} to {server} at {to}: the client says {:?}, the server {:?}",
                client_says.as_ref().map(Vec::len),
                server_says.map(|(_, bytes)| bytes.len())
            ),
        };
        assert!(
            at_server == pattern(len, 1),
            "{server} did not get the bytes of {client}"
        );
        assert!(
            received.is_ok_and(|received| received == pattern(len, 2)),
            "{client} did not get the bytes of {server}"
        );
        peer
    });
    canonical(seen)
}

/// Sends a datagram of each size and takes it back reversed. Gives the client's address as the server saw it.
///
/// # Panics
/// When one is lost or changed.
#[track_caller]
pub fn udp(lab: &Lab, client: &str, server: &str, to: SocketAddr, sizes: &[usize]) -> IpAddr {
    datagrams(lab, client, server, to, sizes, 1)
}

/// The same where a sender's link takes more than some link behind it: it learns that from the first datagram, which is lost.
///
/// # Panics
/// When the next one of that size is lost too, or one is changed.
#[track_caller]
pub fn udp_learning(lab: &Lab, client: &str, server: &str, to: SocketAddr, sizes: &[usize]) -> IpAddr {
    datagrams(lab, client, server, to, sizes, 2)
}

#[track_caller]
fn datagrams(
    lab: &Lab,
    client: &str,
    server: &str,
    to: SocketAddr,
    sizes: &[usize],
    attempts: usize,
) -> IpAddr {
    let patience = PATIENCE / attempts as u32 / 2;
    let bind = |place: &str, address: SocketAddr| {
        let socket = lab
            .within(place, || UdpSocket::bind(address))
            .unwrap_or_else(|error| panic!("{place} binds {address}: {error}"));
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        socket
    };
    let (theirs, ours) = (bind(server, to), bind(client, (any(to.is_ipv4()), 0).into()));
    ours.connect(to)
        .unwrap_or_else(|error| panic!("{client} to {to}: {error}"));
    let mut seen = None;
    let mut buffer = vec![0; 65536];
    for (number, size) in sizes.iter().enumerate() {
        let sent = pattern(*size, number as u64);
        let back: Vec<u8> = sent.iter().rev().copied().collect();
        let mut once = || -> std::io::Result<IpAddr> {
            ours.send(&sent)?;
            let (len, peer) = theirs.recv_from(&mut buffer)?;
            assert!(
                buffer[..len] == sent,
                "{server} got {len} bytes, not the {size} of {client}"
            );
            theirs.send_to(&back, peer)?;
            let len = ours.recv(&mut buffer)?;
            assert!(
                buffer[..len] == back,
                "{client} got {len} bytes, not the {size} of {server}"
            );
            Ok(peer.ip())
        };
        let mut result = once();
        for _ in 1..attempts {
            result = result.or_else(|_| once());
        }
        let peer =
            result.unwrap_or_else(|error| panic!("{client} and {server}, {size} bytes at {to}: {error}"));
        seen = Some(peer);
    }
    canonical(seen.expect("a size"))
}

/// Bytes that tell where they belong.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn accept(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let mut accepted = None;
    let deadline = Instant::now() + PATIENCE;
    while accepted.is_none() && Instant::now() < deadline {
        accepted = listener.accept().ok();
        thread::sleep(Duration::from_millis(1));
    }
    let (stream, peer) =
        accepted.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody connects"))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok((stream, peer))
}

fn any(v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
