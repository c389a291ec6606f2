//! SCTP, RFC 9260: common header, first chunk, `CRC32c`.

use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Port;

/// Length of the common header, in bytes.
pub const HEADER_LEN: usize = 12;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 8;

/// Chunk types that connection tracking looks at, RFC 9260 section 3.2.
pub mod chunk {
    /// User data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Answers INIT.
    pub const INIT_ACK: u8 = 2;
    /// Selective acknowledgement.
    pub const SACK: u8 = 3;
    /// Keeps a path alive.
    pub const HEARTBEAT: u8 = 4;
    /// Answers HEARTBEAT.
    pub const HEARTBEAT_ACK: u8 = 5;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Starts to end an association.
    pub const SHUTDOWN: u8 = 7;
    /// Answers SHUTDOWN.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Reports an error.
    pub const ERROR: u8 = 9;
    /// Echoes the state cookie.
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers COOKIE ECHO: the association is up.
    pub const COOKIE_ACK: u8 = 11;
    /// Ends an association in order.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Common header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// Source port.
    pub src: Port,
    /// Destination port.
    pub dst: Port,
    /// Verification tag of the receiver.
    pub verification_tag: U32,
    /// `CRC32c` as it lies on the wire, see [`crc32c`].
    pub checksum: [u8; 4],
}

const _: () = assert!(size_of::<SctpHeader>() == HEADER_LEN);

impl SctpHeader {
    /// The header at the start of `packet`, writable; `None` when there are fewer than twelve bytes.
    #[inline]
    pub fn prefix_mut(packet: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(packet).ok().map(|(header, _)| header)
    }

    /// The header at the start of `packet`, unchecked but for its twelve bytes.
    #[inline]
    pub fn prefix(packet: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(packet).ok().map(|(header, _)| header)
    }
}

/// Type of the first chunk of `packet`, which starts at the SCTP header.
pub fn first_chunk_type(packet: &[u8]) -> Option<u8> {
    packet.get(HEADER_LEN).copied()
}

/// Computes and writes the checksum of `packet` (header and chunks, nothing else). Shorter than a header: nothing.
pub fn write_checksum(packet: &mut [u8]) {
    if let Some(checksum) = checksum_of(packet)
        && let Some(header) = SctpHeader::prefix_mut(packet)
    {
        header.checksum = checksum;
    }
}

/// True when `packet` (header and chunks, nothing else) carries the right checksum.
pub fn checksum_is_valid(packet: &[u8]) -> bool {
    SctpHeader::prefix(packet).is_some_and(|header| checksum_of(packet) == Some(header.checksum))
}

/// The checksum field that belongs into `packet`: the CRC with the field taken as zero, low byte first.
fn checksum_of(packet: &[u8]) -> Option<[u8; 4]> {
    let (before, rest) = packet.split_at_checked(CHECKSUM_OFFSET)?;
    let (_, after) = rest.split_at_checked(4)?;
    let crc = update(update(update(!0, before), &[0; 4]), after);
    Some((!crc).to_le_bytes())
}

/// `CRC32c` of `bytes` (Castagnoli), RFC 9260 appendix A. On the wire its low byte comes first.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// Continues a `CRC32c` over data in pieces: `crc` is that of what came before (0 for nothing), `bytes` what follows.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    !update(!crc, bytes)
}

/// Takes `bytes` into a running CRC, eight at a time.
fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<8>();
    for block in blocks {
        let word = u64::from_le_bytes(*block) ^ u64::from(crc);
        crc = 0;
        for (table, byte) in TABLES.iter().rev().zip(word.to_le_bytes()) {
            crc ^= table[usize::from(byte)];
        }
    }
    for byte in rest {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// `TABLES[n][b]` is the CRC of byte `b` followed by `n` zeros ("slicing by 8").
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    /// The Castagnoli polynomial 0x1edc6f41, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_of_pieces_is_the_crc_of_the_whole() {
        let data: [u8; 61] = core::array::from_fn(|i| (i * 7) as u8);
        for cut in 0..data.len() {
            let (head, tail) = data.split_at(cut);
            assert_eq!(crc32c_append(crc32c_append(0, head), tail), crc32c(&data));
        }
    }

    #[test]
    fn the_check_values_of_crc32c_come_out() {
        // The usual check value, and those of RFC 3720 appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_written_checksum_is_valid_and_any_flipped_bit_is_seen() {
        let mut packet = [0u8; 45];
        packet[12] = chunk::INIT;
        packet[..4].copy_from_slice(&[0x0f, 0xa0, 0x0b, 0xb8]);
        write_checksum(&mut packet);
        assert!(checksum_is_valid(&packet));
        assert_eq!(first_chunk_type(&packet), Some(chunk::INIT));
        for bit in 0..packet.len() * 8 {
            packet[bit / 8] ^= 1 << (bit % 8);
            assert!(!checksum_is_valid(&packet), "bit {bit}");
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
