//! Reads a capture packet by packet, whichever format it has.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{CaptureError, Interface, Record, classic, ng};

/// A capture that is being read. Packets come in the file's order.
pub struct CaptureReader {
    pub(super) input: Input,
    pub(super) interfaces: Vec<Interface>,
    format: Format,
}

enum Format {
    Classic(classic::Header),
    Ng(ng::Section),
}

/// The bytes of a capture, with what errors need to know of it.
pub(super) struct Input {
    bytes: Box<dyn Read + Send>,
    path: PathBuf,
    /// The packet to be read, from 1.
    pub(super) packet: u64,
}

impl CaptureReader {
    /// Opens a capture and reads its header.
    ///
    /// # Errors
    /// [`CaptureError`]: not there, not a capture, or not of Ethernet.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|source| CaptureError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::new(Box::new(BufReader::with_capacity(1 << 18, file)), path)
    }

    /// Reads a capture from `bytes`; errors name it `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(bytes: Box<dyn Read + Send>, path: &Path) -> Result<Self, CaptureError> {
        let mut input = Input {
            bytes,
            path: path.to_owned(),
            packet: 1,
        };
        let mut magic = [0; 4];
        let got = input.fill(&mut magic)?;
        if got < magic.len() {
            return Err(CaptureError::NotACapture {
                path: input.path,
                magic: magic[..got].to_vec(),
            });
        }
        if magic == ng::SECTION_HEADER {
            let (section, interfaces) = (ng::Section::first(&mut input)?, Vec::new());
            return Ok(Self {
                input,
                interfaces,
                format: Format::Ng(section),
            });
        }
        let Some((header, interface)) = classic::Header::read(&mut input, magic)? else {
            return Err(CaptureError::NotACapture {
                path: input.path,
                magic: magic.to_vec(),
            });
        };
        Ok(Self {
            input,
            interfaces: vec![interface],
            format: Format::Classic(header),
        })
    }

    /// Interfaces seen so far: pcapng may tell of more between packets.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Reads the next packet into `record`, whose memory is used again. `false` at the end of the file.
    ///
    /// # Errors
    /// [`CaptureError`] with the number of the packet; the reader is of no use afterwards.
    pub fn read_into(&mut self, record: &mut Record) -> Result<bool, CaptureError> {
        let more = match &mut self.format {
            Format::Classic(header) => header.read_packet(&mut self.input, &self.interfaces[0], record)?,
            Format::Ng(section) => section.read_packet(&mut self.input, &mut self.interfaces, record)?,
        };
        self.input.packet += u64::from(more);
        Ok(more)
    }
}

impl Input {
    /// Reads until `into` is full or the file ends. Returns the number of bytes read.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<usize, CaptureError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.bytes.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(CaptureError::Read {
                        path: self.path.clone(),
                        packet: self.packet,
                        source,
                    });
                }
            }
        }
        Ok(filled)
    }

    /// Fills `into`, which the format says must be there.
    pub(super) fn need(&mut self, into: &mut [u8]) -> Result<(), CaptureError> {
        if self.fill(into)? < into.len() {
            Err(self.truncated())
        } else {
            Ok(())
        }
    }

    /// Fills `into` unless the file ends right here, which is `false`.
    pub(super) fn need_or_end(&mut self, into: &mut [u8]) -> Result<bool, CaptureError> {
        match self.fill(into)? {
            0 => Ok(false),
            count if count < into.len() => Err(self.truncated()),
            _ => Ok(true),
        }
    }

    pub(super) fn truncated(&self) -> CaptureError {
        CaptureError::Truncated {
            path: self.path.clone(),
            packet: self.packet,
        }
    }

    pub(super) fn malformed(&self, what: &'static str) -> CaptureError {
        CaptureError::Malformed {
            path: self.path.clone(),
            packet: self.packet,
            what,
        }
    }

    pub(super) fn link_type(&self, interface: usize, link_type: u16) -> CaptureError {
        CaptureError::LinkType {
            path: self.path.clone(),
            interface,
            link_type,
        }
    }

    pub(super) fn cut(&self, captured: u32, original: u32) -> CaptureError {
        CaptureError::Cut {
            path: self.path.clone(),
            packet: self.packet,
            captured,
            original,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(bytes: Vec<u8>) -> Result<Vec<Record>, CaptureError> {
        let mut reader = CaptureReader::new(Box::new(Cursor::new(bytes)), Path::new("x.pcap"))?;
        let (mut records, mut record) = (Vec::new(), Record::default());
        while reader.read_into(&mut record)? {
            records.push(record.clone());
        }
        Ok(records)
    }

    /// A classic capture of `packets` (seconds, fraction, bytes, original length), in either byte order.
    fn classic(magic: u32, big: bool, link_type: u32, packets: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
        let word = |value: u32| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let mut file = word(magic).to_vec();
        file.extend(if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
        [0, 0, 65_535, link_type]
            .map(word)
            .iter()
            .for_each(|bytes| file.extend(bytes));
        for (seconds, fraction, bytes, original) in packets {
            [*seconds, *fraction, bytes.len() as u32, *original]
                .map(word)
                .iter()
                .for_each(|bytes| file.extend(bytes));
            file.extend(*bytes);
        }
        file
    }

    #[test]
    fn both_byte_orders_and_resolutions_give_the_same_nanoseconds() {
        for big in [false, true] {
            let micro = classic(0xa1b2_c3d4, big, 1, &[(5, 7, b"abc", 3)]);
            let nano = classic(0xa1b2_3c4d, big, 1, &[(5, 7000, b"abc", 3)]);
            let expected = Record {
                timestamp_ns: 5_000_007_000,
                bytes: b"abc".to_vec(),
                ..Record::default()
            };
            assert_eq!(read(micro).unwrap(), std::slice::from_ref(&expected));
            assert_eq!(read(nano).unwrap(), [expected]);
        }
    }

    #[test]
    fn a_file_that_ends_inside_a_packet_names_the_packet() {
        let whole = classic(0xa1b2_c3d4, false, 1, &[(1, 0, b"abcd", 4), (2, 0, b"efgh", 4)]);
        for cut in [1, 4, 5, 19] {
            let error = read(whole[..whole.len() - cut].to_vec()).unwrap_err();
            assert!(
                matches!(error, CaptureError::Truncated { packet: 2, .. }),
                "{error}"
            );
        }
        assert_eq!(read(whole[..whole.len() - 20].to_vec()).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_replayed_is_refused_with_its_reason() {
        let cut = classic(0xa1b2_c3d4, false, 1, &[(1, 0, b"abcd", 1500)]);
        assert_eq!(
            read(cut).unwrap_err().to_string(),
            "x.pcap: packet 1 was cut to 4 of 1500 bytes when it was captured (capture with snaplen 0)"
        );
        let cooked = classic(0xa1b2_c3d4, false, 113, &[]);
        assert_eq!(
            read(cooked).unwrap_err().to_string(),
            "x.pcap: interface 0 holds Linux cooked (SLL; tcpdump -i any makes these) packets (link type 113); \
             only Ethernet (1) can be used"
        );
        assert!(matches!(
            read(b"GIF89a".to_vec()).unwrap_err(),
            CaptureError::NotACapture { .. }
        ));
        assert!(matches!(
            read(Vec::new()).unwrap_err(),
            CaptureError::NotACapture { .. }
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_crash_the_reader(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            kind in 0_usize..4,
        ) {
            let heads: [&[u8]; 4] = [
                &[],
                &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0],
                &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0],
                &[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0],
            ];
            bytes.splice(0..0, heads[kind].iter().copied());
            let _ = read(bytes);
        }
    }
}
