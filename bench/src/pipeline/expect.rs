//! What should come out: each frame built whole from the case's description, without the pipeline's code.

use anyhow::{Context, Result, bail, ensure};

use super::case::{Case, FIRST_REMOTE, GATEWAY_MAC, SERVERS_MAX, node_address, node_mac, pod_mac, vtep_mac};
use super::emitter::Turn;
use super::packet::{Content, Step, Transport, Tunnel, VXLAN_LEN, frame, vxlan};

/// The number of the flow that a frame of `case` which left belongs to, and the server that it went to.
pub(crate) fn identify(case: Case, transport: Transport, sent: &[u8], reply: bool) -> Result<(u32, u16)> {
    let link = if case.has_tunnel() && !reply { VXLAN_LEN } else { 0 };
    let at = link + 34 + transport.header_len();
    let number = sent
        .get(at..at + 4)
        .with_context(|| format!("a short frame: {sent:02x?}"))?;
    let flow = u32::from_be_bytes(number.try_into().expect("four bytes"));
    let server = if reply {
        0
    } else {
        let dst = &sent[link + 30..link + 34];
        let found = (0..case.servers()).find(|server| case.server(flow, *server).ip().octets() == dst);
        found.with_context(|| format!("flow {flow} went to {dst:?}, which is no server"))?
    };
    Ok((flow, server))
}

/// The frame that should leave for `turn`'s packet; `sport` is the tunnel's source port, any of the dynamic ones.
pub(crate) fn expected(
    case: Case,
    transport: Transport,
    step: Step,
    reply: bool,
    frame_len: usize,
    turn: Turn,
    sport: u16,
) -> Vec<u8> {
    let client = case.source(turn.flow, turn.client);
    let server = case.server(turn.flow, turn.server);
    let (src, dst) = if reply {
        (case.destination(turn.flow), client)
    } else {
        (client, server)
    };
    let content = Content {
        transport,
        step,
        src,
        dst,
        ttl: 63,
        flow: turn.flow,
        frame_len,
    };
    let node = FIRST_REMOTE + turn.server as u8;
    if reply {
        return frame(pod_mac(*client.ip()), GATEWAY_MAC, &content);
    }
    if !case.is_remote() {
        return frame(pod_mac(*server.ip()), GATEWAY_MAC, &content);
    }
    if !case.has_tunnel() {
        return frame(node_mac(node), node_mac(1), &content);
    }
    let tunnel = Tunnel {
        to: node_mac(node),
        from: node_mac(1),
        src: node_address(1),
        dst: node_address(node),
        sport,
    };
    vxlan(&tunnel, &frame(vtep_mac(node), vtep_mac(1), &content))
}

/// Refuses a frame that is not what [`expected`] says for the flow that it carries.
pub(crate) fn check(
    case: Case,
    transport: Transport,
    step: Step,
    reply: bool,
    frame_len: usize,
    turn: Turn,
    sent: &[u8],
) -> Result<()> {
    let mut sport = 0;
    if case.has_tunnel() && !reply {
        sport = u16::from_be_bytes([sent[34], sent[35]]);
        ensure!(sport >= 0xc000, "flow {}: tunnel source port {sport}", turn.flow);
    }
    let mut wanted = expected(case, transport, step, reply, frame_len, turn, sport);
    if case.has_tunnel() && !reply {
        take_identification(&mut wanted, sent);
    }
    if sent != wanted {
        bail!("{turn:?} of {case:?}:\n sent     {sent:02x?}\n expected {wanted:02x?}");
    }
    Ok(())
}

const _: () = assert!(SERVERS_MAX <= 3, "nodes 2 to 4");

/// Gives `wanted` the identification of the outer IPv4 header of `sent`: any will do, as long as the header checksum counts it.
fn take_identification(wanted: &mut [u8], sent: &[u8]) {
    const HEADER: std::ops::Range<usize> = 14..34;
    const IDENTIFICATION: std::ops::Range<usize> = 18..20;
    const CHECKSUM: std::ops::Range<usize> = 24..26;
    let (Some(identification), Some(_)) = (sent.get(IDENTIFICATION), wanted.get(HEADER)) else {
        return;
    };
    wanted[IDENTIFICATION].copy_from_slice(identification);
    wanted[CHECKSUM].fill(0);
    let sum: u32 = wanted[HEADER]
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    wanted[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}
