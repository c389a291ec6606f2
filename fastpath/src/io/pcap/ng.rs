//! The pcapng format, draft-ietf-opsawg-pcapng: blocks with their length at both ends. Section headers, interface
//! descriptions and the three kinds of packet blocks are read, other blocks are passed over.

use super::{CaptureError, ETHERNET, Interface, PACKET_LEN_MAX, Record, Resolution, reader::Input};

/// Type of a section header block, the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_IF_TSOFFSET: u16 = 14;

/// Longest block that is read: a packet with its options. Longer ones are passed over if they are no packets.
const BLOCK_LEN_MAX: usize = PACKET_LEN_MAX + 65_536;

/// The section that is being read.
pub(super) struct Section {
    big_endian: bool,
    /// Index of the section's interface 0 among all of the file's.
    first_interface: usize,
    /// Time of the packet before: simple packets carry none of their own.
    last_timestamp_ns: u64,
    body: Vec<u8>,
}

impl Section {
    /// Reads the file's first section header, after its type.
    pub(super) fn first(input: &mut Input) -> Result<Self, CaptureError> {
        let mut section = Self {
            big_endian: false,
            first_interface: 0,
            last_timestamp_ns: 0,
            body: Vec::new(),
        };
        section.begin(input)?;
        Ok(section)
    }

    /// Reads on to the next packet, past blocks of other kinds.
    pub(super) fn read_packet(
        &mut self,
        input: &mut Input,
        interfaces: &mut Vec<Interface>,
        record: &mut Record,
    ) -> Result<bool, CaptureError> {
        loop {
            let mut kind = [0; 4];
            if !input.need_or_end(&mut kind)? {
                return Ok(false);
            }
            if kind == SECTION_HEADER {
                self.begin(input)?;
                self.first_interface = interfaces.len();
                continue;
            }
            let mut len = [0; 4];
            input.need(&mut len)?;
            self.read_body(input, self.word(len))?;
            let body = std::mem::take(&mut self.body);
            let is_packet = match self.word(kind) {
                INTERFACE_DESCRIPTION => {
                    let interface = self.interface(input, &body, interfaces.len())?;
                    interfaces.push(interface);
                    false
                }
                ENHANCED_PACKET | PACKET => {
                    self.packet(input, &body, self.word(kind) == PACKET, interfaces, record)?;
                    true
                }
                SIMPLE_PACKET => {
                    self.simple_packet(input, &body, interfaces, record)?;
                    true
                }
                _ => false,
            };
            self.body = body;
            if is_packet {
                return Ok(true);
            }
        }
    }

    /// Reads a section header after its type: the length's byte order is known only from the magic behind it.
    fn begin(&mut self, input: &mut Input) -> Result<(), CaptureError> {
        let mut head = [0; 8];
        input.need(&mut head)?;
        let [len, magic] = [head.as_chunks::<4>().0[0], head.as_chunks::<4>().0[1]];
        self.big_endian = match magic {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Err(input.malformed("a section header without byte-order magic")),
        };
        let Some(rest_len) = self.word(len).checked_sub(4) else {
            return Err(input.malformed("a section header shorter than itself"));
        };
        // As any block's, less the magic that was read.
        self.read_body_sized(input, rest_len, self.word(len))?;
        match self.body.as_chunks::<2>().0.first() {
            Some(major) if self.half(*major) == 1 => Ok(()),
            _ => Err(input.malformed("a pcapng version other than 1")),
        }
    }

    fn read_body(&mut self, input: &mut Input, len: u32) -> Result<(), CaptureError> {
        self.read_body_sized(input, len, len)
    }

    /// Reads a block's body and the length behind it, which must equal `told`. `len` counts the 12 bytes around the body.
    fn read_body_sized(&mut self, input: &mut Input, len: u32, told: u32) -> Result<(), CaptureError> {
        let len = len as usize;
        if !len.is_multiple_of(4) || len < 12 {
            return Err(input.malformed("a block whose length is no multiple of 4 or shorter than itself"));
        }
        if len > BLOCK_LEN_MAX {
            return Err(input.malformed("a block of more than 327680 bytes"));
        }
        self.body.resize(len - 12, 0);
        input.need(&mut self.body)?;
        let mut trailer = [0; 4];
        input.need(&mut trailer)?;
        if self.word(trailer) == told {
            Ok(())
        } else {
            Err(input.malformed("a block with two lengths"))
        }
    }

    fn interface(&self, input: &Input, body: &[u8], index: usize) -> Result<Interface, CaptureError> {
        let Some((fixed, options)) = body.split_first_chunk::<8>() else {
            return Err(input.malformed("an interface description that is too short"));
        };
        let link_type = self.half([fixed[0], fixed[1]]);
        if link_type != ETHERNET {
            return Err(input.link_type(index, link_type));
        }
        let snaplen = self.word([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let mut interface = Interface::nameless(Resolution::Decimal(6), snaplen);
        self.for_each_option(options, |code, value| match (code, value) {
            (OPTION_IF_NAME, name) => interface.name = Some(text(name)),
            (OPTION_IF_TSRESOL, [power]) if power & 0x80 != 0 => {
                interface.resolution = Resolution::Binary(power & 0x7f);
            }
            (OPTION_IF_TSRESOL, [power]) => interface.resolution = Resolution::Decimal(*power),
            (OPTION_IF_TSOFFSET, value) => {
                if let Some(value) = value.first_chunk::<8>() {
                    interface.offset_s = if self.big_endian {
                        i64::from_be_bytes(*value)
                    } else {
                        i64::from_le_bytes(*value)
                    };
                }
            }
            _ => {}
        });
        Ok(interface)
    }

    /// An enhanced packet, or the obsolete packet block, whose interface is 16 bits wide beside a drop count.
    fn packet(
        &mut self,
        input: &Input,
        body: &[u8],
        obsolete: bool,
        interfaces: &[Interface],
        record: &mut Record,
    ) -> Result<(), CaptureError> {
        let Some((fixed, rest)) = body.split_first_chunk::<20>() else {
            return Err(input.malformed("a packet block that is too short"));
        };
        let mut words = fixed.as_chunks::<4>().0.iter().map(|bytes| self.word(*bytes));
        let mut next = || words.next().expect("20 bytes are five words");
        let (mut interface, high, low, captured, original) = (next(), next(), next(), next(), next());
        if obsolete {
            interface = u32::from(self.half([fixed[0], fixed[1]]));
        }
        let index = self.first_interface + interface as usize;
        let interface = interfaces
            .get(index)
            .ok_or_else(|| input.malformed("a packet of no interface"))?;
        let units = u64::from(high) << 32 | u64::from(low);
        let timestamp_ns = interface
            .nanoseconds(units)
            .ok_or_else(|| input.malformed("an impossible time"))?;
        let options = fill(record, input, rest, captured, original)?;
        record.interface = index;
        record.timestamp_ns = timestamp_ns;
        self.last_timestamp_ns = timestamp_ns;
        self.for_each_option(options, |code, value| {
            if code == OPTION_COMMENT {
                record.comment = Some(text(value));
            }
        });
        Ok(())
    }

    fn simple_packet(
        &self,
        input: &Input,
        body: &[u8],
        interfaces: &[Interface],
        record: &mut Record,
    ) -> Result<(), CaptureError> {
        let Some((original, bytes)) = body.split_first_chunk::<4>() else {
            return Err(input.malformed("a packet block that is too short"));
        };
        let Some(interface) = interfaces.get(self.first_interface) else {
            return Err(input.malformed("a packet of no interface"));
        };
        let original = self.word(*original);
        let snaplen = if interface.snaplen == 0 {
            u32::MAX
        } else {
            interface.snaplen
        };
        fill(record, input, bytes, original.min(snaplen), original)?;
        record.interface = self.first_interface;
        record.timestamp_ns = self.last_timestamp_ns;
        Ok(())
    }

    /// Calls `each` for every option; a list that breaks off is taken as ended, options are never needed.
    fn for_each_option(&self, mut options: &[u8], mut each: impl FnMut(u16, &[u8])) {
        while let Some((head, rest)) = options.split_first_chunk::<4>() {
            let (code, len) = (
                self.half([head[0], head[1]]),
                usize::from(self.half([head[2], head[3]])),
            );
            let Some(value) = rest.get(..len).filter(|_| code != OPTION_END) else {
                return;
            };
            each(code, value);
            options = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn word(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn half(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    }
}

/// Takes the packet's bytes into `record`. Returns what follows them.
fn fill<'a>(
    record: &mut Record,
    input: &Input,
    bytes: &'a [u8],
    captured: u32,
    original: u32,
) -> Result<&'a [u8], CaptureError> {
    let len = captured as usize;
    if len > PACKET_LEN_MAX {
        return Err(input.malformed("a packet of more than 262144 bytes"));
    }
    let Some(packet) = bytes.get(..len) else {
        return Err(input.malformed("a packet longer than its block"));
    };
    if captured < original {
        return Err(input.cut(captured, original));
    }
    record.comment = None;
    record.bytes.clear();
    record.bytes.extend_from_slice(packet);
    Ok(bytes.get(len.next_multiple_of(4)..).unwrap_or_default())
}

/// Option text: UTF-8, without the nul bytes that some writers put behind it.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}
