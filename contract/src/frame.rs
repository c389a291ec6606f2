//! Messages on a stream: a length of 4 bytes, big-endian, then that many bytes of protobuf.
//!
//! Whoever reads does not trust the length: it is bounded, and memory grows with the bytes that arrive, not with what
//! the length promises.

use std::io::{self, Read, Write};

use prost::Message;

/// The longest message, in bytes without its length: 256 MiB.
pub const MESSAGE_LEN_MAX: usize = 256 << 20;

const PREFIX_LEN: usize = 4;

/// Why a message could not be read or written. The stream is of no use afterwards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream failed, or ended inside a message ([`io::ErrorKind::UnexpectedEof`]).
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    /// The other side announced too much, or we have too much to say.
    #[error("a message of {found} bytes, expected at most {MESSAGE_LEN_MAX}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// The bytes are no such message.
    #[error("not a message of the contract: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// A message with its length in front.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let found = message.encoded_len();
    let prefix = u32::try_from(found)
        .ok()
        .filter(|_| found <= MESSAGE_LEN_MAX)
        .ok_or(FrameError::TooLong { found })?;
    let mut frame = Vec::with_capacity(PREFIX_LEN + found);
    frame.extend_from_slice(&prefix.to_be_bytes());
    message.encode(&mut frame).expect("a Vec grows as needed");
    Ok(frame)
}

/// Writes a message whole.
pub fn write<M: Message>(stream: &mut impl Write, message: &M) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads a message whole; `None` where the stream ends between messages.
pub fn read<M: Message + Default>(stream: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut prefix = Vec::with_capacity(PREFIX_LEN);
    stream.by_ref().take(PREFIX_LEN as u64).read_to_end(&mut prefix)?;
    let Ok(prefix) = <[u8; PREFIX_LEN]>::try_from(prefix.as_slice()) else {
        return if prefix.is_empty() {
            Ok(None)
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        };
    };
    let len = announced(prefix)?;
    let mut body = Vec::new();
    stream.by_ref().take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(M::decode(body.as_slice())?))
}

fn announced(prefix: [u8; PREFIX_LEN]) -> Result<usize, FrameError> {
    let found = u32::from_be_bytes(prefix) as usize;
    if found > MESSAGE_LEN_MAX {
        Err(FrameError::TooLong { found })
    } else {
        Ok(found)
    }
}

/// Takes bytes as they come and gives messages as they are complete: for streams that are not blocking.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were given out already.
    done: usize,
}

impl Decoder {
    /// Bytes that were read from the stream.
    pub fn extend(&mut self, bytes: &[u8]) {
        // Given-out bytes leave when they are most of the buffer, so that each byte moves a bounded number of times.
        if self.done > self.buffer.len() / 2 {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if it is there whole.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = self.buffer.get(self.done..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = announced(*prefix)?;
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.done += PREFIX_LEN + len;
        Ok(Some(message))
    }

    /// Whether a message has begun and is not whole yet: an end of the stream now cuts it.
    pub fn is_inside_message(&self) -> bool {
        self.done < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use proptest::prelude::*;

    fn resync(reason: &str) -> proto::FromFastpath {
        let resync = proto::Resync {
            reason: reason.to_owned(),
        };
        proto::FromFastpath {
            body: Some(proto::from_fastpath::Body::Resync(resync)),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let sent = [
            resync("a"),
            proto::FromFastpath::default(),
            resync(&"b".repeat(70_000)),
        ];
        for message in &sent {
            write(&mut bytes, message).unwrap();
        }
        let mut stream = bytes.as_slice();
        for message in &sent {
            assert_eq!(read(&mut stream).unwrap().as_ref(), Some(message));
        }
        assert!(read::<proto::FromFastpath>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_cut_or_boundless_message_is_an_error() {
        let frame = encode(&resync("reason")).unwrap();
        for cut in 1..frame.len() {
            let error = read::<proto::FromFastpath>(&mut &frame[..cut]).unwrap_err();
            assert!(
                matches!(error, FrameError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof),
                "cut at {cut}"
            );
        }
        let boundless = [0xff; 8];
        assert!(matches!(
            read::<proto::FromFastpath>(&mut boundless.as_slice()),
            Err(FrameError::TooLong { .. })
        ));
        let mut decoder = Decoder::default();
        decoder.extend(&boundless);
        assert!(matches!(
            decoder.next_message::<proto::FromFastpath>(),
            Err(FrameError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same_messages(reasons: Vec<String>, piece in 1_usize..40) {
            let sent: Vec<_> = reasons.iter().map(|r| resync(r)).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
            let mut decoder = Decoder::default();
            let mut received = Vec::new();
            for piece in bytes.chunks(piece) {
                decoder.extend(piece);
                while let Some(message) = decoder.next_message::<proto::FromFastpath>().unwrap() {
                    received.push(message);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(!decoder.is_inside_message());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read::<proto::ToFastpath>(&mut bytes.as_slice());
            let mut decoder = Decoder::default();
            decoder.extend(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<proto::ToFastpath>() {}
        }
    }
}
