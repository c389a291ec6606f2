//! What should come out: whose a frame is, and whether it is as [`Traffic`] says.

use anyhow::{Context, Result, bail, ensure};

use super::packet::{Step, fold, sum};
use super::traffic::{Traffic, Turn};

/// The number of the flow that a frame which left belongs to, and the server that it went to.
pub(crate) fn identify(traffic: &Traffic, sent: &[u8], reply: bool) -> Result<(u32, u16)> {
    let link = traffic.link(reply, true);
    let at = link + traffic.headers_len();
    let number = sent
        .get(at..at + 4)
        .with_context(|| format!("a short frame: {sent:02x?}"))?;
    let flow = u32::from_be_bytes(number.try_into().expect("four bytes"));
    if reply {
        return Ok((flow, 0));
    }
    // Addresses of IPv6 end in those of IPv4.
    let dst_end = link + 14 + traffic.family.header_len();
    let dst = &sent[dst_end - 4..dst_end];
    let case = traffic.case;
    let found = (0..case.servers()).find(|server| case.server(flow, *server).ip().octets() == dst);
    let server = found.with_context(|| format!("flow {flow} went to {dst:?}, which is no server"))?;
    Ok((flow, server))
}

/// Refuses a frame that is not what should leave for the flow that it carries. A tunnel's source port may be any dynamic one.
pub(crate) fn check(traffic: &Traffic, step: Step, reply: bool, turn: Turn, sent: &[u8]) -> Result<()> {
    let is_tunnelled = traffic.is_tunnelled(reply, true);
    let mut sport = 0;
    if is_tunnelled {
        sport = u16::from_be_bytes([sent[34], sent[35]]);
        ensure!(sport >= 0xc000, "flow {}: tunnel source port {sport}", turn.flow);
    }
    let mut wanted = traffic.leaving(step, reply, turn, sport);
    if is_tunnelled {
        take_identification(&mut wanted, sent);
    }
    if sent != wanted {
        bail!("{turn:?} of {traffic:?}:\n sent     {sent:02x?}\n expected {wanted:02x?}");
    }
    Ok(())
}

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
    let checksum = !fold(sum(&wanted[HEADER]));
    wanted[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}
