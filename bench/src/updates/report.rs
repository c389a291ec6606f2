//! Report: what a run found, as one line of JSON.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::feed::{Costs, Label, Resync};
use super::stage::Kind;
use super::{Args, Event, Measured, TIME_MAX, Work, tsc_hz};

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    case: &'static str,
    event: &'static str,
    by_set: bool,
    services: u32,
    flows: u32,
    changes_per_second: u32,
    workers: usize,
    /// Of all workers, while nothing changed.
    mpps_without: f64,
    /// While it did.
    mpps_with: f64,
    /// Of throughput: the median of the phases with changes, each beside the quiet ones before and after it.
    loss_percent: f64,
    /// Their quartiles.
    loss_quartiles: [f64; 2],
    ns_per_packet_without: f64,
    /// Changes made, and those that came more than a millisecond after their time.
    changes: u64,
    behind: u64,
    redecisions_per_second: f64,
    put_off_per_second: f64,
    /// Datagram flows whose backend went and that were opened anew elsewhere.
    moved_per_second: f64,
    /// From the bytes of a change until every worker uses the snapshot and what it touched is outdated.
    event_us: Times,
    compile_us: Times,
    publish_us: Times,
    batch_us_without: Times,
    batch_us_with: Times,
    /// Added to the batches' 99.9th percentile.
    batch_p999_added_us: f64,
    resyncs: Vec<Resync>,
    /// Of throughput during a resync, each beside the quiet phases around it, and how long one takes.
    resync_loss_percent: Option<f64>,
    resync_loss_quartiles: Option<[f64; 2]>,
    resync_ms: Option<f64>,
    resync_batch_max_us: Option<f64>,
    /// The same while a state is compiled and thrown away, and while another thread only counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsal_loss_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsal_loss_quartiles: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spin_loss_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spin_loss_quartiles: Option<[f64; 2]>,
    labels: Vec<Label>,
    /// Packets of which was looked where they went, all of them.
    checked: u64,
    /// Served by an old decision once more, within what was put off.
    late: u64,
    pub(crate) misrouted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) example: Option<String>,
    /// Slices that count, and those in which the thread had to give up its processor.
    slices: u64,
    disturbed: u64,
}

/// Percentiles, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Times {
    fn of(histogram: &Histogram<u64>, per_us: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "times")]
        let us = |value: u64| (value as f64 / per_us * 100.0).round() / 100.0;
        Self {
            p50: us(histogram.value_at_quantile(0.5)),
            p99: us(histogram.value_at_quantile(0.99)),
            p999: us(histogram.value_at_quantile(0.999)),
            max: us(histogram.max()),
        }
    }
}

/// What all workers measured in a phase.
struct Phase {
    kind: Kind,
    /// Packets per tick, all workers together.
    rate: f64,
    measured: Vec<Measured>,
}

impl Line {
    pub(super) fn of(args: &Args, kinds: &[Kind], works: &[Work], costs: &Costs) -> Self {
        let hz = tsc_hz();
        let phases: Vec<Phase> = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| Phase::of(*kind, works.iter().map(|work| work.phases[at].clone()).collect()))
            .collect();
        let of_kind = |kind: Kind| phases.iter().filter(move |phase| phase.kind == kind);
        let eventful = match args.event {
            Event::Endpoint => Kind::Changes,
            Event::Label => Kind::Label,
        };
        let lost = losses(&phases, eventful);
        let lost_in = |kind| {
            let lost = losses(&phases, kind);
            (!lost.is_empty()).then_some(lost)
        };
        let [resync, rehearsal, spin] = [Kind::Resync, Kind::Rehearsal, Kind::Spin].map(lost_in);
        let mpps = |kind| median(of_kind(kind).map(|phase| phase.rate).collect()) * hz / 1e6;
        let batches = |kind| {
            let mut all = Histogram::new_with_max(TIME_MAX, 3).expect("three digits are possible");
            for measured in of_kind(kind).flat_map(|phase| &phase.measured) {
                all += &measured.batches;
            }
            all
        };
        let (without, with) = (batches(Kind::Quiet), batches(eventful));
        let (without, with) = (Times::of(&without, hz / 1e6), Times::of(&with, hz / 1e6));
        let per_second = |count: &dyn Fn(&Measured) -> u64| {
            #[expect(clippy::cast_precision_loss, reason = "counts")]
            let (sum, ticks) = of_kind(eventful)
                .flat_map(|phase| &phase.measured)
                .fold((0.0, 0.0), |(sum, ticks), measured| {
                    (sum + count(measured) as f64, ticks + measured.all_ticks as f64)
                });
            // Each worker's own seconds.
            (sum / ticks * hz * args.workers as f64).round()
        };
        let seen = |of: &dyn Fn(&Work) -> u64| works.iter().map(of).sum::<u64>();
        let mpps_without = mpps(Kind::Quiet);
        Self {
            case: "updates",
            event: match args.event {
                Event::Endpoint => "endpoint",
                Event::Label => "label",
            },
            by_set: args.by_set,
            services: args.services,
            flows: args.flows,
            changes_per_second: args.changes_per_second,
            workers: args.workers,
            mpps_without: thousandth(mpps_without),
            mpps_with: thousandth(mpps(eventful)),
            loss_percent: middle(&lost),
            loss_quartiles: quartiles(&lost),
            ns_per_packet_without: hundredth(1e3 / mpps_without * args.workers as f64),
            changes: costs.changes,
            behind: costs.behind,
            redecisions_per_second: per_second(&|measured| measured.redecisions),
            put_off_per_second: per_second(&|measured| measured.put_off),
            moved_per_second: per_second(&|measured| measured.created),
            event_us: Times::of(&costs.event, 1e3),
            compile_us: Times::of(&costs.compile, 1e3),
            publish_us: Times::of(&costs.publish, 1e3),
            batch_us_without: without,
            batch_us_with: with,
            batch_p999_added_us: hundredth(with.p999 - without.p999),
            resyncs: costs.resyncs.clone(),
            resync_loss_percent: resync.as_deref().map(middle),
            resync_loss_quartiles: resync.as_deref().map(quartiles),
            resync_ms: (!costs.resyncs.is_empty())
                .then(|| middle(&costs.resyncs.iter().map(|resync| resync.ms).collect::<Vec<_>>())),
            resync_batch_max_us: resync
                .as_ref()
                .map(|_| Times::of(&batches(Kind::Resync), hz / 1e6).max),
            rehearsal_loss_percent: rehearsal.as_deref().map(middle),
            rehearsal_loss_quartiles: rehearsal.as_deref().map(quartiles),
            spin_loss_percent: spin.as_deref().map(middle),
            spin_loss_quartiles: spin.as_deref().map(quartiles),
            labels: costs.labels.clone(),
            checked: seen(&|work| work.seen.packets),
            late: seen(&|work| work.seen.late),
            misrouted: seen(&|work| work.seen.misrouted),
            example: works.iter().find_map(|work| work.seen.example.clone()),
            slices: seen(&|work| work.phases.iter().map(|phase| phase.slices).sum()),
            disturbed: seen(&|work| work.phases.iter().map(|phase| phase.disturbed).sum()),
        }
    }
}

impl Phase {
    fn of(kind: Kind, measured: Vec<Measured>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        let rate = measured
            .iter()
            .map(|one| one.packets as f64 / one.ticks as f64)
            .sum();
        Self { kind, rate, measured }
    }
}

/// What phases of `kind` lose beside the quiet ones around them, percent, sorted.
fn losses(phases: &[Phase], kind: Kind) -> Vec<f64> {
    let mut losses: Vec<f64> = phases
        .windows(3)
        .filter(|around| around[1].kind == kind)
        .map(|around| {
            let quiet = f64::midpoint(around[0].rate, around[2].rate);
            (1.0 - around[1].rate / quiet) * 100.0
        })
        .filter(|loss| loss.is_finite())
        .collect();
    losses.sort_by(f64::total_cmp);
    losses
}

fn middle(of: &[f64]) -> f64 {
    hundredth(median(of.to_vec()))
}

fn quartiles(sorted: &[f64]) -> [f64; 2] {
    [0.25, 0.75].map(|part| hundredth(quantile(sorted, part)))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    quantile(&of, 0.5)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an index into some dozens"
)]
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
