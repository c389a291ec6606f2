//! Captures: reads what tcpdump wrote, writes one pcapng whose interfaces are a node's ports.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Nanoseconds since 1970.
    pub(crate) time_ns: u64,
    /// Index into the port names.
    pub(crate) port: usize,
    pub(crate) bytes: Vec<u8>,
}

/// Magic of a little-endian pcap with nanoseconds.
const PCAP_NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// Reads a pcap as `tcpdump --time-stamp-precision=nano` writes it on a little-endian machine. A frame that was cut off
/// when tcpdump was ended is left out.
pub(crate) fn read_pcap(path: &Path, port: usize) -> Result<Vec<Frame>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse_pcap(&bytes, port).with_context(|| format!("reading {}", path.display()))
}

fn parse_pcap(bytes: &[u8], port: usize) -> Result<Vec<Frame>> {
    let (header, mut rest) = bytes.split_at_checked(24).context("no pcap header")?;
    let (magic, link_type) = (word(header, 0)?, word(header, 20)?);
    if magic != PCAP_NANOSECONDS || link_type & 0xffff != ETHERNET {
        bail!("magic {magic:#x}, link type {link_type}; expected nanoseconds and Ethernet");
    }
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let captured = word(header, 8)? as usize;
        if captured != word(header, 12)? as usize {
            bail!("a frame was captured in part");
        }
        let Some((frame, after)) = after.split_at_checked(captured) else {
            break;
        };
        let time_ns = u64::from(word(header, 0)?) * 1_000_000_000 + u64::from(word(header, 4)?);
        frames.push(Frame {
            time_ns,
            port,
            bytes: frame.to_vec(),
        });
        rest = after;
    }
    Ok(frames)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).context("cut short")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

/// A little-endian pcapng section: an interface per port with nanosecond stamps, then the frames in order.
pub(crate) fn pcapng(ports: &[String], frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    // Section header: byte order, version 1.0, length unknown.
    block(&mut out, 0x0a0d_0d0a, |body| {
        body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        body.extend_from_slice(&1_u16.to_le_bytes());
        body.extend_from_slice(&0_u16.to_le_bytes());
        body.extend_from_slice(&u64::MAX.to_le_bytes());
    });
    for port in ports {
        block(&mut out, 1, |body| {
            body.extend_from_slice(&1_u16.to_le_bytes()); // Ethernet
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&0_u32.to_le_bytes()); // no limit of length
            option(body, 2, port.as_bytes()); // if_name
            option(body, 9, &[9]); // if_tsresol: 10^-9 s
            option(body, 0, &[]);
        });
    }
    for frame in frames {
        block(&mut out, 6, |body| {
            let length = frame.bytes.len() as u32;
            body.extend_from_slice(&(frame.port as u32).to_le_bytes());
            body.extend_from_slice(&((frame.time_ns >> 32) as u32).to_le_bytes());
            body.extend_from_slice(&(frame.time_ns as u32).to_le_bytes());
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&frame.bytes);
            pad(body);
        });
    }
    out
}

fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    fill(&mut body);
    let length = (body.len() as u32 + 12).to_le_bytes();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&length);
    out.extend_from_slice(&body);
    out.extend_from_slice(&length);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcap(frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [PCAP_NANOSECONDS, 0x0004_0002, 0, 0, 262_144, ETHERNET] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for (seconds, nanoseconds, bytes) in frames {
            for word in [*seconds, *nanoseconds, bytes.len() as u32, bytes.len() as u32] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(bytes);
        }
        out
    }

    #[test]
    fn a_frame_cut_by_the_end_is_left_out() {
        let mut bytes = pcap(&[(1, 5, b"abc"), (2, 0, b"defg")]);
        bytes.pop();
        let frames = parse_pcap(&bytes, 3).unwrap();
        assert_eq!(
            frames,
            [Frame {
                time_ns: 1_000_000_005,
                port: 3,
                bytes: b"abc".to_vec()
            }]
        );
        assert!(parse_pcap(b"not a capture, not at all", 0).is_err());
    }

    /// Offsets by hand, from the format's specification (draft-ietf-opsawg-pcapng).
    #[test]
    fn a_pcapng_names_its_ports_and_pads_to_words() {
        let frame = Frame {
            time_ns: (7 << 32) + 9,
            port: 0,
            bytes: b"abcde".to_vec(),
        };
        let out = pcapng(&["host".to_owned()], &[frame]);
        let at = |at| word(&out, at).unwrap();
        assert_eq!((at(0), at(4), at(8), at(24)), (0x0a0d_0d0a, 28, 0x1a2b_3c4d, 28));
        assert_eq!((at(28), at(32), at(36)), (1, 40, 1), "an interface of Ethernet");
        assert_eq!(&out[44..52], b"\x02\0\x04\0host");
        let packet = 28 + 40;
        assert_eq!(
            (at(packet), at(packet + 4), at(packet + 12), at(packet + 16)),
            (6, 40, 7, 9)
        );
        assert_eq!((at(packet + 20), at(packet + 24)), (5, 5));
        assert_eq!(out.len(), packet + 40);
    }
}
