//! Side: addresses and ports of one side of the flows, as steps from flow to flow.

use std::net::SocketAddrV4;

use super::case::CLIENT_PORTS;
use super::traffic::Turn;

/// Address and port.
pub(crate) type End = (u32, u16);

/// The ends of one side of the flows, as steps: computed for each packet in a few instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    first: End,
    per_client: End,
    per_server: End,
    /// Flows of one group differ in the client's port.
    per_flow: End,
    per_group: End,
}

impl Side {
    /// From what `of` gives for the first flow and for those that differ from it in one thing.
    pub(crate) fn of(of: impl Fn(Turn) -> SocketAddrV4) -> Self {
        let first = Turn {
            flow: 0,
            client: 0,
            server: 0,
        };
        let base = end(of(first));
        let step = |turn: Turn| {
            let (address, port) = end(of(turn));
            (address.wrapping_sub(base.0), port.wrapping_sub(base.1))
        };
        Self {
            first: base,
            per_client: step(Turn { client: 1, ..first }),
            per_server: step(Turn { server: 1, ..first }),
            per_flow: step(Turn { flow: 1, ..first }),
            per_group: step(Turn {
                flow: CLIENT_PORTS,
                ..first
            }),
        }
    }

    #[inline]
    pub(crate) fn end(&self, turn: Turn) -> End {
        let (low, group) = (turn.flow % CLIENT_PORTS, turn.flow / CLIENT_PORTS);
        let steps = [
            (self.per_client, u32::from(turn.client)),
            (self.per_server, u32::from(turn.server)),
            (self.per_flow, low),
            (self.per_group, group),
        ];
        steps.iter().fold(self.first, |(address, port), (per, count)| {
            let (more, further) = (per.0.wrapping_mul(*count), per.1.wrapping_mul(*count as u16));
            (address.wrapping_add(more), port.wrapping_add(further))
        })
    }
}

/// As numbers.
pub(crate) fn end(of: SocketAddrV4) -> End {
    (of.ip().to_bits(), of.port())
}
