//! End-to-end tests on a living lab: the built programs, network namespaces and real sockets in them.
//!
//! A [`Lab`] is brought up by `ringway lab up` from a copy of `examples/two-nodes` and taken down when it is dropped, also by
//! a panic. Sockets are made by a thread that has entered the pod's namespace ([`Lab::within`]); they stay there.

pub mod cni;
pub mod daemon;
pub mod lab;
pub mod place;
pub mod traffic;
pub mod wait;

pub use lab::Lab;
