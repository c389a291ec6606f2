//! Port: frames of flows in, in a given order; what leaves for another node is noted, for a check when no clock runs.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use fastpath::io::frame::HEADROOM;
use fastpath::io::{Capabilities, Frame, Memory, PacketIo};

use super::pool::{Pool, resize};
use super::world::{Map, Pod};
use crate::pipeline::case::{GATEWAY_MAC, client_address, node_address, node_mac, pod_mac, vip, vtep_mac};
use crate::pipeline::packet::{
    ChecksumFill, Content, Family, Step, Transport, Tunnel, VXLAN_LEN, fold, frame, halves, sum, vxlan,
};

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) flow: u32,
    pub(super) service: u32,
    pub(super) transport: Transport,
    pub(super) source_port: u16,
    /// Who answers; of answers alone.
    pub(super) pod: Option<Pod>,
}

impl Turn {
    pub(super) fn of(map: Map, flow: u32) -> Self {
        let service = map.service(flow);
        Self {
            flow,
            service,
            transport: map.transport(service),
            source_port: map.source_port(flow),
            pod: None,
        }
    }
}

/// What a port receives.
#[derive(Debug)]
pub(super) struct Play {
    what: What,
    order: Rc<[Turn]>,
    next: usize,
    left: u64,
}

#[derive(Debug)]
enum What {
    /// Any packet of a flow, built whole.
    Whole(Map, Step),
    /// Packets of established flows of one client, by templates.
    Data(Box<Templates>),
}

/// A packet that left for another node: as much as tells where it went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) flow: u32,
    /// Destination of the outer and of the inner header.
    pub(super) outer: u32,
    pub(super) inner: u32,
    /// Inner ports.
    pub(super) ports: u32,
}

/// One worker's queue of a port.
#[derive(Debug)]
pub(super) struct UpdatePort {
    pool: Rc<RefCell<Pool>>,
    play: Option<Play>,
    burst: usize,
    log: Option<Rc<RefCell<Vec<Sent>>>>,
    /// Frames sent by the pipeline.
    pub(super) sent: u64,
}

impl UpdatePort {
    /// A silent port; what it sends is noted in `log`.
    pub(super) fn new(pool: &Rc<RefCell<Pool>>, burst: usize, log: Option<Rc<RefCell<Vec<Sent>>>>) -> Self {
        Self {
            pool: Rc::clone(pool),
            play: None,
            burst,
            log,
            sent: 0,
        }
    }

    /// Receives whole packets from now on, once.
    pub(super) fn play_once(&mut self, map: Map, step: Step, order: Vec<Turn>) {
        let left = order.len() as u64;
        self.play = (left > 0).then(|| Play {
            what: What::Whole(map, step),
            order: order.into(),
            next: 0,
            left,
        });
    }

    /// Receives packets of client number `client`'s flows from now on, round and round, as many as are
    /// [let in](Self::let_in).
    pub(super) fn play_data(&mut self, client: u16, order: Vec<Turn>) {
        self.play = Some(Play {
            what: What::Data(Box::new(Templates::new(client))),
            order: order.into(),
            next: 0,
            left: 0,
        });
    }

    /// What it plays, to be put aside and put back.
    pub(super) fn swap_play(&mut self, play: Option<Play>) -> Option<Play> {
        std::mem::replace(&mut self.play, play)
    }

    /// Lets `frames` more in.
    pub(super) fn let_in(&mut self, frames: u64) {
        if let Some(play) = &mut self.play {
            play.left += frames;
        }
    }
}

impl PacketIo for UpdatePort {
    #[inline]
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let Some(play) = self.play.as_mut().filter(|play| play.left > 0) else {
            return 0;
        };
        let count = (room.min(self.burst) as u64).min(play.left) as usize;
        let from = into.len();
        self.pool.borrow_mut().take(memory, count, into);
        for frame in &mut into[from..] {
            let turn = play.order[play.next];
            match &play.what {
                What::Data(templates) => {
                    resize(frame, FRAME_LEN);
                    templates.write(turn, memory.bytes_mut(frame));
                }
                What::Whole(map, step) => {
                    let whole = whole(*map, *step, turn);
                    resize(frame, whole.len());
                    memory.bytes_mut(frame).copy_from_slice(&whole);
                }
            }
            play.next += 1;
            if play.next == play.order.len() {
                play.next = 0;
            }
        }
        play.left -= count as u64;
        count
    }

    #[inline]
    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len();
        if let Some(log) = &self.log {
            let mut log = log.borrow_mut();
            log.extend(frames.iter().map(|frame| Sent::read(memory.bytes(frame))));
        }
        self.pool.borrow_mut().give(frames);
        self.sent += count as u64;
        count
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: 2048 - HEADROOM as u32,
            tx_checksum: false,
            multi_buffer: false,
        }
    }

    fn has_input(&mut self) -> bool {
        self.play.as_ref().is_some_and(|play| play.left > 0)
    }
}

impl Sent {
    /// Of a frame in VXLAN; zeros where there is none.
    #[inline]
    fn read(bytes: &[u8]) -> Self {
        const INNER: usize = VXLAN_LEN + 14;
        let word = |at: usize| {
            let bytes: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        let data = if bytes.get(INNER + 9) == Some(&6) {
            INNER + 40
        } else {
            INNER + 28
        };
        Self {
            flow: word(data),
            outer: word(30),
            inner: word(INNER + 16),
            ports: word(INNER + 20),
        }
    }
}

/// The packet of `turn`, as its sender builds it.
fn whole(map: Map, step: Step, turn: Turn) -> Vec<u8> {
    let transport = turn.transport;
    let (source, destination) = (map.source(turn.flow), map.destination(turn.flow));
    let content = |src, dst| Content {
        transport,
        family: Family::V4,
        step,
        src,
        dst,
        ttl: 64,
        flow: turn.flow,
        frame_len: FRAME_LEN,
        checksum: ChecksumFill::Full,
    };
    let Some(pod) = turn.pod else {
        return frame(GATEWAY_MAC, pod_mac(*source.ip()), &content(source, destination));
    };
    let backend = std::net::SocketAddrV4::new(pod.address(), super::world::BACKEND_PORT);
    let inner = frame(vtep_mac(1), vtep_mac(pod.node()), &content(backend, source));
    let tunnel = Tunnel {
        to: node_mac(1),
        from: node_mac(pod.node()),
        src: node_address(pod.node()),
        dst: node_address(1),
        sport: 0xc000 | (turn.flow & 0x3fff) as u16,
    };
    vxlan(&tunnel, &inner)
}

/// Frames of one client, TCP and UDP, with zeros where packets differ.
#[derive(Debug)]
struct Templates {
    tcp: Template,
    udp: Template,
}

#[derive(Debug)]
struct Template {
    head: [u8; FRAME_LEN],
    ip_sum: u32,
    l4_sum: u32,
    checksum_at: usize,
    data_at: usize,
}

impl Templates {
    fn new(client: u16) -> Self {
        let of = |transport: Transport| {
            let source = std::net::SocketAddrV4::new(client_address(client), 0);
            let content = Content {
                transport,
                family: Family::V4,
                step: Step::Data,
                src: source,
                dst: std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, super::world::SERVICE_PORT),
                ttl: 64,
                flow: 0,
                frame_len: FRAME_LEN,
                checksum: ChecksumFill::Full,
            };
            let whole = frame(GATEWAY_MAC, pod_mac(*source.ip()), &content);
            let mut head: [u8; FRAME_LEN] = whole.try_into().expect("the length that was asked for");
            let checksum_at = 34 + transport.checksum_at();
            head[24..26].fill(0);
            head[checksum_at..checksum_at + 2].fill(0);
            Template {
                ip_sum: sum(&head[14..34]),
                // The pseudo header: addresses, protocol, length.
                l4_sum: sum(&head[26..]) + u32::from(head[23]) + (FRAME_LEN as u32 - 34),
                head,
                checksum_at,
                data_at: 34 + transport.header_len(),
            }
        };
        Self {
            tcp: of(Transport::Tcp),
            udp: of(Transport::Udp),
        }
    }

    #[inline]
    fn write(&self, turn: Turn, bytes: &mut [u8]) {
        let template = match turn.transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        };
        let Some(bytes) = bytes.first_chunk_mut::<FRAME_LEN>() else {
            return;
        };
        *bytes = template.head;
        let dst = vip(turn.service).to_bits();
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(30, &dst.to_be_bytes());
        put(34, &turn.source_port.to_be_bytes());
        put(template.data_at, &turn.flow.to_be_bytes());
        put(24, &(!fold(template.ip_sum + halves(dst))).to_be_bytes());
        let l4 = template.l4_sum + halves(dst) + u32::from(turn.source_port) + halves(turn.flow);
        put(template.checksum_at, &(!fold(l4)).to_be_bytes());
    }
}

/// Bytes of the clients' frames.
pub(super) const FRAME_LEN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_by_template_are_those_built_whole() {
        let map = Map {
            services: 50,
            clients: 3,
            by_set: false,
        };
        for flow in [0, 1, 49, 50, 151, 12_345] {
            let turn = Turn::of(map, flow);
            let mut bytes = vec![0; FRAME_LEN];
            Templates::new(map.client(flow)).write(turn, &mut bytes);
            assert_eq!(bytes, whole(map, Step::Data, turn), "flow {flow}");
        }
    }
}
