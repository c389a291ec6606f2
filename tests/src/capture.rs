//! Captures of the golden cases: pcapng in and out, by the `pcap-file` crate, which our own reader and writer are thus held against.

use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Name of the interface, which is the port.
    pub port: String,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

/// The bytes of a pcapng file with these frames, an interface per port in the order of their first frame.
pub fn write(frames: &[Captured]) -> Result<Vec<u8>> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), Endianness::Little)?;
    let mut ports: Vec<&str> = Vec::new();
    for frame in frames {
        if ports.contains(&frame.port.as_str()) {
            continue;
        }
        ports.push(&frame.port);
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(frame.port.as_str().into()),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        })?;
    }
    for frame in frames {
        let interface = ports
            .iter()
            .position(|port| *port == frame.port)
            .context("listed above")?;
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: interface as u32,
            timestamp: Duration::from_nanos(frame.time_ns),
            original_len: frame.frame.len() as u32,
            data: frame.frame.as_slice().into(),
            options: Vec::new(),
        })?;
    }
    Ok(writer.into_inner())
}

/// The frames of the pcapng file at `path`.
pub fn read(path: &Path) -> Result<Vec<Captured>> {
    let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    parse(&bytes).with_context(|| format!("{}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Captured>> {
    let mut reader = PcapNgReader::new(Cursor::new(bytes))?;
    let mut ports = Vec::new();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(interface) => {
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                ports.push(name.context("an interface without a name")?);
            }
            Block::EnhancedPacket(packet) => frames.push(Captured {
                port: ports
                    .get(packet.interface_id as usize)
                    .context("a packet of no interface")?
                    .clone(),
                time_ns: u64::try_from(packet.timestamp.as_nanos())?,
                frame: packet.data.into_owned(),
            }),
            _ => {}
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let frame = |port: &str, time_ns, byte| Captured {
            port: port.into(),
            time_ns,
            frame: vec![byte; 61],
        };
        let frames = [
            frame("uplink", 1_700_000_000_000_000_001, 1),
            frame("pod:default/a", 1_700_000_000_000_000_002, 2),
            frame("uplink", 1_700_000_000_000_000_003, 3),
        ];
        assert_eq!(parse(&write(&frames).unwrap()).unwrap(), frames);
    }
}
