//! `ringway replay`: captures through the very pipeline that live ports feed, without cluster, NIC or root.
//!
//! ```text
//! state ─► node (load, resolve, validate, compile) ─┐
//! captures ─► merge by time ─► play (packet by packet) ─► recorder ─► pcapng, verdict lines
//!                              └─ measure (batches, unobserved) ────► report
//! ```

mod line;
mod measure;
mod node;
mod output;
mod pace;
mod play;
mod port;
mod recorder;
mod report;
mod underlay;

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use fastpath::io::merge::{Input, Merge};
use fastpath::io::pcap::CaptureError;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::snapshot::Snapshot;

use self::node::PortNames;
use self::output::Output;
use self::pace::Pace;
use self::play::Player;
use self::recorder::Recorder;
use crate::BadInput;

/// What a person gives.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Kubernetes objects: a YAML or JSON file, or a directory of them; may be repeated
    #[arg(long, value_name = "DIR|FILE", required = true)]
    state: Vec<PathBuf>,
    /// The node whose packets these are
    #[arg(long, value_name = "NAME")]
    node: String,
    /// A pcap or pcapng; the port is the interface's name, else what follows `:`; may be repeated
    #[arg(long = "in", value_name = "FILE[:PORT]", required = true)]
    inputs: Vec<String>,
    /// Where every frame that leaves is written, an interface per port
    #[arg(long, value_name = "FILE.pcapng")]
    out: PathBuf,
    /// Where a line of JSON for each input packet is written
    #[arg(long, value_name = "FILE.jsonl")]
    verdicts: Option<PathBuf>,
    /// Where counters, conservation and cycles per packet are written
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Plays the input so many times, each time later by its length plus 1 µs
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZeroU64,
    /// How fast: asap, realtime, or xN for N times as fast as it was captured
    #[arg(long, default_value = "asap")]
    pace: Pace,
    /// Seed of the choices of backends and source ports, and of the hash
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Connections that the flow table holds, of each family
    #[arg(long, value_name = "N", default_value = "262144")]
    max_flows: NonZeroU32,
}

const EXAMPLES: &str = "\
Ports: uplink, host, pod:NAMESPACE/NAME. Exit 0 when the replay ran, whatever was dropped; 2 for a bad flag, file or object.

Examples:
  Why was it dropped? One line per packet, with the policy that decided:
    ringway replay --state cluster.yaml --node node-a --in web.pcap:pod:default/web --out out.pcapng --verdicts /dev/stdout
  Several captures of one node, merged by time; the pcapng names its ports itself:
    ringway replay --state manifests/ --node node-a --in node.pcapng --in eth0.pcap:uplink --out out.pcapng --report report.json
  Cycles per packet of established flows:
    ringway replay --state manifests/ --node node-a --in node.pcapng --repeat 1000 --out /dev/null --report report.json";

/// Replays.
pub(crate) fn run(args: &Args) -> Result<()> {
    let node = node::load(&args.state, &args.node)?;
    for warning in &node.warnings {
        eprintln!("ringway: {warning}");
    }
    let inputs: Vec<Input> = args.inputs.iter().map(|input| Input::parse(input)).collect();
    let mut merge = Merge::open(&inputs).map_err(bad_capture)?;
    let names = PortNames::of(&node.snapshot);
    let ports = merge.ports().iter().map(|name| names.id(name, &args.node));
    let ports = ports.collect::<Result<Vec<_>, BadInput>>()?;

    let mut outputs = outputs(args)?;
    let recorder = Recorder::new(outputs.frames, outputs.verdicts, &names).with_context(|| writing(args))?;
    let shared = shared(args, &node.snapshot)?;
    let chunks = play::chunks(&inputs, &merge, args);
    let mut player = Player::new(&shared, args.seed, chunks, recorder);
    play::all(&mut player, &mut merge, &ports, args).with_context(|| writing(args))?;
    let outcome = player.outcome(&shared);
    let (frames, verdicts) = player.into_recorder().finish().with_context(|| writing(args))?;
    drop(shared);

    if let Some(file) = &mut outputs.report {
        let speed = measure::measure(
            &self::shared(args, &node.snapshot)?,
            args,
            chunks,
            &mut merge,
            &ports,
        )?;
        let report = report::Report::new(args, &node, &names, &outcome, &speed);
        report.write(file).with_context(|| writing(args))?;
    }
    for file in [Some(frames), verdicts, outputs.report].into_iter().flatten() {
        file.commit()?;
    }
    Ok(())
}

struct Outputs {
    frames: Output,
    verdicts: Option<Output>,
    report: Option<Output>,
}

/// Opens them all before the first packet, so that a wrong path is told at once.
fn outputs(args: &Args) -> Result<Outputs, BadInput> {
    let paths = [Some(&args.out), args.verdicts.as_ref(), args.report.as_ref()];
    let paths: Vec<_> = paths.into_iter().flatten().collect();
    for (at, path) in paths.iter().enumerate() {
        let special = path.exists() && !path.is_file();
        if paths[..at].contains(path) && !special {
            return Err(BadInput(format!("{}: two outputs into one file", path.display())));
        }
    }
    let open = |path: &PathBuf| Output::create(path);
    Ok(Outputs {
        frames: open(&args.out)?,
        verdicts: args.verdicts.as_ref().map(open).transpose()?,
        report: args.report.as_ref().map(open).transpose()?,
    })
}

/// The tables of one replay.
fn shared(args: &Args, snapshot: &Arc<Snapshot>) -> Result<Arc<Shared>, BadInput> {
    let config = SharedConfig {
        seats: 1,
        connections_v4: args.max_flows.get(),
        connections_v6: args.max_flows.get(),
        seed: u128::from(args.seed),
    };
    Shared::new(&config, Arc::clone(snapshot)).map_err(|error| BadInput(format!("--max-flows: {error}")))
}

/// Captures are what the caller gave.
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn bad_capture(error: CaptureError) -> BadInput {
    BadInput(error.to_string())
}

fn writing(args: &Args) -> String {
    format!("replaying into {}", args.out.display())
}
