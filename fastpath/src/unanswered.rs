//! How many connections of each port nobody has answered: one port may hold a quarter of a table so, that a pod which opens
//! connections to nowhere leaves room for the others.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::flow::{Ingress, Zone};

/// Counts per port, of all workers; what comes from outside counts as one. Touched when a connection is made, answered or
/// removed. Two workers that end one connection at once may leave the count one off: a limit, not a lock.
#[derive(Debug)]
pub(crate) struct Unanswered {
    counts: Box<[AtomicU32]>,
}

impl Unanswered {
    pub(crate) fn new(ports_max: usize) -> Self {
        Self {
            counts: (0..=ports_max).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// May another connection come in at `zone`, in a table of this capacity?
    pub(crate) fn may_open(&self, zone: Zone, capacity: u32) -> bool {
        // Relaxed, here and below: nothing is ordered by a count.
        self.count(zone).load(Relaxed) < (capacity / 4).max(SHARE_MIN)
    }

    /// One more. `is_alone`: no other worker counts, so that no locked instruction is needed.
    #[inline]
    pub(crate) fn opened(&self, zone: Zone, is_alone: bool) {
        let count = self.count(zone);
        if is_alone {
            count.store(count.load(Relaxed) + 1, Relaxed);
        } else {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Answered, or removed before that; `is_alone` as for [`opened`](Self::opened).
    #[inline]
    pub(crate) fn ended(&self, zone: Zone, is_alone: bool) {
        let count = self.count(zone);
        // Never below zero, whoever counted first.
        if is_alone {
            count.store(count.load(Relaxed).saturating_sub(1), Relaxed);
        } else {
            let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    fn count(&self, zone: Zone) -> &AtomicU32 {
        let outside = self.counts.len() - 1;
        match zone.ingress() {
            Ingress::Port(port) => &self.counts[port.index().min(outside)],
            Ingress::Uplink | Ingress::Tunnel(_) => &self.counts[outside],
        }
    }
}

/// What any port may have, however small the table.
const SHARE_MIN: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::snapshot::PeerId;

    #[test]
    fn a_port_that_has_its_share_leaves_the_others_theirs() {
        let counts = Unanswered::new(4);
        let (flooding, other) = (
            Zone::of(Ingress::Port(PortId(1))),
            Zone::of(Ingress::Tunnel(PeerId(3))),
        );
        for _ in 0..250 {
            assert!(counts.may_open(flooding, 1000));
            counts.opened(flooding, false);
        }
        assert!(!counts.may_open(flooding, 1000) && counts.may_open(other, 1000));
        counts.ended(flooding, true);
        assert!(counts.may_open(flooding, 1000));
        counts.ended(other, false);
        assert!(counts.may_open(other, 1000));
    }
}
