//! Accuracy of a model before it has seen an example: at k = 0 by every reading, next to guessing.

use crate::comparison::curve::{IntervalKind, share};
use crate::comparison::series::{READINGS, Series};
use crate::config::Protocol;
use crate::prediction::Reading;
use crate::statistics::Interval;
use crate::statistics::metric::Headline;

/// Accuracy without examples by one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct ZeroShot {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner.
    pub learner: String,
    /// Reading of its answers.
    pub reading: Reading,
    /// "known" or "novel", where that is told.
    pub regime: Option<String>,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// A sanity control of the cell is red: its numbers are not to be used.
    pub red: bool,
    /// Which accuracy it is.
    pub metric: Headline,
    /// Test images.
    pub n_test: usize,
    /// Accuracy of guessing: one over the number of classes.
    pub chance: f64,
    /// Accuracy, between 0 and 1.
    pub accuracy: f64,
    /// Its 95 % interval over test images, those of one drawing together.
    pub interval: Interval,
    /// Which interval it is.
    pub kind: IntervalKind,
}

/// Position of the 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// All of it above guessing.
    Above,
    /// It contains guessing.
    Contains,
    /// All of it below.
    Below,
}

impl ZeroShot {
    /// Position of the interval against guessing.
    #[must_use]
    pub fn against_chance(&self) -> Against {
        if self.interval.low > self.chance {
            Against::Above
        } else if self.interval.high < self.chance {
            Against::Below
        } else {
            Against::Contains
        }
    }

    /// True if the regime shows: known concepts are told above guessing, novel ones are not told from guessing.
    /// `None` where the regime is not told. The trie's reading alone is held to it: free text may name no class.
    #[must_use]
    pub fn fits_regime(&self) -> Option<bool> {
        let expected = match (self.reading, self.regime.as_deref()) {
            (Reading::Trie, Some("known")) => Against::Above,
            (Reading::Trie, Some("novel")) => Against::Contains,
            _ => return None,
        };
        Some(self.against_chance() == expected)
    }
}

/// Every reading of every learner at k = 0.
#[must_use]
pub fn zero_shots(series: &[Series]) -> Vec<ZeroShot> {
    let without = series.iter().filter(|s| s.shots == 0);
    let by = |series: &Series, reading| {
        let (accuracy, interval, kind) = share(series, &series.scores_by(reading)?);
        let record = &series.runs[0].record;
        Some(ZeroShot {
            dataset: series.dataset.clone(),
            protocol: series.protocol,
            learner: series.learner.clone(),
            reading,
            regime: record.regime.clone(),
            micro: series.is_micro(),
            red: series.runs.iter().any(|run| run.red),
            metric: series.headline(),
            n_test: record.n_test,
            chance: 1.0 / record.classes.len().max(1) as f64,
            accuracy,
            interval,
            kind,
        })
    };
    without
        .flat_map(|series| READINGS.into_iter().filter_map(|reading| by(series, reading)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{cell, written_cell};

    #[test]
    fn every_reading_is_held_against_guessing() {
        // Four classes, so guessing is 0.25. The drawing decides: both its images are right or wrong.
        let of = |name: &str, regime: &str, share: u32| {
            let mut cell = written_cell((name, "VLM", 0, 0), 160, |_| false, |i| (i / 2 * 7) % 16 < share);
            cell.0.regime = Some(regime.into());
            cell
        };
        let mut cells = vec![
            of("a", "known", 12),
            of("b", "known", 4),
            of("c", "novel", 4),
            of("d", "novel", 12),
        ];
        cells.push(written_cell(("a", "VLM", 1, 0), 160, |_| true, |_| true));
        cells.push(cell(("a", "x", 1, 0), 160, |_| true));
        let found = zero_shots(&Series::group(cells.into_iter().map(Ok)).unwrap());
        assert_eq!(found.len(), 4 * 3);
        let trie: Vec<_> = found
            .iter()
            .filter(|z| z.reading == Reading::Trie)
            .map(|z| (z.dataset.as_str(), z.against_chance(), z.fits_regime()))
            .collect();
        assert_eq!(
            trie,
            [
                ("a", Against::Above, Some(true)),
                ("b", Against::Contains, Some(false)),
                ("c", Against::Contains, Some(true)),
                ("d", Against::Above, Some(false)),
            ]
        );
        let free = found.iter().find(|z| z.reading == Reading::Free).unwrap();
        assert_eq!(
            (free.accuracy, free.against_chance(), free.fits_regime()),
            (0.0, Against::Below, None)
        );
        assert_eq!(free.kind, IntervalKind::Images);
    }
}
