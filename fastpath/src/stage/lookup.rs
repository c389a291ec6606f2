//! Lookup: each packet of the batch, in the order received, to its entry or to classification.
//!
//! Reads what the batch's lookup found; looks a miss up again, since an earlier packet of the batch may have made the entry.
//! Sets nothing. Verdicts: those of ingress, told here so that all come in order.

use flowtable::{FlowHash, FlowRef};
use wire::packet::Family;

use super::{Inbound, NOTHING, Parsed, Pass, Place, Table, ingress};
use crate::batch::{Batch, Lookup};
use crate::flow::key::{V4, V6, ports_kind};
use crate::io::Frame;
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::DropReason;

impl<O: Observer> Pass<'_, O> {
    /// Gives every frame of the batch its verdict.
    pub(crate) fn decide_all(&mut self, batch: &mut Batch) {
        let (mut v4, mut v6) = (batch.v4.lookups(), batch.v6.lookups());
        let mut parsed = batch.parsed.iter();
        let mut replayed = 0;
        let each = batch
            .frames
            .drain(..)
            .zip(batch.ports.iter().zip(batch.marks.iter()));
        for (at, (frame, (port, mark))) in each.enumerate() {
            let number = PacketNumber(self.first_number + at as u64);
            if mark.is_plain() {
                let lookup = v4.next().expect("a plain packet has a key");
                let left = match lookup.found {
                    Some(flow) => self.replay_plain(frame, number, *mark, lookup.key, lookup.hash, flow),
                    None => Err(frame),
                };
                match left {
                    Ok(()) => replayed += 1,
                    Err(frame) => self.not_steady(frame, number, *port, &lookup),
                }
                continue;
            }
            let parsed = parsed.next().expect("a packet that is not plain was parsed");
            match (*parsed, parsed.flow_family()) {
                (Parsed::Ip(place), Some(Family::V4)) => {
                    let lookup = v4.next().expect("a packet of a flow has a key");
                    self.packet::<V4, 2, 8>(frame, number, *port, place, &lookup);
                }
                (Parsed::Ip(place), Some(Family::V6)) => {
                    let lookup = v6.next().expect("a packet of a flow has a key");
                    self.packet::<V6, 5, 12>(frame, number, *port, place, &lookup);
                }
                (Parsed::Ip(place), None) => {
                    self.later_fragment(Inbound {
                        frame,
                        number,
                        port: *port,
                        place,
                        hash: 0,
                    });
                }
                (Parsed::Drop(reason), _) => self.drop_frame(frame, number, reason, NOTHING),
                (Parsed::Punt(reason), _) => self.punt_unparsed(frame, number, reason),
                (other, _) => self.question(frame, number, *port, other),
            }
        }
        self.counters.replayed.add(replayed);
    }

    /// A plain packet that its flow's entry does not serve as it is takes the general way from its start.
    #[cold]
    fn not_steady(&mut self, mut frame: Frame, number: PacketNumber, port: PortId, lookup: &Lookup<2>) {
        let Some(at) = self.snapshot.port(port) else {
            return self.drop_frame(frame, number, DropReason::PortGone, NOTHING);
        };
        match ingress::admit(self.memory, &mut frame, at, self.snapshot) {
            Parsed::Ip(place) => self.packet::<V4, 2, 8>(frame, number, port, place, lookup),
            other => {
                debug_assert!(false, "a plain packet is one to be forwarded, not {other:?}");
                self.drop_frame(frame, number, DropReason::Malformed, NOTHING);
            }
        }
    }

    /// ARP, neighbour discovery, echo to the gateway.
    fn question(&mut self, frame: Frame, number: PacketNumber, port: PortId, parsed: Parsed) {
        let Some(port) = self.snapshot.port(port) else {
            return self.drop_frame(frame, number, DropReason::PortGone, NOTHING);
        };
        match parsed {
            Parsed::Neighbour(place) => self.answer_neighbour(frame, number, port, &place),
            Parsed::EchoToGateway(place) => {
                self.answer_echo(
                    Inbound {
                        frame,
                        number,
                        port: port.id,
                        place,
                        hash: 0,
                    },
                    port,
                );
            }
            _ => self.answer_arp(frame, number, port),
        }
    }

    fn packet<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        frame: Frame,
        number: PacketNumber,
        port: PortId,
        place: Place,
        lookup: &Lookup<K>,
    ) {
        let inbound = Inbound {
            frame,
            number,
            port,
            place,
            hash: lookup.hash.value(),
        };
        let is_first_fragment = place.packet.fragment.is_some();
        if is_first_fragment {
            self.begin_first_fragment(&inbound);
        }
        let found = lookup
            .found
            .or_else(|| self.look_again::<L, K, W>(&inbound, lookup.hash));
        let missed = match found {
            Some(flow) => self.hit::<L, K, W>(inbound, flow),
            None => Err(inbound),
        };
        if let Err(inbound) = missed {
            self.classify::<L, K, W>(inbound);
        }
        if is_first_fragment {
            self.end_first_fragment();
        }
    }

    #[cold]
    fn look_again<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: &Inbound,
        hash: FlowHash,
    ) -> Option<FlowRef> {
        let Place { packet, zone, .. } = inbound.place;
        let key = L::key_of(self.l3(inbound), &packet, ports_kind(&packet), zone);
        L::writer(self.flows).table().lookup(&key, hash)
    }
}
