//! `live`: packets over veth in namespaces, through Ringway's processes and through its peers, in turns.

mod binding;
mod compare;
pub(crate) mod dialogue;
mod forwarder;
mod lab;
pub(crate) mod machine;
mod sink;
mod source;
mod stream;
mod testpmd;
mod turn;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ::machine::{Interrupt, load as load_now};
use anyhow::Result;
use serde::Serialize;

use crate::usage::Usage;
use binding::Binding;
use compare::{Ratio, Side};
use forwarder::{Forwarder, Kernel, Ringway};
use sink::Arrival;
use source::{Load, Route};
use stream::Stream;
use testpmd::Testpmd;
use turn::{Account, Bench};

/// Which path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// Pod to pod on a node, beside testpmd's plain forwarding between the same two links.
    AfxdpForward,
    /// Frames between the same two links as they are: Ringway's sockets alone, beside other bindings and testpmd.
    Binding,
    /// Pod to pod on a node, beside the kernel's routing.
    PodToPod,
    /// Pod to `ClusterIP` to a pod on another node by VXLAN, beside the kernel's nftables and vxlan device.
    Service,
    /// The same way with one TCP stream.
    #[value(name = "tcp-1")]
    #[serde(rename = "tcp-1")]
    Tcp1,
}

/// Arguments of `bench live`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Which path.
    #[arg(long, value_enum)]
    pub(crate) case: Case,
    /// Bytes of the frames at the source, without check sequence; `tcp-1` sends what TCP sends.
    #[arg(long, default_value_t = 64)]
    pub(crate) frame: usize,
    /// Length of each turn.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Turns of each contender.
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: u32,
    /// One JSON line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The result of a case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    case: Case,
    frame: usize,
    seconds: f64,
    rounds: u32,
    /// Of the figures: `kpps`, `Gbit/s`.
    unit: &'static str,
    /// Ringway first.
    sides: Vec<Side>,
    ratios: Vec<Ratio>,
    /// Peers that could not be compared with, and why.
    missing: Vec<String>,
    /// Every packet of the rounds, for each side.
    conservation: Vec<Account>,
    kernel: String,
    cpus: usize,
    /// Load of the machine before and after.
    load: [f64; 2],
}

/// Small frames and an IPv4 header before UDP's.
const FRAME_MIN: u64 = 60;
/// Inside VXLAN, on an underlay of 1500 bytes.
const FRAME_MAX: u64 = 1464;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const SINK: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const SINK_PORT: u16 = 9000;
const SERVICE_PORT: u16 = 90;
const NEAR: &[&str] = &["near.yaml"];
const BOTH: &[&str] = &["near.yaml", "far.yaml"];
/// Loads tried before the rounds, thousands a second, besides all that the source can: a forwarder that shares a CPU with the
/// source does best below what it is offered.
const LOADS_KPPS: [u32; 9] = [40, 60, 80, 100, 130, 170, 220, 300, 400];
/// Some packets of every flow, slowly: flows are made and neighbours found.
const WARM_UP: Load = Load {
    rate: Some(5000),
    count: Some(source::FLOWS as u64 * 8),
    length: Duration::from_millis(300),
};
/// The best loads are tried again, so many of them so often.
const RETRIED: usize = 3;
const RETRIES: usize = 2;
/// How long each is tried.
const TRIAL: Duration = Duration::from_millis(400);

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        if !(FRAME_MIN..=FRAME_MAX).contains(&(self.frame as u64)) {
            return Err(Usage(format!(
                "--frame {}: {FRAME_MIN} to {FRAME_MAX} can be",
                self.frame
            )));
        }
        if !(self.seconds >= 0.1 && self.seconds <= 600.0) {
            return Err(Usage(format!("--seconds {}: 0.1 to 600 can be", self.seconds)));
        }
        if !(1..=1000).contains(&self.rounds) {
            return Err(Usage(format!("--rounds {}: 1 to 1000 can be", self.rounds)));
        }
        Ok(())
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Measures a case.
pub(crate) fn run(args: &Args) -> Result<Line> {
    machine::require_root()?;
    let interrupt = Interrupt::catch()?;
    progress("building ringway, ringway-fastpath and ringway-control");
    let programs = machine::build_programs()?;
    interrupt.check()?;
    let _priority = machine::Priority::raise();
    lab::remove_stale(&programs)?;
    let before = load_now();
    let mut line = match args.case {
        Case::Tcp1 => streams(args, &programs, &interrupt)?,
        _ => packets(args, &programs, &interrupt)?,
    };
    line.load = [before, load_now()];
    Ok(line)
}

impl Case {
    /// Files of the lab's state, and the pod that packets go to.
    fn lab(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::AfxdpForward | Self::Binding | Self::PodToPod => (NEAR, "default/sink"),
            Self::Service | Self::Tcp1 => (BOTH, "default/far"),
        }
    }
}

/// A contender with its name, and the load that it does best with.
struct Contender {
    name: &'static str,
    version: String,
    bench: Bench,
    best: Option<u32>,
    account: Account,
}

fn packets(args: &Args, programs: &Path, interrupt: &Interrupt) -> Result<Line> {
    let mut missing = Vec::new();
    let mut contenders = contenders(args, programs, interrupt, &mut missing)?;
    for contender in &mut contenders {
        contender.find_best(interrupt)?;
    }
    let length = args.length();
    let figures = compare::rounds(&mut contenders, args.rounds, |contender, _| {
        let turn = contender.bench.turn(load(contender.best, length), interrupt)?;
        progress(&format!("{:<10} {:>8.1} kpps", contender.name, turn.kpps));
        contender.account.add(&turn.account);
        Ok(turn.kpps)
    })?;
    let mut line = line(args, "kpps", missing);
    for (contender, figures) in contenders.iter().zip(&figures) {
        let offered = contender.best.map(f64::from);
        line.sides.push(compare::side(
            contender.name,
            &contender.version,
            offered,
            figures,
        ));
        line.conservation.push(contender.account.clone());
    }
    line.compare(&figures);
    for contender in contenders {
        contender.bench.down()?;
    }
    Ok(line)
}

/// Brings all of them up, Ringway first; what can't be had is `missing`.
fn contenders(
    args: &Args,
    programs: &Path,
    interrupt: &Interrupt,
    missing: &mut Vec<String>,
) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    let (states, sink) = args.case.lab();
    let own = env!("CARGO_PKG_VERSION");
    progress("lab: Ringway");
    let ringway: Box<dyn Forwarder> = if args.case == Case::Binding {
        let words = binding::own_words()?;
        Box::new(Binding::up(programs, "ringway", &[&words[0], &words[1]], states)?)
    } else {
        Box::new(Ringway::up(programs, states, sink)?)
    };
    contenders.push(contender("ringway", own.to_owned(), args, ringway)?);
    interrupt.check()?;
    if matches!(args.case, Case::PodToPod | Case::Service) {
        progress("lab: the kernel");
        let kernel = Box::new(Kernel::up(programs, states)?);
        contenders.push(contender("kernel", machine::kernel_release(), args, kernel)?);
        return Ok(contenders);
    }
    if let Some(why) = testpmd::missing() {
        progress(&format!("no testpmd to compare with: {why}"));
        missing.push(format!("testpmd: {why}"));
    } else {
        progress("lab: testpmd");
        let version = machine::package_version("dpdk-dev").unwrap_or_else(|| "not of Debian".to_owned());
        let testpmd = Box::new(Testpmd::up(programs, states)?);
        contenders.push(contender("testpmd", version, args, testpmd)?);
    }
    if args.case == Case::Binding {
        for other in binding::OTHERS {
            interrupt.check()?;
            progress(&format!("building and lab: {}", other.name));
            match other.build(programs) {
                Ok(program) => {
                    let forwarder = Box::new(Binding::up(programs, other.name, &[&program], states)?);
                    contenders.push(contender(other.name, other.version.to_owned(), args, forwarder)?);
                }
                Err(why) => {
                    progress(&format!("no {} to compare with: {why}", other.name));
                    missing.push(format!("{}: {why}", other.name));
                }
            }
        }
    }
    Ok(contenders)
}

fn contender(
    name: &'static str,
    version: String,
    args: &Args,
    forwarder: Box<dyn Forwarder>,
) -> Result<Contender> {
    let (_, sink) = args.case.lab();
    let (to, port, arrives_at) = match args.case {
        Case::Service => (SERVICE, SERVICE_PORT, FAR),
        _ => (SINK, SINK_PORT, SINK),
    };
    let route = Route {
        from: SOURCE,
        to,
        port,
    };
    let arrival = Arrival {
        from: SOURCE,
        to: arrives_at,
        port: SINK_PORT,
        hops: 0,
        len: args.frame,
    };
    Ok(Contender {
        name,
        version,
        bench: Bench::new(forwarder, route, arrival, sink)?,
        best: None,
        account: Account {
            ok: true,
            ..Account::default()
        },
    })
}

impl Contender {
    /// Brings the flows up, then tries loads: the best is the one of which most arrives.
    fn find_best(&mut self, interrupt: &Interrupt) -> Result<()> {
        let warm_up = self.bench.turn(WARM_UP, interrupt)?;
        anyhow::ensure!(
            warm_up.account.delivered > 0,
            "{} carries no packet: {:?}",
            self.name,
            warm_up.account
        );
        let mut trial = |kpps| Ok::<_, anyhow::Error>(self.bench.turn(load(kpps, TRIAL), interrupt)?.kpps);
        let mut tried = vec![(vec![trial(None)?], None)];
        for kpps in LOADS_KPPS {
            let rate = trial(Some(kpps))?;
            tried.push((vec![rate], Some(kpps)));
        }
        // One trial may have had luck: those that look best are tried again.
        tried.sort_by(|a, b| b.0[0].total_cmp(&a.0[0]));
        tried.truncate(RETRIED);
        for (rates, kpps) in &mut tried {
            for _ in 0..RETRIES {
                rates.push(trial(*kpps)?);
            }
        }
        let best = tried
            .iter()
            .map(|(rates, kpps)| (compare::median(rates), *kpps))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .expect("one load is tried at least");
        self.best = best.1;
        let offered = best.1.map_or("all that the source can".to_owned(), |kpps| {
            format!("{kpps} kpps")
        });
        progress(&format!(
            "{:<10} does best when offered {offered}: {:.1} kpps",
            self.name, best.0
        ));
        Ok(())
    }
}

fn load(kpps: Option<u32>, length: Duration) -> Load {
    Load {
        rate: kpps.map(|kpps| kpps * 1000),
        count: None,
        length,
    }
}

fn streams(args: &Args, programs: &Path, interrupt: &Interrupt) -> Result<Line> {
    let mut contenders = Vec::new();
    let (states, sink) = args.case.lab();
    for (name, version) in [
        ("ringway", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel", machine::kernel_release()),
    ] {
        interrupt.check()?;
        progress(&format!("lab: {name}"));
        contenders.push((name, version, Stream::up(programs, name, states, sink)?));
    }
    let address = SERVICE.to_string();
    let figures = compare::rounds(&mut contenders, args.rounds, |(name, _, stream), _| {
        interrupt.check()?;
        let rate = stream.turn(&address, args.length())?;
        progress(&format!("{name:<8} {rate:>6.2} Gbit/s"));
        Ok(rate)
    })?;
    let mut line = line(args, "Gbit/s", Vec::new());
    for ((name, version, _), figures) in contenders.iter().zip(&figures) {
        line.sides.push(compare::side(name, version, None, figures));
    }
    line.compare(&figures);
    for (name, _, stream) in contenders {
        if name == "ringway" {
            let wrong = stream.wrong()?;
            anyhow::ensure!(wrong.is_empty(), "conservation: {}", wrong.join("; "));
        }
        stream.down()?;
    }
    Ok(line)
}

fn line(args: &Args, unit: &'static str, missing: Vec<String>) -> Line {
    Line {
        case: args.case,
        frame: args.frame,
        seconds: args.seconds,
        rounds: args.rounds,
        unit,
        sides: Vec::new(),
        ratios: Vec::new(),
        missing,
        conservation: Vec::new(),
        kernel: machine::kernel_release(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        load: [0.0; 2],
    }
}

impl Line {
    /// The first side beside each other one.
    fn compare(&mut self, figures: &[Vec<f64>]) {
        let Some((ours, theirs)) = figures.split_first() else {
            return;
        };
        for (side, theirs) in self.sides.iter().skip(1).zip(theirs) {
            self.ratios.push(compare::ratio(&side.name, ours, theirs));
        }
    }

    /// What a packet was lost to without a trace, or came to twice: the figures are worth nothing then.
    pub(crate) fn wrong(&self) -> Vec<&str> {
        self.conservation
            .iter()
            .flat_map(|account| &account.wrong)
            .map(String::as_str)
            .collect()
    }

    /// For a person.
    pub(crate) fn print(&self) {
        println!(
            "{:<10} {:>10} {:>10} {:>10}  {:<22} offered",
            "", "median", "lowest", "highest", self.unit
        );
        for side in &self.sides {
            let offered = side
                .offered_kpps
                .map_or("all".to_owned(), |kpps| format!("{kpps:.0}"));
            println!(
                "{:<10} {:>10.2} {:>10.2} {:>10.2}  {:<22} {offered}",
                side.name, side.median, side.lowest, side.highest, side.version
            );
        }
        for ratio in &self.ratios {
            println!(
                "ringway / {}: {:.3} (median of {} pairs; quartiles {:.3} and {:.3})",
                ratio.to, ratio.median, self.rounds, ratio.lower_quartile, ratio.upper_quartile
            );
        }
        for missing in &self.missing {
            println!("not compared: {missing}");
        }
        for (side, account) in self.sides.iter().zip(&self.conservation) {
            let Account {
                offered,
                lost_before,
                lost_between,
                dropped,
                lost_behind,
                delivered,
                ..
            } = account;
            let state = if account.ok { "adds up" } else { "DOES NOT ADD UP" };
            if account.uncounted {
                println!(
                    "{}: {state}: {offered} offered, {delivered} delivered; it counts nothing in between",
                    side.name
                );
            } else {
                println!(
                    "{}: {state}: {offered} offered = {lost_before} too many for it + {dropped} dropped + \
                     {lost_between} lost between nodes + {lost_behind} lost behind it + {delivered} delivered",
                    side.name
                );
            }
        }
        println!(
            "# {} CPUs, Linux {}, load {:.1} before and {:.1} after",
            self.cpus, self.kernel, self.load[0], self.load[1]
        );
    }
}

/// What happens, on standard error: standard output is the result's.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}

#[cfg(test)]
mod tests;
