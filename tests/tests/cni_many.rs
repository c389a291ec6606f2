//! 110 pods at once: every ADD comes to its end, and what it takes beyond the kernel's own work is told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tests::live::cni::{Runtime, Sandbox};
use tests::live::lab::Lab;

const PODS: usize = 110;

/// Figures of one ADD from control's log, microseconds.
struct Figures {
    total: u64,
    reserved: u64,
    link: u64,
    in_force: u64,
    port: u64,
}

fn figures(log: &str) -> Vec<Figures> {
    let field = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!("{name}=")).expect("the field");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    let lines = log.lines().filter(|line| line.contains("pod attached"));
    lines
        .map(|line| Figures {
            total: field(line, "total_us"),
            reserved: field(line, "reserved_us"),
            link: field(line, "link_us"),
            in_force: field(line, "in_force_us"),
            port: field(line, "port_us"),
        })
        .collect()
}

/// The smallest figure that `share` percent are not above.
fn percentile(mut values: Vec<u64>, share: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * share).div_ceil(100).max(1) - 1;
    Duration::from_micros(values[at])
}

fn tell(what: &str, figures: &[Figures], seen: Vec<u64>) {
    let of = |value: fn(&Figures) -> u64| figures.iter().map(value).collect::<Vec<_>>();
    // The link and the port's sockets are made by the kernel, one after the other for all pods.
    let beyond = of(|f| f.total.saturating_sub(f.link + f.port));
    let rows = [
        ("as the runtime sees it", seen),
        ("within control", of(|f| f.total)),
        ("addresses on disk", of(|f| f.reserved)),
        ("kernel: link, addresses, routes", of(|f| f.link)),
        ("every worker has the state", of(|f| f.in_force)),
        ("kernel: sockets of the port", of(|f| f.port)),
        ("beyond the kernel's work", beyond),
    ];
    for (row, values) in rows {
        let [p50, p99] = [50, 99].map(|share| percentile(values.clone(), share));
        println!("{what}: {row}: p50 {p50:?}, p99 {p99:?}");
    }
}

#[test]
fn a_hundred_and_ten_pods_at_once() {
    let Some(lab) = Lab::up("cnimany") else { return };
    // As in /run of a node: a tmpfs.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(mut runtime) = Runtime::start_in(&lab, "node-a", folder.path().to_owned()) else {
        return;
    };
    let sandboxes: Vec<(String, Sandbox)> = (0..PODS)
        .map(|number| (format!("pod-{number}"), Sandbox::new(&number.to_string())))
        .collect();

    // One after the other: what an ADD takes by itself.
    let mut seen = Vec::new();
    for (container, sandbox) in &sandboxes {
        let begun = Instant::now();
        runtime.add(container, sandbox).unwrap();
        seen.push(begun.elapsed().as_micros() as u64);
    }
    let alone = figures(&runtime.log());
    assert_eq!(alone.len(), PODS);
    tell("one by one", &alone, seen);
    runtime.collect(&[]).unwrap();
    assert!(runtime.kept().is_empty() && runtime.links().is_empty());

    // All at once.
    runtime.stop_control();
    runtime.start_control(None);
    let begun = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = sandboxes
            .iter()
            .map(|(container, sandbox)| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let begun = Instant::now();
                    (runtime.add(container, sandbox), begun.elapsed())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    println!("all at once: {PODS} pods in {:?}", begun.elapsed());
    let seen = results.iter().map(|(_, took)| took.as_micros() as u64).collect();
    let addresses: BTreeSet<String> = results
        .into_iter()
        .map(|(result, _)| result.unwrap_or_else(|refusal| panic!("{}", refusal.body)))
        .flat_map(|result| {
            [
                result["ips"][0]["address"].to_string(),
                result["ips"][1]["address"].to_string(),
            ]
        })
        .collect();
    assert_eq!(addresses.len(), 2 * PODS, "an address was handed out twice");
    let together = figures(&runtime.log());
    assert_eq!(together.len(), PODS);
    tell("all at once", &together, seen);
    let status = lab.status("node-a");
    let live = status["ports"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|port| port["live"] == true);
    assert!(live.count() >= PODS, "{status}");

    // The last one made talks to the first.
    let first = runtime.kept()[0]["addresses"][0].as_str().unwrap().to_owned();
    sandboxes[PODS - 1].1.run(&format!("ping -c 1 -W 5 {first}"));
    std::thread::scope(|scope| {
        for (container, sandbox) in &sandboxes {
            let runtime = &runtime;
            scope.spawn(move || runtime.del(container, sandbox).unwrap());
        }
    });
    assert!(runtime.kept().is_empty() && runtime.links().is_empty());
}
