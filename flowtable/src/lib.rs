//! A bounded, lock-free concurrent flow table and snapshot publication.
//!
//! It knows no packet formats, no I/O and no clock: a connection is two keys of `K` words (one per direction), a state
//! word per direction, and payload words that mean something to the caller only.
//!
//! - [`Quiescence`] is the domain that the workers belong to. Each says at its batch boundaries that it holds nothing
//!   from before ([`Worker::quiescent`]); that decides when removed slots may be reused.
//! - [`Table`] is looked up by every worker, in batches, without a locked instruction. [`Writer`] is one worker's way to
//!   change it: [insert](Writer::insert), [remove](Writer::remove), [redecide](Writer::redecide),
//!   [sweep](Writer::sweep).
//! - [`SnapshotCell`] hands immutable state to the workers; the publisher learns when all of them use it.
//!
//! # A worker's loop
//!
//! ```
//! # #[cfg(not(loom))] {
//! use flowtable::*;
//!
//! let domain = Quiescence::new(1); // one seat per worker, and one per thread that reads flows
//! let config = Config { capacity: 1000, seed: 7, user_words: 512 };
//! let table = TableV4::create(config, Memory::Anonymous, &domain)?;
//! let mut worker = domain.register(0).expect("seat 0 is free");
//! let mut writer = table.writer(&worker, Share::ALL);
//!
//! // The first packet of a flow: both directions, with whatever the caller decided.
//! let (key, reply_key) = ([0x0a00_0001_0a00_0002, 0x0fa0_0050_06], [0x0a00_0002_0a00_0001, 0x0050_0fa0_06]);
//! const LAST_SEEN: usize = 0; // payload words are numbered from 0; IPv4 records have 5
//! const REWRITE: usize = 1;
//! let flow = writer.insert(&key, &reply_key, |both| {
//!     both.set_word(Direction::Original, REWRITE, 0xabcd);
//!     both.set_bits(Direction::Original, 1); // for instance a TCP state
//! })?;
//! assert_eq!(writer.insert(&key, &reply_key, |_| ()), Err(Refused::Exists(flow)));
//!
//! // Every later batch.
//! let keys = [key, reply_key, [1, 2]];
//! let (mut hashes, mut flows) = ([FlowHash::default(); 3], [None; 3]);
//! table.lookup_batch(&keys, &mut hashes, &mut flows);
//! assert_eq!(flows, [Some(flow), Some(flow.peer()), None]);
//! match table.read(flow) {
//!     Ok(entry) => assert_eq!((entry.word(REWRITE), entry.state().bits()), (0xabcd, 1)),
//!     Err(Unreadable::Busy) => unreachable!("no other worker decides it just now"),
//!     Err(Unreadable::Gone) => unreachable!("nobody removed it"),
//! }
//! table.record(flow).store(LAST_SEEN, 12); // relaxed; a lost update is harmless
//! writer.update_state(flow, |bits| (bits == 1).then_some(2))?; // by compare-exchange
//!
//! // A stamp differs: one worker decides both directions again.
//! writer.redecide(flow, |both| {
//!     both.set_word(Direction::Original, REWRITE, 0xef01);
//!     both.set_word(Direction::Reply, REWRITE, 0xef02);
//!     Decision::Keep
//! })?;
//!
//! // The end of the batch: nothing found in it is used again. Then a bit of expiry.
//! worker.quiescent();
//! let now = 100;
//! let swept = writer.sweep(writer.sweep_budget(1), |connection| {
//!     let idle = |direction| now - connection.record(direction).word(LAST_SEEN);
//!     if idle(Direction::Original).min(idle(Direction::Reply)) > 30 { Sweep::Remove } else { Sweep::Keep }
//! });
//! assert_eq!((swept.removed, table.live()), (1, 0));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A table that outlives the process
//!
//! With [`Memory::Shared`] the region lives in a file or memfd and a successor takes it over with [`Table::adopt`]:
//! live connections go on, with their payload, and so does [`Table::user_area`].

// Lints of libraries alone: helpers of integration tests may unwrap and be public.
#![warn(clippy::unwrap_used, unreachable_pub)]

mod adopt;
mod counters;
mod hash;
mod index;
mod layout;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod pool;
mod prefetch;
mod quiescence;
mod record;
mod signature;
mod slots;
mod snapshot;
mod state;
#[cfg(all(test, not(loom)))]
mod stress;
mod sweep;
mod sync;
mod table;
mod view;
mod writer;

pub use adopt::Adoption;
pub use counters::Counters;
pub use hash::FlowHash;
pub use layout::LayoutError;
pub use memory::{Memory, Pages, Region};
pub use prefetch::prefetch;
pub use quiescence::{Asleep, Quiescence, Worker};
pub use record::{Both, Direction, FlowRef, Record, Snapshot, Unreadable};
pub use snapshot::{Reader, SnapshotCell};
pub use state::{Lifecycle, State};
pub use sweep::{Connection, Sweep, Swept};
pub use table::{AdoptError, Config, CreateError, Table, TableV4, TableV6};
pub use view::View;
pub use writer::{Decision, Refused, Share, Writer};
