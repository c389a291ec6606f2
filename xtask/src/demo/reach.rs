//! Who reaches whom in `examples/two-nodes`: the cases, and how each one is judged.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use serde_json::Value;

use super::cluster::{Cluster, Protocol};
use super::process;
use crate::traffic::Outcome;

/// Ports that the demo's servers listen on, in pods and outside.
pub(crate) const API_TCP: u16 = 8080;
pub(crate) const API_UDP: u16 = 8081;
pub(crate) const DB_TCP: u16 = 5432;
pub(crate) const OUTSIDE_TCP: u16 = 9000;
pub(crate) const OUTSIDE_UDP: u16 = 9001;

/// Masqueraded connections come from a port in this range.
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 45_000..=65_535;
/// Bytes each way where it is a transfer that matters.
const TRANSFER: u64 = 1 << 20;
/// An exchange that should work has this long, in milliseconds; one that should not, less.
const PATIENCE_MS: u64 = 5000;
const REFUSAL_MS: u64 = 1200;

/// Addresses of one family in `examples/two-nodes` and its lab.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) api: [&'static str; 3],
    pub(crate) client: &'static str,
    pub(crate) db: &'static str,
    pub(crate) vip: &'static str,
    /// In the service range, of no Service.
    pub(crate) no_vip: &'static str,
    pub(crate) node_a: &'static str,
    pub(crate) node_b: &'static str,
    pub(crate) outside: &'static str,
    /// Outside, but forbidden to the prober.
    pub(crate) forbidden: &'static str,
}

pub(crate) const FAMILIES: [Family; 2] = [
    Family {
        name: "IPv4",
        api: ["10.244.1.11", "10.244.2.10", "10.244.2.11"],
        client: "10.244.1.10",
        db: "10.244.2.12",
        vip: "10.96.0.10",
        no_vip: "10.96.9.9",
        node_a: "192.0.2.11",
        node_b: "192.0.2.12",
        outside: "203.0.113.10",
        forbidden: "203.0.113.66",
    },
    Family {
        name: "IPv6",
        api: ["fd00:10:244:1::11", "fd00:10:244:2::10", "fd00:10:244:2::11"],
        client: "fd00:10:244:1::10",
        db: "fd00:10:244:2::12",
        vip: "fd00:10:96::10",
        no_vip: "fd00:10:96::909",
        node_a: "2001:db8:2::11",
        node_b: "2001:db8:2::12",
        outside: "2001:db8:113::10",
        forbidden: "2001:db8:113::66",
    },
];

/// One thing that is tried.
struct Case {
    from: &'static str,
    to: String,
    how: How,
    expected: Expected,
}

#[derive(Clone, Copy)]
enum How {
    Ping,
    /// Bytes each way, and how often.
    Exchange(Protocol, u64, u64),
}

enum Expected {
    /// Answered, and by these servers where it is an exchange: all of them, and no other.
    By(&'static [&'static str]),
    /// Answered by the outside, which saw this address and a port of the masquerade's range.
    Masqueraded(&'static str),
    /// Dropped on `node` for `reason`; a policy's denial names `policy`.
    Dropped {
        node: &'static str,
        reason: &'static str,
        policy: Option<&'static str>,
    },
    /// Refused with a reset or port unreachable.
    Rejected,
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) how: String,
    /// What happened, in words; what was expected instead comes after it where that differs.
    pub(crate) result: String,
    pub(crate) ok: bool,
}

/// Tries every case of a family.
pub(crate) fn run(cluster: &Cluster, family: &Family) -> Result<Vec<Row>> {
    cases(family).iter().map(|case| attempt(cluster, case)).collect()
}

/// Tries those that the kernel's dataplane, which knows no policy, should do as well.
pub(crate) fn run_without_policy(cluster: &Cluster, family: &Family) -> Result<Vec<Row>> {
    let cases = cases(family);
    let reachable = cases
        .iter()
        .filter(|case| matches!(case.expected, Expected::By(_)));
    reachable.map(|case| attempt(cluster, case)).collect()
}

fn cases(family: &Family) -> Vec<Case> {
    const API: &[&str] = &["api-0", "api-1", "api-2"];
    let at = |address: &str, port: u16| {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let tcp = How::Exchange(Protocol::Tcp, TRANSFER, 1);
    let tcp_once = How::Exchange(Protocol::Tcp, 1000, 1);
    let udp = How::Exchange(Protocol::Udp, 1000, 1);
    let udp_large = How::Exchange(Protocol::Udp, 3000, 1);
    let many = |protocol| How::Exchange(protocol, 1000, 30);
    let case = |from, to: &str, how, expected| Case {
        from,
        to: to.to_owned(),
        how,
        expected,
    };
    let [api_0, api_1, _] = family.api;
    let denied = |node, policy| Expected::Dropped {
        node,
        reason: "policy-denied",
        policy: Some(policy),
    };
    vec![
        // Pods, on the node and across.
        case("default/client", api_0, How::Ping, Expected::By(&[])),
        case("default/client", api_1, How::Ping, Expected::By(&[])),
        case(
            "default/client",
            &at(api_0, API_TCP),
            tcp,
            Expected::By(&["api-0"]),
        ),
        case(
            "default/client",
            &at(api_1, API_TCP),
            tcp,
            Expected::By(&["api-1"]),
        ),
        case(
            "default/api-1",
            &at(family.client, API_TCP),
            tcp,
            Expected::By(&["client"]),
        ),
        case(
            "default/client",
            &at(api_0, API_UDP),
            udp,
            Expected::By(&["api-0"]),
        ),
        case(
            "default/client",
            &at(api_1, API_UDP),
            udp,
            Expected::By(&["api-1"]),
        ),
        case(
            "default/client",
            &at(api_1, API_UDP),
            udp_large,
            Expected::By(&["api-1"]),
        ),
        case(
            "default/api-0",
            &at(family.db, DB_TCP),
            tcp,
            Expected::By(&["db"]),
        ),
        // Nodes and pods.
        case("node-a", family.client, How::Ping, Expected::By(&[])),
        case("default/client", family.node_a, How::Ping, Expected::By(&[])),
        case("default/client", family.node_b, How::Ping, Expected::By(&[])),
        case("node-a", &at(api_0, API_TCP), tcp_once, Expected::By(&["api-0"])),
        case("node-a", &at(api_1, API_TCP), tcp_once, Expected::By(&["api-1"])),
        case(
            "node-b",
            &at(family.vip, 80),
            many(Protocol::Tcp),
            Expected::By(API),
        ),
        // The Service; api-0 may be given itself.
        case(
            "default/client",
            &at(family.vip, 80),
            many(Protocol::Tcp),
            Expected::By(API),
        ),
        case("default/client", &at(family.vip, 80), tcp, Expected::By(API)),
        case(
            "default/client",
            &at(family.vip, 7),
            many(Protocol::Udp),
            Expected::By(API),
        ),
        case(
            "default/api-0",
            &at(family.vip, 80),
            many(Protocol::Tcp),
            Expected::By(API),
        ),
        case(
            "default/client",
            &at(family.vip, 81),
            tcp_once,
            Expected::Rejected,
        ),
        case(
            "default/client",
            &at(family.no_vip, 80),
            tcp_once,
            Expected::Dropped {
                node: "node-a",
                reason: "unassigned-service-address",
                policy: None,
            },
        ),
        // The world outside.
        case("default/client", family.outside, How::Ping, Expected::By(&[])),
        case(
            "default/client",
            &at(family.outside, OUTSIDE_TCP),
            tcp,
            Expected::Masqueraded(family.node_a),
        ),
        case(
            "default/client",
            &at(family.outside, OUTSIDE_UDP),
            udp,
            Expected::Masqueraded(family.node_a),
        ),
        case(
            "default/client",
            &at(family.outside, OUTSIDE_UDP),
            udp_large,
            Expected::Masqueraded(family.node_a),
        ),
        case(
            "default/api-2",
            &at(family.outside, OUTSIDE_TCP),
            tcp,
            Expected::Masqueraded(family.node_b),
        ),
        // Policy.
        case(
            "default/client",
            &at(family.db, DB_TCP),
            tcp_once,
            denied("node-b", "default/db-deny-all"),
        ),
        case(
            "ops/prober",
            &at(api_0, API_TCP),
            tcp_once,
            denied("node-a", "default/api-from-clients"),
        ),
        case(
            "ops/prober",
            &at(family.forbidden, OUTSIDE_TCP),
            tcp_once,
            denied("node-a", "ops/prober-egress"),
        ),
        case(
            "ops/prober",
            &at(family.outside, OUTSIDE_TCP),
            tcp_once,
            Expected::Masqueraded(family.node_a),
        ),
    ]
}

fn attempt(cluster: &Cluster, case: &Case) -> Result<Row> {
    let outcomes = match case.how {
        How::Ping => vec![ping(cluster, case)?],
        How::Exchange(protocol, bytes, count) => {
            let patience = if case.expected.is_success() {
                PATIENCE_MS
            } else {
                REFUSAL_MS
            };
            let outcomes = cluster.exchange(case.from, protocol, &case.to, bytes, count, patience)?;
            outcomes.into_iter().map(Reply::from).collect()
        }
    };
    let how = match case.how {
        How::Ping => "ping".to_owned(),
        How::Exchange(protocol, bytes, count) => {
            let protocol = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
            let times = if count == 1 {
                String::new()
            } else {
                format!("{count} x ")
            };
            format!("{protocol} {times}{bytes} B")
        }
    };
    let (result, ok) = judge(cluster, case, &outcomes)?;
    Ok(Row {
        from: case.from.to_owned(),
        to: case.to.clone(),
        how,
        result,
        ok,
    })
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// From this server, which saw this address and port; a ping's answer has neither.
    Answered(Option<(String, IpAddr, u16)>),
    Nothing,
    Refused,
    Other(String),
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Served(receipt) => Self::Answered(Some((
                receipt.server,
                receipt.seen_as.ip(),
                receipt.seen_as.port(),
            ))),
            Outcome::Timeout => Self::Nothing,
            Outcome::Refused => Self::Refused,
            Outcome::Unreachable => Self::Other("unreachable".to_owned()),
            Outcome::Broken(why) => Self::Other(why),
        }
    }
}

impl Expected {
    fn is_success(&self) -> bool {
        matches!(self, Self::By(_) | Self::Masqueraded(_))
    }
}

fn ping(cluster: &Cluster, case: &Case) -> Result<Reply> {
    let output =
        process::output(&mut cluster.command(case.from, &["ping", "-n", "-c2", "-i0.2", "-W2", &case.to]))?;
    Ok(if output.status.success() {
        Reply::Answered(None)
    } else {
        Reply::Nothing
    })
}

/// What to say of the replies, and whether they are as expected.
fn judge(cluster: &Cluster, case: &Case, replies: &[Reply]) -> Result<(String, bool)> {
    if let Expected::Dropped { node, reason, policy } = &case.expected {
        if replies.iter().any(|reply| *reply != Reply::Nothing) {
            return Ok((
                format!("{}, expected a drop ({reason})", describe(replies)),
                false,
            ));
        }
        return Ok(explained(&cluster.ask(node, "drops")?, &case.to, reason, *policy));
    }
    let said = describe(replies);
    let expected = match &case.expected {
        Expected::By(servers) => {
            let by: Vec<&str> = replies.iter().filter_map(server).collect();
            let answered = replies.iter().all(|reply| matches!(reply, Reply::Answered(_)));
            let all_served = replies.len() < servers.len() || servers.iter().all(|name| by.contains(name));
            let no_other = by.iter().all(|name| servers.contains(name));
            if answered && all_served && no_other {
                return Ok((said, true));
            }
            if servers.is_empty() {
                "an answer".to_owned()
            } else {
                format!("service by {}", servers.join(", "))
            }
        }
        Expected::Masqueraded(node) => {
            let address: IpAddr = node.parse()?;
            let masqueraded = |reply: &Reply| match reply {
                Reply::Answered(Some((_, seen, port))) => *seen == address && SNAT_PORTS.contains(port),
                _ => false,
            };
            if replies.iter().all(masqueraded) {
                return Ok((format!("{said}, seen as {node}"), true));
            }
            format!("to be seen as {node}, port in {SNAT_PORTS:?}")
        }
        Expected::Rejected => {
            if replies.iter().all(|reply| *reply == Reply::Refused) {
                return Ok((said, true));
            }
            "a refusal".to_owned()
        }
        Expected::Dropped { .. } => unreachable!("judged above"),
    };
    Ok((format!("{said}, expected {expected}"), false))
}

fn server(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Answered(Some((name, ..))) => Some(name),
        _ => None,
    }
}

/// `served by api-0 11, api-1 9, api-2 10`.
fn describe(replies: &[Reply]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reply in replies {
        let key = match reply {
            Reply::Answered(None) => "answered".to_owned(),
            Reply::Answered(Some((server, ..))) => format!("served by {server}"),
            Reply::Nothing => "no answer".to_owned(),
            Reply::Refused => "refused".to_owned(),
            Reply::Other(why) => why.clone(),
        };
        *counts.entry(key).or_default() += 1;
    }
    let words = counts.into_iter().map(|(key, count)| match replies.len() {
        1 => key,
        _ => format!("{key} {count}"),
    });
    words.collect::<Vec<_>>().join(", ").replace(", served by", ",")
}

/// Finds the drop among the node's last ones: the newest towards `to`.
fn explained(drops: &Value, to: &str, reason: &str, policy: Option<&str>) -> (String, bool) {
    let recent = drops
        .get("recent")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let text = |drop: &Value, key: &str| {
        drop.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let towards = format!("> {to}");
    let Some(drop) = recent.iter().find(|drop| text(drop, "packet").contains(&towards)) else {
        return (format!("no answer, but no drop towards {to} is told of"), false);
    };
    let (got_reason, got_policy) = (text(drop, "reason"), text(drop, "policy"));
    let named = policy.is_none_or(|policy| got_policy.contains(policy));
    if got_reason == reason && named {
        let by = if got_policy.is_empty() {
            String::new()
        } else {
            format!(": {got_policy}")
        };
        return (format!("{got_reason}{by}"), true);
    }
    (
        format!(
            "{got_reason} {got_policy}, expected {reason} {}",
            policy.unwrap_or_default()
        ),
        false,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_drop_is_explained_by_the_newest_one_towards_the_target() {
        let drops = json!({"recent": [
            {"packet": "tcp 10.244.1.12:4000 > 10.244.1.11:8080", "reason": "policy-denied",
             "policy": "NetworkPolicy default/api-from-clients ingress default deny"},
            {"packet": "tcp 10.244.1.10:4000 > 10.244.2.12:5432", "reason": "policy-denied",
             "policy": "NetworkPolicy default/db-deny-all ingress default deny"},
        ]});
        let find = |to, policy| explained(&drops, to, "policy-denied", Some(policy));
        assert!(find("10.244.2.12:5432", "default/db-deny-all").1);
        assert!(!find("10.244.2.12:5432", "default/api-from-clients").1);
        assert!(!find("10.244.2.12:543", "default/other").1);
        assert!(!find("10.244.9.9:1", "default/db-deny-all").1, "no such drop");
    }

    #[test]
    fn servers_are_counted() {
        let served = |name: &str| Reply::Answered(Some((name.to_owned(), IpAddr::from([10, 0, 0, 1]), 4000)));
        assert_eq!(
            describe(&[served("a"), served("b"), served("a")]),
            "served by a 2, b 1"
        );
        assert_eq!(describe(&[Reply::Nothing]), "no answer");
    }
}
