//! Desired state, acknowledgements and framing between Ringway's control and fastpath.
//!
//! [`proto`] holds the messages as they cross the socket (`proto/ringway.proto` documents every field). They are
//! untrusted: fastpath turns them into [`valid`] types, the one way in, before it compiles them.

// Lints of libraries alone: helpers of integration tests may unwrap and be public.
#![warn(clippy::unwrap_used, unreachable_pub)]

pub mod frame;
pub mod merge;

/// The messages of `ringway.proto`, generated at build.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/ringway.v1.rs"));
}

pub mod valid;
pub mod version;

/// The protocol version that this crate speaks.
pub const PROTOCOL: u32 = 1;
