//! Rounds: the contenders in turns, and what their pairs say.

use anyhow::Result;
use serde::Serialize;

/// A contender's figures and how they compare with Ringway's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) version: String,
    /// What is offered to it in the rounds, thousands of packets a second; none: all that the source can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered_kpps: Option<f64>,
    /// Median of the rounds.
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

/// Ringway's figure over a peer's, round by round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) to: String,
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
}

/// Runs `rounds` of every contender; who is first changes from round to round. A list of figures for each.
pub(crate) fn rounds<T>(
    contenders: &mut [T],
    rounds: u32,
    mut turn: impl FnMut(&mut T, usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut figures = vec![Vec::new(); contenders.len()];
    for round in 0..rounds as usize {
        for step in 0..contenders.len() {
            let at = (round + step) % contenders.len();
            figures[at].push(turn(&mut contenders[at], at)?);
        }
    }
    Ok(figures)
}

/// The ratios of `ours` to `theirs`, each pair of one round.
pub(crate) fn ratio(to: &str, ours: &[f64], theirs: &[f64]) -> Ratio {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    ratios.sort_by(f64::total_cmp);
    Ratio {
        to: to.to_owned(),
        median: quantile(&ratios, 2),
        lower_quartile: quantile(&ratios, 1),
        upper_quartile: quantile(&ratios, 3),
    }
}

/// A contender's line.
pub(crate) fn side(name: &str, version: &str, offered_kpps: Option<f64>, figures: &[f64]) -> Side {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    Side {
        name: name.to_owned(),
        version: version.to_owned(),
        offered_kpps,
        median: quantile(&sorted, 2),
        lowest: quantile(&sorted, 0),
        highest: quantile(&sorted, 4),
    }
}

/// The middle of figures in any order.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 2)
}

/// So many quarters from the lowest of sorted figures, between the two nearest; 0 of none.
fn quantile(sorted: &[f64], part: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    // Parts are quarters: whole numbers all the way.
    let (at, rest) = (last * part / 4, last * part % 4);
    let above = sorted[(at + 1).min(last)];
    sorted[at] + (above - sorted[at]) * rest as f64 / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_of_one_round() {
        // A machine that doubles its speed half way changes no ratio.
        let ratio = ratio(
            "peer",
            &[100.0, 102.0, 200.0, 204.0],
            &[100.0, 100.0, 200.0, 200.0],
        );
        assert!((ratio.median - 1.01).abs() < 1e-9, "{ratio:?}");
        assert!(ratio.lower_quartile >= 1.0 && ratio.upper_quartile <= 1.02);
    }

    #[test]
    fn who_is_first_changes() {
        let mut order = Vec::new();
        let mut contenders = ["a", "b"];
        let figures = rounds(&mut contenders, 2, |name, at| {
            order.push(*name);
            Ok(at as f64)
        });
        assert_eq!(order, ["a", "b", "b", "a"]);
        assert_eq!(figures.unwrap(), [[0.0, 0.0], [1.0, 1.0]]);
    }

    #[test]
    fn a_median_of_two_is_between_them() {
        assert!((quantile(&[1.0, 2.0], 2) - 1.5).abs() < 1e-9);
        assert!((quantile(&[3.0], 1) - 3.0).abs() < 1e-9);
        assert!(quantile(&[], 2).abs() < 1e-9);
    }
}
