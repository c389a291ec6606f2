//! What must hold of every frame that leaves, whatever came in: read with etherparse, not with our own parsers.

use fastpath::observe::Emission;
use fastpath::snapshot::{PortKind, Snapshot};
use wire::packet::{Family, Packet, parse_l3};
use wire::{IpProtocol, ethernet};

use super::node::{Received, Sent};
use crate::dissect::describe;

/// Checks what left in one poll.
pub(super) fn check(snapshot: &Snapshot, received: &[Received], sent: &[Sent]) {
    for frame in sent {
        let cause = frame.cause.map(|number| &received[number as usize]);
        let port = snapshot
            .port(frame.port)
            .unwrap_or_else(|| panic!("no such port: {:?}", frame.port));
        let intact =
            frame.why == Emission::Generated || cause.is_some_and(|cause| is_intact(snapshot, cause));
        let described = describe(&frame.bytes);
        let context = || {
            format!(
                "{:?} by {}: {} {:?}\n  because of {:?}",
                frame.why,
                port.name,
                described.line,
                described.faults,
                cause.map(|cause| (
                    snapshot.port(cause.port).map(|p| &p.name),
                    describe(&cause.bytes).line
                ))
            )
        };
        assert!(described.faults.is_empty() || !intact, "{}", context());
        if frame.why == Emission::Punted {
            continue;
        }
        assert_eq!(
            &frame.bytes[6..12],
            port.own_mac.0,
            "its source is us: {}",
            context()
        );
        if port.kind == PortKind::Pod {
            assert_eq!(
                &frame.bytes[..6],
                port.peer_mac.0,
                "its destination is the pod: {}",
                context()
            );
        }
        if let Some((l3, packet)) = ip(&frame.bytes) {
            assert!(
                packet.total_len <= u32::from(port.mtu),
                "larger than its link's {}: {}",
                port.mtu,
                context()
            );
            // A tunnel that the kernel makes is its own: what is inside is not ours to judge.
            let from_host = cause.is_some_and(|cause| {
                snapshot
                    .port(cause.port)
                    .is_none_or(|port| port.kind == PortKind::Host)
            });
            let inner = if from_host { l3 } else { innermost(snapshot, l3) };
            assert!(
                parse_l3(inner).is_ok_and(|inner| inner.ttl > 0),
                "its life is over: {}",
                context()
            );
        }
    }
    for (number, cause) in received.iter().enumerate() {
        let pieces: Vec<_> = sent
            .iter()
            .filter(|frame| frame.cause == Some(number as u64))
            .collect();
        if pieces.iter().any(|frame| frame.why == Emission::Split) && is_intact(snapshot, cause) {
            check_pieces(snapshot, &pieces);
        }
    }
}

/// Pieces that are all there make a packet whose checksum is right.
fn check_pieces(snapshot: &Snapshot, pieces: &[&Sent]) {
    let mut whole = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        if !matches!(piece.why, Emission::Forwarded | Emission::Split) {
            return;
        }
        let (l3, _) = ip(&piece.bytes).expect("fragments are packets");
        let l3 = innermost(snapshot, l3);
        let packet = parse_l3(l3).expect("checked before");
        let header_len = usize::from(l3[0] & 0xf) * 4;
        let field = u16::from_be_bytes([l3[6], l3[7]]);
        let last = at + 1 == pieces.len();
        if usize::from(field & 0x1fff) * 8 + 20 != whole.len().max(20) || (field & 0x2000 == 0) != last {
            // A ring was full, or the packet was a fragment itself.
            return;
        }
        if whole.is_empty() {
            // The header without options: they are in no checksum but its own.
            whole.extend_from_slice(&l3[..20]);
        }
        whole.extend_from_slice(&l3[header_len..packet.total_len as usize]);
    }
    let len = (whole.len() as u16).to_be_bytes();
    (whole[0], whole[2], whole[3], whole[6], whole[7]) = (0x45, len[0], len[1], 0, 0);
    wire::ipv4::write_checksum(&mut whole[..20]);
    let frame = [&[0; 12][..], &[8, 0], &whole].concat();
    let described = describe(&frame);
    assert!(
        described.faults.is_empty(),
        "put together again: {described:?}, of {} pieces",
        pieces.len()
    );
}

/// The IP packet of a frame, without padding.
pub(super) fn ip(frame: &[u8]) -> Option<(&[u8], Packet)> {
    let split = ethernet::split(frame).ok()?;
    let l3 = frame.get(usize::from(split.l3_offset)..)?;
    let packet = parse_l3(l3).ok()?;
    Some((&l3[..packet.total_len as usize], packet))
}

/// Where the inner IP packet of a tunnel packet begins, seen from the outer one.
pub(super) fn inner_offset(snapshot: &Snapshot, l3: &[u8]) -> Option<usize> {
    let outer = parse_l3(l3).ok()?;
    let l4 = usize::from(outer.l4_offset);
    let node = snapshot.this_node();
    if outer.fragment.is_some()
        || !(node.vteps.contains(&outer.src(l3)) || node.vteps.contains(&outer.dst(l3)))
    {
        return None;
    }
    let at = match outer.proto {
        IpProtocol::IPV4 => l4,
        IpProtocol::UDP if outer.dport.get() == node.vxlan_port => l4 + 8 + 8 + 14,
        _ => return None,
    };
    parse_l3(l3.get(at..)?).is_ok().then_some(at)
}

/// The packet that a pod would see.
pub(super) fn innermost<'a>(snapshot: &Snapshot, l3: &'a [u8]) -> &'a [u8] {
    inner_offset(snapshot, l3).map_or(l3, |at| &l3[at..])
}

/// Whether all checksums of a packet were right when it came, or left to the device by a socket on this machine.
fn is_intact(snapshot: &Snapshot, packet: &Received) -> bool {
    let described = describe(&packet.bytes);
    let virtual_link = snapshot
        .port(packet.port)
        .is_some_and(|port| port.kind != PortKind::Uplink);
    match &described.faults[..] {
        [] => true,
        [fault] if virtual_link && (fault == "TCP checksum" || fault == "UDP checksum") => {
            is_partial(&packet.bytes)
        }
        _ => false,
    }
}

/// The transport checksum is the pseudo-header's sum alone.
fn is_partial(frame: &[u8]) -> bool {
    let Some((l3, packet)) = ip(frame) else {
        return false;
    };
    let l4 = usize::from(packet.l4_offset);
    let addresses = match packet.family {
        Family::V4 => &l3[12..20],
        Family::V6 => &l3[8..40],
    };
    let mut sum = u32::from(packet.proto.0) + packet.total_len - l4 as u32;
    sum += addresses
        .as_chunks::<2>()
        .0
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let field = l4 + if packet.proto == IpProtocol::TCP { 16 } else { 6 };
    l3.get(field..field + 2) == Some(&(sum as u16).to_be_bytes())
}
