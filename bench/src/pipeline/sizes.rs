//! Sizes: how long the frames of a run are, each flow's always the same.

use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::packet::Family;

/// What `--frame` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameLen {
    /// All frames have this many bytes.
    Bytes(usize),
    /// Short, middle and long ones, 7 : 4 : 1.
    Imix,
}

impl FromStr for FrameLen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("imix", _) => Ok(Self::Imix),
            (_, Ok(bytes)) => Ok(Self::Bytes(bytes)),
            _ => Err("bytes, or imix".into()),
        }
    }
}

impl Serialize for FrameLen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => to.serialize_u64(*bytes as u64),
            Self::Imix => to.serialize_str("imix"),
        }
    }
}

/// The lengths that occur, and which flow has which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    lengths: [usize; 3],
    is_mixed: bool,
}

impl Sizes {
    /// As asked for; the short frames of IPv6 are as long as its headers make them.
    pub(crate) fn of(frame: FrameLen, family: Family) -> Self {
        match frame {
            FrameLen::Bytes(bytes) => Self {
                lengths: [bytes; 3],
                is_mixed: false,
            },
            FrameLen::Imix => Self {
                lengths: match family {
                    Family::V4 => IMIX_V4,
                    Family::V6 => IMIX_V6,
                },
                is_mixed: true,
            },
        }
    }

    /// The lengths, in bytes without check sequence.
    pub(crate) fn lengths(&self) -> &[usize] {
        if self.is_mixed {
            &self.lengths
        } else {
            &self.lengths[..1]
        }
    }

    /// Which of the [`lengths`](Self::lengths) the frames of flow `flow` have.
    #[inline]
    pub(crate) const fn kind(self, flow: u32) -> usize {
        if self.is_mixed {
            PATTERN[(flow % PATTERN.len() as u32) as usize]
        } else {
            0
        }
    }

    /// Bytes of the frames of flow `flow`.
    pub(crate) const fn frame_len(self, flow: u32) -> usize {
        self.lengths[self.kind(flow)]
    }
}

/// The simple Internet mix: IP packets of 50 (the flow's number included), 576 and 1500 bytes.
const IMIX_V4: [usize; 3] = [64, 590, 1514];
const IMIX_V6: [usize; 3] = [80, 590, 1514];
/// Seven short ones, four middle ones, a long one.
const PATTERN: [usize; 12] = [0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_seven_to_four_to_one() {
        let sizes = Sizes::of(FrameLen::Imix, Family::V4);
        let count = |bytes| (0..1200).filter(|flow| sizes.frame_len(*flow) == bytes).count();
        assert_eq!([64, 590, 1514].map(count), [700, 400, 100]);
        let sizes = Sizes::of(FrameLen::Bytes(100), Family::V4);
        assert_eq!((sizes.lengths(), sizes.frame_len(6)), (&[100][..], 100));
    }

    #[test]
    fn a_length_is_a_number_or_the_mix() {
        assert_eq!("64".parse(), Ok(FrameLen::Bytes(64)));
        assert_eq!("imix".parse(), Ok(FrameLen::Imix));
        assert!("long".parse::<FrameLen>().is_err());
    }
}
