//! ICMP errors about flows that were translated, RFC 5508.

use super::{Family, at, both};
use crate::case::{Bindings, Case};
use crate::cluster::{A, B, router_sends};
use crate::packet::{IpPacket, icmp_error, ping, udp};

pub(super) fn cases() -> Vec<Case> {
    [both(about_masqueraded), both(about_service), both(about_nothing)]
        .into_iter()
        .flatten()
        .collect()
}

fn number(seen: &Bindings, name: &str) -> u16 {
    seen.get(name)
        .and_then(|word| word.parse().ok())
        .expect("a pattern before binds it to a number")
}

impl Family {
    /// Type and code by what they mean.
    fn time_exceeded(self) -> (u8, u8) {
        if self.is_v4() { (11, 0) } else { (3, 0) }
    }

    fn port_unreachable(self) -> (u8, u8) {
        if self.is_v4() { (3, 3) } else { (1, 4) }
    }

    fn too_big(self) -> (u8, u8) {
        if self.is_v4() { (3, 4) } else { (2, 0) }
    }
}

fn about_masqueraded(f: Family) -> Case {
    let mut case = f.case(
        "icmp-masqueraded",
        "Errors about masqueraded packets reach the pod, and quote what the pod sent.",
        "",
    );
    let hop = if f.is_v4() {
        "203.0.113.1"
    } else {
        "2001:db8:ffff::1"
    };
    case.send(A.sends(&udp(&at(f.a, 33000), &at(f.outside, 33434), 30)))
        .tx(
            "uplink",
            format!(
                "node-a > router {} > {} ttl 63 {} udp {{u}} > 33434 data 30",
                f.node_a, f.outside, f.df
            ),
        );
    let sent = move |seen: &Bindings| udp(&at(f.node_a, number(seen, "{u}")), &at(f.outside, 33434), 30);
    let told = |from: &str, (kind, code): (u8, u8), word: u32, l4: &str| {
        format!(
            "gw > a {from} > {} ttl 63 {} icmp {kind}/{code} {word} [ {} > {} ttl 1 {} {l4} ]",
            f.a, f.df, f.a, f.outside, f.df
        )
    };
    for (from, (kind, code), word) in [
        (hop, f.time_exceeded(), 0),
        (hop, f.too_big(), 1400),
        (f.outside, f.port_unreachable(), 0),
    ] {
        case.send_after(&["{u}"], move |seen| {
            router_sends(&icmp_error(from, f.node_a, kind, code, word, &sent(seen), 500))
        })
        .tx(A.port, told(from, (kind, code), word, "udp 33000 > 33434"));
    }
    // As short as RFC 792 allows: IP header and eight bytes.
    let short = if f.is_v4() { 28 } else { 48 };
    case.send_after(&["{u}"], move |seen| {
        router_sends(&icmp_error(
            hop,
            f.node_a,
            f.time_exceeded().0,
            0,
            0,
            &sent(seen),
            short,
        ))
    })
    .tx(A.port, told(hop, f.time_exceeded(), 0, "udp 33000 > 33434"));
    case.send(A.sends(&ping(f.a, f.outside, 9, 1, 20))).tx(
        "uplink",
        format!(
            "node-a > router {} > {} ttl 63 {} echo-request {{id}} 1 data 20",
            f.node_a, f.outside, f.df
        ),
    );
    case.send_after(&["{id}"], move |seen| {
        let sent = ping(f.node_a, f.outside, number(seen, "{id}"), 1, 20);
        router_sends(&icmp_error(hop, f.node_a, f.time_exceeded().0, 0, 0, &sent, 500))
    })
    .tx(A.port, told(hop, f.time_exceeded(), 0, "echo-request 9 1"));
    case
}

fn about_service(f: Family) -> Case {
    let vip = if f.is_v4() { "10.96.0.10" } else { "fd00:10:96::10" };
    let family = if f.is_v4() { "IPv4" } else { "IPv6" };
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ namespace: default, name: dns }}\n\
         spec: {{ clusterIP: \"{vip}\", clusterIPs: [\"{vip}\"], ipFamilies: [{family}], ports: [{{ port: 53, protocol: UDP, targetPort: 5353 }}] }}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{ namespace: default, name: dns-1, labels: {{ kubernetes.io/service-name: dns }} }}\n\
         addressType: {family}\nports: [{{ port: 5353, protocol: UDP }}]\nendpoints: [{{ addresses: [\"{}\"] }}]\n",
        f.b
    );
    let mut case = f.case(
        "icmp-service",
        "Errors about a packet to a VIP come from the VIP, and quote what the client sent.",
        &service,
    );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(vip, 53), 30))).tx(
        B.port,
        format!("gw > b {} > {} ttl 63 {} udp 4000 > 5353 data 30", f.a, f.b, f.df),
    );
    let got = udp(&at(f.a, 4000), &at(f.b, 5353), 30);
    let (kind, code) = f.port_unreachable();
    case.send(B.sends(&icmp_error(f.b, f.a, kind, code, 0, &got, 500)))
        .tx(
            A.port,
            format!(
                "gw > a {vip} > {} ttl 63 {} icmp {kind}/{code} 0 [ {} > {vip} ttl 1 {} udp 4000 > 53 ]",
                f.a, f.df, f.a, f.df
            ),
        );
    case
}

fn about_nothing(f: Family) -> Case {
    let mut case = f.case(
        "icmp-unrelated",
        "Errors about what nobody sent are dropped, or the kernel's when they are for the node.",
        "",
    );
    let (kind, code) = f.port_unreachable();
    let never = |src: &str, dst: &str| -> IpPacket { udp(&at(src, 4000), &at(dst, 53), 30) };
    case.send(router_sends(&icmp_error(
        f.outside,
        f.a,
        kind,
        code,
        0,
        &never(f.a, f.outside),
        500,
    )))
    .dropped("no-flow");
    case.send(B.sends(&icmp_error(f.b, f.a, kind, code, 0, &never(f.a, f.b), 500)))
        .dropped("no-flow");
    case.send(router_sends(&icmp_error(
        f.outside,
        f.node_a,
        kind,
        code,
        0,
        &never(f.node_a, f.outside),
        500,
    )))
    .punted("to-host");
    // An error whose quote is too short to tell.
    let cut = icmp_error(f.outside, f.a, kind, code, 0, &never(f.a, f.outside), 12);
    case.send(router_sends(&cut)).dropped("malformed");
    case
}
