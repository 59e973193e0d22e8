//! Accuracy of learners by their confidence: the rows behind the reliability diagram.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::comparison::series::{Run, Series};
use crate::config::Shots;
use crate::error::Result;
use crate::statistics::calibration::{BINS, Judged, equal_width, error, judged};
use crate::store::Store;
use crate::store::ledger;

/// The images of one bin of confidence, of one learner at one number of shots, over all datasets and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// Expected calibration error over all bins.
    pub ece: f64,
    /// Lower end of the bin; it is 1/15 wide.
    pub above: f64,
    /// Images in it.
    pub images: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// Share of them answered correctly.
    pub accuracy: f64,
}

/// Rows of all bins that hold images, by learner, shots and bin. Cells without probabilities have none, and those whose
/// sanity control is red are left out.
///
/// # Errors
/// As [`Store::predictions`].
pub fn rows(store: &Store, series: &[Series]) -> Result<Vec<Row>> {
    let mut pooled: BTreeMap<(&str, Shots), (Vec<Judged>, bool)> = BTreeMap::new();
    for series in series {
        let counts = |run: &&Run| !run.red && run.record.metrics.ece.is_some();
        for run in series.runs.iter().filter(counts) {
            let own = judged(&store.predictions(&run.record.run_id)?, 1.0).unwrap_or_default();
            let (all, micro) = pooled.entry((&series.learner, series.shots)).or_default();
            all.extend(own);
            *micro |= series.is_micro();
        }
    }
    Ok(of(pooled))
}

fn of(pooled: BTreeMap<(&str, Shots), (Vec<Judged>, bool)>) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((learner, shots), (judged, micro)) in pooled {
        let bins = equal_width(&judged);
        let ece = error(&bins);
        for (place, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.count > 0) {
            rows.push(Row {
                learner: learner.to_owned(),
                shots,
                micro,
                ece,
                above: place as f64 / BINS as f64,
                images: bin.count,
                confidence: bin.confidence / bin.count as f64,
                accuracy: bin.hits / bin.count as f64,
            });
        }
    }
    rows
}

/// The rows as CSV.
///
/// # Errors
/// [`crate::error::Error::Io`] naming `path`, where it is to be written.
pub fn to_csv(rows: &[Row], path: &Path) -> Result<Vec<u8>> {
    let named = |row: &Row| Row {
        learner: ledger::cell(&row.learner).into_owned(),
        ..row.clone()
    };
    ledger::to_csv(rows.iter().map(named), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_without_images_have_no_row() {
        let one = |confidence, hit| Judged { confidence, hit };
        let judged = vec![one(0.95, true), one(0.97, false), one(0.5, true)];
        let rows = of(BTreeMap::from([(("a", Shots::K(4)), (judged, true))]));
        let seen: Vec<(f64, usize, f64)> = rows.iter().map(|r| (r.above, r.images, r.accuracy)).collect();
        assert_eq!(seen, [(7.0 / 15.0, 1, 1.0), (14.0 / 15.0, 2, 0.5)]);
        assert!((rows[1].confidence - 0.96).abs() < 1e-12);
        assert!((rows[0].ece - (0.5 + 0.92) / 3.0).abs() < 1e-12);
        let csv = String::from_utf8(to_csv(&rows, Path::new("x")).unwrap()).unwrap();
        assert!(
            csv.starts_with("learner,shots,micro,ece,above,images,confidence,accuracy\n"),
            "{csv}"
        );
    }
}
