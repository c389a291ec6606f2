//! Answer: ARP, neighbour discovery and echo on links whose other end is a pod or this node's kernel.
//!
//! Reads the question, its port. Sets nothing but the frame. Verdicts: tx with the answer, drop `not-for-us` where silence is
//! right, `spoofed-source` and `spoofed-mac` for an ARP sender that is not the pod, `malformed`, `no-buffer`, `too-big`.

use std::net::IpAddr;

use wire::arp::ArpPacket;
use wire::ethernet;

use super::{Inbound, NOTHING, Pass, Place};
use crate::answer::{Link, Reply, arp, echo, nd};
use crate::io::Frame;
use crate::observe::{Observer, PacketNumber};
use crate::outbox::Kind;
use crate::port::PortId;
use crate::snapshot::Port;
use crate::verdict::{DropReason, Verdict};

impl<O: Observer> Pass<'_, O> {
    pub(crate) fn answer_arp(&mut self, frame: Frame, number: PacketNumber, port: &Port) {
        let head = self.memory.bytes(&frame);
        // Behind a priority tag too.
        let l3_offset = ethernet::split(head).map_or(head.len(), |split| usize::from(split.l3_offset));
        let message = &head[l3_offset..];
        let own: &[_] = if is_pod(port) { &port.addresses } else { &[] };
        if is_pod(port)
            && let Err(reason) = arp_sender_is_right(message, port)
        {
            return self.drop_frame(frame, number, reason, NOTHING);
        }
        let reply = arp::answer(&link(port), message, own);
        self.reply(frame, number, port.id, &reply);
    }

    pub(crate) fn answer_neighbour(
        &mut self,
        frame: Frame,
        number: PacketNumber,
        port: &Port,
        place: &Place,
    ) {
        let l3 = &self.memory.bytes(&frame)[usize::from(place.l3)..];
        let own: &[_] = if is_pod(port) { &port.addresses } else { &[] };
        let reply = nd::answer(&link(port), &place.packet, l3, own);
        self.reply(frame, number, port.id, &reply);
    }

    pub(crate) fn answer_echo(&mut self, inbound: Inbound, port: &Port) {
        let Inbound {
            mut frame,
            number,
            place,
            ..
        } = inbound;
        // The answer is as long as the question, and need not fit because that came through.
        if place.packet.total_len > u32::from(port.mtu) {
            self.drop_frame(frame, number, DropReason::TooBig, NOTHING);
        } else if echo::answer_in_place(
            self.memory,
            &mut frame,
            usize::from(place.l3),
            &place.packet,
            &link(port),
        ) {
            self.send_answer(frame, number, port.id);
        } else {
            self.drop_frame(frame, number, DropReason::NotForUs, NOTHING);
        }
    }

    fn reply(&mut self, question: Frame, number: PacketNumber, port: PortId, reply: &Reply) {
        let reason = match reply {
            Reply::Silence => DropReason::NotForUs,
            Reply::Malformed => DropReason::Malformed,
            Reply::Answer(answer) => match answer.to_frame(self.memory) {
                Some(frame) => {
                    self.memory.release(question);
                    return self.send_answer(frame, number, port);
                }
                None => DropReason::NoBuffer,
            },
        };
        self.drop_frame(question, number, reason, NOTHING);
    }

    /// The question is served by its answer: tx.
    fn send_answer(&mut self, frame: Frame, number: PacketNumber, port: PortId) {
        match self.outbox.push(port, frame, Some(number), Kind::Forwarded) {
            Ok(()) => self.decided(number, NOTHING, Verdict::Tx(port)),
            Err(frame) => self.drop_frame(frame, number, DropReason::PortGone, NOTHING),
        }
    }
}

/// A pod says in ARP, too, that it is itself: with its own MAC, and its own address or (a probe) none.
fn arp_sender_is_right(message: &[u8], port: &Port) -> Result<(), DropReason> {
    let packet = ArpPacket::parse(message).map_err(|_| DropReason::Malformed)?;
    if packet.sender_mac != port.peer_mac {
        return Err(DropReason::SpoofedMac);
    }
    let sender = packet.sender();
    if sender.is_unspecified() || port.addresses.contains(&IpAddr::V4(sender)) {
        Ok(())
    } else {
        Err(DropReason::SpoofedSource)
    }
}

fn is_pod(port: &Port) -> bool {
    port.kind == crate::snapshot::PortKind::Pod
}

fn link(port: &Port) -> Link {
    Link {
        own_mac: port.own_mac,
        peer_mac: port.peer_mac,
        vlan: None,
    }
}
