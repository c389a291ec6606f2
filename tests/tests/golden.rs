//! The golden cases, their mutations, and what tshark makes of their tunnels.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use tests::capture::{self, Captured};
use tests::replay::Replay;
use tests::{cases, golden};

/// The command, or a printed reason to skip.
fn replay() -> Option<Replay> {
    Replay::find()
        .map_err(|reason| println!("SKIPPED: {reason}"))
        .ok()
}

fn keeps_its_promises(group: &str) {
    let Some(replay) = replay() else { return };
    let (_, make) = cases::GROUPS
        .iter()
        .find(|(name, _)| *name == group)
        .expect("a group of this name");
    let mut broken = Vec::new();
    for case in make() {
        let folder = golden::folder().join(&case.name);
        let faults = match golden::play(&replay, &case) {
            Err(error) => vec![format!("{error:#}")],
            Ok(played) if played.faults.is_empty() => {
                golden::compare(&folder, &case, &played).err().unwrap_or_default()
            }
            Ok(played) => played.faults,
        };
        if !faults.is_empty() {
            broken.push(format!(
                "{}: {}\n    {}",
                case.name,
                case.about,
                faults.join("\n    ")
            ));
        }
    }
    assert!(
        broken.is_empty(),
        "{} cases:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

macro_rules! groups {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            keeps_its_promises(stringify!($name));
        })*

        #[test]
        fn every_group_is_played() {
            let played = [$(stringify!($name)),*];
            let groups: Vec<_> = cases::GROUPS.iter().map(|(name, _)| *name).collect();
            assert_eq!(played.as_slice(), groups);
        }
    };
}

groups! {
    forward spoofing neighbour echo ttl size fragments policy service masquerade vxlan ipip host icmp_errors timeouts malformed
    limits
}

#[test]
fn case_names_are_unique_and_nothing_else_lies_in_their_folder() {
    let mut names: Vec<_> = cases::all().into_iter().map(|case| case.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two cases of one name");
    let Ok(entries) = fs::read_dir(golden::folder()) else {
        return;
    };
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            names.binary_search(&name).is_ok(),
            "tests/golden/{name} belongs to no case"
        );
    }
}

/// The same input, state and seed give the same output, byte for byte.
#[test]
fn a_replay_repeats_itself() {
    let Some(replay) = replay() else { return };
    let groups = ["service", "masquerade", "fragments"];
    let made = cases::GROUPS
        .iter()
        .filter(|(name, _)| groups.contains(name))
        .flat_map(|(_, make)| make());
    for case in made {
        let [first, second] = [(); 2].map(|()| golden::play(&replay, &case).unwrap().outcome);
        assert_eq!(first.lines, second.lines, "{}", case.name);
        assert!(first.out == second.out, "{}", case.name);
    }
}

/// Any byte of any packet changed to anything gives a verdict, never a crash, and no frame is lost or made up.
#[test]
fn mutated_packets_get_a_verdict_each() {
    let Some(replay) = replay() else { return };
    let mut random = Random(0x5eed);
    let mut states: BTreeMap<String, Vec<Captured>> = BTreeMap::new();
    for case in cases::all() {
        // Packets that depend on an outcome are in the blessed capture.
        let Ok(input) = capture::read(&golden::folder().join(&case.name).join("in.pcapng")) else {
            continue;
        };
        states.entry(case.state).or_default().extend(input);
    }
    assert!(!states.is_empty(), "no blessed case");
    for (state, packets) in states {
        let folder = tempfile::tempdir().unwrap();
        let (state_path, input_path) = (folder.path().join("state.yaml"), folder.path().join("in.pcapng"));
        fs::write(&state_path, &state).unwrap();
        let mut input = Vec::new();
        for packet in &packets {
            input.extend(mutations(packet, &mut random));
        }
        for (index, packet) in input.iter_mut().enumerate() {
            packet.time_ns = 1_700_000_000_000_000_000 + index as u64 * 1_000_000;
        }
        fs::write(&input_path, capture::write(&input).unwrap()).unwrap();
        let outcome = replay
            .run(folder.path(), &state_path, &input_path, &[])
            .unwrap_or_else(|error| panic!("{error:#}\n{state}"));
        assert_eq!(outcome.verdicts.len(), input.len());
        assert_eq!(
            outcome.report["conservation"]["ok"], true,
            "{}",
            outcome.report["conservation"]
        );
    }
}

/// The packet, cut, empty, and with single bytes and runs of bytes changed.
fn mutations(packet: &Captured, random: &mut Random) -> Vec<Captured> {
    let with = |frame: Vec<u8>| Captured {
        frame,
        ..packet.clone()
    };
    let len = packet.frame.len();
    let mut made = vec![packet.clone(), with(Vec::new())];
    // Every byte of the headers once; then some more, anywhere.
    for at in 0..len.min(100) {
        let mut frame = packet.frame.clone();
        frame[at] ^= 1 << random.below(8);
        made.push(with(frame));
    }
    for _ in 0..20 {
        let mut frame = packet.frame.clone();
        let at = random.below(len);
        let end = (at + 1 + random.below(4)).min(len);
        frame[at..end].fill_with(|| random.below(256) as u8);
        made.push(with(frame));
        made.push(with(packet.frame[..random.below(len)].to_vec()));
    }
    made
}

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// tshark finds nothing to complain of in what leaves into tunnels, checksums included.
#[test]
fn tunnels_read_well_in_tshark() {
    match Command::new("tshark").arg("--version").output() {
        Ok(output) if output.status.success() => {}
        _ => return println!("SKIPPED: needs tshark"),
    }
    if !golden::folder().is_dir() {
        return println!("SKIPPED: no case is blessed yet");
    }
    for case in cases::all()
        .iter()
        .filter(|case| ["vxlan", "ipip"].iter().any(|kind| case.name.starts_with(kind)))
    {
        let capture = golden::folder().join(&case.name).join("out.pcapng");
        let output = Command::new("tshark")
            .args(["-r", capture.to_str().unwrap()])
            // What the cases send to port 53 is no DNS.
            .args(["--disable-protocol", "dns"])
            .args([
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "udp.check_checksum:TRUE",
                "-o",
                "tcp.check_checksum:TRUE",
            ])
            .args([
                "-Y",
                "_ws.expert.severity >= \"Warning\" || _ws.malformed || ip.checksum.status == 0",
            ])
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<_> = said
            .lines()
            .filter(|line| !line.starts_with("Running as user"))
            .collect();
        assert!(
            output.status.success() && complaints.is_empty(),
            "{}:\n{}",
            case.name,
            complaints.join("\n")
        );
    }
}
