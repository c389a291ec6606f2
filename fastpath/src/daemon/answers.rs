//! Answers to `ringway status` and its like, from counters and tables that workers go on writing.

use std::sync::Arc;

use flowtable::Table;

use super::status_socket::Work;
use super::{Daemon, SOFTWARE};
use crate::counters::{Conservation, Counters};
use crate::flow::key::{V4, V6};
use crate::flow::listing::{self, Listed};
use crate::io::clock;
use crate::shared::Shared;
use crate::snapshot::{Direction, RuleId, Snapshot};
use crate::status::{
    Answer, ConservationRow, DropRow, Drops, FlowRow, FlowTableRow, Flows, PortRow, Question, ReasonRow,
    RuleRow, ServiceRow, Status, UnderlayRow, WorkerRow,
};
use crate::verdict::{DropReason, PuntReason};

/// A worker that did not beat for so long is a problem.
const BEAT_LATE_MS: u64 = 1000;

impl Daemon {
    /// What makes the answer to `question`: what grows with connections and Services is left to who calls it.
    pub(super) fn answer(&self, question: Question) -> Work {
        let answer = match question {
            Question::Status => Answer::Status(Box::new(self.status())),
            Question::Flows { limit, contains } => return self.flows(limit, contains),
            Question::Services => {
                let snapshot = Arc::clone(self.desired.current());
                return Box::new(move || Answer::Services(services(&snapshot)));
            }
            Question::Policy => Answer::Policy(self.policy()),
            Question::Drops => Answer::Drops(self.drops()),
        };
        Box::new(|| answer)
    }

    fn status(&self) -> Status {
        let snapshot = self.desired.current();
        let workers = self.worker_rows();
        let conservation = self.conservation();
        let mut status = Status {
            problems: Vec::new(),
            node: snapshot.this_node().name.to_string(),
            software: SOFTWARE.to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            version: self.desired.version(),
            control_connected: self.control.is_connected(),
            last_refusal: self.desired.last_refusal.clone(),
            ports: self.port_rows(snapshot),
            punts: self.reasons(
                PuntReason::ALL,
                |r| (r.name(), r.help()),
                super::super::counters::Counters::punted,
            ),
            drops: self.reasons(
                DropReason::ALL,
                |r| (r.name(), r.help()),
                super::super::counters::Counters::dropped,
            ),
            flow_tables: vec![
                table_row("v4", &self.tables.v4, self.tables.adopted[0]),
                table_row("v6", &self.tables.v6, self.tables.adopted[1]),
            ],
            steering: self.steering_rows(),
            underlay: self.underlay_row(),
            workers,
            conservation,
        };
        status.problems = problems(&status);
        status
    }

    fn worker_rows(&self) -> Vec<WorkerRow> {
        let now_ns = clock::monotonic_ns();
        let row = |(seat, worker): (usize, &super::workers::WorkerThread)| {
            let counters = worker.handle.counters();
            let (polls, empty) = (counters.polls.get(), counters.polls_empty.get());
            WorkerRow {
                worker: seat,
                cpu: worker.cpu,
                last_beat_ms: now_ns.saturating_sub(self.shared.last_beat_ns(seat)) / 1_000_000,
                busy_percent: if polls == 0 {
                    0.0
                } else {
                    (polls - empty.min(polls)) as f64 * 100.0 / polls as f64
                },
                rx: counters.rx.get(),
                chunks: worker.chunks,
                pages: worker.pages.clone(),
            }
        };
        self.workers.iter().enumerate().map(row).collect()
    }

    /// Sums over workers, each read at a batch boundary: between two, its numbers are on their way.
    fn conservation(&self) -> ConservationRow {
        let mut sum = ConservationRow {
            ok: true,
            ..ConservationRow::default()
        };
        for worker in &self.workers {
            let c = settled(worker.handle.counters());
            sum.rx += c.rx;
            sum.tx += c.tx;
            sum.punt += c.punt;
            sum.drop += c.drop;
            sum.held += c.held;
            sum.generated += c.generated;
            sum.split += c.split;
            sum.frames_out += c.frames_out;
            sum.ok &= c.ok();
        }
        sum
    }

    fn port_rows(&self, snapshot: &Snapshot) -> Vec<PortRow> {
        let mut rows: Vec<PortRow> = self
            .ports
            .rows(snapshot)
            .into_iter()
            .map(|(id, mut row)| {
                let sums = self.desired.owners.port(id, self.counters());
                (row.rx_frames, row.rx_bytes) = (sums.rx_frames, sums.rx_bytes);
                (row.tx_frames, row.tx_bytes) = (sums.tx_frames, sums.tx_bytes);
                row
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// Sums over workers of a counter for each reason, those that are not zero, most frequent first.
    fn reasons<R: Copy>(
        &self,
        all: &[R],
        words: impl Fn(R) -> (&'static str, &'static str),
        count: impl Fn(&Counters, R) -> u64,
    ) -> Vec<ReasonRow> {
        let mut rows: Vec<ReasonRow> = all
            .iter()
            .map(|&reason| {
                let (name, help) = words(reason);
                ReasonRow {
                    reason: name.to_owned(),
                    count: self
                        .workers
                        .iter()
                        .map(|w| count(w.handle.counters(), reason))
                        .sum(),
                    help: help.to_owned(),
                }
            })
            .filter(|row| row.count > 0)
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows
    }

    fn steering_rows(&self) -> Vec<ReasonRow> {
        let mut sums = [0; 4];
        for counters in self.ports.steers().filter_map(|steer| steer.counters().ok()) {
            sums[0] += counters.passed;
            sums[1] += counters.redirected;
            sums[2] += counters.dropped_no_worker;
            sums[3] += counters.dropped_no_socket;
        }
        let words = [
            ("passed", "Frames on uplinks that are the kernel's."),
            ("redirected", "Frames on uplinks that are ours."),
            (
                "dropped-no-worker",
                "Ours, but no worker beat: the process was dead or hung.",
            ),
            ("dropped-no-socket", "Ours, but no socket was bound to the queue."),
        ];
        let row = |((reason, help), count): ((&str, &str), u64)| ReasonRow {
            reason: reason.to_owned(),
            count,
            help: help.to_owned(),
        };
        words
            .into_iter()
            .zip(sums)
            .map(row)
            .filter(|row| row.count > 0)
            .collect()
    }

    fn underlay_row(&self) -> UnderlayRow {
        let underlay = self.mirror.underlay();
        UnderlayRow {
            routes: underlay.routes.len(),
            neighbours: underlay.neighbours.len(),
            refused: self.mirror.refused.clone(),
        }
    }

    fn flows(&self, limit: usize, contains: Option<String>) -> Work {
        let snapshot = Arc::clone(self.desired.current());
        let shared = Arc::clone(&self.shared);
        Box::new(move || Answer::Flows(flows(&shared, &snapshot, limit, contains.as_deref())))
    }

    /// Of every worker.
    fn counters(&self) -> impl Iterator<Item = &Counters> + Clone {
        self.workers.iter().map(|worker| &**worker.handle.counters())
    }

    fn policy(&self) -> Vec<RuleRow> {
        let snapshot = self.desired.current();
        let mut rows: Vec<RuleRow> = snapshot
            .rules()
            .map(|(id, origin)| {
                let sums = self.desired.owners.rule(id, self.counters());
                RuleRow {
                    policy: format!(
                        "{} {}/{}",
                        origin.policy.kind, origin.policy.namespace, origin.policy.name
                    ),
                    direction: direction_name(origin.direction).to_owned(),
                    rule: origin.rule,
                    decisions: sums.decisions,
                    packets: sums.packets,
                }
            })
            .collect();
        // The default deny of a policy stands after its rules.
        rows.sort_by_key(|r| (r.policy.clone(), r.direction.clone(), r.rule.unwrap_or(u32::MAX)));
        rows
    }

    fn drops(&self) -> Drops {
        let snapshot = self.desired.current();
        let now_ns = clock::monotonic_ns();
        let mut recent: Vec<_> = self
            .workers
            .iter()
            .flat_map(|w| w.handle.counters().recent.latest())
            .collect();
        recent.sort_by_key(|drop| std::cmp::Reverse(drop.at_ns));
        let owners = &self.desired.owners;
        // What had the number of a port or rule then may be gone, and its number another's.
        let row = |drop: &crate::recent::RecentDrop| DropRow {
            ago_ms: now_ns.saturating_sub(drop.at_ns) / 1_000_000,
            port: snapshot
                .port(drop.port)
                .filter(|_| owners.had_port(drop.port, drop.at_ns))
                .map_or_else(|| format!("port {}", drop.port.0), |p| p.name.to_string()),
            packet: drop.tuple.to_string(),
            reason: drop.reason.name().to_owned(),
            policy: drop
                .rule
                .filter(|rule| owners.had_rule(*rule, drop.at_ns))
                .and_then(|rule| rule_name(snapshot, rule)),
        };
        Drops {
            reasons: self.reasons(
                DropReason::ALL,
                |r| (r.name(), r.help()),
                super::super::counters::Counters::dropped,
            ),
            recent: recent.iter().map(row).collect(),
        }
    }
}

/// A worker's identities at one of its batch boundaries, or as they stand if it is too busy to catch one.
fn settled(counters: &Counters) -> Conservation {
    const TRIES: usize = 1000;
    for _ in 0..TRIES {
        let before = counters.polls.get();
        let conservation = counters.conservation();
        if conservation.ok() && counters.polls.get() == before {
            return conservation;
        }
        std::thread::yield_now();
    }
    counters.conservation()
}

fn table_row<const K: usize, const W: usize>(
    family: &str,
    table: &Arc<Table<K, W>>,
    adopted: u64,
) -> FlowTableRow {
    let counters = table.counters();
    FlowTableRow {
        family: family.to_owned(),
        capacity: u64::from(table.capacity()),
        live: u64::from(table.live()),
        created: counters.inserts,
        refused: counters.refused_full + counters.refused_index,
        adopted,
    }
}

/// What is wrong, worst first.
fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    for worker in status.workers.iter().filter(|w| w.last_beat_ms > BEAT_LATE_MS) {
        problems.push(format!(
            "worker {} did not beat for {} ms: what is ours is dropped on its queues",
            worker.worker, worker.last_beat_ms
        ));
    }
    if !status.conservation.ok {
        problems.push("frames are not accounted for: see conservation".to_owned());
    }
    if status.version == 0 {
        problems.push("no desired state was applied yet: is ringway-control running?".to_owned());
    } else if !status.control_connected {
        problems.push("control is not connected; forwarding goes on with the last state".to_owned());
    }
    if let Some(refusal) = &status.last_refusal {
        problems.push(format!("desired state refused: {refusal}"));
    }
    for port in status.ports.iter().filter(|p| !p.live) {
        problems.push(format!("port {} is not live: {}", port.name, port.message));
    }
    for table in status.flow_tables.iter().filter(|t| t.refused > 0) {
        problems.push(format!(
            "{} new {} flows were refused: the table is full",
            table.refused, table.family
        ));
    }
    problems
}

fn flows(shared: &Shared, snapshot: &Snapshot, limit: usize, contains: Option<&str>) -> Flows {
    let now_ms = (clock::monotonic_ns() / 1_000_000) as u32;
    let mut flows = Vec::new();
    let mut take = |listed: &Listed| {
        let row = flow_row(listed, now_ms, snapshot);
        if contains.is_none_or(|text| row_text(&row).contains(text)) {
            flows.push(row);
        }
        flows.len() < limit
    };
    listing::walk::<V4, 2, 8>(shared.v4(), now_ms, &mut take);
    listing::walk::<V6, 5, 12>(shared.v6(), now_ms, &mut take);
    flows.truncate(limit);
    Flows {
        live: shared.flows_live(),
        flows,
    }
}

fn services(snapshot: &Snapshot) -> Vec<ServiceRow> {
    let mut rows: Vec<ServiceRow> = snapshot
        .services()
        .map(|service| {
            let text =
                |b: &crate::snapshot::Backend| std::net::SocketAddr::new(b.address, b.port).to_string();
            ServiceRow {
                name: service.name.to_string(),
                eligible: service
                    .eligible_v4
                    .iter()
                    .chain(service.eligible_v6.iter())
                    .map(text)
                    .collect(),
                listed: service.listed.iter().map(text).collect(),
                affinity_s: service.affinity_s,
            }
        })
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn flow_row(listed: &Listed, now_ms: u32, snapshot: &Snapshot) -> FlowRow {
    FlowRow {
        orig: listed.orig.to_string(),
        reply: listed.reply.to_string(),
        state: if listed.denied {
            "denied".to_owned()
        } else {
            listed.state.name().to_owned()
        },
        idle_ms: u64::from(now_ms.wrapping_sub(listed.last_seen_ms)),
        packets: listed.packets.map(u64::from),
        bytes: listed.bytes,
        policy: listed.rule.and_then(|rule| rule_name(snapshot, rule)),
    }
}

fn row_text(row: &FlowRow) -> String {
    format!(
        "{} {} {} {}",
        row.orig,
        row.reply,
        row.state,
        row.policy.as_deref().unwrap_or_default()
    )
}

/// `NetworkPolicy default/web ingress rule 0`.
fn rule_name(snapshot: &Snapshot, rule: RuleId) -> Option<String> {
    let origin = snapshot.rule_origin(rule)?;
    let what = origin
        .rule
        .map_or_else(|| "default deny".to_owned(), |n| format!("rule {n}"));
    let policy = &origin.policy;
    Some(format!(
        "{} {}/{} {} {what}",
        policy.kind,
        policy.namespace,
        policy.name,
        direction_name(origin.direction)
    ))
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}
