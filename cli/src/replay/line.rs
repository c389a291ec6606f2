//! A verdict line: what became of one input packet, as JSON. Shape and order of the fields are fixed.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use fastpath::flow::Tuple;
use fastpath::observe::Fate;
use fastpath::snapshot::{Direction, RuleOrigin, Snapshot};
use fastpath::verdict::Verdict;
use serde::{Serialize, Serializer};

/// One line. Absent fields do not apply.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// Number of the packet in the input, from 1.
    pub(super) n: u64,
    /// Nanoseconds since 1970 of replayed time.
    pub(super) ts: u64,
    /// Where it came in.
    #[serde(serialize_with = "shared_text")]
    pub(super) port: Arc<str>,
    /// `None` while it is held.
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) out: Vec<Out>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<Flow>,
}

/// A frame that left because of the packet.
#[derive(Debug, Serialize)]
pub(super) struct Out {
    #[serde(serialize_with = "shared_text")]
    pub(super) port: Arc<str>,
    /// Its number in the output file, from 1.
    pub(super) frame: u64,
}

#[derive(Debug, Serialize)]
struct Policy {
    group: String,
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Flow {
    new: bool,
    orig: String,
    reply: String,
}

impl Line {
    /// Of a packet without a verdict yet.
    pub(super) fn new(n: u64, ts: u64, port: Arc<str>) -> Self {
        Self {
            n,
            ts,
            port,
            verdict: None,
            reason: None,
            out: Vec::new(),
            policy: None,
            service: None,
            flow: None,
        }
    }

    /// It has its verdict.
    pub(super) fn is_decided(&self) -> bool {
        self.verdict.is_some()
    }

    /// Its verdict, and what led to it.
    pub(super) fn decide(&mut self, fate: &Fate, snapshot: &Snapshot) {
        self.set_verdict(fate.verdict);
        let origin = fate.rule.and_then(|rule| snapshot.rule_origin(rule));
        self.policy = origin.map(|origin| policy(&origin));
        let service = fate.service.and_then(|service| snapshot.service(service));
        self.service = service.map(|service| service.name.to_string());
        self.flow = fate.flow.map(|flow| Flow {
            new: flow.new,
            orig: text(&flow.orig),
            reply: text(&flow.reply),
        });
    }

    /// The verdict alone: what led to it stays.
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        let (verdict, reason) = match verdict {
            Verdict::Tx(_) => ("tx", None),
            Verdict::Punt(reason) => ("punt", Some(reason.name())),
            Verdict::Drop(reason) => ("drop", Some(reason.name())),
        };
        (self.verdict, self.reason) = (Some(verdict), reason);
    }
}

fn shared_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn policy(origin: &RuleOrigin) -> Policy {
    let object = &origin.policy;
    Policy {
        group: object.group.clone(),
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        direction: match origin.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        },
        rule: origin.rule,
        default: origin.rule.is_none().then_some(true),
    }
}

/// `tcp 10.0.0.1:4000 > 10.96.0.10:80`, `icmp 10.0.0.1 > 10.0.0.2 id 7` (of both families), `ip proto 47 A > B`.
fn text(tuple: &Tuple) -> String {
    let Tuple {
        src,
        dst,
        sport,
        dport,
        proto,
        ..
    } = *tuple;
    if proto.has_ports() {
        let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        return format!("{proto} {src} > {dst}");
    }
    if !tuple.is_icmp() {
        return format!("ip proto {} {src} > {dst}", proto.0);
    }
    let mut text = format!("icmp {src} > {dst}");
    if tuple.kind.is_echo() {
        write!(text, " id {sport}").expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use contract::valid::Origin;
    use fastpath::flow::{PortsKind, Zone};
    use fastpath::port::PortId;
    use fastpath::verdict::{DropReason, PuntReason};
    use wire::IpProtocol;

    use super::*;

    fn tuple(src: &str, dst: &str, sport: u16, dport: u16, proto: IpProtocol, kind: PortsKind) -> Tuple {
        Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            sport,
            dport,
            proto,
            kind,
            zone: Zone::UPLINK,
        }
    }

    #[test]
    fn flows_read_as_documented() {
        let plain = PortsKind::Plain;
        for (flow, expected) in [
            (
                tuple("10.0.0.1", "10.96.0.10", 4000, 80, IpProtocol::TCP, plain),
                "tcp 10.0.0.1:4000 > 10.96.0.10:80",
            ),
            (
                tuple("fd00::1", "fd00::2", 53, 99, IpProtocol::UDP, plain),
                "udp [fd00::1]:53 > [fd00::2]:99",
            ),
            (
                tuple(
                    "10.0.0.1",
                    "10.0.0.2",
                    7,
                    7,
                    IpProtocol::ICMP,
                    PortsKind::EchoRequest,
                ),
                "icmp 10.0.0.1 > 10.0.0.2 id 7",
            ),
            (
                tuple(
                    "fd00::1",
                    "fd00::2",
                    7,
                    7,
                    IpProtocol::ICMPV6,
                    PortsKind::EchoReply,
                ),
                "icmp fd00::1 > fd00::2 id 7",
            ),
            (
                tuple("10.0.0.1", "10.0.0.2", 0, 0, IpProtocol::GRE, plain),
                "ip proto 47 10.0.0.1 > 10.0.0.2",
            ),
            (
                tuple("10.0.0.1", "10.0.0.2", 1, 2, IpProtocol::SCTP, plain),
                "sctp 10.0.0.1:1 > 10.0.0.2:2",
            ),
        ] {
            assert_eq!(text(&flow), expected);
        }
    }

    #[test]
    fn a_full_line_has_its_fields_in_order() {
        let mut line = Line::new(1, 5, "pod:default/web".into());
        line.set_verdict(Verdict::Drop(DropReason::PolicyDenied));
        line.out.push(Out {
            port: "uplink".into(),
            frame: 1,
        });
        let mut origin = RuleOrigin {
            policy: Arc::new(Origin {
                group: "networking.k8s.io".to_owned(),
                kind: "NetworkPolicy".to_owned(),
                namespace: "default".to_owned(),
                name: "web".to_owned(),
            }),
            direction: Direction::Ingress,
            rule: Some(0),
        };
        line.policy = Some(policy(&origin));
        line.service = Some("default/api:http".into());
        line.flow = Some(Flow {
            new: true,
            orig: "a".to_owned(),
            reply: "b".to_owned(),
        });
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            "{\"n\":1,\"ts\":5,\"port\":\"pod:default/web\",\"verdict\":\"drop\",\"reason\":\"policy-denied\",\
             \"out\":[{\"port\":\"uplink\",\"frame\":1}],\"policy\":{\"group\":\"networking.k8s.io\",\"kind\":\"NetworkPolicy\",\
             \"namespace\":\"default\",\"name\":\"web\",\"direction\":\"ingress\",\"rule\":0},\"service\":\"default/api:http\",\
             \"flow\":{\"new\":true,\"orig\":\"a\",\"reply\":\"b\"}}"
        );
        (origin.rule, origin.direction) = (None, Direction::Egress);
        assert_eq!(
            serde_json::to_string(&policy(&origin)).unwrap(),
            "{\"group\":\"networking.k8s.io\",\"kind\":\"NetworkPolicy\",\"namespace\":\"default\",\"name\":\"web\",\
             \"direction\":\"egress\",\"default\":true}"
        );
    }

    #[test]
    fn absent_fields_are_left_out() {
        let mut line = Line::new(2, 0, "uplink".into());
        assert!(!line.is_decided());
        line.set_verdict(Verdict::Tx(PortId(0)));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            "{\"n\":2,\"ts\":0,\"port\":\"uplink\",\"verdict\":\"tx\"}"
        );
        line.set_verdict(Verdict::Punt(PuntReason::ToHost));
        assert!(
            serde_json::to_string(&line)
                .unwrap()
                .ends_with("\"punt\",\"reason\":\"to-host\"}")
        );
    }
}
