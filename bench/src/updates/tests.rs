//! Short runs over few flows: packets, books and checks, no timing.

use super::*;

fn args(event: Event) -> Args {
    Args {
        services: 100,
        flows: 2000,
        changes_per_second: 1000,
        event,
        by_set: true,
        resyncs: 2,
        controls: true,
        clients: 4,
        workers: 1,
        seconds: 0.01,
        form: Form { seed: 3, json: true },
    }
}

fn line(args: &Args) -> serde_json::Value {
    serde_json::to_value(run(args).unwrap()).unwrap()
}

/// Every packet is looked at (else `run` fails); flows are decided again, datagram flows move, connections stay.
#[test]
fn replaced_backends_move_datagrams_and_misroute_nothing() {
    for (by_set, workers) in [(false, 1), (true, 2)] {
        let args = Args {
            by_set,
            workers,
            ..args(Event::Endpoint)
        };
        let line = line(&args);
        assert_eq!(line["misrouted"], 0, "{line}");
        assert!(line["checked"].as_u64().unwrap() > 100_000, "{line}");
        assert!(line["changes"].as_u64().unwrap() > 0, "{line}");
        assert!(line["redecisions_per_second"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["moved_per_second"].as_f64().unwrap() > 0.0, "{line}");
        let resyncs = line["resyncs"].as_array().unwrap();
        assert_eq!(resyncs.len(), 2, "{line}");
        for resync in resyncs {
            assert_eq!(
                resync["outdated"], 0,
                "the state that is in force touches nothing: {line}"
            );
        }
    }
}

#[test]
fn a_label_has_all_flows_of_its_pod_decided_again() {
    let line = line(&args(Event::Label));
    assert_eq!(line["misrouted"], 0, "{line}");
    for label in line["labels"].as_array().unwrap() {
        assert!(label["redecided"].as_u64().unwrap() >= 500, "{line}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let base = args(Event::Endpoint);
    for (wrong, named) in [
        (
            Args {
                services: 90_000,
                ..base.clone()
            },
            "--services 90000",
        ),
        (
            Args {
                clients: 0,
                ..base.clone()
            },
            "--clients 0",
        ),
        (
            Args {
                flows: 0,
                ..base.clone()
            },
            "--flows 0",
        ),
        (
            Args {
                changes_per_second: 0,
                ..base.clone()
            },
            "--changes-per-second 0",
        ),
        (
            Args {
                seconds: 0.0,
                ..base.clone()
            },
            "--seconds 0",
        ),
    ] {
        let refused = wrong.refuse().unwrap_err().to_string();
        assert!(refused.starts_with(named), "{refused}");
    }
    base.refuse().unwrap();
}
