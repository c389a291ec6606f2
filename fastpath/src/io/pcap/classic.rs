//! The classic pcap format, draft-ietf-opsawg-pcap: a header, then packets; microseconds or nanoseconds, either byte order.

use super::{CaptureError, ETHERNET, Interface, PACKET_LEN_MAX, Record, Resolution, reader::Input};

/// What the file's header says about its packets.
pub(super) struct Header {
    big_endian: bool,
    /// Nanoseconds in the unit of the fraction.
    fraction_ns: u64,
}

impl Header {
    /// Reads the rest of the header after `magic`; `None` when `magic` is of another format.
    pub(super) fn read(input: &mut Input, magic: [u8; 4]) -> Result<Option<(Self, Interface)>, CaptureError> {
        let (big_endian, fraction_ns) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000),
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1),
            _ => return Ok(None),
        };
        let header = Self {
            big_endian,
            fraction_ns,
        };
        let mut rest = [0; 20];
        input.need(&mut rest)?;
        let [_version, _zone, _accuracy, snaplen, network] = header.words(&rest);
        // The upper half tells the length of a frame check sequence, the lower the link type.
        let link_type = network as u16;
        if link_type != ETHERNET {
            return Err(input.link_type(0, link_type));
        }
        Ok(Some((
            header,
            Interface::nameless(Resolution::Decimal(9), snaplen),
        )))
    }

    pub(super) fn read_packet(
        &self,
        input: &mut Input,
        interface: &Interface,
        record: &mut Record,
    ) -> Result<bool, CaptureError> {
        let mut head = [0; 16];
        if !input.need_or_end(&mut head)? {
            return Ok(false);
        }
        let [seconds, fraction, captured, original] = self.words(&head);
        if captured as usize > PACKET_LEN_MAX {
            return Err(input.malformed("a packet of more than 262144 bytes"));
        }
        if captured < original {
            return Err(input.cut(captured, original));
        }
        let ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.fraction_ns;
        record.timestamp_ns = interface
            .nanoseconds(ns)
            .ok_or_else(|| input.malformed("an impossible time"))?;
        record.interface = 0;
        record.comment = None;
        record.bytes.resize(captured as usize, 0);
        input.need(&mut record.bytes)?;
        Ok(true)
    }

    fn words<const N: usize>(&self, bytes: &[u8]) -> [u32; N] {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = if self.big_endian {
                u32::from_be_bytes(*bytes)
            } else {
                u32::from_le_bytes(*bytes)
            };
        }
        words
    }
}
