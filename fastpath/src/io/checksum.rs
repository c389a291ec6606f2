//! Completing a partial transport checksum in software, for ports that send without the kernel's help.

use super::{Checksum, Frame, Memory};

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
    // The field already holds the pseudo-header's sum, so the sum over everything from `start` on is the whole one.
    let folded = sum_from(memory, frame, start);
    // UDP writes a sum of zero as all ones, RFC 768; for TCP both stand for the same number, RFC 1071.
    let sum = if folded == 0xffff { 0xffff } else { !folded };
    memory.bytes_mut(frame)[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    frame.checksum = Checksum::Full;
    true
}

/// The folded ones' complement sum of the frame's bytes from `start` on.
fn sum_from(memory: &Memory, frame: &Frame, start: usize) -> u16 {
    let (mut sum, mut skip, mut odd) = (0_u64, start, false);
    for segment in memory.segments(frame) {
        let Some(bytes) = segment.get(skip..) else {
            skip -= segment.len();
            continue;
        };
        skip = 0;
        let mut bytes = bytes;
        if odd && let Some((first, rest)) = bytes.split_first() {
            (sum, bytes, odd) = (sum + u64::from(*first), rest, false);
        }
        let (words, rest) = bytes.as_chunks::<2>();
        sum += words
            .iter()
            .map(|word| u64::from(u16::from_be_bytes(*word)))
            .sum::<u64>();
        if let [last] = rest {
            (sum, odd) = (sum + (u64::from(*last) << 8), true);
        }
    }
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

    #[test]
    fn completed_checksums_are_those_of_a_builder_also_over_odd_chains() {
        for len in [0, 1, 6, 1459, 1739, 1740, 5001, 9000] {
            let (whole, partial) = segment(&(0..len).map(|i| (i * 13) as u8).collect::<Vec<_>>());
            let mut memory = Memory::heap(8, 2048);
            // An odd place for the first segment's end.
            let mut frame = memory.allocate_copy(&partial[..partial.len().min(61)]).unwrap();
            assert!(memory.append(&mut frame, &partial[partial.len().min(61)..]));
            frame.checksum = Checksum::Partial {
                start: 34,
                offset: 16,
            };
            assert!(complete(&mut memory, &mut frame));
            assert_eq!(memory.to_vec(&frame), whole, "payload of {len}");
            assert_eq!(frame.checksum, Checksum::Full);
            memory.release(frame);
        }
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
