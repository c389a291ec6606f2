//! Errors as the CNI specification lays them down (section 5, "Error"), and our own codes.

use serde::{Deserialize, Serialize};

/// An error that a runtime is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct Failure {
    /// See [`Code`].
    pub code: u32,
    /// Short.
    pub msg: String,
    /// What was expected and what was found.
    pub details: String,
}

/// Codes of the specification up to 99, then ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The configuration's version is none of ours.
    IncompatibleVersion = 1,
    /// A field of the configuration that we do not serve; the message has its key and value.
    UnsupportedField = 2,
    /// The container is unknown, so nothing is to be cleaned up.
    UnknownContainer = 3,
    /// A variable is missing or makes no sense; the message has its name.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// Not JSON, or not of the right shape.
    Decoding = 6,
    /// The configuration makes no sense.
    Configuration = 7,
    /// Something is missing that will come by itself.
    TryAgainLater = 11,
    /// No ADD can be served.
    NotAvailable = 50,
    /// No ADD can be served, and pods that are there may not reach everything.
    LimitedConnectivity = 51,
    /// The interface, or the attachment, is there already.
    Exists = 100,
    /// No address: the ranges are full, or the one that was asked for cannot be had.
    NoAddress = 101,
    /// The attachment is not as ADD made it.
    Damaged = 102,
    /// The pod may have no interface on this node.
    Refused = 103,
    /// The kernel refuses.
    Kernel = 104,
    /// A fault of ours.
    Internal = 999,
}

impl Failure {
    /// An error of this code.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code: code as u32,
            msg: msg.into(),
            details: details.into(),
        }
    }

    /// Whether it has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as u32
    }
}
