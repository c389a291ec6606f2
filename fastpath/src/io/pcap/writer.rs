//! Writes pcapng: one little-endian section, enhanced packet blocks, nanoseconds. Equal input gives equal bytes: no clock, no
//! host or program name gets in.

use std::io::{self, Write};

use crate::io::{Frame, Memory};

/// A capture that is being written.
pub struct PcapngWriter<W: Write> {
    out: W,
    interfaces: u32,
    packets: u64,
    block: Vec<u8>,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the section header and an interface for each of `names`, numbered from 0.
    ///
    /// # Errors
    /// `out`'s own, here and below.
    pub fn new<'a>(out: W, names: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let mut writer = Self {
            out,
            interfaces: 0,
            packets: 0,
            block: Vec::with_capacity(2048),
        };
        writer.begin(0x0a0d_0d0a);
        writer.words(&[0x1a2b_3c4d, 1 /* version 1.0 */]);
        writer.block.extend_from_slice(&u64::MAX.to_le_bytes()); // section of unknown length
        writer.end()?;
        for name in names {
            writer.add_interface(name)?;
        }
        Ok(writer)
    }

    /// Adds an Ethernet interface with nanosecond stamps. Returns its number.
    pub fn add_interface(&mut self, name: &str) -> io::Result<u32> {
        self.begin(1);
        self.words(&[1 /* Ethernet */, 0 /* no snaplen */]);
        self.option(2, name.as_bytes());
        self.option(9, &[9]);
        self.option(0, &[]);
        self.end()?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet. Returns its number in the file, from 1.
    ///
    /// # Panics
    /// When `interface` was not added.
    pub fn write(
        &mut self,
        interface: u32,
        timestamp_ns: u64,
        bytes: &[u8],
        comment: Option<&str>,
    ) -> io::Result<u64> {
        self.write_segments(
            interface,
            timestamp_ns,
            std::iter::once(bytes),
            bytes.len(),
            comment,
        )
    }

    /// Writes a frame with its own timestamp. Returns its number in the file, from 1.
    ///
    /// # Panics
    /// When `interface` was not added.
    pub fn write_frame(
        &mut self,
        interface: u32,
        memory: &Memory,
        frame: &Frame,
        comment: Option<&str>,
    ) -> io::Result<u64> {
        self.write_segments(
            interface,
            frame.timestamp_ns,
            memory.segments(frame),
            frame.len(),
            comment,
        )
    }

    /// Packets written.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Writes out what is buffered below.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The output, flushed.
    pub fn into_inner(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_segments<'a>(
        &mut self,
        interface: u32,
        timestamp_ns: u64,
        segments: impl Iterator<Item = &'a [u8]>,
        len: usize,
        comment: Option<&str>,
    ) -> io::Result<u64> {
        assert!(
            interface < self.interfaces,
            "interface {interface} of {}",
            self.interfaces
        );
        self.begin(6);
        self.words(&[
            interface,
            (timestamp_ns >> 32) as u32,
            timestamp_ns as u32,
            len as u32,
            len as u32,
        ]);
        segments.for_each(|segment| self.block.extend_from_slice(segment));
        self.pad();
        if let Some(comment) = comment {
            self.option(1, comment.as_bytes());
            self.option(0, &[]);
        }
        self.end()?;
        self.packets += 1;
        Ok(self.packets)
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.words(&[kind, 0 /* length, known at the end */]);
    }

    /// Puts the block's length at both of its ends and writes it.
    fn end(&mut self) -> io::Result<()> {
        let len = (self.block.len() as u32 + 4).to_le_bytes();
        self.block[4..8].copy_from_slice(&len);
        self.block.extend_from_slice(&len);
        self.out.write_all(&self.block)
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.block.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// An option; a value beyond what its length field can say is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.words(&[u32::from(code) | (value.len() as u32) << 16]);
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, path::Path};

    use super::*;
    use crate::io::pcap::{CaptureError, CaptureReader, Record};

    fn sample() -> Vec<u8> {
        let mut writer = PcapngWriter::new(Vec::new(), ["uplink", "pod:default/web"]).unwrap();
        assert_eq!(
            writer
                .write(1, 1_700_000_000_123_456_789, b"abcde", Some("tx"))
                .unwrap(),
            1
        );
        assert_eq!(writer.write(0, 7, b"", None).unwrap(), 2);
        writer.into_inner().unwrap()
    }

    fn reader(bytes: Vec<u8>) -> CaptureReader {
        CaptureReader::new(Box::new(Cursor::new(bytes)), Path::new("x.pcapng")).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut reader = reader(sample());
        let mut record = Record::default();
        assert!(reader.read_into(&mut record).unwrap());
        assert_eq!(record.timestamp_ns, 1_700_000_000_123_456_789);
        assert_eq!(
            (record.bytes.as_slice(), record.comment.as_deref()),
            (&b"abcde"[..], Some("tx"))
        );
        assert_eq!(
            reader.interfaces()[record.interface].name.as_deref(),
            Some("pod:default/web")
        );
        assert!(reader.read_into(&mut record).unwrap());
        assert_eq!(
            (record.interface, record.bytes.len(), record.comment.as_ref()),
            (0, 0, None)
        );
        assert!(!reader.read_into(&mut record).unwrap());
        assert_eq!(sample(), sample(), "equal input, equal bytes");
    }

    /// Every cut of the file is an error that names the packet, but for cuts between blocks.
    #[test]
    fn a_file_cut_anywhere_names_the_packet() {
        let whole = sample();
        let mut clean_ends = 0;
        for len in 28..whole.len() {
            let mut reader = reader(whole[..len].to_vec());
            let mut record = Record::default();
            let mut packets = 0;
            let end = loop {
                match reader.read_into(&mut record) {
                    Ok(true) => packets += 1,
                    end => break end,
                }
            };
            match end {
                Ok(_) => clean_ends += 1,
                Err(CaptureError::Truncated { packet, .. }) => assert_eq!(packet, packets + 1),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(
            clean_ends, 4,
            "after the section header, two interfaces, one packet"
        );
    }

    #[test]
    fn timestamps_follow_the_resolution_of_their_interface() {
        // The second interface's if_tsresol, patched: microseconds, milliseconds, 2^-10 seconds.
        for (resolution, expected) in [(6_u8, 5_000_u64), (3, 5_000_000), (0x8a, 5_000_000_000 / 1024)] {
            let mut writer = PcapngWriter::new(Vec::new(), ["a"]).unwrap();
            writer.write(0, 5, b"x", None).unwrap();
            let mut file = writer.into_inner().unwrap();
            let at = file
                .windows(5)
                .position(|bytes| bytes == [9, 0, 1, 0, 9])
                .unwrap();
            file[at + 4] = resolution;
            let mut record = Record::default();
            assert!(reader(file).read_into(&mut record).unwrap());
            assert_eq!(record.timestamp_ns, expected);
        }
    }
}
