//! Fragments: cutting packets, following the parts of cut ones, and finishing a checksum before it is cut apart.
//!
//! [`split`] reads an IPv4 packet and gives its fragments. [`track`] remembers what became of a datagram's first fragment,
//! which alone has ports, and holds the parts that overtook it; [`board`] is where
//! workers find what another one saw. [`complete`] finishes partial checksums in software.

pub mod board;
pub mod complete;
mod key;
mod list;
pub mod split;
pub mod track;

pub use key::FragmentKey;
