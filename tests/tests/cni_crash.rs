//! Control dies between any two steps of ADD and DEL; the next ADD, DEL or GC finds nothing that it does not heal.

use serde_json::Value;
use tests::live::cni::{Runtime, Sandbox};
use tests::live::lab::{Lab, PATIENCE};
use tests::live::wait;

/// Steps of ADD that a crash may come right after.
const ADD: [&str; 8] = [
    "AddReceived",
    "Reserved",
    "LinkMade",
    "PodReady",
    "NodeReady",
    "Plugged",
    "InForce",
    "Completed",
];
/// Steps of DEL.
const DEL: [&str; 4] = ["DelReceived", "LinkRemoved", "Unplugged", "Forgotten"];

/// Nothing of the attachment is left anywhere.
fn assert_gone(runtime: &Runtime<'_>, sandbox: &Sandbox, what: &str) {
    assert_eq!(runtime.kept(), Vec::<Value>::new(), "{what}");
    assert_eq!(runtime.links(), Vec::<String>::new(), "{what}");
    assert!(!sandbox.has("eth0"), "{what}");
    wait::until(&format!("{what}: no port in fastpath"), PATIENCE, || {
        runtime.port("pod:cni/c").is_none()
    });
}

fn assert_works(runtime: &Runtime<'_>, sandbox: &Sandbox, result: &Value, what: &str) {
    runtime
        .check("c", sandbox, result)
        .unwrap_or_else(|refusal| panic!("{what}: {}", refusal.body));
    // A pod that the lab wired, on the same node.
    sandbox.run("ping -c 1 -W 5 10.244.1.10");
    assert_eq!(runtime.kept().len(), 1, "{what}");
    assert_eq!(runtime.links().len(), 1, "{what}");
}

/// What heals a crash.
#[derive(Clone, Copy, Debug)]
enum Healer {
    Add,
    Del,
    Gc,
}

fn heal(runtime: &Runtime<'_>, sandbox: &Sandbox, healer: Healer, what: &str) {
    match healer {
        // After a crash behind the last step the runtime does not know that ADD came to its end: it has to DEL first.
        Healer::Add => {
            let result = match runtime.add("c", sandbox) {
                Ok(result) => result,
                Err(refusal) => {
                    assert_eq!(
                        (refusal.code, what),
                        (100, "ADD, crash at Completed"),
                        "{}",
                        refusal.body
                    );
                    runtime.del("c", sandbox).unwrap();
                    runtime.add("c", sandbox).unwrap()
                }
            };
            assert_works(runtime, sandbox, &result, what);
            runtime.del("c", sandbox).unwrap();
        }
        Healer::Del => runtime.del("c", sandbox).unwrap(),
        Healer::Gc => runtime.collect(&[]).unwrap(),
    }
    assert_gone(runtime, sandbox, what);
}

#[test]
fn a_crash_in_an_add_is_healed() {
    let Some(lab) = Lab::up("cnicra") else { return };
    let Some(mut runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandbox = Sandbox::new("crash");
    for step in ADD {
        for healer in [Healer::Add, Healer::Del, Healer::Gc] {
            runtime.start_control(Some(step));
            let refusal = runtime.add("c", &sandbox).unwrap_err();
            assert_eq!(refusal.code, 11, "{step}: {}", refusal.body);
            runtime.wait_crashed();
            runtime.start_control(None);
            heal(&runtime, &sandbox, healer, &format!("ADD, crash at {step}"));
        }
    }
}

#[test]
fn a_crash_in_a_del_is_healed() {
    let Some(lab) = Lab::up("cnicrd") else { return };
    let Some(mut runtime) = Runtime::start(&lab, "node-a") else {
        return;
    };
    let sandbox = Sandbox::new("crash");
    for step in DEL {
        for healer in [Healer::Add, Healer::Del, Healer::Gc] {
            runtime.add("c", &sandbox).unwrap();
            runtime.start_control(Some(step));
            let refusal = runtime.del("c", &sandbox).unwrap_err();
            assert_eq!(refusal.code, 11, "{step}: {}", refusal.body);
            runtime.wait_crashed();
            runtime.start_control(None);
            let what = format!("DEL, crash at {step}");
            if let (Healer::Add, "DelReceived" | "LinkRemoved" | "Unplugged") = (healer, step) {
                // Not undone: to the runtime the attachment is there, so a DEL comes first.
                assert_eq!(runtime.add("c", &sandbox).unwrap_err().code, 100, "{what}");
                runtime.del("c", &sandbox).unwrap();
            }
            heal(&runtime, &sandbox, healer, &what);
        }
    }
}
