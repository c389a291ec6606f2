//! Partial transport checksums: finding them, and completing them in software for ports that send without the kernel's help.

#![allow(unsafe_code)]

use wire::checksum::Sum;

use super::{Checksum, Frame, Memory};

/// As [`Sum::of`], by the widest vectors that the processor has: for packets' data, not for headers.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function is compiled for. Beyond that it is safe code.
            return unsafe { sum_avx512(bytes) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_avx2(bytes) };
        }
    }
    Sum::of(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8]) -> Sum {
    Sum::of_wide(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> Sum {
    Sum::of_wide(bytes)
}

/// What the checksum field of an Ethernet frame with TCP or UDP holds: packets from a pod's own sockets, and from those of other
/// nodes' pods over virtual links, come with the pseudo-header's sum alone.
///
/// A full checksum that happens to equal that sum is taken for a partial one; completing it gives the same value again.
/// Fragments, extension headers and other protocols are [`Checksum::Full`], as nothing is known of them.
pub fn detect(frame: &[u8]) -> Checksum {
    detect_partial(frame).unwrap_or(Checksum::Full)
}

fn detect_partial(frame: &[u8]) -> Option<Checksum> {
    match frame.first_chunk() {
        Some(head) if head[12..15] == [0x08, 0x00, 0x45] => detect_plain(head),
        _ => detect_any(frame),
    }
}

fn detect_any(frame: &[u8]) -> Option<Checksum> {
    const ETHERNET: usize = 14;
    let word = |at: usize| {
        frame
            .get(at..at + 2)
            .map(|bytes| u64::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let (protocol, addresses, start, l4_len) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let (head, fragment) = (*frame.get(ETHERNET)?, word(ETHERNET + 6)?);
            let header_len = usize::from(head & 0xf) * 4;
            if head >> 4 != 4 || fragment & 0x3fff != 0 {
                return None;
            }
            let l4_len = word(ETHERNET + 2)?.checked_sub(header_len as u64)?;
            (
                *frame.get(ETHERNET + 9)?,
                ETHERNET + 12..ETHERNET + 20,
                ETHERNET + header_len,
                l4_len,
            )
        }
        [0x86, 0xdd] => (
            *frame.get(ETHERNET + 6)?,
            ETHERNET + 8..ETHERNET + 40,
            ETHERNET + 40,
            word(ETHERNET + 4)?,
        ),
        _ => return None,
    };
    let offset = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let field = word(start + offset)?;
    let (words, _) = frame.get(addresses)?.as_chunks::<2>();
    let sum = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum::<u64>();
    let is_partial = u64::from(fold(sum + l4_len + u64::from(protocol))) == field;
    is_partial.then_some(Checksum::Partial {
        start: start as u16,
        offset: offset as u16,
    })
}

/// As [`detect_any`], for the head of a frame with IPv4 without options, as far as the end of TCP's field.
#[inline]
fn detect_plain(head: &[u8; 52]) -> Option<Checksum> {
    const L4: usize = 34;
    // A sum of words in the processor's order is the sum in that order, RFC 1071 section 2 (B).
    let word = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let offset = match head[23] {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    if word(20) & 0x3fff_u16.to_be() != 0 {
        return None;
    }
    let l4_len = u16::from_be(word(16)).checked_sub(20)?;
    let addresses: [u8; 8] = head[26..L4].try_into().expect("8 bytes");
    let addresses = u64::from_ne_bytes(addresses);
    let length_and_protocol = (l4_len + u16::from(head[23])).to_be();
    let sum = (addresses >> 32) + (addresses & 0xffff_ffff) + u64::from(length_and_protocol);
    (fold(sum) == word(L4 + offset)).then_some(Checksum::Partial {
        start: L4 as u16,
        offset: offset as u16,
    })
}

/// Completes a [`Checksum::Partial`] and marks the frame [`Checksum::Full`]. Chains are summed whole.
///
/// Returns `false`, and leaves the frame alone, when the field does not lie in the first chunk: no port or parser of ours
/// makes such a frame.
pub fn complete(memory: &mut Memory, frame: &mut Frame) -> bool {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return true;
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > frame.head_len() {
        return false;
    }
    // The field already holds the pseudo-header's sum, so the sum over everything from `start` on is the whole one. UDP writes a
    // sum of zero as all ones, RFC 768; for TCP both stand for the same number, RFC 1071.
    let checksum = sum_from(memory, frame, start).udp_checksum();
    memory.bytes_mut(frame)[field..field + 2].copy_from_slice(&checksum.to_bytes());
    frame.checksum = Checksum::Full;
    true
}

/// The sum of the frame's bytes from `start` on.
fn sum_from(memory: &Memory, frame: &Frame, start: usize) -> Sum {
    let (mut whole, mut skip, mut at) = (Sum::ZERO, start, 0);
    for segment in memory.segments(frame) {
        let Some(bytes) = segment.get(skip..) else {
            skip -= segment.len();
            continue;
        };
        skip = 0;
        whole = whole.plus_at(sum(bytes), at);
        at += bytes.len();
    }
    whole
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    /// A TCP segment with its right checksum, and the same with the pseudo-header's sum in the field.
    fn segment(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut whole = Vec::new();
        builder
            .tcp_header(TcpHeader::new(1, 2, 3, 4))
            .write(&mut whole, payload)
            .unwrap();
        let mut partial = whole.clone();
        let l4_len = (whole.len() - 34) as u64;
        let mut sum = 0x0a00 + 1 + 0x0a00 + 2 + 6 + l4_len;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        partial[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
        (whole, partial)
    }

    /// The short way finds what the general one does: whole and partial sums, other lengths, protocols and fragments.
    #[test]
    fn plain_heads_are_judged_as_any_others() {
        let (whole, partial) = segment(&[7; 40]);
        let mut partials = 0;
        for frame in [whole, partial] {
            for (at, value) in [
                (23, 6),
                (23, 17),
                (23, 1),
                (20, 0x20),
                (20, 0x40),
                (21, 1),
                (16, 0),
                (17, 19),
            ] {
                let mut frame = frame.clone();
                frame[at] = value;
                for field in [0, u16::from_be_bytes([frame[50], frame[51]]), 0xffff, 0x1234] {
                    frame[40..42].copy_from_slice(&field.to_be_bytes());
                    let head = frame.first_chunk().unwrap();
                    assert_eq!(detect_plain(head), detect_any(&frame), "{at} {value} {field}");
                    partials += usize::from(detect_plain(head).is_some());
                }
            }
        }
        assert!(partials > 0);
    }

    #[test]
    fn sums_are_the_same_by_vectors_of_any_width() {
        for len in (0..300).chain([1480, 1481, 9000]) {
            for bytes in [vec![0xff; len], (0..len).map(|at| (at * 31 + 7) as u8).collect()] {
                let pairs = bytes
                    .chunks(2)
                    .map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
                let expected = fold(pairs.map(|pair| u64::from(u16::from_be_bytes(pair))).sum());
                assert_eq!(sum(&bytes).folded().get(), expected, "{len}");
                assert_eq!(Sum::of(&bytes).folded().get(), expected, "{len}");
                assert_eq!(Sum::of_wide(&bytes).folded().get(), expected, "{len}");
            }
        }
    }

    #[test]
    fn completed_checksums_are_those_of_a_builder_also_over_odd_chains() {
        for len in [0, 1, 6, 1459, 1739, 1740, 5001, 9000] {
            let (whole, partial) = segment(&(0..len).map(|i: u32| (i * 13) as u8).collect::<Vec<_>>());
            let mut memory = Memory::heap(8, 2048);
            // An odd place for the first segment's end.
            let mut frame = memory.allocate_copy(&partial[..partial.len().min(61)]).unwrap();
            assert!(memory.append(&mut frame, &partial[partial.len().min(61)..]));
            assert_eq!(detect(&whole), Checksum::Full);
            frame.checksum = detect(&partial);
            assert!(complete(&mut memory, &mut frame));
            assert_eq!(memory.to_vec(&frame), whole, "payload of {len}");
            assert_eq!(frame.checksum, Checksum::Full);
            memory.release(frame);
        }
    }

    #[test]
    fn a_partial_udp_checksum_over_ipv6_is_found_and_every_cut_of_it_is_survived() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([0xfd; 16], [0xfe; 16], 64);
        builder.udp(53, 4000).write(&mut packet, &[7; 20]).unwrap();
        assert_eq!(detect(&packet), Checksum::Full);
        let sum = fold(8 * 0xfdfd + 8 * 0xfefe + 17 + 28);
        packet[60..62].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(detect(&packet), Checksum::Partial { start: 54, offset: 6 });
        (0..62).for_each(|len| assert_eq!(detect(&packet[..len]), Checksum::Full));
    }

    #[test]
    fn a_field_outside_the_first_chunk_is_refused() {
        let mut memory = Memory::heap(1, 2048);
        let mut frame = memory.allocate_copy(&[0; 40]).unwrap();
        frame.checksum = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        assert!(!complete(&mut memory, &mut frame));
        memory.release(frame);
    }
}
