//! Lookup: each packet of the batch, in the order received, to its entry or to classification.
//!
//! Reads what the batch's lookup found; looks a miss up again, since an earlier packet of the batch may have made the entry.
//! Sets nothing. Verdicts: those of ingress, told here so that all come in order.

use flowtable::{FlowHash, FlowRef};

use super::{Inbound, NOTHING, Parsed, Pass, Place, Table};
use crate::batch::{Batch, Lookup};
use crate::flow::key::{V4, V6, ports_kind};
use crate::io::Frame;
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::DropReason;

impl<O: Observer> Pass<'_, O> {
    /// Gives every frame of the batch its verdict.
    pub(crate) fn decide_all(&mut self, batch: &mut Batch) {
        let Batch {
            frames,
            ports,
            parsed,
            lookups,
            ..
        } = batch;
        let each = frames
            .drain(..)
            .zip(ports.iter())
            .zip(parsed.iter().zip(lookups.iter()));
        for (at, ((frame, port), (parsed, lookup))) in each.enumerate() {
            let number = PacketNumber(self.first_number + at as u64);
            match *parsed {
                Parsed::Ip(place) => self.packet(frame, number, *port, place, *lookup),
                Parsed::Drop(reason) => self.drop_frame(frame, number, reason, NOTHING),
                Parsed::Punt(reason) => self.punt_unparsed(frame, number, reason),
                other => self.question(frame, number, *port, other),
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

    #[inline]
    fn packet(&mut self, frame: Frame, number: PacketNumber, port: PortId, place: Place, lookup: Lookup) {
        let mut inbound = Inbound {
            frame,
            number,
            port,
            place,
            hash: 0,
        };
        let is_first_fragment = place.packet.fragment.is_some() && lookup != Lookup::None;
        if is_first_fragment {
            self.begin_first_fragment(&inbound);
        }
        match lookup {
            Lookup::None => self.later_fragment(inbound),
            Lookup::V4(hash, found) => {
                inbound.hash = hash.value();
                self.flow_packet::<V4, 2, 8>(inbound, hash, found);
            }
            Lookup::V6(hash, found) => {
                inbound.hash = hash.value();
                self.flow_packet::<V6, 5, 12>(inbound, hash, found);
            }
        }
        if is_first_fragment {
            self.end_first_fragment();
        }
    }

    #[inline]
    fn flow_packet<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        hash: FlowHash,
        found: Option<FlowRef>,
    ) {
        let missed = match found.or_else(|| self.look_again::<L, K, W>(&inbound, hash)) {
            Some(flow) => self.hit::<L, K, W>(inbound, flow),
            None => Err(inbound),
        };
        if let Err(inbound) = missed {
            self.classify::<L, K, W>(inbound);
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
