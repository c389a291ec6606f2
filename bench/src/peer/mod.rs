//! `peer`: other forwarders in the pipeline's cases, memory to memory: OVS with DPDK, and DPDK's testpmd for the I/O floor.

mod capture;
mod flows;
mod ovs;
mod process;
mod switch;
mod testpmd;

use ::machine::Interrupt;
use anyhow::{Context as _, Result};
use fastpath::io::clock;
use serde::Serialize;
use std::time::Duration;

use crate::live::machine;
use crate::pipeline::Case;
use crate::pipeline::attack::Flaw;
use crate::pipeline::packet::{ChecksumFill, Family, Transport};
use crate::pipeline::sizes::{FrameLen, Sizes};
use crate::pipeline::traffic::Traffic;
use crate::random::Random;
use crate::slices::Slices;
use crate::usage::{Form, Usage};
use testpmd::Devices;

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Implementation {
    /// Open vSwitch, userspace datapath on DPDK; needs root.
    Ovs,
    /// DPDK's testpmd, mode macswap; needs root. Case io-floor only.
    Testpmd,
}

/// A peer that is not there, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Arguments of `bench peer`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Who forwards.
    #[arg(long = "impl", value_enum)]
    implementation: Implementation,
    /// Which path: those of `core`, but for new-flows.
    #[arg(long, value_enum)]
    case: Case,
    /// Flows.
    #[arg(long, default_value_t = 64_000)]
    flows: u32,
    /// Bytes of the frame (the inner one where it comes by tunnel), without check sequence.
    #[arg(long, default_value = "64")]
    frame: FrameLen,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    case: String,
    flows: u32,
    frame: FrameLen,
    #[serde(rename = "impl")]
    implementation: &'static str,
    cycles_per_packet: f64,
    cycles_gross: f64,
    io_floor_cycles: f64,
    ns_per_packet: f64,
    mpps: f64,
    windows: usize,
    windows_undisturbed: usize,
    packets: u64,
    /// That the connection tracker had at the end.
    connections: u64,
    /// Frames compared with what should leave, all flows among them.
    compared: u64,
    tsc_hz: u64,
    version: Option<String>,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        let refuse = |why: String| Err(Usage(why));
        let has_case = match self.implementation {
            Implementation::Ovs => !matches!(self.case, Case::IoFloor | Case::NewFlows),
            Implementation::Testpmd => self.case == Case::IoFloor,
        };
        if !has_case {
            return refuse(format!(
                "--case {}: not with --impl {}",
                self.case.name(),
                self.name()
            ));
        }
        if !(1..=FLOWS_MAX).contains(&self.flows) {
            return refuse(format!(
                "--flows {}: 1 to {FLOWS_MAX} can be, OVS has 262,144 packet buffers and all frames lie in them",
                self.flows
            ));
        }
        if self.frame == FrameLen::Imix && self.implementation == Implementation::Testpmd {
            return refuse("--frame imix: not with --impl testpmd".into());
        }
        if let FrameLen::Bytes(bytes) = self.frame
            && !(64..=1514).contains(&bytes)
        {
            return refuse(format!("--frame {bytes}: 64 to 1514 can be"));
        }
        if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            return refuse(format!("--seconds {}: more than 0, at most 3600", self.seconds));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self.implementation {
            Implementation::Ovs => "ovs",
            Implementation::Testpmd => "testpmd",
        }
    }
}

/// Runs one case.
pub(crate) fn run(args: &Args) -> Result<Line> {
    if machine::require_root().is_err() {
        return Err(Missing("needs root: it takes huge pages and a network namespace".into()).into());
    }
    let interrupt = Interrupt::catch()?;
    let testpmd = testpmd::program().map_err(Missing)?;
    // The one that forwards, and one for whatever else its processes do.
    let cpus = (machine::FORWARDER_CPU, machine::source_cpu());
    let (other, forwarder) = cpus;
    if args.implementation == Implementation::Testpmd {
        let FrameLen::Bytes(bytes) = args.frame else {
            unreachable!("refused");
        };
        let (windows, packets) =
            testpmd::run(&testpmd, Devices::Null(bytes), cpus, args.seconds, &interrupt)?;
        return Ok(line(args, &windows, 0.0, packets, (0, 0), None));
    }
    let traffic = Traffic {
        case: args.case,
        transport: Transport::Tcp,
        family: Family::V4,
        sizes: Sizes::of(args.frame, Family::V4),
        checksum: ChecksumFill::Full,
        flaw: Flaw::None,
    };
    let programs = switch::Programs::find().map_err(Missing)?;
    let mut random = Random::new(args.form.seed);
    let (seen, frames) = ovs::run(
        programs,
        forwarder,
        &traffic,
        args.flows,
        args.seconds,
        &mut random,
        &interrupt,
    )
    .with_context(|| format!("OVS on CPUs {other} and {forwarder}"))?;
    let floor = Devices::Capture(&frames.file(ovs::FRAMES));
    let (floor, _) =
        testpmd::run(&testpmd, floor, cpus, args.seconds, &interrupt).context("the I/O floor")?;
    Ok(line(
        args,
        &seen.windows,
        floor.median(),
        seen.packets,
        (seen.connections, seen.compared),
        Some(seen.version),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "GHz")]
fn line(
    args: &Args,
    windows: &Slices,
    floor: f64,
    packets: u64,
    (connections, compared): (u64, u64),
    version: Option<String>,
) -> Line {
    let tsc_hz = clock::tsc_hz(Duration::from_millis(50));
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let gross = windows.median();
    Line {
        case: args.case.name(),
        flows: args.flows,
        frame: args.frame,
        implementation: args.name(),
        cycles_per_packet: tenth(gross - floor),
        cycles_gross: tenth(gross),
        io_floor_cycles: tenth(if args.case == Case::IoFloor { gross } else { floor }),
        ns_per_packet: tenth(gross / tsc_hz as f64 * 1e9),
        mpps: (tsc_hz as f64 / gross / 1e3).round() / 1e3,
        windows: windows.len(),
        windows_undisturbed: windows.clean(),
        packets,
        connections,
        compared,
        tsc_hz,
        version,
    }
}

/// The frames of all flows lie in packet buffers, and as many more have to be free.
const FLOWS_MAX: u32 = 200_000;
