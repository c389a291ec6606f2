//! Any bytes as a stream of messages: both readers give the same messages and the same end, however the bytes are cut, and
//! what was read is written and read back.

use contract::frame::{Decoder, FrameError, encode, read};
use contract::proto::{FromFastpath, ToFastpath};
use prost::Message;

use super::input::Input;

/// One input: how long the pieces are, then the stream.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let piece = usize::from(input.byte()).max(1);
    both::<ToFastpath>(input.0, piece);
    both::<FromFastpath>(input.0, piece);
}

fn both<M: Message + Default + PartialEq + std::fmt::Debug>(stream: &[u8], piece: usize) {
    let mut rest = stream;
    let mut whole = Vec::new();
    let end = loop {
        match read::<M>(&mut rest) {
            Ok(Some(message)) => whole.push(message),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };

    let mut decoder = Decoder::default();
    let mut pieces = Vec::new();
    let mut error = None;
    'stream: for piece in stream.chunks(piece) {
        decoder.extend(piece);
        loop {
            match decoder.next_message::<M>() {
                Ok(Some(message)) => pieces.push(message),
                Ok(None) => break,
                Err(found) => {
                    error = Some(found);
                    break 'stream;
                }
            }
        }
    }
    assert!(pieces == whole, "{pieces:?} and {whole:?}");
    match (end, error) {
        (None, None) => assert!(!decoder.is_inside_message()),
        // The stream ended inside a message.
        (Some(FrameError::Io(_)), None) => assert!(decoder.is_inside_message()),
        (Some(FrameError::TooLong { found: a }), Some(FrameError::TooLong { found: b })) => assert_eq!(a, b),
        (Some(FrameError::Malformed(_)), Some(FrameError::Malformed(_))) => {}
        (end, error) => panic!("one reader ends with {end:?}, the other with {error:?}"),
    }

    for message in &whole {
        let frame = encode(message).expect("it came in a frame");
        let again = read::<M>(&mut frame.as_slice()).expect("what we write is read");
        assert!(again.as_ref() == Some(message), "{again:?} and {message:?}");
    }
}
