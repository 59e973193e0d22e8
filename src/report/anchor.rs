//! Published numbers to hold our own against: `results/anchors.csv`, one number a row with where it stands.
//!
//! Protocols of papers differ in split, class list, metric and shots, so that most numbers are comparable with
//! those of the same protocol only; a figure shows none else.

use serde::Deserialize;

use crate::comparison::curve::{Panel, Point};
use crate::config::Shots;
use crate::error::{Error, Result};
use crate::statistics::metric::Headline;

const TABLE: &str = include_str!("../../results/anchors.csv");
/// Name of the table in errors; it is part of the program.
const PATH: &str = "results/anchors.csv";

/// A published accuracy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Name of the dataset, as in its manifest.
    pub dataset: String,
    /// Split and draws: a protocol of ours, or the name of another's.
    pub protocol: String,
    /// "top1" or "mean-per-class" as in our tables, or what the source calls it.
    pub metric: String,
    /// Model and what it was pre-trained on.
    pub model: String,
    /// Method of training, or "zero-shot".
    pub method: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// In %.
    pub accuracy: f64,
    /// Source of the number: paper and table.
    pub source: String,
    /// Remarks: the text of the source, and what is not known of it.
    pub verified: String,
}

impl Anchor {
    /// True if a point of a curve is measured the same way: the same dataset, protocol and metric, and no miniature.
    #[must_use]
    pub fn matches(&self, point: &Point) -> bool {
        !point.micro
            && point.panel == Panel::Dataset
            && self.dataset == point.dataset
            && self.protocol == point.protocol.to_string()
            && Some(self.metric.as_str()) == point.metric.map(Headline::name)
    }
}

/// The table that is part of the program.
///
/// # Errors
/// As [`parse`].
pub fn anchors() -> Result<Vec<Anchor>> {
    parse(TABLE)
}

/// A table of anchors.
///
/// # Errors
/// [`Error::Malformed`] with the line.
pub fn parse(table: &str) -> Result<Vec<Anchor>> {
    csv::Reader::from_reader(table.as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(|e| Error::malformed("table of published results", PATH, e))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_whole_and_names_its_sources() {
        let all = anchors().unwrap();
        let mut seen = BTreeSet::new();
        for anchor in &all {
            assert!(anchor.accuracy > 1.0 && anchor.accuracy < 100.0, "{anchor:?}");
            for text in [
                &anchor.dataset,
                &anchor.protocol,
                &anchor.metric,
                &anchor.model,
                &anchor.source,
            ] {
                assert!(!text.is_empty() && text.trim() == text, "{anchor:?}");
            }
            assert!(!anchor.dataset.starts_with("mini-"), "{anchor:?}");
            let key = (
                &anchor.dataset,
                &anchor.protocol,
                &anchor.metric,
                &anchor.model,
                &anchor.method,
            );
            assert!(seen.insert((key, anchor.shots, &anchor.source)), "twice: {anchor:?}");
        }
        let of = |dataset: &str, method: &str, shots: u32| {
            let found = all
                .iter()
                .find(|a| a.dataset == dataset && a.method == method && a.shots == shots && a.protocol == "coop");
            found.map(|anchor| anchor.accuracy)
        };
        assert_eq!(of("stanford-cars", "Tip-Adapter-F", 16), Some(75.74));
        assert_eq!(of("oxford-flowers", "CLIP-Adapter", 1), Some(73.49));
        // Everything read from the same log: two methods on four datasets at five numbers of shots.
        let log = all
            .iter()
            .filter(|a| a.source.contains("Tip-Adapter") && a.method.contains("Adapter"));
        assert_eq!(log.count(), 40);
        assert!(parse("dataset,protocol\na,b\n").is_err());
    }
}
