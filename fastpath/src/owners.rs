//! Whose counters are: numbers of ports and rules are used again, and the counters behind them go on.
//!
//! Workers alone write counters, so nobody can set one back. Instead the config thread notes where the counters of a number
//! stood when it got a new owner; readers take that off. What a worker still counts for the one before, in the moment until it
//! uses the new snapshot, is the new one's.

use std::collections::BTreeMap;

use crate::compile::Reused;
use crate::counters::{Counters, PortCounters, RuleCounters};
use crate::port::PortId;
use crate::snapshot::RuleId;

/// Where the counters stood, and when, of every number that had an owner before.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    ports: BTreeMap<PortId, Start<PortSums>>,
    rules: BTreeMap<RuleId, Start<RuleSums>>,
}

#[derive(Debug)]
struct Start<T> {
    at_ns: u64,
    sums: T,
}

/// [`PortCounters`] of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSums {
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
}

/// [`RuleCounters`] of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleSums {
    pub(crate) decisions: u64,
    pub(crate) packets: u64,
}

impl Owners {
    /// These numbers have new owners from now on.
    pub(crate) fn begin<'a>(
        &mut self,
        reused: &Reused,
        now_ns: u64,
        workers: &(impl Iterator<Item = &'a Counters> + Clone),
    ) {
        for port in &reused.ports {
            let sums = port_sums(*port, workers.clone());
            self.ports.insert(*port, Start { at_ns: now_ns, sums });
        }
        for rule in &reused.rules {
            let sums = rule_sums(*rule, workers.clone());
            self.rules.insert(*rule, Start { at_ns: now_ns, sums });
        }
    }

    /// What the workers counted for the port that has this number now.
    pub(crate) fn port<'a>(&self, port: PortId, workers: impl Iterator<Item = &'a Counters>) -> PortSums {
        let now = port_sums(port, workers);
        let start = self
            .ports
            .get(&port)
            .map_or(PortSums::default(), |start| start.sums);
        PortSums {
            rx_frames: now.rx_frames.wrapping_sub(start.rx_frames),
            rx_bytes: now.rx_bytes.wrapping_sub(start.rx_bytes),
            tx_frames: now.tx_frames.wrapping_sub(start.tx_frames),
            tx_bytes: now.tx_bytes.wrapping_sub(start.tx_bytes),
        }
    }

    /// What the workers counted for the rule that has this number now.
    pub(crate) fn rule<'a>(&self, rule: RuleId, workers: impl Iterator<Item = &'a Counters>) -> RuleSums {
        let now = rule_sums(rule, workers);
        let start = self
            .rules
            .get(&rule)
            .map_or(RuleSums::default(), |start| start.sums);
        RuleSums {
            decisions: now.decisions.wrapping_sub(start.decisions),
            packets: now.packets.wrapping_sub(start.packets),
        }
    }

    /// Had the port's number its present owner at that time?
    pub(crate) fn had_port(&self, port: PortId, at_ns: u64) -> bool {
        self.ports.get(&port).is_none_or(|start| start.at_ns <= at_ns)
    }

    /// Had the rule's number its present owner at that time?
    pub(crate) fn had_rule(&self, rule: RuleId, at_ns: u64) -> bool {
        self.rules.get(&rule).is_none_or(|start| start.at_ns <= at_ns)
    }
}

fn port_sums<'a>(port: PortId, workers: impl Iterator<Item = &'a Counters>) -> PortSums {
    let mut sums = PortSums::default();
    for counters in workers.filter_map(|worker| worker.port(port)) {
        let PortCounters {
            rx_frames,
            rx_bytes,
            tx_frames,
            tx_bytes,
        } = counters;
        sums.rx_frames = sums.rx_frames.wrapping_add(rx_frames.get());
        sums.rx_bytes = sums.rx_bytes.wrapping_add(rx_bytes.get());
        sums.tx_frames = sums.tx_frames.wrapping_add(tx_frames.get());
        sums.tx_bytes = sums.tx_bytes.wrapping_add(tx_bytes.get());
    }
    sums
}

fn rule_sums<'a>(rule: RuleId, workers: impl Iterator<Item = &'a Counters>) -> RuleSums {
    let mut sums = RuleSums::default();
    for RuleCounters { decisions, packets } in workers.filter_map(|worker| worker.rule(rule)) {
        sums.decisions = sums.decisions.wrapping_add(decisions.get());
        sums.packets = sums.packets.wrapping_add(packets.get());
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_used_again_starts_at_zero_and_its_neighbours_go_on() {
        let workers = [Counters::new(4, 4), Counters::new(4, 4)];
        let (port, other) = (PortId(2), PortId(3));
        let count = |n: u64| {
            for (worker, times) in workers.iter().zip([1, 10]) {
                for id in [port, other] {
                    let counters = worker.port(id).unwrap();
                    counters.rx_frames.add(n * times);
                    counters.rx_bytes.add(100 * n * times);
                    counters.tx_frames.add(2 * n * times);
                    counters.tx_bytes.add(200 * n * times);
                }
                let rule = worker.rule(RuleId(1)).unwrap();
                rule.decisions.add(n * times);
                rule.packets.add(3 * n * times);
            }
        };
        count(5);
        let mut owners = Owners::default();
        assert_eq!(owners.port(port, workers.iter()).rx_frames, 55);
        let reused = Reused {
            ports: vec![port],
            rules: vec![RuleId(1)],
        };
        owners.begin(&reused, 1000, &workers.iter());
        assert_eq!(owners.port(port, workers.iter()), PortSums::default());
        assert_eq!(owners.rule(RuleId(1), workers.iter()), RuleSums::default());
        assert_eq!(owners.port(other, workers.iter()).rx_frames, 55);
        count(1);
        let sums = PortSums {
            rx_frames: 11,
            rx_bytes: 1100,
            tx_frames: 22,
            tx_bytes: 2200,
        };
        assert_eq!(owners.port(port, workers.iter()), sums);
        let sums = RuleSums {
            decisions: 11,
            packets: 33,
        };
        assert_eq!(owners.rule(RuleId(1), workers.iter()), sums);
        // And again.
        owners.begin(&reused, 2000, &workers.iter());
        assert_eq!(owners.port(port, workers.iter()), PortSums::default());
        assert!(!owners.had_port(port, 1999) && owners.had_port(port, 2000) && owners.had_port(other, 0));
        assert!(!owners.had_rule(RuleId(1), 1999) && owners.had_rule(RuleId(1), 2000));
    }
}
