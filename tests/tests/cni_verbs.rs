//! `ringway-cni` as a container runtime calls it, on a node of a lab: every verb, and every error that a runtime may see.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::binary;
use tests::live::cni::{Runtime, Sandbox, call};
use tests::live::lab::{Lab, PATIENCE};
use tests::live::wait;

/// Pods that the runtime makes and the manifests know, without addresses.
const PODS: &str = "apiVersion: v1
kind: Pod
metadata: { namespace: default, name: made-client, labels: { app: client } }
spec: { nodeName: node-a }
---
apiVersion: v1
kind: Pod
metadata: { namespace: default, name: made-api, labels: { app: api } }
spec: { nodeName: node-a }
";

/// The manifests get pods that the lab does not wire. Returns when both nodes know them.
fn add_pods(lab: &Lab, runtime: &Runtime<'_>) {
    let version = || lab.status("node-b")["version"].as_u64();
    let before = version();
    fs::write(lab.state().join("40-made.yaml"), PODS).unwrap();
    wait::until("the nodes to know the pods", PATIENCE, || {
        version() > before && runtime.port("pod:default/made-api").is_some()
    });
}

fn address(result: &Value, at: usize) -> String {
    let text = result["ips"][at]["address"].as_str().unwrap();
    text.split('/').next().unwrap().to_owned()
}

/// Answers every connection with what it says first.
fn listen(sandbox: &Sandbox, address: &str, port: u16) {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let listener = sandbox.within(|| TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let mut bytes = [0; 5];
            if stream.read_exact(&mut bytes).is_ok() {
                let _ = stream.write_all(&bytes);
            }
        }
    });
}

/// Whether `sandbox` gets an answer there, within a time that lost packets and retries fit into.
fn reaches(sandbox: &Sandbox, address: &str, port: u16, patience: Duration) -> bool {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    let Ok(mut stream) = sandbox.within(|| TcpStream::connect_timeout(&to, patience)) else {
        return false;
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut bytes = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut bytes).is_ok() && &bytes == b"hello"
}

/// What is refused is dropped: no answer within this.
const NO_ANSWER: Duration = Duration::from_millis(700);

#[test]
fn pods_of_a_runtime_talk_as_policy_says() {
    let Some(lab) = Lab::up("cni") else {
        return;
    };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    add_pods(&lab, &runtime);
    let [client, api, stranger] = ["client", "api", "stranger"].map(Sandbox::new);
    let of = |name: &str| {
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=x")
    };
    let add = |container: &str, sandbox: &Sandbox, args: &str| {
        let result = runtime.call("ADD", container, &sandbox.path(), args, json!({}));
        result.unwrap().unwrap()
    };
    let client_result = add("c-client", &client, &of("made-client"));
    let api_result = add("c-api", &api, &of("made-api"));
    let stranger_result = add("c-stranger", &stranger, "");

    assert_eq!(client_result["cniVersion"], "1.1.0");
    assert_eq!(client_result["interfaces"][1]["sandbox"], client.path().as_str());
    assert_eq!(
        client_result["interfaces"][1]["mtu"], 1430,
        "room for VXLAN over IPv6"
    );
    let rules = client.run("ip -o address show eth0") + &client.run("ip route") + &client.run("ip -6 route");
    for expected in [
        format!("{}/32", address(&client_result, 0)),
        format!("{}/128", address(&client_result, 1)),
        "default via 169.254.1.1 dev eth0".to_owned(),
        "default via fe80::ecee:eeff:feee:eeee dev eth0".to_owned(),
    ] {
        assert!(rules.contains(&expected), "no {expected} in {rules}");
    }
    for (name, result) in [
        ("default/made-api", &api_result),
        ("cni/c-stranger", &stranger_result),
    ] {
        let port = runtime.port(&format!("pod:{name}")).unwrap();
        assert_eq!(port["live"], true, "{port}");
        assert_eq!(port["addresses"][0], address(result, 0).as_str());
    }

    // Policy is in force when ADD returns: the very first packet is judged by it.
    for at in [0, 1] {
        listen(&api, &address(&api_result, at), 8080);
        assert!(
            reaches(&client, &address(&api_result, at), 8080, PATIENCE),
            "family {at}"
        );
        assert!(
            !reaches(&stranger, &address(&api_result, at), 8080, NO_ANSWER),
            "family {at}"
        );
        listen(&stranger, &address(&stranger_result, at), 8080);
        assert!(
            reaches(&api, &address(&stranger_result, at), 8080, PATIENCE),
            "family {at}"
        );
    }
    // To the pods of the other node, through the tunnel.
    let there = ["10.244.2.10:8088", "[fd00:10:244:2::10]:8088"];
    for to in there {
        tests::live::traffic::tcp_echo(&lab, "default/api-1", to);
        let to: SocketAddr = to.parse().unwrap();
        assert!(
            reaches(&client, &to.ip().to_string(), to.port(), PATIENCE),
            "{to}"
        );
    }
    lab.assert_conservation();

    for (container, sandbox, args) in [
        ("c-client", &client, of("made-client")),
        ("c-api", &api, of("made-api")),
        ("c-stranger", &stranger, String::new()),
    ] {
        for _ in 0..2 {
            runtime
                .call("DEL", container, &sandbox.path(), &args, json!({}))
                .unwrap();
            assert!(!sandbox.has("eth0"));
        }
    }
    assert_eq!(runtime.kept(), Vec::<Value>::new());
    assert_eq!(runtime.links(), Vec::<String>::new());
    wait::until("the port to be gone", PATIENCE, || {
        runtime.port("pod:cni/c-stranger").is_none()
    });
}

#[test]
fn every_version_has_its_result_and_what_is_asked_for_is_given() {
    let Some(lab) = Lab::up("cniver") else { return };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandbox = Sandbox::new("version");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let extra = json!({
            "cniVersion": version,
            "runtimeConfig": {"ips": ["10.244.1.77/24", "fd00:10:244:1::77"], "mac": "02:00:00:00:00:77"},
            "dns": {"nameservers": ["10.96.0.53"]},
        });
        let result = runtime
            .call("ADD", "v", &sandbox.path(), "", extra)
            .unwrap()
            .unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], "10.244.1.77/32");
        assert_eq!(result["ips"][1]["address"], "fd00:10:244:1::77/128");
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:77");
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.53");
        assert_eq!(result["ips"][0]["version"].is_string(), version.starts_with('0'));
        assert!(sandbox.run("ip link show eth0").contains("02:00:00:00:00:77"));
        if version != "0.3.1" {
            let extra = json!({"cniVersion": version, "prevResult": result});
            runtime.call("CHECK", "v", &sandbox.path(), "", extra).unwrap();
        }
        let extra = json!({"cniVersion": version, "prevResult": result});
        runtime.call("DEL", "v", &sandbox.path(), "", extra).unwrap();
    }
    let result = runtime
        .call("ADD", "v", &sandbox.path(), "IP=10.244.1.78", json!({}))
        .unwrap()
        .unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.78/32");
    runtime.del("v", &sandbox).unwrap();
}

#[test]
fn an_add_that_cannot_be_leaves_nothing() {
    let Some(lab) = Lab::up("cnibad") else { return };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let [one, two] = ["one", "two"].map(Sandbox::new);
    runtime.add("first", &one).unwrap();
    let kept = runtime.kept();
    let path = two.path();
    let k8s = |name: &str| format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
    let node = format!("/run/netns/{}", lab.netns("node-a"));
    let taken = json!({"runtimeConfig": {"ips": ["10.244.1.10"]}});
    for (container, netns, args, extra, code, named) in [
        ("first", one.path(), String::new(), json!({}), 100, "first"),
        ("other", one.path(), String::new(), json!({}), 100, "eth0"),
        ("second", node, String::new(), json!({}), 4, "CNI_NETNS"),
        (
            "second",
            "/proc/self/status".to_owned(),
            String::new(),
            json!({}),
            4,
            "CNI_NETNS",
        ),
        (
            "second",
            "/no/such/namespace".to_owned(),
            String::new(),
            json!({}),
            4,
            "CNI_NETNS",
        ),
        (
            "second",
            path.clone(),
            "K8S_POD_NAME=x".to_owned(),
            json!({}),
            4,
            "K8S_POD_NAMESPACE",
        ),
        (
            "second",
            path.clone(),
            "IP=x".to_owned(),
            json!({}),
            4,
            "CNI_ARGS",
        ),
        ("second", path.clone(), k8s("db"), json!({}), 103, "node-b"),
        ("second", path.clone(), String::new(), taken, 101, "10.244.1.10"),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"runtimeConfig": {"ips": ["10.244.2.99"]}}),
            101,
            "10.244.2.99",
        ),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1}}}),
            2,
            "bandwidth",
        ),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"ipam": {"type": "dhcp"}}),
            2,
            "dhcp",
        ),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"cniVersion": "0.2.0"}),
            1,
            "0.2.0",
        ),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"cniVersion": 5}),
            6,
            "cniVersion",
        ),
        (
            "second",
            path.clone(),
            String::new(),
            json!({"name": "a b"}),
            7,
            "a b",
        ),
        // The lab wired this one: its link is not ours to replace.
        (
            "second",
            path.clone(),
            k8s("client"),
            json!({}),
            100,
            "rwa7a3e029a7b",
        ),
    ] {
        let refusal = runtime.call("ADD", container, &netns, &args, extra).unwrap_err();
        assert_eq!(refusal.code, code, "{}", refusal.body);
        let told = refusal.body.to_string();
        assert!(told.contains(named), "no {named} in {told}");
        assert_eq!(runtime.kept(), kept, "{told}");
        assert!(!two.has("eth0"), "{told}");
    }
    assert_eq!(runtime.links().len(), 1);
    runtime.add("second", &two).unwrap();
}

#[test]
fn check_names_what_is_damaged() {
    let Some(lab) = Lab::up("cnichk") else { return };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandbox = Sandbox::new("check");
    let result = runtime.add("c", &sandbox).unwrap();
    runtime.check("c", &sandbox, &result).unwrap();
    let v6 = address(&result, 1);
    for (damage, mended, named) in [
        (
            "ip route del default",
            "ip route add default via 169.254.1.1 dev eth0",
            "169.254.1.1",
        ),
        (
            "ip -6 route del default",
            "ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0",
            "fe80::ecee:eeff:feee:eeee",
        ),
        (
            &format!("ip address del {v6}/128 dev eth0"),
            &format!("ip address add {v6}/128 dev eth0 nodad"),
            v6.as_str(),
        ),
        (
            "ip link set eth0 mtu 1450",
            "ip link set eth0 mtu 1430",
            "MTU 1450",
        ),
    ] {
        sandbox.run(damage);
        let refusal = runtime.check("c", &sandbox, &result).unwrap_err();
        assert_eq!(refusal.code, 102, "{}", refusal.body);
        assert!(
            refusal.body["details"].as_str().unwrap().contains(named),
            "{}",
            refusal.body
        );
        sandbox.run(mended);
        runtime.check("c", &sandbox, &result).unwrap();
    }
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.9.9.9/32".into();
    assert_eq!(runtime.check("c", &sandbox, &other).unwrap_err().code, 102);
    assert_eq!(runtime.check("d", &sandbox, &result).unwrap_err().code, 3);

    // The port in the dataplane, too.
    let fastpath = lab.first_pid("node-a/ringway-fastpath");
    let killed = tests::live::daemon::kill_hard("node-a/ringway-fastpath", fastpath);
    let refusal = runtime.check("c", &sandbox, &result).unwrap_err();
    assert!(
        refusal.body["details"].as_str().unwrap().contains("fastpath"),
        "{}",
        refusal.body
    );
    wait::until("STATUS to tell that pods may be cut off", PATIENCE, || {
        runtime.status().is_err_and(|refusal| refusal.code == 51)
    });
    let two = Sandbox::new("two");
    assert_eq!(runtime.add("two", &two).unwrap_err().code, 11);
    // DEL does not wait for a fastpath that is down.
    runtime.del("two", &two).unwrap();
    let _fastpath = killed.start_again(&lab);
    wait::until("the port to be live again", PATIENCE, || {
        runtime.check("c", &sandbox, &result).is_ok()
    });
    wait::until("STATUS to be well again", PATIENCE, || runtime.status().is_ok());
    runtime.add("two", &two).unwrap();

    sandbox.run("ip link del eth0");
    assert_eq!(runtime.check("c", &sandbox, &result).unwrap_err().code, 102);
    runtime.del("c", &sandbox).unwrap();
}

#[test]
fn gc_removes_what_is_not_named() {
    let Some(lab) = Lab::up("cnigc") else { return };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandboxes = ["a", "b", "c", "d"].map(Sandbox::new);
    for (container, sandbox) in ["a", "b", "c", "d"].iter().zip(&sandboxes) {
        runtime.add(container, sandbox).unwrap();
    }
    let [a, b, c, d] = sandboxes;
    // The namespace may be gone already.
    c.delete();
    // Of another network: not this one's to collect.
    let other = json!({"name": "other", "cni.dev/valid-attachments": []});
    runtime.call("GC", "", "", "", other).unwrap();
    assert_eq!(runtime.kept().len(), 4);
    let refusal = runtime.call("GC", "", "", "", json!({})).unwrap_err();
    assert_eq!(
        (refusal.code, runtime.kept().len()),
        (7, 4),
        "no list is not an empty list"
    );
    runtime.collect(&["b", "d", "never-there"]).unwrap();
    let kept: Vec<String> = runtime
        .kept()
        .iter()
        .map(|one| one["key"]["containerId"].to_string())
        .collect();
    assert_eq!(kept, ["\"b\"", "\"d\""]);
    assert!(!a.has("eth0") && b.has("eth0") && d.has("eth0"));
    assert_eq!(runtime.links().len(), 2);
    assert!(runtime.port("pod:cni/b").is_some());
    wait::until("the port to be gone", PATIENCE, || {
        runtime.port("pod:cni/a").is_none()
    });
    // DEL after GC, and DEL of a pod whose namespace went.
    runtime.del("a", &a).unwrap();
    let path = b.path();
    b.delete();
    runtime.call("DEL", "b", &path, "", json!({})).unwrap();
    runtime.call("DEL", "d", "", "", json!({})).unwrap();
    assert!(!d.has("eth0") && runtime.kept().is_empty());
}

#[test]
fn control_that_is_down_means_try_again_and_one_that_comes_back_adopts() {
    let Some(lab) = Lab::up("cnidown") else { return };
    let Some(mut runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let [one, two] = ["one", "two"].map(Sandbox::new);
    let first = runtime.add("one", &one).unwrap();
    runtime.stop_control();
    assert_eq!(runtime.add("two", &two).unwrap_err().code, 11);
    assert_eq!(runtime.del("one", &one).unwrap_err().code, 11);
    assert_eq!(runtime.status().unwrap_err().code, 50);
    runtime.start_control(None);
    runtime.check("one", &one, &first).unwrap();
    let second = runtime.add("two", &two).unwrap();
    assert_ne!(
        address(&first, 0),
        address(&second, 0),
        "the address of an adopted pod is taken"
    );
    listen(&one, &address(&first, 0), 8080);
    assert!(reaches(&two, &address(&first, 0), 8080, PATIENCE));
    runtime.del("one", &one).unwrap();
    runtime.del("two", &two).unwrap();

    // The runtime made another sandbox for the same pod, and tells of the old one's end later.
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=again";
    let add =
        |container: &str, sandbox: &Sandbox| runtime.call("ADD", container, &sandbox.path(), args, json!({}));
    add("old", &one).unwrap();
    let result = add("new", &two).unwrap().unwrap();
    assert!(!one.has("eth0"));
    runtime.call("DEL", "old", &one.path(), args, json!({})).unwrap();
    let extra = json!({"prevResult": result});
    runtime.call("CHECK", "new", &two.path(), args, extra).unwrap();
}

/// Five addresses are left in the node's range once its first is set aside.
fn with_small_range(state: &Path) {
    let file = state.join("00-nodes.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let small = text.replace("podCIDRs: [10.244.1.0/24,", "podCIDRs: [10.244.1.16/29,");
    assert_ne!(text, small);
    fs::write(file, small).unwrap();
}

#[test]
fn a_full_range_is_told_and_what_is_free_again_is_given() {
    let Some(lab) = Lab::up_with("cnifull", &[], with_small_range) else {
        return;
    };
    let Some(runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandboxes: Vec<Sandbox> = (0..6).map(|number| Sandbox::new(&number.to_string())).collect();
    for (number, sandbox) in sandboxes.iter().take(5).enumerate() {
        let result = runtime.add(&format!("c{number}"), sandbox).unwrap();
        assert_eq!(address(&result, 0), format!("10.244.1.{}", 18 + number));
    }
    let refusal = runtime.add("c5", &sandboxes[5]).unwrap_err();
    assert_eq!(refusal.code, 101, "{}", refusal.body);
    assert!(
        refusal.body.to_string().contains("10.244.1.16/29"),
        "{}",
        refusal.body
    );
    let refusal = runtime.status().unwrap_err();
    assert_eq!(refusal.code, 50, "{}", refusal.body);
    assert!(
        refusal.body.to_string().contains("10.244.1.16/29"),
        "{}",
        refusal.body
    );
    assert_eq!(runtime.kept().len(), 5);
    runtime.del("c2", &sandboxes[2]).unwrap();
    runtime.status().unwrap();
    let result = runtime.add("c5", &sandboxes[5]).unwrap();
    assert_eq!(address(&result, 0), "10.244.1.20");
}

#[test]
fn version_needs_nothing() {
    let plugin = match binary::find("ringway-cni") {
        Ok(plugin) => plugin,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let body = call(&plugin, "VERSION", &[], &json!({"cniVersion": "0.4.0"}))
        .unwrap()
        .unwrap();
    assert_eq!(body["cniVersion"], "0.4.0");
    assert_eq!(
        body["supportedVersions"],
        json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}
