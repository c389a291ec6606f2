//! What an idle node costs, that it wakes at once, and that nothing of it stays behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::live::daemon::kill_hard;
use tests::live::lab::{Lab, PATIENCE, succeed};
use tests::live::wait;

/// Share of a core that an idle fastpath may take.
const IDLE_SHARE_MAX: f64 = 0.02;
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(5);
/// A packet after a rest is answered this soon.
const AWAKE: Duration = Duration::from_millis(20);

/// User and system time of a process so far.
fn cpu_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .unwrap()
        .unwrap();
    Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
}

#[test]
fn an_idle_node_costs_little_and_wakes_at_once() {
    let Some(lab) = Lab::up("idle") else { return };
    let pid = lab.first_pid("node-a/ringway-fastpath");
    // Pods that come up say a few things of their own; then it is quiet.
    lab.run("default/client", "ping -n -c 2 -i 0.2 -W 5 10.244.2.10");
    let (before, start) = (cpu_time(pid), Instant::now());
    wait::until("the time to watch", PATIENCE, || start.elapsed() >= WATCHED);
    let share = cpu_time(pid).saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("idle: {:.2} % of a core", share * 100.0);
    // An unoptimised build is watched too, but not held to it.
    if !cfg!(debug_assertions) {
        assert!(share < IDLE_SHARE_MAX, "{share}");
    }
    assert!(share < 0.5, "it does not sleep: {share}");

    // The kernel on the other side of each wire is quick; a wake-up that got lost would take until the next timer. One
    // that is slow because somebody else has the CPU is tried again.
    let answered = |_: u32| {
        let rest = Instant::now();
        wait::until("a rest", PATIENCE, || rest.elapsed() >= Duration::from_secs(3));
        let said = lab.run("default/client", "ping -n -c 1 -W 5 169.254.1.1");
        let (_, time) = said.split_once("time=").expect("an answer");
        let ms: f64 = time.split(' ').next().unwrap().parse().unwrap();
        Duration::from_secs_f64(ms / 1000.0)
    };
    let times: Vec<Duration> = (0..4).map(answered).collect();
    println!("a ping after three seconds of rest: {times:?}");
    assert!(times.iter().any(|time| *time < AWAKE), "{times:?}");
    assert!(times.iter().all(|time| *time < AWAKE * 20), "{times:?}");
    lab.assert_conservation();
}

/// Also after all daemons were killed: no process, namespace, mount or folder stays.
#[test]
fn lab_down_removes_everything_also_of_killed_daemons() {
    let Some(lab) = Lab::up("gone") else { return };
    let mine = |text: &str| text.contains(&format!("ringway-{}.", lab.name()));
    let folder = format!("/run/ringway-lab/{}", lab.name());
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(Path::new(&folder).is_dir());
    assert!(mounts().contains(&folder));
    for node in ["node-a", "node-b"] {
        for program in ["ringway-fastpath", "ringway-control"] {
            let daemon = format!("{node}/{program}");
            kill_hard(&daemon, lab.first_pid(&daemon));
        }
    }
    let broken = lab.ringway(&["lab", "status", "--name", lab.name()]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stdout).contains("NOT RUNNING"));
    succeed(&lab.ringway(&["lab", "down", "--name", lab.name()]), "lab down");
    assert!(!Path::new(&folder).exists());
    assert!(!mounts().contains(&folder));
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let namespaces = String::from_utf8_lossy(&namespaces.stdout).into_owned();
    assert!(!namespaces.lines().any(mine), "{namespaces}");
    // Down twice is told, not an accident.
    let again = lab.ringway(&["lab", "down", "--name", lab.name()]);
    assert_eq!(again.status.code(), Some(1));
}
