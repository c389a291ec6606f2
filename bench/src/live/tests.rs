//! Real packets through a lab: who arrives is counted, how fast is not.

use super::*;

/// Packets of all flows at a pace that any machine holds.
const PACKETS: u64 = source::FLOWS as u64 * 10;
const SLOWLY: Load = Load {
    rate: Some(2000),
    count: Some(PACKETS),
    length: Duration::from_millis(600),
};

/// Where the built programs are, or a printed reason to skip; a panic where `RINGWAY_REQUIRE` demands root.
fn programs_as_root() -> Option<std::path::PathBuf> {
    let reason = match (machine::require_root(), machine::programs()) {
        (Err(error), _) | (_, Err(error)) => error.to_string(),
        (Ok(()), Ok(programs)) => {
            let needed = ["ringway", "ringway-fastpath", "ringway-control"];
            match needed.iter().find(|name| !programs.join(name).is_file()) {
                None if machine::has_program("nft") => return Some(programs),
                None => "no nft: Debian package nftables".to_owned(),
                Some(name) => format!("{name} is not built"),
            }
        }
    };
    let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
    assert!(
        !required
            .split(',')
            .any(|what| matches!(what.trim(), "root" | "afxdp")),
        "RINGWAY_REQUIRE={required}, but: {reason}"
    );
    println!("SKIPPED: {reason}");
    None
}

/// Brings Ringway up for a case, sends packets slowly, and gives what became of them.
fn account(case: Case) -> Option<Account> {
    let programs = programs_as_root()?;
    let interrupt = Interrupt::default();
    let args = Args {
        case,
        frame: 64,
        seconds: 1.0,
        rounds: 1,
        json: false,
    };
    let (states, sink) = case.lab();
    let ringway = Box::new(Ringway::up(&programs, states, sink).unwrap());
    let mut contender = contender("ringway", String::new(), &args, ringway).unwrap();
    // The first packets may be dropped for want of a neighbour.
    contender.bench.turn(WARM_UP, &interrupt).unwrap();
    let turn = contender.bench.turn(SLOWLY, &interrupt).unwrap();
    contender.bench.down().unwrap();
    Some(turn.account)
}

/// One test, since two labs at a time would be too much for a small machine.
#[test]
fn every_packet_of_a_slow_source_arrives_rewritten_as_it_should_be() {
    for case in [Case::AfxdpForward, Case::Service] {
        let Some(account) = account(case) else { return };
        assert!(account.ok, "{case:?}: {account:?}");
        // A machine that stood still for a while sent fewer; none of them is lost.
        assert!(
            account.offered > 0 && account.offered <= PACKETS,
            "{case:?}: {account:?}"
        );
        assert_eq!(account.delivered, account.offered, "{case:?}: {account:?}");
    }
    let left = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let prefix = format!("ringway-bench-{}-", std::process::id());
    let left: Vec<_> = left
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_result_is_one_line_that_names_the_missing_peer() {
    let args = Args {
        case: Case::Tcp1,
        frame: 64,
        seconds: 1.0,
        rounds: 2,
        json: true,
    };
    let mut line = line(&args, "Gbit/s", vec!["testpmd: no dpdk-testpmd".to_owned()]);
    line.sides.push(compare::side("ringway", "1", None, &[1.0, 3.0]));
    line.sides.push(compare::side("kernel", "2", None, &[2.0, 2.0]));
    line.compare(&[vec![1.0, 3.0], vec![2.0, 2.0]]);
    let text = serde_json::to_string(&line).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["case"], "tcp-1");
    assert_eq!(read["ratios"][0]["to"], "kernel");
    assert_eq!(read["ratios"][0]["median"], 1.0);
    assert_eq!(read["missing"][0], "testpmd: no dpdk-testpmd");
    assert!(!text.contains('\n'));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let args = |frame, seconds, rounds| Args {
        case: Case::Service,
        frame,
        seconds,
        rounds,
        json: false,
    };
    assert!(args(64, 1.0, 20).refuse().is_ok());
    for bad in [
        args(59, 1.0, 1),
        args(1465, 1.0, 1),
        args(64, 0.0, 1),
        args(64, f64::NAN, 1),
        args(64, 1.0, 0),
    ] {
        assert!(bad.refuse().is_err(), "{bad:?}");
    }
}
