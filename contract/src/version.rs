//! Which protocol version two ends speak.

use crate::{PROTOCOL, proto};

/// The oldest version that we still speak.
pub const PROTOCOL_MIN: u32 = 1;

const _: () = assert!(PROTOCOL_MIN <= PROTOCOL);

/// The two ends have no version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client speaks protocol versions {theirs_min} to {theirs_max}, we speak {PROTOCOL_MIN} to {PROTOCOL}"
)]
pub struct NoCommonVersion {
    /// The client's lowest.
    pub theirs_min: u32,
    /// The client's highest.
    pub theirs_max: u32,
}

/// What we offer.
pub fn hello(software: &str) -> proto::Hello {
    proto::Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL,
        software: software.into(),
    }
}

/// The highest version that a client and we both speak: what `Welcome` tells.
pub fn negotiate(hello: &proto::Hello) -> Result<u32, NoCommonVersion> {
    let (theirs_min, theirs_max) = (hello.protocol_min, hello.protocol_max);
    let common = theirs_max.min(PROTOCOL);
    if theirs_min <= theirs_max && common >= theirs_min.max(PROTOCOL_MIN) {
        Ok(common)
    } else {
        Err(NoCommonVersion {
            theirs_min,
            theirs_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        let offer = |protocol_min, protocol_max| proto::Hello {
            protocol_min,
            protocol_max,
            software: String::new(),
        };
        assert_eq!(negotiate(&hello("test")), Ok(PROTOCOL));
        assert_eq!(negotiate(&offer(0, 99)), Ok(PROTOCOL));
        for (theirs_min, theirs_max) in [(0, 0), (PROTOCOL + 1, 99), (2, 1)] {
            assert_eq!(
                negotiate(&offer(theirs_min, theirs_max)),
                Err(NoCommonVersion {
                    theirs_min,
                    theirs_max
                })
            );
        }
    }
}
