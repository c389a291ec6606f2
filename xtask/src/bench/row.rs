//! Rows: what the parts of the comparison have in common, as JSON lines and as a Markdown table.

use std::fmt::Write as _;

use serde::Serialize;

/// One contender in one case with one number of flows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) part: &'static str,
    pub(crate) case: String,
    /// None: `bench live` has 64, policy none at all.
    pub(crate) flows: Option<u32>,
    /// Of policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<u32>,
    #[serde(rename = "impl")]
    pub(crate) name: String,
    /// Of the figures.
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) rounds: usize,
    /// Ringway's own.
    pub(crate) goal: Option<f64>,
}

/// What is to be said below the rows of a part.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// Peers that could not be compared with, and what would help.
    pub(crate) missing: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// Runs that went wrong, once each.
    pub(crate) failed: Vec<String>,
}

impl Outcome {
    /// Notes that a run went wrong.
    pub(crate) fn fail(&mut self, what: String) {
        if !self.failed.contains(&what) {
            self.failed.push(what);
        }
    }
}

impl Row {
    /// The row of these figures, one a round.
    pub(crate) fn of(
        part: &'static str,
        case: &str,
        flows: u32,
        name: &str,
        unit: &str,
        figures: &[f64],
    ) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (last, middle) = (sorted.len().saturating_sub(1), sorted.len() / 2);
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self {
            part,
            case: case.to_owned(),
            flows: Some(flows),
            rules: None,
            name: name.to_owned(),
            unit: unit.to_owned(),
            median,
            lowest: at(0),
            highest: at(last),
            rounds: figures.len(),
            goal: None,
        }
    }

    /// The column that it stands in: its place among them, and its title.
    fn column(&self) -> (u32, String) {
        match (self.flows, self.rules) {
            (Some(flows), _) => (flows, format!("{} flows", thousands(flows))),
            (None, Some(rules)) => (rules, format!("{} rules", thousands(rules))),
            (None, None) => (64, "64 flows".to_owned()),
        }
    }
}

/// A Markdown table of rows: a line for each case and contender, a column for each number of flows or rules.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut columns: Vec<(u32, String)> = rows.iter().map(Row::column).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        if !lines.contains(&(&row.case, &row.name)) {
            lines.push((&row.case, &row.name));
        }
    }
    let mut text = String::from("| case | |");
    for (_, title) in &columns {
        let _ = write!(text, " {title} |");
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" ---: |".repeat(columns.len()));
    for (case, name) in lines {
        let _ = write!(text, "\n| {case} | {name} |");
        for column in &columns {
            let row = rows
                .iter()
                .find(|row| row.case == case && row.name == name && row.column() == *column);
            match row {
                Some(row) => {
                    let _ = write!(text, " {}", cell(row));
                }
                None => text.push_str(" -"),
            }
            text.push_str(" |");
        }
    }
    text.push('\n');
    text
}

/// Median, range, and the goal where there is one.
fn cell(row: &Row) -> String {
    let digits = match row.median {
        _ if ["ratio", "Gbit/s"].contains(&row.unit.as_str()) => 2,
        median if median < 1000.0 => 1,
        _ => 0,
    };
    let Row {
        median,
        lowest,
        highest,
        ..
    } = row;
    let mut text = format!("{median:.digits$} ({lowest:.digits$}–{highest:.digits$})");
    if let Some(goal) = row.goal {
        let _ = write!(text, ", goal {goal}");
    }
    text
}

/// A number as people read it: 64,000.
pub(crate) fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_rounds() {
        let row = Row::of("table", "hit", 1000, "ringway", "cycles", &[9.0, 1.0, 4.0]);
        assert_eq!((row.lowest, row.median, row.highest), (1.0, 4.0, 9.0));
        let row = Row::of("table", "hit", 1000, "ringway", "cycles", &[9.0, 1.0, 4.0, 5.0]);
        assert_eq!((row.median, row.rounds), (4.5, 4));
    }

    #[test]
    fn a_cell_for_each_number_of_flows_and_none_where_nothing_was_measured() {
        let mut rows = vec![
            Row::of("table", "hit", 1000, "ringway", "cycles", &[20.0]),
            Row::of("table", "hit", 1_000_000, "ringway", "cycles", &[1234.0]),
            Row::of("table", "miss", 1000, "hashbrown", "cycles", &[30.0]),
        ];
        rows[0].goal = Some(28.0);
        assert_eq!(
            markdown(&rows),
            "| case | | 1,000 flows | 1,000,000 flows |\n\
             | --- | --- | ---: | ---: |\n\
             | hit | ringway | 20.0 (20.0–20.0), goal 28 | 1234 (1234–1234) |\n\
             | miss | hashbrown | 30.0 (30.0–30.0) | - |\n"
        );
    }
}
