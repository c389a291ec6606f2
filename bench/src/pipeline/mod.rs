//! `core`: what a packet costs the shipped pipeline, memory to memory.

pub(crate) mod attack;
pub(crate) mod case;
pub(crate) mod cluster;
mod emitter;
pub(crate) mod expect;
mod lean;
pub(crate) mod packet;
mod port;
mod rig;
mod side;
pub(crate) mod sizes;
pub(crate) mod traffic;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use contract::valid::ValidState;
use fastpath::compile;
use fastpath::io::clock;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::snapshot::Snapshot;
use flowtable::{Config, Memory, Quiescence, TableV4};
use machine::ensure_available;
use serde::Serialize;

pub(crate) use case::Case;
pub(crate) use packet::{ChecksumFill, Family, Transport};
pub(crate) use sizes::FrameLen;

use crate::random::Random;
use crate::slices::{Slices, clean};
use crate::usage::{Form, Usage, measurable, within};
use attack::{Attack, FRAGMENT_UNIT, Flaw};
use cluster::Cluster;
use packet::Step;
use rig::{Rig, Setup};
use sizes::Sizes;
use traffic::{Traffic, Turn};

/// Which flow the next packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Distribution {
    /// Every flow once in each round, in random order.
    Uniform,
    /// Drawn by Zipf's law, exponent 1.1.
    Zipf,
}

/// Arguments of `bench core`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Which path.
    #[arg(long, value_enum)]
    pub(crate) case: Case,
    /// Flows, all workers together; of new-flows: how many are live.
    #[arg(long, default_value_t = 64_000)]
    pub(crate) flows: u32,
    /// Bytes of the frame (the inner one where it comes by tunnel), without check sequence; or imix: 64, 590 and 1514 bytes as
    /// 7 : 4 : 1.
    #[arg(
        long,
        default_value = "64",
        default_value_if("family", "6", "80"),
        default_value_if("attack", "first-fragments", "66")
    )]
    pub(crate) frame: FrameLen,
    /// How packets are spread over the flows.
    #[arg(long, value_enum, default_value = "uniform")]
    pub(crate) dist: Distribution,
    /// Transport of the flows.
    #[arg(long, value_enum, default_value = "tcp")]
    pub(crate) l4: Transport,
    /// Version of IP of the flows.
    #[arg(long, value_enum, default_value = "4")]
    pub(crate) family: Family,
    /// Transport checksums of what pods send.
    #[arg(long, value_enum, default_value = "full")]
    pub(crate) checksum: ChecksumFill,
    /// Packets that try to be dear, in place of those of established flows, which afterwards are looked at again. Of the
    /// colliding ones the established flows are made.
    #[arg(long, value_enum)]
    pub(crate) attack: Option<Attack>,
    /// Pods that the packets come from; 8 for new-flows, whose connections nobody answers: one port may have a quarter of the
    /// table so.
    #[arg(long, default_value_t = 1, default_value_if("case", "new-flows", "8"))]
    pub(crate) ports: u16,
    /// Services of new-flows, each with three backends.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) services: u32,
    /// Rules of new-flows that are in vain before the one that allows.
    #[arg(long, default_value_t = 1000)]
    pub(crate) rules: u32,
    /// Workers, each with its own queues and its share of the flows.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Send exactly so many packets through the pipeline and measure nothing: for counting instructions from outside. The
    /// clock is the bench's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) packets: Option<u64>,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    case: String,
    flows: u32,
    frame: FrameLen,
    dist: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attack: Option<String>,
    workers: usize,
    cycles_per_packet: f64,
    cycles_gross: f64,
    io_floor_cycles: f64,
    ns_per_packet: f64,
    mpps: f64,
    tsc_hz: u64,
    /// What stands beside the line in text.
    #[serde(skip)]
    pub(crate) notes: Notes,
}

/// The result of `--packets`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sent {
    case: String,
    flows: u32,
    frame: FrameLen,
    packets: u64,
}

/// How the figures came about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Packets through the pipeline, warm-up included.
    pub(crate) packets: u64,
    /// Frames compared byte by byte with what they should be.
    pub(crate) verified: u64,
    /// Slices measured, and those without an involuntary context switch, which count.
    pub(crate) slices: usize,
    pub(crate) clean: usize,
    /// Gross cycles of the slices: lowest, lower quartile, upper quartile.
    pub(crate) gross_spread: [f64; 3],
    /// Pages of the flow table.
    pub(crate) pages: String,
    pub(crate) moved: Vec<(String, u64)>,
}

/// What one worker measured.
struct Measured {
    gross: Slices,
    floor: Slices,
    verified: u64,
    packets: u64,
    moved: Vec<(String, u64)>,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        within("workers", self.workers as u64, 1, WORKERS_MAX)?;
        within("ports", self.ports, 1, case::CLIENTS_MAX)?;
        let flows_min = u64::from(self.ports) * self.workers as u64;
        within("flows", self.flows, flows_min, case::FLOWS_MAX)?;
        if let FrameLen::Bytes(bytes) = self.frame {
            let first = match self.family {
                Family::V4 => FRAME_MIN,
                Family::V6 => FRAME_MIN_V6,
            };
            within("frame", bytes as u64, first, FRAME_MAX)?;
        }
        measurable(self.seconds)?;
        if self.case == Case::NewFlows && (self.workers > 1 || self.dist == Distribution::Zipf) {
            return Err(Usage("new-flows runs with one worker and uniformly".into()));
        }
        within(
            "services",
            self.services,
            NEW_FLOW_SERVICES_MIN,
            case::NEW_FLOW_SERVICES_MAX,
        )?;
        within("rules", self.rules, 0, case::NEW_FLOW_RULES_MAX)?;
        let flows_max = u64::from(self.services) * u64::from(case::CLIENT_PORTS) / NEW_FLOW_ROUND;
        if self.case == Case::NewFlows && u64::from(self.flows) > flows_max {
            return Err(Usage(format!(
                "--flows {}: with {} services {flows_max} can be",
                self.flows, self.services
            )));
        }
        if self.packets.is_some() && self.workers > 1 {
            return Err(Usage("--packets is for one worker".into()));
        }
        self.refuse_attack()
    }

    /// What its packets have in common.
    fn traffic(&self) -> Traffic {
        Traffic {
            case: self.case,
            transport: self.l4,
            family: self.family,
            sizes: Sizes::of(self.frame, self.family),
            checksum: self.checksum,
            flaw: Flaw::None,
        }
    }

    /// Why its attack can't be made.
    fn refuse_attack(&self) -> std::result::Result<(), Usage> {
        let Some(attack) = self.attack else {
            return Ok(());
        };
        let whole_units = |bytes: usize| (bytes - 14 - Family::V4.header_len()).is_multiple_of(FRAGMENT_UNIT);
        let why = if self.family != Family::V4 {
            Some("is of IPv4")
        } else if self.workers > 1 {
            Some("is for one worker")
        } else if attack.numbers(self.flows) > case::FLOWS_MAX {
            Some("is of fewer flows")
        } else if attack == Attack::FirstFragments
            && !matches!(self.frame, FrameLen::Bytes(bytes) if whole_units(bytes))
        {
            Some("needs a --frame of 34 bytes and a multiple of 8, such as 66")
        } else {
            attack.refuse(self.case, self.l4 == Transport::Tcp)
        };
        why.map_or(Ok(()), |why| {
            Err(Usage(format!("--attack {} {why}", attack.name())))
        })
    }
}

/// Runs one case.
pub(crate) fn run(args: &Args) -> Result<Line> {
    let shared_snapshot = snapshot(args)?;
    let (shared, snapshot) = &shared_snapshot;
    let barrier = Barrier::new(args.workers);
    let workers: Vec<Measured> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.workers)
            .map(|seat| {
                let (barrier, shared) = (&barrier, Arc::clone(shared));
                scope.spawn(move || work(args, &shared, snapshot, seat, barrier))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the worker does not panic"))
            .collect::<Result<_>>()
    })?;
    Ok(line(args, &workers, shared))
}

/// Runs one case for `packets` packets on one worker, on the calling thread.
pub(crate) fn send(args: &Args, packets: u64) -> Result<Sent> {
    let (shared, snapshot) = snapshot(args)?;
    let (mut rig, turns) = prepare(args, &shared, &snapshot, 0)?;
    if let Some(attack) = args.attack {
        begin(&mut rig, args, attack, &turns);
    }
    let packets = rig.let_in(packets);
    if args.case == Case::IoFloor {
        rig.time_floor(packets);
    } else {
        rig.time_pipeline(packets);
    }
    rig.check()?;
    Ok(Sent {
        case: args.case.name(),
        flows: args.flows,
        frame: args.frame,
        packets,
    })
}

fn snapshot(args: &Args) -> Result<(Arc<Shared>, Snapshot)> {
    // Flows that have ended stay until the sweep comes by, a few of their ten seconds later.
    let connections = args.flows + args.flows / 2 + 4096;
    // Nobody answers them, and one port may have a quarter of the table so.
    let connections = if args.case == Case::NewFlows && args.ports < 8 {
        connections * 4
    } else {
        connections
    };
    let of_table = u64::from(connections) * TABLE_BYTES;
    ensure_available(of_table + u64::from(args.flows) * TURN_BYTES)?;
    let state = cluster::state(&Cluster {
        case: args.case,
        family: args.family,
        flows: args
            .attack
            .map_or(args.flows, |attack| attack.numbers(args.flows)),
        clients: args.ports,
        connections,
        services: args.services,
        rules: args.rules,
    });
    let valid = ValidState::try_from(state).context("the bench's state")?;
    let snapshot = compile::compile(&valid, &cluster::underlay(args.case, args.family))
        .context("the bench's state")?
        .snapshot;
    let (connections_v4, connections_v6) = match args.family {
        Family::V4 => (connections, OTHER_FAMILY),
        Family::V6 => (OTHER_FAMILY, connections),
    };
    let config = SharedConfig {
        seats: args.workers,
        connections_v4,
        connections_v6,
        seed: u128::from(args.form.seed),
    };
    let shared = Shared::new(&config, Arc::new(snapshot.clone()))?;
    Ok((shared, snapshot))
}

fn work(
    args: &Args,
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    seat: usize,
    barrier: &Barrier,
) -> Result<Measured> {
    let prepared = prepare(args, shared, snapshot, seat);
    // Whoever failed must not keep the others waiting.
    barrier.wait();
    let (mut rig, turns) = prepared?;
    let verify = |rig: &mut Rig| match args.case {
        Case::IoFloor => Ok(0),
        Case::NewFlows => verify_new(rig, args),
        _ => rig.verify(VERIFIED, Step::Data, &turns),
    };
    let mut verified = verify(&mut rig)?;
    let established = rig.flows_created();
    if let Some(attack) = args.attack {
        begin(&mut rig, args, attack, &turns);
        if attack.dropped().is_none() {
            verified += verify(&mut rig)?;
        }
    }
    let (mut gross, mut floor) = (Slices::default(), Slices::default());
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end || gross.len() < SLICES_MIN {
        let count = rig.let_in(floor.items_for(SLICE_TICKS, SLICE_PACKETS_MAX));
        floor.push(count, clean(|| rig.time_floor(count)));
        if args.case == Case::IoFloor {
            gross = floor.clone();
            continue;
        }
        let count = rig.let_in(gross.items_for(SLICE_TICKS, SLICE_PACKETS_MAX));
        gross.push(count, clean(|| rig.time_pipeline(count)));
        rig.check()?;
    }
    if args.attack.is_some() {
        rig.cease(&turns);
    }
    verified += verify(&mut rig)?;
    rig.check()?;
    ensure!(
        args.attack.is_none() || rig.flows_created() == established,
        "the attack opened flows: {:?}",
        rig.moved()
    );
    Ok(Measured {
        gross,
        floor,
        verified,
        packets: rig.packets(),
        moved: rig.moved(),
    })
}

/// A worker with its share of the flows established, ready to receive them in the measured order.
fn prepare(args: &Args, shared: &Arc<Shared>, snapshot: &Snapshot, seat: usize) -> Result<(Rig, Vec<Turn>)> {
    let setup = Setup {
        traffic: args.traffic(),
        clients: args.ports,
        workers: args.workers,
        ns_per_packet: match (args.case, args.packets) {
            (Case::NewFlows, _) => {
                u64::from(cluster::NEW_FLOW_SECONDS) * 1_000_000_000 / u64::from(args.flows)
            }
            (_, Some(_)) => COUNTED_NS_PER_PACKET,
            (_, None) => 0,
        },
        starts_now: args.packets.is_none(),
    };
    let mut rig = Rig::new(setup, shared, snapshot, seat)?;
    let share = |seat: usize| (u64::from(args.flows) * seat as u64 / args.workers as u64) as u32;
    let turn = |flow: u32| Turn {
        flow,
        client: (flow % u32::from(args.ports)) as u16,
        server: 0,
    };
    let mut turns: Vec<Turn> = match args.attack {
        Some(attack @ (Attack::Colliding | Attack::Guessed)) => {
            let table = if attack == Attack::Colliding {
                Arc::clone(shared.v4())
            } else {
                other_secret(args)?
            };
            let flows = attack::colliding(&args.traffic(), &table, rig.clients(), args.flows);
            flows.into_iter().map(turn).collect()
        }
        _ => (share(seat)..share(seat + 1)).map(turn).collect(),
    };
    if args.case == Case::NewFlows {
        start_new_flows(&mut rig, args, turn)?;
        return Ok((rig, turns));
    }
    if args.case != Case::IoFloor {
        turns = rig.establish(turns)?;
    }
    let mut random = Random::new(args.form.seed + seat as u64);
    let count = turns.len() as u32;
    let order = match args.dist {
        Distribution::Uniform => random.permutation(count),
        Distribution::Zipf => random.zipf(count, 1.1, turns.len().max(ZIPF_DRAWS_MIN)),
    };
    let order: Vec<Turn> = order.into_iter().map(|at| turns[at as usize]).collect();
    rig.play(Step::Data, args.case.measures_replies(), &order);
    Ok((rig, turns))
}

/// A table whose hash is not the one under attack.
fn other_secret(args: &Args) -> Result<Arc<TableV4>> {
    let config = Config {
        capacity: OTHER_FAMILY,
        seed: !u128::from(args.form.seed),
        user_words: 0,
    };
    Ok(TableV4::create(config, Memory::Anonymous, &Quiescence::new(1))?)
}

/// Puts `attack` in the place of what established flows send.
fn begin(rig: &mut Rig, args: &Args, attack: Attack, turns: &[Turn]) {
    let mut sent: Vec<Turn> = turns.to_vec();
    if let Some(first) = attack.first_flow(args.flows) {
        for (turn, flow) in sent.iter_mut().zip(first..) {
            turn.flow = flow;
        }
    }
    Random::new(args.form.seed).shuffle(&mut sent);
    rig.attack(attack, &sent);
}

/// Every packet opens a flow. Enough of them go round that one has expired long before its turn comes again.
fn start_new_flows(rig: &mut Rig, args: &Args, turn: impl Fn(u32) -> Turn) -> Result<()> {
    let round = (args.flows * NEW_FLOW_ROUND as u32).max(NEW_FLOWS_MIN);
    let order: Vec<Turn> = (0..round)
        .map(|nth| turn(case::new_flow(nth, args.services)))
        .collect();
    rig.play(Step::Open, false, &order);
    // Until as many expire as come.
    let warm_up = rig.let_in(u64::from(args.flows) * 3 / 2);
    rig.time_pipeline(warm_up);
    rig.check()
}

/// Frames of new flows: each to one of its Service's servers, and otherwise as it should be.
fn verify_new(rig: &mut Rig, args: &Args) -> Result<u64> {
    let traffic = args.traffic();
    let mut seen = 0;
    rig.sample(VERIFIED, &mut |sent| {
        let (flow, server) = expect::identify(&traffic, sent, false)?;
        let client = (flow % u32::from(args.ports)) as u16;
        let turn = Turn { flow, client, server };
        expect::check(&traffic, Step::Open, false, turn, sent)?;
        seen += 1;
        Ok(())
    })?;
    Ok(seen)
}

fn line(args: &Args, workers: &[Measured], shared: &Shared) -> Line {
    let tsc_hz = clock::tsc_hz(Duration::from_millis(50));
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    #[expect(clippy::cast_precision_loss, reason = "a few workers")]
    let mean = |of: &dyn Fn(&Measured) -> f64| workers.iter().map(of).sum::<f64>() / workers.len() as f64;
    let gross = mean(&|worker| worker.gross.median());
    let floor = mean(&|worker| worker.floor.median());
    let net = if args.case == Case::IoFloor {
        floor
    } else {
        gross - floor
    };
    #[expect(clippy::cast_precision_loss, reason = "some GHz")]
    let hz = tsc_hz as f64;
    let mpps: f64 = workers
        .iter()
        .map(|worker| hz / worker.gross.median() / 1e6)
        .sum();
    Line {
        case: args.case.name(),
        flows: args.flows,
        frame: args.frame,
        dist: match args.dist {
            Distribution::Uniform => "uniform",
            Distribution::Zipf => "zipf",
        },
        attack: args.attack.map(Attack::name),
        workers: args.workers,
        cycles_per_packet: tenth(net),
        cycles_gross: tenth(gross),
        io_floor_cycles: tenth(floor),
        ns_per_packet: tenth(gross / hz * 1e9),
        mpps: (mpps * 1000.0).round() / 1000.0,
        tsc_hz,
        notes: Notes {
            packets: workers.iter().map(|worker| worker.packets).sum(),
            verified: workers.iter().map(|worker| worker.verified).sum(),
            slices: workers.iter().map(|worker| worker.gross.len()).sum(),
            clean: workers.iter().map(|worker| worker.gross.clean()).sum(),
            gross_spread: [0.0, 0.25, 0.75].map(|at| mean(&|worker| worker.gross.quantile(at))),
            pages: match args.family {
                Family::V4 => shared.v4().pages(),
                Family::V6 => shared.v6().pages(),
            }
            .to_string(),
            moved: workers.iter().flat_map(|worker| worker.moved.clone()).collect(),
        },
    }
}

/// Of a connection, IPv6 being the longer one: two records and its part of the index.
const TABLE_BYTES: u64 = 2 * 96 + 26;
/// Of a flow: its turn, its place in the measured order, its turn there.
const TURN_BYTES: u64 = 32;
/// Connections of the version of IP that is not measured.
const OTHER_FAMILY: u32 = 64;
/// Ticks between two readings: some 0.4 ms, so that most slices see no other thread.
const SLICE_TICKS: f64 = 1e6;
const SLICE_PACKETS_MAX: u64 = 8192;
const SLICES_MIN: usize = 5;
/// Frames compared before and again after the measurement.
const VERIFIED: u64 = 4096;
/// Of the bench's clock while packets are counted: what the pipeline does does not depend on how slow the machine is.
const COUNTED_NS_PER_PACKET: u64 = 100;
const ZIPF_DRAWS_MIN: usize = 1 << 20;
const NEW_FLOWS_MIN: u32 = 1 << 16;
/// Flows that go round in new-flows, for each that is live.
const NEW_FLOW_ROUND: u64 = 3;
/// So that no pod, of eight, has more than its share of the table.
const NEW_FLOW_SERVICES_MIN: u64 = 10;
const WORKERS_MAX: u64 = 64;
/// The headers and the flow's number.
const FRAME_MIN: u64 = 60;
const FRAME_MIN_V6: u64 = 80;
const FRAME_MAX: u64 = 1514;

#[cfg(test)]
mod tests;
