//! The flow table's rows as a picture: a bar for each contender, grouped by case and number of flows.

use std::fmt::Write as _;

use super::row::{Row, thousands};

const BAR_HEIGHT: usize = 14;
const GROUP_GAP: usize = 22;
const LABELS_WIDTH: f64 = 140.0;
const BARS_WIDTH: f64 = 460.0;
const FIGURES_WIDTH: f64 = 60.0;
const OURS: &str = "#1f6feb";
const THEIRS: &str = "#8c959f";

/// An SVG of `rows`, all in one unit; the longest bar has the whole width.
pub(crate) fn svg(title: &str, rows: &[Row]) -> String {
    let longest = rows.iter().map(|row| row.median).fold(1.0, f64::max);
    let mut bars = String::new();
    let mut y = 24;
    let mut group = None;
    for row in rows {
        if group != Some((&row.case, row.flows)) {
            group = Some((&row.case, row.flows));
            y += GROUP_GAP;
            let flows = row.flows.map(thousands).unwrap_or_default();
            let text_y = y - 5;
            let _ = writeln!(
                bars,
                r#"<text x="8" y="{text_y}" font-weight="bold">{}, {flows} flows</text>"#,
                row.case
            );
        }
        let width = row.median / longest * BARS_WIDTH;
        let (text_y, bar_height) = (y + BAR_HEIGHT - 4, BAR_HEIGHT - 2);
        let (labels_end, figure_x) = (LABELS_WIDTH - 6.0, LABELS_WIDTH + width + 5.0);
        let colour = if row.name == "ringway" { OURS } else { THEIRS };
        let _ = writeln!(
            bars,
            r#"<text x="{labels_end}" y="{text_y}" text-anchor="end">{}</text><rect x="{LABELS_WIDTH}" y="{y}" width="{width:.1}" height="{bar_height}" fill="{colour}"/><text x="{figure_x:.1}" y="{text_y}">{:.1}</text>"#,
            row.name, row.median
        );
        y += BAR_HEIGHT;
    }
    let (width, height) = (LABELS_WIDTH + BARS_WIDTH + FIGURES_WIDTH, y + 10);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"8\" y=\"18\" \
         font-size=\"13\">{title}</text>\n{bars}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let row = |name: &str, flows, median| Row::of("table", "hit", flows, name, "cycles", &[median]);
        let rows = [
            row("ringway", 1000, 20.0),
            row("hashbrown", 1000, 40.0),
            row("ringway", 64_000, 10.0),
        ];
        let svg = svg("Lookups", &rows);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for (width, colour) in [("230.0", OURS), ("460.0", THEIRS), ("115.0", OURS)] {
            let bar = format!("width=\"{width}\" height=\"12\" fill=\"{colour}\"");
            assert_eq!(svg.matches(&bar).count(), 1, "{bar} in {svg}");
        }
        assert_eq!(svg.matches("hit, 1,000 flows").count(), 1);
        assert_eq!(svg.matches("hit, 64,000 flows").count(), 1);
    }
}
