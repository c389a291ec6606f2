//! Neighbour discovery: the ICMPv6 message is the fuzzer's, the header around it is made so that it counts.

use wire::nd::{self, Advertisement, Message};
use wire::packet::parse_l3;
use wire::{IpProtocol, Mac, icmpv6, ipv6};
use zerocopy::IntoBytes;

/// One input.
pub fn run(input: &[u8]) {
    let Some((addresses, icmp)) = input.split_first_chunk::<33>() else {
        return;
    };
    if icmp.len() > 1500 {
        return;
    }
    let (src, dst) = (
        [addresses[0]; 16],
        addresses[1..17].first_chunk::<16>().copied().unwrap_or([1; 16]),
    );
    let header = ipv6::Ipv6Header::new(
        if addresses[0] == 0xfe {
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into()
        } else {
            src.into()
        },
        dst.into(),
        IpProtocol::ICMPV6,
        nd::HOP_LIMIT,
        icmp.len() as u16,
    );
    let mut bytes = [header.as_bytes(), icmp].concat();
    let Ok(packet) = parse_l3(&bytes) else { return };
    assert!(packet.write_l4_checksum(&mut bytes));
    let found = nd::parse(&packet, &bytes);
    if !icmpv6::is_neighbour_discovery(packet.icmp_type) {
        assert!(matches!(found, Ok(None)));
        return;
    }
    let Ok(Some(message)) = found else { return };
    let options = match message {
        Message::RouterSolicitation(options)
        | Message::RouterAdvertisement(_, options)
        | Message::NeighbourAdvertisement { options, .. } => options,
        Message::NeighbourSolicitation {
            target,
            is_probe,
            options,
        } => {
            assert_eq!(is_probe, header.src().is_unspecified());
            let mut out = [0; nd::ADVERTISEMENT_LEN];
            let answer = Advertisement::answer(header.src(), target, Mac([2; 6]), true);
            assert_eq!(answer.write(&mut out), Some(out.len()));
            let packet = parse_l3(&out).expect("what we write is a packet");
            // The source may be a multicast address here, to which no solicited answer may go.
            if !answer.dst.is_multicast() || !answer.flags.solicited {
                let Ok(Some(Message::NeighbourAdvertisement {
                    target: told,
                    flags,
                    options,
                })) = nd::parse(&packet, &out)
                else {
                    panic!("our answer does not read back")
                };
                assert_eq!(
                    (told, flags, options.target_mac()),
                    (target, answer.flags, Some(answer.mac))
                );
            }
            options
        }
        Message::Redirect => return,
    };
    for (_, option) in options {
        assert!(!option.is_empty() && option.len() % 8 == 0);
    }
    let _ = (options.source_mac(), options.target_mac());
}
