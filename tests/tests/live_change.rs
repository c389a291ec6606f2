//! The desired state changes under traffic: policies, backends, and files that are no state.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::live::lab::{Lab, PATIENCE, count};
use tests::live::traffic::{UdpStream, connect, say, tcp_echo, udp_echo};
use tests::live::wait;

/// A change is in force this long after the event, on a machine that is busy with other things too. The figure itself is
/// printed; 100 ms is what an idle machine is held to.
const IN_FORCE: Duration = Duration::from_secs(1);

const API_FROM_CLIENTS: &str = "{ key: app, operator: In, values: [client, api] }";
const API_FROM_NOBODY: &str = "{ key: app, operator: In, values: [nobody] }";

/// Replaces text in a manifest as an editor does: a new file in place of the old one. Returns when that was done.
fn edit(file: &Path, from: &str, to: &str) -> Instant {
    let old = fs::read_to_string(file).unwrap();
    let new = old.replace(from, to);
    assert_ne!(old, new, "{from} is in {}", file.display());
    let draft = file.with_extension("draft");
    fs::write(&draft, new).unwrap();
    let now = Instant::now();
    fs::rename(&draft, file).unwrap();
    now
}

/// Talks until the connection is cut: until an answer is overdue. The last answer's time, and how many there were.
fn talk_until_cut(stream: &TcpStream, cut_after: Duration) -> (Instant, u64) {
    stream.set_read_timeout(Some(cut_after)).unwrap();
    let mut last = Instant::now();
    for number in 0.. {
        let began = Instant::now();
        match say(stream, number) {
            Ok(()) => last = Instant::now(),
            Err(error) => {
                let quiet = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                assert!(quiet.contains(&error.kind()), "cut by {error}");
                return (last, number);
            }
        }
        assert!(began.elapsed() < PATIENCE);
        assert!(number < 10_000_000, "never cut");
    }
    unreachable!("numbers do not end")
}

/// An established connection is cut in both directions by an edit of a policy, and admitted again by the next one: it goes
/// on where it was.
#[test]
fn a_policy_edit_cuts_and_admits_established_connections() {
    let Some(lab) = Lab::up("policy") else { return };
    let policies = lab.state().join("30-policies.yaml");
    for (name, pod, address) in [
        ("on one node", "default/api-0", "10.244.1.11:8080"),
        ("across nodes", "default/api-1", "10.244.2.10:8080"),
        ("across nodes, IPv6", "default/api-1", "[fd00:10:244:2::10]:8080"),
    ] {
        tcp_echo(&lab, pod, address);
        let stream = connect(&lab, "default/client", address);
        say(&stream, 7).unwrap();

        let (cut, last, said) = std::thread::scope(|scope| {
            let talk = scope.spawn(|| talk_until_cut(&stream, Duration::from_secs(3)));
            // Under traffic: let it run first.
            let node = if address.contains("244:1") || address.contains("244.1") {
                "node-a"
            } else {
                "node-b"
            };
            let start = lab.status(node)["conservation"]["tx"].as_u64().unwrap();
            wait::until("traffic", PATIENCE, || {
                lab.status(node)["conservation"]["tx"].as_u64().unwrap() > start + 40
            });
            let cut = edit(&policies, API_FROM_CLIENTS, API_FROM_NOBODY);
            let (last, said) = talk.join().unwrap();
            (cut, last, said)
        });
        let took = last.saturating_duration_since(cut);
        println!("{name}: cut {took:?} after the edit, {said} answers before");
        assert!(
            took < IN_FORCE,
            "{name}: the last answer came {took:?} after the edit"
        );
        // The drops are named, and the flow's line says so too.
        let node = if address.contains(":2") || address.contains("244.2") {
            "node-b"
        } else {
            "node-a"
        };
        wait::until("the drops that name the policy", PATIENCE, || {
            count(&lab.status(node), "drops", "policy-denied") > 0
                && lab.ask(node, "drops").is_some_and(|drops| {
                    drops["recent"].as_array().is_some_and(|recent| {
                        recent.iter().any(|row| {
                            row["policy"]
                                .as_str()
                                .is_some_and(|p| p.contains("default/api-from-clients"))
                        })
                    })
                })
        });

        let admitted = edit(&policies, API_FROM_NOBODY, API_FROM_CLIENTS);
        // What was lost is sent again by TCP itself, so its own patience is in this figure.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 8];
        (&stream)
            .read_exact(&mut answer)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: goes on {:?} after the edit back", admitted.elapsed());
        assert_eq!(u64::from_be_bytes(answer), said, "{name}: bytes were lost");
        say(&stream, 8).unwrap();
    }
    lab.assert_conservation();
}

/// A backend that goes from every slice is left by its UDP flow at once; the others never see a change.
#[test]
fn a_removed_backend_is_left_by_udp() {
    let Some(lab) = Lab::up("backend") else { return };
    let addresses = [
        ("default/api-0", "10.244.1.11"),
        ("default/api-1", "10.244.2.10"),
        ("default/api-2", "10.244.2.11"),
    ];
    for (pod, address) in addresses {
        udp_echo(&lab, pod, &format!("{address}:8081"));
    }
    let stream = UdpStream::start(&lab, "default/client", "10.96.0.10:7", Duration::from_millis(5));
    // Which one it is: its flow says.
    let backend_of = |lab: &Lab| -> Option<String> {
        let flows = lab.ask("node-a", "flows")?;
        let rows = flows["flows"].as_array()?.clone();
        let to_service = |row: &&Value| {
            row["orig"]
                .as_str()
                .is_some_and(|o| o.ends_with("> 10.96.0.10:7"))
        };
        let newest = rows
            .iter()
            .filter(to_service)
            .min_by_key(|row| row["idle_ms"].as_u64())?;
        let reply = newest["reply"].as_str()?.to_owned();
        let backend = reply.strip_prefix("udp ")?.split(':').next()?.to_owned();
        Some(backend)
    };
    let (first, _) = wait::until_some("the flow to a backend", PATIENCE, || {
        backend_of(&lab).filter(|_| lab.status("node-a")["conservation"]["tx"].as_u64() > Some(100))
    });
    assert!(addresses.iter().any(|(_, address)| *address == first), "{first}");
    let services = lab.state().join("20-service.yaml");
    let text = fs::read_to_string(&services).unwrap();
    let start = text
        .find(&format!("  - addresses: [{first}]"))
        .expect("its endpoint");
    // Four lines are an endpoint.
    let endpoint: String = text[start..].split_inclusive('\n').take(4).collect();
    assert!(
        endpoint.trim_end().ends_with('}') && endpoint.contains("targetRef"),
        "{endpoint}"
    );
    let removed = edit(&services, &endpoint, "");
    let (second, took) = wait::until_some("another backend", PATIENCE, || {
        backend_of(&lab).filter(|backend| *backend != first)
    });
    println!("moved from {first} to {second}, seen {took:?} after the edit");
    assert!(
        addresses.iter().any(|(_, address)| *address == second),
        "{second}"
    );
    let heard = stream.stop();
    let late: Vec<_> = heard
        .lost()
        .into_iter()
        .filter(|number| heard.sent[*number as usize] > removed + IN_FORCE)
        .collect();
    assert_eq!(late, [0; 0], "datagrams were lost after the move");
    lab.assert_conservation();
}

/// A broken file is refused by name and line while the last good state forwards on; mended, it is taken.
#[test]
fn a_broken_manifest_changes_nothing() {
    let Some(lab) = Lab::up("broken") else { return };
    udp_echo(&lab, "default/api-1", "10.244.2.10:8081");
    let stream = UdpStream::start(
        &lab,
        "default/client",
        "10.244.2.10:8081",
        Duration::from_millis(5),
    );
    let version = lab.status("node-a")["version"].as_u64().unwrap();
    let log = lab.file("node-a", "control.log");
    let services = lab.state().join("20-service.yaml");
    for (from, to, said) in [
        (
            "  clusterIP: 10.96.0.10",
            "  clusterIP: [10.96.0.10",
            "20-service.yaml:",
        ),
        (
            "  clusterIP: 10.96.0.10",
            "  clusterIP: 10.96.0.300",
            "Service default/api",
        ),
    ] {
        edit(&services, from, to);
        wait::until("the refusal", PATIENCE, || {
            let log = fs::read_to_string(&log).unwrap();
            log.lines().any(|line| {
                line.contains("20-service.yaml:") && line.contains(said) && line.contains("ERROR")
            })
        });
        assert_eq!(lab.status("node-a")["version"].as_u64().unwrap(), version);
        edit(&services, to, from);
    }
    let accepted = edit(
        &services,
        "  - { name: echo, port: 7, protocol: UDP",
        "  - { name: echo, port: 9, protocol: UDP",
    );
    wait::until("the mended file to be in force", PATIENCE, || {
        lab.status("node-a")["version"].as_u64().unwrap() > version
    });
    println!("in force {:?} after the edit", accepted.elapsed());
    let heard = stream.stop();
    assert_eq!(heard.lost(), [0; 0], "of {} datagrams", heard.sent.len());
    lab.assert_conservation();
}
