//! Plain: the short way of the packets that nearly all are.
//!
//! A frame is **plain** when it is Ethernet, IP without options or extension headers and no fragment, with UDP or TCP, in one
//! buffer, from who may send it, perhaps inside VXLAN over IPv4 from a known node ([`gate`], [`head`]). Its TCP has neither FIN nor
//! RST, and SYN only where it opens a connection. (Flows of IPv6 are opened the general way.) A flow is **steady** for a packet when
//! its entry is established and up to date and the packet changes nothing but the running words ([`replay`]). Such packets are read
//! by fixed offsets, looked up, and replayed in one function that leaves by a prepared header ([`way`]). Plain packets that open a
//! flow leave so too, after it has been decided and installed ([`open`]).
//!
//! Everything else takes the general way, through `ingress`, `hit`, `forward` and `encap`, which can do all that this one
//! can: same bytes, same verdicts, same counters. A test sends all packets both ways.
//!
//! ```text
//! plain? ─► key, hash, prefetch ─► lookup ─► steady? ─► running words, rewrite, header ─► outbox
//!    └─ no: ingress                ├─ opens? ─► Service, decide ─┬─ allowed: install, as above ──────┘
//!                                  │                            └─ refused: the verdict; or ingress, then as decided
//!                                  └─ neither: ingress, then as any hit or miss
//! ```

mod gate;
mod head;
mod ip;
mod lane;
mod open;
mod prospects;
mod replay;
mod way;

pub(crate) use gate::{Gates, Reading};
pub(crate) use ip::Ip;
pub(crate) use lane::{Lane, Lanes};
pub(crate) use open::Decision;
pub(crate) use way::Ways;
