//! What is refused, by which name, and that nothing of it stays.

use contract::proto::{self, change::Change};
use contract::valid::{ValidDelta, ValidState};
use prost::Message;

use super::compiled;
use super::fixture::{cluster, net, origin, pod, underlay};
use super::random::Random;
use crate::compile::{CompileError, apply, replace};
use crate::snapshot::Snapshot;

fn refused(snapshot: &Snapshot, changes: Vec<Change>) -> String {
    let changes = changes
        .into_iter()
        .map(|change| proto::Change { change: Some(change) })
        .collect();
    let delta = proto::Delta {
        base_version: snapshot.version(),
        version: snapshot.version() + 1,
        changes,
    };
    match apply(snapshot, &ValidDelta::try_from(delta).unwrap()) {
        Err(CompileError::Invalid(invalid)) => invalid.to_string(),
        other => panic!("{:?}", other.map(|compiled| compiled.snapshot.version())),
    }
}

fn limits(set: impl Fn(&mut proto::Limits)) -> Snapshot {
    let mut state = cluster();
    let mut limits = proto::Limits::default();
    set(&mut limits);
    state.limits = Some(limits);
    compiled(&state, &underlay())
}

#[test]
fn every_limit_is_reached_and_names_the_object_that_passes_it() {
    let service = |backends: usize| {
        let backend = |last: usize| proto::Backend {
            address: vec![10, 244, 2, last as u8 + 1],
            port: 80,
            state: 1,
            local: false,
        };
        Change::Service(proto::Service {
            id: "default/more:80".into(),
            origin: Some(origin("Service", "more")),
            protocol: 6,
            port: 80,
            cluster_ips: vec![],
            backends: (0..backends).map(backend).collect(),
            affinity_s: 0,
        })
    };
    let policy = |rules: usize| {
        let rule = proto::Rule {
            action: 1,
            any_peer: true,
            any_port: true,
            ..Default::default()
        };
        let id = "NetworkPolicy/default/more".into();
        Change::Policy(proto::Policy {
            id,
            origin: Some(origin("NetworkPolicy", "more")),
            ingress: vec![rule; rules],
            egress: vec![],
        })
    };
    let set = Change::IpSet(proto::IpSet {
        id: "more".into(),
        kind: 1,
        members: vec![proto::Member {
            prefix: Some(net("10.0.0.0/8")),
            ..Default::default()
        }],
    });
    // The fixture has 4 ports, 1 Service with 3 backends, 1 policy with 1 rule, 1 set with 1 member.
    let cases: [(&str, Snapshot, Change); 6] = [
        (
            "Pod default/more: limits.ports: ",
            limits(|l| l.ports = 4),
            Change::Port(pod("more", 9, &[])),
        ),
        (
            "Service default/more: limits.services: ",
            limits(|l| l.services = 1),
            service(0),
        ),
        (
            "Service default/more: limits.backends: ",
            limits(|l| l.backends = 5),
            service(3),
        ),
        (
            "NetworkPolicy default/more: limits.policies: ",
            limits(|l| l.policies = 1),
            policy(0),
        ),
        (
            "NetworkPolicy default/more: limits.rules: ",
            limits(|l| l.rules = 3),
            policy(3),
        ),
        (
            "IpSet more: limits.ip_set_members: ",
            limits(|l| l.ip_set_members = 1),
            set,
        ),
    ];
    for (named, snapshot, change) in cases {
        let error = refused(&snapshot, vec![change]);
        assert!(error.starts_with(named), "{named}… but: {error}");
    }
    let snapshot = compiled(&cluster(), &underlay());
    let lower = Change::Limits(proto::Limits {
        backends: 2,
        ..Default::default()
    });
    assert_eq!(
        refused(&snapshot, vec![lower]),
        "Limits: limits.backends: expected at most 2 in all, found 3"
    );
}

#[test]
fn what_leads_nowhere_is_refused() {
    let snapshot = compiled(&cluster(), &underlay());
    let member = |text: &str| proto::Member {
        prefix: Some(net(text)),
        ..Default::default()
    };
    let members = |removed: &[&str], added: &[&str]| {
        let list = |texts: &[&str]| texts.iter().map(|text| member(text)).collect();
        Change::IpSetDelta(proto::IpSetDelta {
            id: "clients".into(),
            removed: list(removed),
            added: list(added),
        })
    };
    let mut stolen = pod("thief", 9, &[]);
    stolen.addresses = vec![vec![10, 244, 1, 5]];
    let block = |node: &str| {
        Change::Block(proto::Block {
            prefix: Some(net("10.9.0.0/24")),
            node: node.into(),
            encap: 0,
        })
    };
    let cases = [
        (
            "Pod default/gone: name: ",
            Change::PortRemoved("pod:default/gone".into()),
        ),
        (
            "Service default/gone: name: ",
            Change::ServiceRemoved("default/gone".into()),
        ),
        (
            "Node node-2: blocks: ",
            Change::RemoteNodeRemoved("node-2".into()),
        ),
        ("Block 10.9.0.0/24: node: ", block("node-9")),
        (
            "NetworkPolicy default/web: id: ",
            Change::PolicyRemoved("NetworkPolicy/default/web".into()),
        ),
        ("IpSet clients: id: ", Change::IpSetRemoved("clients".into())),
        ("IpSet clients: removed: ", members(&["10.0.0.1/32"], &[])),
        ("IpSet clients: added: ", members(&[], &["10.244.2.7/32"])),
        ("Pod default/thief: addresses: ", Change::Port(stolen)),
        (
            "Pod default/web: policies: ",
            Change::Port(pod("web", 5, &["NetworkPolicy/default/none"])),
        ),
    ];
    for (named, change) in cases {
        let error = refused(&snapshot, vec![change]);
        assert!(error.starts_with(named), "{named}… but: {error}");
    }
}

#[test]
fn a_delta_for_another_version_asks_for_a_snapshot() {
    let snapshot = compiled(&cluster(), &underlay());
    let delta = proto::Delta {
        base_version: 9,
        version: 10,
        changes: vec![],
    };
    let error = apply(&snapshot, &ValidDelta::try_from(delta).unwrap()).unwrap_err();
    assert_eq!(
        error,
        CompileError::BaseVersion {
            expected: 9,
            found: 1
        }
    );
}

/// A sound state with bytes changed, and a delta with bytes changed on top of a sound one: refused or compiled, never a panic,
/// and what was compiled answers.
#[test]
fn whatever_is_valid_compiles_or_is_refused() {
    let good = compiled(&cluster(), &underlay());
    let upserts = cluster()
        .ports
        .into_iter()
        .map(Change::Port)
        .chain(cluster().services.into_iter().map(Change::Service));
    let upserts = upserts.chain(cluster().policies.into_iter().map(Change::Policy));
    let upserts = upserts.chain(cluster().remote_nodes.into_iter().map(Change::RemoteNode));
    let changes = upserts
        .map(|change| proto::Change { change: Some(change) })
        .collect();
    let delta = proto::Delta {
        base_version: 1,
        version: 2,
        changes,
    }
    .encode_to_vec();
    let state = cluster().encode_to_vec();
    let mut compiled_anyway = 0;
    for seed in 0..4_000 {
        let mut random = Random(seed);
        let mut broken = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for _ in 0..=random.below(3) {
                let place = random.below(bytes.len());
                bytes[place] = bytes[place].wrapping_add(random.next() as u8 >> random.below(8));
            }
            bytes
        };
        let after_state = proto::State::decode(&*broken(&state))
            .ok()
            .and_then(|state| ValidState::try_from(state).ok());
        let after_state = after_state.and_then(|state| replace(&good, &state).ok());
        let after_delta = proto::Delta::decode(&*broken(&delta))
            .ok()
            .and_then(|delta| ValidDelta::try_from(delta).ok());
        let after_delta = after_delta.and_then(|delta| apply(&good, &delta).ok());
        for after in [after_state, after_delta].into_iter().flatten() {
            compiled_anyway += 1;
            for port in after.snapshot.ports() {
                for address in &*port.addresses {
                    let route = after.snapshot.route(*address);
                    let _ = after.snapshot.forwarding_mtu(&route, *address, 0);
                }
            }
        }
    }
    assert!(
        compiled_anyway > 200,
        "{compiled_anyway} of the changes were harmless enough"
    );
}
