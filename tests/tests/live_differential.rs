//! A living node and `ringway replay` do the same with every frame that scapy can think of.
//!
//! node-a runs as it does in production, AF_XDP and all; the other ends of its links are in the hands of `scapy/live.py`. What its
//! counters say and what leaves, byte for byte, must be what replay says of the same frames at the same times.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::interop::{add_state, one_backend, scapy, text};
use tests::live::Lab;

/// Frames beside the hand-made ones that are mutations of them.
const MUTATED: u32 = 300;

/// Nobody but the test speaks on the links of node-a.
fn silence(lab: &Lab) {
    let rules = lab.folder().join("quiet.nft");
    let chain =
        |hook: &str| format!("chain {hook} {{ type filter hook {hook} priority -500; policy drop; }}\n");
    let chains: String = ["input", "forward", "output"].into_iter().map(chain).collect();
    fs::write(&rules, format!("table inet quiet {{\n{chains}}}\n")).expect("our folder");
    for (address, mac) in [
        ("192.0.2.12", "02:00:c0:00:02:0c"),
        ("192.0.2.1", "02:fe:00:00:00:01"),
        ("2001:db8:2::12", "02:00:c0:00:02:0c"),
        ("2001:db8:2::1", "02:fe:00:00:00:01"),
    ] {
        lab.run(
            "node-a",
            &format!("ip neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
        );
    }
    for place in ["node-a", "default/client", "default/api-0", "ops/prober"] {
        lab.run(place, &format!("nft -f {}", rules.display()));
    }
    lab.run("underlay", "ip link set node1 nomaster");
    lab.run("underlay", "sysctl -qw net.ipv6.conf.node1.disable_ipv6=1");
}

fn differential(test: &str, seed: u32, prepare: impl FnOnce(&Path)) {
    let Some(lab) = Lab::up_with(test, &[], |state| {
        // On the other node: nothing is left to chance.
        one_backend(state, ["10.244.2.10", "fd00:10:244:2::10"]);
        prepare(state);
    }) else {
        return;
    };
    let Some(python) = scapy::python() else { return };
    silence(&lab);
    let ringway = tests::binary::find("ringway").expect("the lab is up");
    // Where the host's packets go; a replayed node takes the address of all its links' ends.
    let link = lab.run("node-a", "ip -o link show ringway-fp");
    let host_mac = link
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1);
    let config = json!({
        "host_mac": host_mac.expect("an Ethernet address"),
        "ringway": ringway,
        "socket": lab.file("node-a", "status.sock"),
        "state": lab.state(),
        "folder": lab.folder(),
        "mutated": MUTATED,
        "seed": seed,
        "links": {
            "uplink": [lab.netns("underlay"), "node1"],
            "pod:default/client": [lab.netns("default/client"), "eth0"],
            "pod:default/api-0": [lab.netns("default/api-0"), "eth0"],
            "pod:ops/prober": [lab.netns("ops/prober"), "eth0"],
            "host": [lab.netns("node-a"), "ringway-host"],
        },
    });
    let path = lab.folder().join("live.json");
    fs::write(&path, config.to_string()).expect("our folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/live.py");
    let output = Command::new(python)
        .arg(script)
        .arg(&path)
        .output()
        .expect("python starts");
    println!("{}", text(&output));
    assert!(output.status.success() && text(&output).contains("frames alike"));
    lab.assert_conservation();
}

#[test]
fn scapys_frames_fare_alike_live_and_replayed() {
    differential("alike", 1, |_| {});
}

#[test]
fn scapys_frames_fare_alike_where_pods_talk_in_ipip() {
    differential("alike-ipip", 2, |state| {
        add_state(state, "ipip-pool.yaml");
        let path = state.join("00-nodes.yaml");
        let nodes = fs::read_to_string(&path).expect("the lab's copy");
        fs::write(&path, nodes.replace("IPv4VXLANTunnelAddr", "IPv4IPIPTunnelAddr")).expect("the lab's copy");
    });
}
