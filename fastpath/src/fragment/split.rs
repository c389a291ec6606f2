//! Cuts an IPv4 packet into fragments, RFC 791 section 3.2.
//!
//! Reads a whole packet or a fragment without "don't fragment"; sets nothing in it. What can't be cut goes back to the caller,
//! whose verdict it is.

use wire::ethernet;
use wire::ipv4::{
    DONT_FRAGMENT, HEADER_LEN, Ipv4Header, MORE_FRAGMENTS, OFFSET_MASK, Options, write_checksum,
};

use crate::io::{Checksum, Frame, Memory};

/// Why a packet can't be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// The sender forbids it: answer "fragmentation needed".
    DontFragment,
    /// Not an IPv4 packet, or its lengths or options lie.
    Malformed,
    /// The MTU leaves no room for eight bytes behind the header.
    MtuTooSmall,
    /// Its checksum is still partial: call [`complete_checksum`](super::complete::complete_checksum) first.
    PartialChecksum,
    /// Too few chunks are free.
    NoBuffer,
}

/// Link header and largest IPv4 header.
const HEADERS_LEN_MAX: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN + 60;

/// Cuts `frame` into fragments of at most `mtu` bytes of IP packet and appends them to `into`, in order; `frame` is released.
/// Each starts with the `l3_offset` bytes of link header that `frame` has. Returns how many.
///
/// The first keeps all options, the others those with the copied flag. A packet that fits is still copied, into one frame.
///
/// # Errors
/// The frame, unchanged, and why. `into` is as before.
pub fn split(
    memory: &mut Memory,
    frame: Frame,
    l3_offset: usize,
    mtu: usize,
    into: &mut Vec<Frame>,
) -> Result<usize, (Frame, SplitError)> {
    let plan = match Plan::new(memory, &frame, l3_offset, mtu) {
        Ok(plan) => plan,
        Err(error) => return Err((frame, error)),
    };
    let before = into.len();
    let mut done = 0;
    while done < plan.payload_len {
        let Some((fragment, payload_len)) = plan.fragment(memory, &frame, done) else {
            for fragment in into.drain(before..) {
                memory.release(fragment);
            }
            return Err((frame, SplitError::NoBuffer));
        };
        into.push(fragment);
        done += payload_len;
    }
    memory.release(frame);
    Ok(into.len() - before)
}

/// What all fragments of one packet share.
struct Plan {
    /// Link header, IP header and options of the first fragment.
    first: Headers,
    /// Of the others.
    other: Headers,
    l3_offset: usize,
    mtu: usize,
    payload_start: usize,
    payload_len: usize,
    /// Offset of the payload in its datagram, in bytes.
    offset: usize,
    /// More fragments follow the last one that we cut.
    more: bool,
}

#[derive(Clone, Copy)]
struct Headers {
    bytes: [u8; HEADERS_LEN_MAX],
    len: usize,
}

impl Headers {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Plan {
    fn new(memory: &Memory, frame: &Frame, l3_offset: usize, mtu: usize) -> Result<Self, SplitError> {
        assert!(
            l3_offset <= ethernet::HEADER_LEN + ethernet::TAG_LEN,
            "a link header of {l3_offset} bytes"
        );
        let head = memory.bytes(frame);
        let l3 = head.get(l3_offset..).ok_or(SplitError::Malformed)?;
        let header = Ipv4Header::prefix(l3).ok_or(SplitError::Malformed)?;
        let (header_len, total_len) = (header.header_len(), usize::from(header.total_len.get()));
        let options = l3.get(HEADER_LEN..header_len).ok_or(SplitError::Malformed)?;
        if l3[0] >> 4 != 4 || total_len <= header_len || l3_offset + total_len > frame.len() {
            return Err(SplitError::Malformed);
        }
        if header.dont_fragment() {
            return Err(SplitError::DontFragment);
        }
        if frame.checksum != Checksum::Full {
            return Err(SplitError::PartialChecksum);
        }
        if mtu < header_len + 8 {
            return Err(SplitError::MtuTooSmall);
        }
        let (offset, payload_len) = (usize::from(header.fragment_offset()), total_len - header_len);
        let more = header.more_fragments();
        if offset + payload_len > usize::from(u16::MAX) || (more && !payload_len.is_multiple_of(8)) {
            return Err(SplitError::Malformed);
        }
        let mut first = Headers {
            bytes: [0; HEADERS_LEN_MAX],
            len: 0,
        };
        first.push(&head[..l3_offset + header_len]);
        let mut other = Headers { len: 0, ..first };
        other.push(&head[..l3_offset + HEADER_LEN]);
        for option in Options::new(options) {
            let option = option.map_err(|_| SplitError::Malformed)?;
            if option.is_copied() {
                other.push(option.bytes);
            }
        }
        while !(other.len - l3_offset).is_multiple_of(4) {
            other.push(&[0]);
        }
        Ok(Self {
            first,
            other,
            l3_offset,
            mtu,
            payload_start: l3_offset + header_len,
            payload_len,
            offset,
            more,
        })
    }

    /// The fragment whose payload starts `done` bytes into ours, and how many bytes of payload it has.
    fn fragment(&self, memory: &mut Memory, frame: &Frame, done: usize) -> Option<(Frame, usize)> {
        let mut headers = if done == 0 { self.first } else { self.other };
        let header_len = headers.len - self.l3_offset;
        let left = self.payload_len - done;
        let is_last = left <= self.mtu - header_len;
        let payload_len = if is_last {
            left
        } else {
            (self.mtu - header_len) & !7
        };

        let bytes = &mut headers.bytes[self.l3_offset..headers.len];
        let header = Ipv4Header::prefix_mut(bytes).expect("`Plan::new` copied a whole header");
        let reserved = header.flags_offset.get() & !(DONT_FRAGMENT | MORE_FRAGMENTS | OFFSET_MASK);
        let more = if is_last && !self.more { 0 } else { MORE_FRAGMENTS };
        header.set_header_len(header_len);
        header.total_len.set((header_len + payload_len) as u16);
        header
            .flags_offset
            .set(reserved | more | ((self.offset + done) / 8) as u16);
        write_checksum(bytes);

        let mut fragment = memory.allocate_copy(&headers.bytes[..headers.len])?;
        fragment.timestamp_ns = frame.timestamp_ns;
        if copy_payload(
            memory,
            frame,
            self.payload_start + done,
            payload_len,
            &mut fragment,
        ) {
            return Some((fragment, payload_len));
        }
        memory.release(fragment);
        None
    }
}

/// Appends `len` bytes of `from`, which it has, to `to`. False when chunks ran out.
fn copy_payload(memory: &mut Memory, from: &Frame, start: usize, len: usize, to: &mut Frame) -> bool {
    let mut piece = [0; 1024];
    let mut done = 0;
    while done < len {
        let count = piece.len().min(len - done);
        let copied = memory.copy_range(from, start + done, &mut piece[..count]);
        assert!(copied, "`Plan::new` compared the lengths");
        if !memory.append(to, &piece[..count]) {
            return false;
        }
        done += count;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use wire::IpProtocol;
    use wire::ipv4::checksum_is_valid;
    use zerocopy::IntoBytes;

    use super::*;

    const LINK: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

    fn packet(options: &[u8], payload: &[u8], flags_offset: u16) -> Vec<u8> {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut header = Ipv4Header::new(src, dst, IpProtocol::UDP, 64, 0);
        header.set_header_len(HEADER_LEN + options.len());
        header
            .total_len
            .set((HEADER_LEN + options.len() + payload.len()) as u16);
        header.id.set(0x1234);
        header.flags_offset.set(flags_offset);
        let mut l3 = [header.as_bytes(), options].concat();
        write_checksum(&mut l3);
        [&LINK[..], &l3, payload].concat()
    }

    fn cut(memory: &mut Memory, bytes: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, SplitError> {
        let free = memory.free_chunks();
        let frame = memory.allocate_copy(bytes).unwrap();
        let mut out = Vec::new();
        let result = split(memory, frame, 14, mtu, &mut out).map_err(|(frame, error)| {
            assert_eq!(memory.to_vec(&frame), bytes, "an error leaves the frame alone");
            memory.release(frame);
            error
        });
        let fragments = out
            .drain(..)
            .map(|frame| {
                let bytes = memory.to_vec(&frame);
                memory.release(frame);
                bytes
            })
            .collect::<Vec<_>>();
        assert_eq!(memory.free_chunks(), free, "chunks leaked");
        result.map(|count| {
            assert_eq!(count, fragments.len());
            fragments
        })
    }

    #[test]
    fn three_thousand_bytes_leave_as_three_fragments() {
        let payload: Vec<u8> = (0u16..3000).map(|i| i as u8).collect();
        let mut memory = Memory::heap(64, 2048);
        let fragments = cut(&mut memory, &packet(&[], &payload, 0), 1500).unwrap();
        let seen: Vec<_> = fragments
            .iter()
            .map(|bytes| {
                let ip = etherparse::Ipv4Slice::from_slice(&bytes[14..]).unwrap();
                let header = ip.header();
                (
                    header.total_len(),
                    header.fragments_offset().byte_offset(),
                    header.more_fragments(),
                )
            })
            .collect();
        assert_eq!(seen, [(1500, 0, true), (1500, 1480, true), (60, 2960, false)]);
        assert!(fragments.iter().all(|bytes| bytes[..14] == LINK));
    }

    #[test]
    fn only_copied_options_are_in_later_fragments() {
        // Record route (7, not copied), router alert (148, copied), padding.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
        let mut memory = Memory::heap(64, 2048);
        let fragments = cut(&mut memory, &packet(&options, &[5; 108], 0), 80).unwrap();
        assert_eq!(fragments.len(), 3);
        assert_eq!(fragments[0][34..46], options);
        for later in &fragments[1..] {
            assert_eq!(later[14], 0x46, "six words of header");
            assert_eq!(later[34..38], [148, 4, 0, 0]);
            assert!(checksum_is_valid(&later[14..38]));
        }
        assert_eq!(
            fragments.iter().map(|f| f.len() - 14).collect::<Vec<_>>(),
            [80, 80, 24 + 4]
        );
    }

    #[test]
    fn what_cannot_be_cut_comes_back() {
        let mut memory = Memory::heap(8, 2048);
        let mut try_cut = |bytes: &[u8], mtu| cut(&mut memory, bytes, mtu).unwrap_err();
        assert_eq!(
            try_cut(&packet(&[], &[0; 100], DONT_FRAGMENT), 68),
            SplitError::DontFragment
        );
        assert_eq!(try_cut(&packet(&[], &[0; 100], 0), 27), SplitError::MtuTooSmall);
        assert_eq!(
            try_cut(&packet(&[7, 9, 0, 0], &[0; 100], 0), 68),
            SplitError::Malformed
        );
        assert_eq!(
            try_cut(&packet(&[], &[0; 100], 0)[..100], 68),
            SplitError::Malformed
        );
        assert_eq!(
            try_cut(&packet(&[], &[0; 100], 0x1fff), 68),
            SplitError::Malformed
        );
        assert_eq!(
            try_cut(&packet(&[], &[0; 100], MORE_FRAGMENTS), 68),
            SplitError::Malformed
        );
        assert_eq!(try_cut(&[0; 20], 68), SplitError::Malformed);
    }

    #[test]
    fn a_pool_that_runs_out_gives_everything_back() {
        let mut memory = Memory::heap(4, 2048);
        assert_eq!(
            cut(&mut memory, &packet(&[], &[0; 1000], 0), 300).unwrap_err(),
            SplitError::NoBuffer
        );
        assert_eq!(memory.free_chunks(), 4);
    }

    proptest! {
        #[test]
        fn fragments_put_together_are_the_packet(
            len in 1usize..5000, mtu in 68usize..2000, chunk_len in 512usize..2048,
            option_words in 0usize..11, start in 0u16..100, more: bool,
        ) {
            let len = if more { len.next_multiple_of(8) } else { len };
            let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
            let options = vec![1; option_words * 4];
            let flags_offset = start | if more { MORE_FRAGMENTS } else { 0 };
            let mut memory = Memory::heap(512, chunk_len);
            let original = packet(&options, &payload, flags_offset);
            let Ok(fragments) = cut(&mut memory, &original, mtu) else {
                prop_assert!(mtu < 28 + option_words * 4);
                return Ok(());
            };
            let mut whole = Vec::new();
            for (index, bytes) in fragments.iter().enumerate() {
                let ip = etherparse::Ipv4Slice::from_slice(&bytes[14..]).unwrap();
                let header = ip.header();
                prop_assert!(usize::from(header.total_len()) <= mtu);
                prop_assert_eq!(usize::from(header.total_len()) + 14, bytes.len());
                prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                prop_assert_eq!(usize::from(header.fragments_offset().byte_offset()), usize::from(start) * 8 + whole.len());
                let last = index + 1 == fragments.len();
                prop_assert_eq!(header.more_fragments(), !last || more);
                prop_assert_eq!((header.identification(), header.ttl()), (0x1234, 64));
                whole.extend_from_slice(ip.payload().payload);
            }
            prop_assert_eq!(whole, payload);
        }
    }
}
