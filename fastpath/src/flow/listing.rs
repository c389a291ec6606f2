//! Connections for people: a walk over a flow table beside the workers, which go on changing it.

use flowtable::{FlowRef, Table};

use super::Tuple;
use super::key::Family;
use super::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::conntrack::ConnState;
use crate::snapshot::RuleId;

/// A connection as it was when the walk came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The tuple of its first packet, as it arrived.
    pub orig: Tuple,
    /// The tuple of replies, as they arrive.
    pub reply: Tuple,
    /// Its state.
    pub state: ConnState,
    /// Policy denies it now.
    pub denied: bool,
    /// The rule that decided.
    pub rule: Option<RuleId>,
    /// When last seen in either direction, wrapping milliseconds of the workers' clock.
    pub last_seen_ms: u32,
    /// Packets of the original and of the reply direction.
    pub packets: [u32; 2],
    /// Bytes likewise.
    pub bytes: [u64; 2],
}

/// Calls `each` for every connection until it returns false. `now_ms` orders wrapping times.
pub fn walk<L: Layout + Family<Key = [u64; K]>, const K: usize, const W: usize>(
    table: &Table<K, W>,
    now_ms: u32,
    mut each: impl FnMut(&Listed) -> bool,
) {
    for flow in table.connections() {
        if let Some(listed) = read::<L, K, W>(table, flow, now_ms)
            && !each(&listed)
        {
            return;
        }
    }
}

fn read<L: Layout + Family<Key = [u64; K]>, const K: usize, const W: usize>(
    table: &Table<K, W>,
    flow: FlowRef,
    now_ms: u32,
) -> Option<Listed> {
    let original = table.read(flow).ok()?;
    let reply = table.read(flow.peer()).ok()?;
    let bits = Bits(original.state().bits());
    if bits.has(Bits::AFFINITY) {
        return None; // the backend that a client had, no connection
    }
    let seen = [SeenWord(original.word(L::SEEN)), SeenWord(reply.word(L::SEEN))];
    let later = seen
        .iter()
        .map(|s| s.last_seen_ms())
        .min_by_key(|&at| now_ms.wrapping_sub(at))?;
    Some(Listed {
        orig: L::tuple(&original.key()),
        reply: L::tuple(&reply.key()),
        state: bits.state(),
        denied: bits.has(Bits::DENIED),
        rule: PortsWord(original.word(L::PORTS)).rule(),
        last_seen_ms: later,
        packets: seen.map(SeenWord::packets),
        bytes: [
            BytesWord(original.word(L::BYTES)).bytes(),
            BytesWord(reply.word(L::BYTES)).bytes(),
        ],
    })
}
