//! Answers as text: what is wrong first, then tables.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use fastpath::status::{Answer, Drops, Flows, PortRow, ReasonRow, RuleRow, ServiceRow, Status};
use serde_json::{Value, json};

/// The answer's content as one JSON value and a newline.
pub(super) fn json(answer: &Answer) -> serde_json::Result<String> {
    let value: Value = match answer {
        Answer::Status(status) => json!(status),
        Answer::Flows(flows) => json!(flows),
        Answer::Services(services) => json!(services),
        Answer::Policy(rules) => json!(rules),
        Answer::Drops(drops) => json!(drops),
        Answer::Error(message) => json!({ "error": message }),
    };
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

/// The answer for people.
pub(super) fn table(answer: &Answer) -> String {
    match answer {
        Answer::Status(status) => status_text(status),
        Answer::Flows(flows) => flows_text(flows),
        Answer::Services(services) => services_text(services),
        Answer::Policy(rules) => policy_text(rules),
        Answer::Drops(drops) => drops_text(drops),
        Answer::Error(message) => format!("{message}\n"),
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    if status.problems.is_empty() {
        text.push_str("healthy\n");
    }
    for problem in &status.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    let _ = writeln!(
        text,
        "node {}  {}  up {} s  state version {}  control {}",
        if status.node.is_empty() {
            "(unknown)"
        } else {
            &status.node
        },
        status.software,
        status.uptime_s,
        status.version,
        if status.control_connected {
            "connected"
        } else {
            "not connected"
        },
    );
    let c = &status.conservation;
    let _ = writeln!(
        text,
        "conservation {}: rx {} = tx {} + punt {} + drop {} + held {};  frames out {} = tx + punt + generated {} + split {}",
        if c.ok { "holds" } else { "BROKEN" },
        c.rx,
        c.tx,
        c.punt,
        c.drop,
        c.held,
        c.frames_out,
        c.generated,
        c.split,
    );
    let _ = writeln!(
        text,
        "underlay: {} routes, {} neighbours{}",
        status.underlay.routes,
        status.underlay.neighbours,
        status
            .underlay
            .refused
            .iter()
            .fold(String::new(), |all, r| all + "; " + r),
    );
    text.push('\n');
    let workers = status.workers.iter().map(|w| {
        vec![
            w.worker.to_string(),
            w.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
            w.last_beat_ms.to_string(),
            format!("{:.1}", w.busy_percent),
            w.rx.to_string(),
            w.chunks.to_string(),
            w.pages.clone(),
        ]
    });
    text += &grid(
        &["worker", "cpu", "beat ms ago", "busy %", "rx", "buffers", "pages"],
        workers,
    );
    text += &ports_grid(&status.ports);
    let tables = status.flow_tables.iter().map(|t| {
        let numbers = [t.capacity, t.live, t.created, t.refused, t.adopted];
        std::iter::once(t.family.clone())
            .chain(numbers.iter().map(u64::to_string))
            .collect()
    });
    text += &grid(
        &["flows", "capacity", "live", "created", "refused", "adopted"],
        tables,
    );
    text += &reasons_grid("drop", &status.drops);
    text += &reasons_grid("punt", &status.punts);
    text += &reasons_grid("steering", &status.steering);
    text
}

fn ports_grid(ports: &[PortRow]) -> String {
    let rows = ports.iter().map(|p| {
        vec![
            p.name.clone(),
            p.interface.clone(),
            if p.live {
                "live".to_owned()
            } else {
                format!("down: {}", p.message)
            },
            p.modes.join(","),
            p.mtu.to_string(),
            p.addresses.join(" "),
            p.rx_frames.to_string(),
            p.tx_frames.to_string(),
            p.kernel_lost.to_string(),
        ]
    });
    grid(
        &[
            "port",
            "interface",
            "state",
            "mode",
            "mtu",
            "addresses",
            "rx",
            "tx",
            "lost in kernel",
        ],
        rows,
    )
}

fn flows_text(flows: &Flows) -> String {
    let rows = flows.flows.iter().map(|f| {
        vec![
            f.orig.clone(),
            f.reply.clone(),
            f.state.clone(),
            f.idle_ms.to_string(),
            format!("{}/{}", f.packets[0], f.packets[1]),
            format!("{}/{}", f.bytes[0], f.bytes[1]),
            f.policy.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let headers = [
        "original", "reply", "state", "idle ms", "packets", "bytes", "policy",
    ];
    let table = grid(&headers, rows);
    format!("{} live, {} shown\n{table}", flows.live, flows.flows.len())
}

fn services_text(services: &[ServiceRow]) -> String {
    let rows = services.iter().map(|s| {
        vec![
            s.name.clone(),
            if s.eligible.is_empty() {
                "none: rejected".to_owned()
            } else {
                s.eligible.join(" ")
            },
            s.listed.len().to_string(),
            s.affinity_s.to_string(),
        ]
    });
    grid_or(
        "no Services",
        &["service", "backends", "listed", "affinity s"],
        rows,
    )
}

fn policy_text(rules: &[RuleRow]) -> String {
    let rows = rules.iter().map(|r| {
        vec![
            r.policy.clone(),
            r.direction.clone(),
            r.rule
                .map_or_else(|| "default deny".to_owned(), |n| n.to_string()),
            r.decisions.to_string(),
            r.packets.to_string(),
        ]
    });
    grid_or(
        "no policies",
        &["policy", "direction", "rule", "flows decided", "packets"],
        rows,
    )
}

fn drops_text(drops: &Drops) -> String {
    if drops.reasons.is_empty() && drops.recent.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut text = reasons_grid("drop", &drops.reasons);
    let rows = drops.recent.iter().map(|d| {
        vec![
            d.ago_ms.to_string(),
            d.port.clone(),
            d.packet.clone(),
            d.reason.clone(),
            d.policy.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    text += &grid(&["ms ago", "port", "packet", "reason", "by"], rows);
    text
}

fn reasons_grid(title: &str, reasons: &[ReasonRow]) -> String {
    let rows = reasons
        .iter()
        .map(|r| vec![r.reason.clone(), r.count.to_string(), r.help.clone()]);
    grid(&[title, "count", "what it means"], rows)
}

/// As [`grid`], or `nothing` on a line when it has no rows.
fn grid_or(nothing: &str, headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let text = grid(headers, rows);
    if text.is_empty() {
        format!("{nothing}\n")
    } else {
        text
    }
}

/// A table without borders, or nothing when it has no rows.
fn grid(headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headers);
    let mut empty = true;
    for row in rows {
        table.add_row(row);
        empty = false;
    }
    if empty {
        String::new()
    } else {
        format!("{}\n\n", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_first() {
        let status = Status {
            problems: vec!["worker 1 does not beat".to_owned()],
            ..Status::default()
        };
        let text = table(&Answer::Status(Box::new(status)));
        assert!(text.starts_with("problem: worker 1 does not beat\n"), "{text}");
    }

    #[test]
    fn an_empty_answer_says_so() {
        let answers = [
            Answer::Services(vec![]),
            Answer::Policy(vec![]),
            Answer::Drops(Drops::default()),
        ];
        assert_eq!(
            answers.map(|answer| table(&answer)),
            ["no Services\n", "no policies\n", "nothing was dropped\n"]
        );
    }

    #[test]
    fn json_is_the_content_without_a_wrapper() {
        let text = json(&Answer::Services(vec![ServiceRow::default()])).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[0]["name"], "");
    }
}
