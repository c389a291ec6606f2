//! Forward: a packet whose flow is known leaves, rewritten, by its adjacency.
//!
//! Reads the exit, the new addresses and ports. Sets TTL, headers, checksums, link and outer headers.
//! Verdicts: tx; drop `ttl-exceeded`, `too-big` (both answered, before anything is changed), `no-route`, `port-gone`,
//! `no-buffer`, `neighbour-unresolved`; punt `to-host`.

use std::net::IpAddr;

use wire::Port;
use wire::packet::{Family, Packet};

use super::decide::Exit;
use super::refuse::Answer;
use super::rewrite::{self, After};
use super::{FragmentOutcome, Inbound, Pass, encap};
use crate::flow::key::addresses_v4;
use crate::fragment::complete::{complete_checksum, write_sctp_checksum};
use crate::fragment::split::split;
use crate::io::{Checksum, Frame};
use crate::observe::{Fate, Observer, PacketNumber};
use crate::outbox::Kind;
use crate::snapshot::{Adjacency, AdjacencyId};
use crate::verdict::{DropReason, PuntReason, Verdict};

/// What headers become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// What they are.
    None,
    /// IPv4: source and destination as they lie in the header, and ports.
    V4(u64, (Port, Port)),
    /// IPv6.
    V6(([u8; 16], [u8; 16]), (Port, Port)),
}

impl Rewrite {
    /// To these addresses and ports, of one family.
    pub(crate) fn to(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Self {
        let ports = (Port::new(sport), Port::new(dport));
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Self::V4(addresses_v4(src.octets(), dst.octets()), ports),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Self::V6((src.octets(), dst.octets()), ports),
            _ => {
                debug_assert!(false, "a flow has one family");
                Self::None
            }
        }
    }
}

/// What keeps a packet from being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub reason: DropReason,
    pub answer: Answer,
}

impl<O: Observer> Pass<'_, O> {
    /// May this packet, as it is, leave by `exit`?
    #[inline]
    pub(crate) fn fits(&self, packet: &Packet, exit: Exit) -> Result<(), Unfit> {
        let adjacency = match exit {
            Exit::Punt => return Ok(()),
            Exit::Adjacency(None) => {
                return Err(Unfit {
                    reason: DropReason::NoRoute,
                    answer: Answer::NoRoute,
                });
            }
            Exit::Adjacency(Some(id)) => self.snapshot.adjacency(id),
        };
        if packet.ttl <= 1 {
            return Err(Unfit {
                reason: DropReason::TtlExceeded,
                answer: Answer::TimeExceeded,
            });
        }
        if packet.total_len > u32::from(adjacency.mtu) && packet.dont_fragment {
            if adjacency.port == Adjacency::GONE.port {
                return Err(Unfit {
                    reason: DropReason::PortGone,
                    answer: Answer::None,
                });
            }
            return Err(Unfit {
                reason: DropReason::TooBig,
                answer: Answer::TooBig(adjacency.mtu),
            });
        }
        Ok(())
    }

    /// Sends a packet that [`fits`](Self::fits) on its way.
    #[inline]
    pub(crate) fn forward(&mut self, inbound: Inbound, exit: Exit, to: Rewrite, fate: Fate) {
        self.note_outcome(|| FragmentOutcome::Forwarded {
            exit,
            to,
            hash: inbound.hash,
            fate,
        });
        let id = match exit {
            Exit::Punt => return self.punt(inbound, PuntReason::ToHost, fate),
            Exit::Adjacency(Some(id)) => id,
            Exit::Adjacency(None) => return self.drop(inbound, DropReason::NoRoute, fate),
        };
        let Inbound {
            mut frame,
            number,
            mut place,
            hash,
            ..
        } = inbound;
        let adjacency = self.snapshot.adjacency(id);
        let partial = matches!(frame.checksum, Checksum::Partial { .. });
        let l3 = Self::l3_mut(self.memory, &mut frame, place.l3);
        rewrite::decrement_ttl(&mut place.packet, l3);
        let after = match to {
            Rewrite::None => After::Done,
            Rewrite::V4(addresses, ports) => {
                rewrite::rewrite_v4(&mut place.packet, l3, partial, addresses, ports)
            }
            Rewrite::V6(addresses, ports) => {
                rewrite::rewrite_v6(&mut place.packet, l3, partial, addresses, ports)
            }
        };
        let l3 = usize::from(place.l3);
        if after == After::SctpChecksum {
            // A fragment's CRC covers what is not here; its receiver will tell.
            let _ = write_sctp_checksum(self.memory, &mut frame, l3, &place.packet);
        }
        if place.packet.total_len > u32::from(adjacency.mtu) {
            return self.send_in_fragments(frame, number, &place.packet, l3, id, hash, fate);
        }
        self.send(frame, number, place.packet, l3, id, hash, Kind::Forwarded, fate);
    }

    /// Puts the link header on and queues it.
    #[expect(clippy::too_many_arguments, reason = "a packet taken apart")]
    #[inline]
    fn send(
        &mut self,
        mut frame: Frame,
        number: PacketNumber,
        packet: Packet,
        l3: usize,
        id: AdjacencyId,
        hash: u64,
        kind: Kind,
        fate: Fate,
    ) {
        let adjacency = self.snapshot.adjacency(id);
        let Some(capabilities) = self.outbox.capabilities(adjacency.port) else {
            return self.lost(frame, number, kind, DropReason::PortGone, fate);
        };
        if !adjacency.resolved {
            return self.hold(frame, number, packet, l3, id, hash, kind, fate);
        }
        if !encap::encap(
            self.memory,
            &mut frame,
            l3,
            &packet,
            adjacency,
            hash,
            capabilities.tx_checksum,
        ) {
            return self.lost(frame, number, kind, DropReason::NoBuffer, fate);
        }
        match self.outbox.push(adjacency.port, frame, Some(number), kind) {
            Ok(()) if kind == Kind::Forwarded => self.decided(number, fate, Verdict::Tx(adjacency.port)),
            Ok(()) => {}
            Err(frame) => self.lost(frame, number, kind, DropReason::PortGone, fate),
        }
    }

    fn lost(&mut self, frame: Frame, number: PacketNumber, kind: Kind, reason: DropReason, fate: Fate) {
        if kind == Kind::Forwarded {
            self.drop_frame(frame, number, reason, fate);
        } else {
            self.memory.release(frame);
        }
    }

    /// IPv4 without "don't fragment" that is too big: cut before encapsulation. The first counts as the packet.
    #[expect(clippy::too_many_arguments, reason = "a packet taken apart")]
    #[cold]
    fn send_in_fragments(
        &mut self,
        mut frame: Frame,
        number: PacketNumber,
        packet: &Packet,
        l3: usize,
        id: AdjacencyId,
        hash: u64,
        fate: Fate,
    ) {
        debug_assert_eq!(packet.family, Family::V4, "IPv6 that is too big was refused");
        let mtu = usize::from(self.snapshot.adjacency(id).mtu);
        if !complete_checksum(self.memory, &mut frame, l3, packet) || !frame.trim_front(l3) {
            return self.drop_frame(frame, number, DropReason::Malformed, fate);
        }
        let mut pieces = std::mem::take(self.scratch);
        debug_assert!(pieces.is_empty());
        if let Err((frame, error)) = split(self.memory, frame, 0, mtu, &mut pieces) {
            let reason = match error {
                crate::fragment::split::SplitError::NoBuffer => DropReason::NoBuffer,
                crate::fragment::split::SplitError::MtuTooSmall => DropReason::PortGone,
                _ => DropReason::Malformed,
            };
            *self.scratch = pieces;
            return self.drop_frame(frame, number, reason, fate);
        }
        for (at, piece) in pieces.drain(..).enumerate() {
            let kind = if at == 0 { Kind::Forwarded } else { Kind::Split };
            match wire::packet::parse_l3_head(self.memory.bytes(&piece), piece.len()) {
                Ok(packet) => self.send(piece, number, packet, 0, id, hash, kind, fate),
                Err(_) => self.lost(piece, number, kind, DropReason::Malformed, fate),
            }
        }
        *self.scratch = pieces;
    }
}
