//! Finishes transport checksums in software, over chains of buffers: partial ones before a packet is cut, encapsulated or
//! leaves by a port that can't, and the CRC of SCTP after its ports changed.
//!
//! Reads the packet's bytes and [`Frame::checksum`], sets the checksum field and that state.

use wire::{IpProtocol, Packet, checksum::Sum, sctp, tcp, udp};

use crate::io::checksum::sum;
use crate::io::{Checksum, Frame, Memory};

/// Completes the checksum of `frame` when it is partial, whose IP header is at `l3_offset` and was parsed as `packet`.
///
/// True when the checksum is full afterwards (also when it was); false, and nothing changed, when the state tells of a place
/// that is not in the packet or belongs to no protocol we know.
#[must_use]
pub fn complete_checksum(memory: &mut Memory, frame: &mut Frame, l3_offset: usize, packet: &Packet) -> bool {
    match frame.checksum {
        Checksum::Full => true,
        Checksum::Partial { offset, .. }
            if packet.proto == IpProtocol::SCTP && usize::from(offset) == sctp::CHECKSUM_OFFSET =>
        {
            frame.checksum = Checksum::Full;
            write_sctp_checksum(memory, frame, l3_offset, packet)
        }
        Checksum::Partial { .. } => {
            complete_tcp_udp(memory, frame, packet.proto, l3_offset + packet.total_len as usize)
        }
    }
}

/// As [`complete_checksum`] for TCP and UDP, whose packet ends at `end` of the frame.
#[must_use]
pub fn complete_tcp_udp(memory: &mut Memory, frame: &mut Frame, proto: IpProtocol, end: usize) -> bool {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return true;
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if end > frame.len() || start > end {
        return false;
    }
    let checksum = match (proto, usize::from(offset)) {
        // The field holds the sum of the pseudo-header, so summing it along gives the sum of everything.
        (IpProtocol::TCP, tcp::CHECKSUM_OFFSET) => sum_of(memory, frame, start, end).checksum(),
        (IpProtocol::UDP, udp::CHECKSUM_OFFSET) => sum_of(memory, frame, start, end).udp_checksum(),
        _ => return false,
    };
    let Some(bytes) = memory
        .bytes_mut(frame)
        .get_mut(field..)
        .and_then(<[u8]>::first_chunk_mut)
    else {
        return false;
    };
    *bytes = checksum.to_bytes();
    frame.checksum = Checksum::Full;
    true
}

/// Computes and writes the CRC of an SCTP packet, RFC 9260 section 6.8. False, and nothing written, for fragments, for
/// other protocols and when the frame does not hold the whole packet.
#[must_use]
pub fn write_sctp_checksum(
    memory: &mut Memory,
    frame: &mut Frame,
    l3_offset: usize,
    packet: &Packet,
) -> bool {
    let start = l3_offset + usize::from(packet.l4_offset);
    let end = l3_offset + packet.total_len as usize;
    let field = start + sctp::CHECKSUM_OFFSET;
    if packet.proto != IpProtocol::SCTP || packet.fragment.is_some() || end > frame.len() || field + 4 > end {
        return false;
    }
    let Some(place) = memory
        .bytes_mut(frame)
        .get_mut(field..)
        .and_then(<[u8]>::first_chunk_mut)
    else {
        return false;
    };
    *place = [0; 4];
    let crc = pieces(memory, frame, start, end).fold(0, sctp::crc32c_append);
    memory.bytes_mut(frame)[field..field + 4].copy_from_slice(&crc.to_le_bytes());
    true
}

fn sum_of(memory: &Memory, frame: &Frame, start: usize, end: usize) -> Sum {
    if !frame.is_chain() {
        return sum(memory.bytes(frame).get(start..end).unwrap_or_default());
    }
    let (whole, _) = pieces(memory, frame, start, end).fold((Sum::ZERO, 0), |(whole, at), piece| {
        (whole.plus_at(sum(piece), at), at + piece.len())
    });
    whole
}

/// The bytes from `start` to `end` of the frame, chunk by chunk.
fn pieces<'a>(
    memory: &'a Memory,
    frame: &Frame,
    start: usize,
    end: usize,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let mut at = 0;
    memory.segments(frame).filter_map(move |segment| {
        let from = start.saturating_sub(at).min(segment.len());
        let to = end.saturating_sub(at).min(segment.len());
        at += segment.len();
        segment.get(from..to).filter(|piece| !piece.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use wire::packet::parse_l3;

    use super::*;

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + 7) as u8).collect()
    }

    fn frame_of(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload(len)).unwrap();
        bytes
    }

    /// `whole` with its checksum field made partial, over chunks of `chunk_len` bytes, completed.
    fn made_partial_and_completed(whole: &[u8], chunk_len: usize) -> Vec<u8> {
        let packet = parse_l3(&whole[14..]).unwrap();
        let mut partial = whole.to_vec();
        let sum = packet.pseudo_sum(&whole[14..]).folded();
        *packet.l4_checksum_mut(&mut partial[14..]).unwrap() = sum;
        let mut memory = Memory::heap(64, chunk_len);
        let mut frame = memory.allocate_copy(&partial).unwrap();
        let start = 14 + packet.l4_offset;
        let offset = 14 + packet.checksum_offset().unwrap() as u16 - start;
        frame.checksum = Checksum::Partial { start, offset };
        assert!(complete_checksum(&mut memory, &mut frame, 14, &packet));
        assert_eq!(frame.checksum, Checksum::Full);
        memory.to_vec(&frame)
    }

    #[test]
    fn padding_behind_the_packet_does_not_count() {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut whole = frame_of(builder.udp(1, 2), 3);
        whole.extend_from_slice(&[0xaa; 15]);
        assert_eq!(made_partial_and_completed(&whole, 2048), whole);
    }

    #[test]
    fn a_state_that_points_nowhere_is_refused() {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let whole = frame_of(builder.udp(1, 2), 3);
        let packet = parse_l3(&whole[14..]).unwrap();
        let mut memory = Memory::heap(4, 2048);
        let mut frame = memory.allocate_copy(&whole).unwrap();
        for (start, offset) in [(34, 7), (34, 16), (60_000, 6), (u16::MAX, 6), (44, 6)] {
            frame.checksum = Checksum::Partial { start, offset };
            assert!(
                !complete_checksum(&mut memory, &mut frame, 14, &packet),
                "{start} {offset}"
            );
        }
        assert_eq!(memory.bytes(&frame), whole);
    }

    proptest! {
        #[test]
        fn a_partial_checksum_becomes_what_the_sender_would_have_computed(
            len in 0usize..4000, chunk_len in 400usize..1000, v6: bool, tcp: bool,
        ) {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = if v6 {
                ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
            } else {
                ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            };
            let mut whole = Vec::new();
            if tcp {
                ip.tcp(1000, 2000, 1, 100).write(&mut whole, &payload(len)).unwrap();
            } else {
                ip.udp(1000, 2000).write(&mut whole, &payload(len)).unwrap();
            }
            prop_assert_eq!(made_partial_and_completed(&whole, chunk_len), whole);
        }

        #[test]
        fn the_crc_of_a_chain_is_that_of_the_whole(len in 0usize..3000, chunk_len in 400usize..1000) {
            let mut sctp = vec![0x9c, 0x40, 0x0b, 0x59, 1, 2, 3, 4, 9, 9, 9, 9];
            sctp.extend(payload(len));
            let mut whole = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .write(&mut whole, etherparse::IpNumber::SCTP, &sctp)
                .unwrap();
            whole.extend_from_slice(&[1; 5]);
            let packet = parse_l3(&whole[14..]).unwrap();
            let mut memory = Memory::heap(64, chunk_len);
            let mut frame = memory.allocate_copy(&whole).unwrap();
            prop_assert!(write_sctp_checksum(&mut memory, &mut frame, 14, &packet));
            let written = memory.to_vec(&frame);
            prop_assert!(sctp::checksum_is_valid(&written[34..34 + sctp.len()]));
            prop_assert_eq!(&written[34 + sctp.len()..], &[1; 5]);
        }
    }
}
