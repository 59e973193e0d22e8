//! Findings of a cell's sanity controls: `controls/<run_id>.json`.
//!
//! A red control means that the harness or the model does something that makes the cell's accuracy meaningless
//! (labels leak, an adapter is not applied, …): its numbers are not to be used.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fs::file;
use crate::prediction::Reading;
use crate::store::record::{CellKey, Record};
use crate::store::{Store, parse, to_json};

/// Version of the file.
pub const SCHEMA: u32 = 1;

/// The controls of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controls {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// The cell.
    pub run_id: String,
    /// Key that it is compared by.
    pub key: CellKey,
    /// [`Record::predictions_sha256`] of the cell that was controlled: controls of other predictions do not count.
    pub predictions_sha256: String,
    /// Each control.
    pub controls: Vec<Control>,
    /// Seconds they took together.
    pub seconds: f64,
    /// When they ended, RFC 3339 in UTC.
    pub finished: String,
    /// Commit of the source tree, where known.
    pub commit: Option<String>,
}

/// One control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Which one.
    pub name: Name,
    /// Its text.
    pub verdict: Verdict,
    /// The numbers that it was judged by.
    pub measures: Vec<Measure>,
    /// Seed of whatever it drew: with the names of control, dataset and learner it decides the draw.
    pub seed: u64,
}

/// Which control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Trained again, the cell gives the predictions that are stored. Reported, never red.
    Reproduced,
    /// Asked about the wrong pictures, the classifier does not answer with the class of the row.
    ShuffledImages,
    /// Trained on shuffled labels, it does no better than by chance.
    ShuffledLabels,
    /// Without its adapter it is the base model, with it it is not.
    AdapterOffOn,
    /// Saved and loaded again it answers the same.
    ReloadParity,
    /// Asked without a picture, it answers always the same.
    PromptWithoutImage,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Reproduced => "reproduced",
            Self::ShuffledImages => "shuffled images",
            Self::ShuffledLabels => "shuffled labels",
            Self::AdapterOffOn => "adapter off/on",
            Self::ReloadParity => "reload parity",
            Self::PromptWithoutImage => "prompt without image",
        })
    }
}

/// Finding of a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every measure is within its limits.
    Green,
    /// One is not: the cell's numbers are not to be used.
    Red,
    /// Reported only.
    NotJudged,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Green => "green",
            Self::Red => "RED",
            Self::NotJudged => "not judged",
        })
    }
}

/// A number of answers, with what is allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Name of the number.
    pub what: String,
    /// By which reading of the answers; `None`: by all that a row holds, to the bit.
    pub reading: Option<Reading>,
    /// So many,
    pub found: usize,
    /// of so many.
    pub of: usize,
    /// Mean by chance, where that is the measure.
    pub by_chance: Option<f64>,
    /// Fewer are red.
    pub at_least: Option<usize>,
    /// More are red.
    pub at_most: Option<usize>,
}

impl Measure {
    /// A count of `found` in `of` rows, without limits.
    #[must_use]
    pub fn new(what: &str, found: usize, of: usize) -> Self {
        Self {
            what: what.into(),
            reading: None,
            found,
            of,
            by_chance: None,
            at_least: None,
            at_most: None,
        }
    }

    /// The same, more than `most` of which are red.
    #[must_use]
    pub fn at_most(mut self, most: usize) -> Self {
        self.at_most = Some(most);
        self
    }

    /// The same, fewer than `least` of which are red.
    #[must_use]
    pub fn at_least(mut self, least: usize) -> Self {
        self.at_least = Some(least);
        self
    }

    /// True if it is within its limits.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.at_most.is_none_or(|most| self.found <= most) && self.at_least.is_none_or(|least| self.found >= least)
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} {}", self.found, self.of, self.what)?;
        if let Some(reading) = self.reading {
            write!(f, " ({reading})")?;
        }
        if let Some(by_chance) = self.by_chance {
            write!(f, ", {by_chance:.1} by chance")?;
        }
        if let Some(least) = self.at_least {
            write!(f, ", at least {least}")?;
        }
        if let Some(most) = self.at_most {
            write!(f, ", at most {most}")?;
        }
        Ok(())
    }
}

impl Control {
    /// Red where a measure is beyond its limits.
    #[must_use]
    pub fn judged(name: Name, seed: u64, measures: Vec<Measure>) -> Self {
        let fits = measures.iter().all(Measure::fits);
        Self {
            name,
            verdict: if fits { Verdict::Green } else { Verdict::Red },
            measures,
            seed,
        }
    }
}

impl Controls {
    /// True if any control is red.
    #[must_use]
    pub fn is_red(&self) -> bool {
        self.controls.iter().any(|control| control.verdict == Verdict::Red)
    }

    /// "green", or which controls are red.
    #[must_use]
    pub fn mark(&self) -> String {
        let red = self.controls.iter().filter(|control| control.verdict == Verdict::Red);
        let names: Vec<String> = red.map(|control| control.name.to_string()).collect();
        if names.is_empty() {
            Verdict::Green.to_string()
        } else {
            format!("red: {}", names.join(", "))
        }
    }
}

impl Store {
    /// The controls of a finished cell; `None` when it has none, or only of other predictions.
    ///
    /// # Errors
    /// [`Malformed`](crate::error::Error::Malformed) when the file is torn or of an unknown schema, [`Io`](crate::error::Error::Io) when it cannot be read.
    pub fn controls(&self, record: &Record) -> Result<Option<Controls>> {
        let path = self.controls_path(&record.run_id);
        let Some(bytes) = file::read_if_present(&path)? else {
            return Ok(None);
        };
        let kind = "file of sanity controls";
        let controls = parse(kind, &path, &bytes, |controls: &Controls| controls.schema, SCHEMA)?;
        let own = controls.run_id == record.run_id && controls.predictions_sha256 == record.predictions_sha256;
        Ok(own.then_some(controls))
    }

    /// Rebuilds the ledger for the cells that it lists, with what controls say of them by now, and gives their records;
    /// none where there is no ledger yet.
    ///
    /// # Errors
    /// [`Io`](crate::error::Error::Io) and [`Malformed`](crate::error::Error::Malformed) when something cannot be read or written.
    pub fn mark_ledger(&self) -> Result<Vec<Record>> {
        let Some(listed) = self.listed()? else {
            return Ok(Vec::new());
        };
        let records = listed.iter().filter_map(|run_id| self.finished(run_id).transpose());
        let records = records.collect::<Result<Vec<_>>>()?;
        self.write_ledger(&records)?;
        Ok(records)
    }

    /// Records with the marks that their controls give them; an empty one where there are none.
    pub(super) fn marked<'a>(&self, records: &[&'a Record]) -> Result<Vec<(&'a Record, String)>> {
        let marked = |&record: &&'a Record| {
            let controls = self.controls(record)?;
            Ok((record, controls.map_or_else(String::new, |controls| controls.mark())))
        };
        records.iter().map(marked).collect()
    }

    /// Stores the controls of a cell.
    ///
    /// # Errors
    /// [`Io`](crate::error::Error::Io) when they cannot be written.
    pub fn write_controls(&self, controls: &Controls) -> Result<()> {
        let path = self.controls_path(&controls.run_id);
        if let Some(folder) = path.parent() {
            file::make_writable_folder(folder)?;
        }
        file::replace(&path, &to_json(controls, &path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::cell;

    #[test]
    fn controls_belong_to_the_predictions_they_were_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (mut record, _) = cell(("a", "x", 1, 0), 8, |_| true);
        assert_eq!(store.controls(&record).unwrap(), None);
        let off_on = vec![
            Measure::new("answers without adapter are those of the base model", 8, 8).at_least(8),
            Measure::new("answers with and without adapter differ", 0, 8).at_least(1),
        ];
        let controls = Controls {
            schema: SCHEMA,
            run_id: record.run_id.clone(),
            key: record.key.clone(),
            predictions_sha256: record.predictions_sha256.clone(),
            controls: vec![
                Control::judged(
                    Name::ReloadParity,
                    0,
                    vec![Measure::new("rows differ", 0, 8).at_most(0)],
                ),
                Control::judged(Name::AdapterOffOn, 0, off_on),
            ],
            seconds: 1.5,
            finished: String::new(),
            commit: None,
        };
        assert_eq!(controls.mark(), "red: adapter off/on");
        store.write_controls(&controls).unwrap();
        let read = store.controls(&record).unwrap().unwrap();
        assert!(read == controls && read.is_red());
        record.predictions_sha256 = "00".into();
        assert_eq!(store.controls(&record).unwrap(), None);
        std::fs::write(store.controls_path(&controls.run_id), "{").unwrap();
        assert!(
            store
                .controls(&record)
                .unwrap_err()
                .to_string()
                .contains("sanity controls")
        );
    }

    #[test]
    fn measures_are_judged_by_their_limits() {
        let measure = |found| Measure::new("answers", found, 9).at_least(2).at_most(4);
        assert_eq!(
            [1, 2, 4, 5].map(|found| measure(found).fits()),
            [false, true, true, false]
        );
        let free = Measure {
            reading: Some(Reading::Free),
            by_chance: Some(1.25),
            ..measure(3)
        };
        assert_eq!(
            free.to_string(),
            "3 of 9 answers (free), 1.2 by chance, at least 2, at most 4"
        );
        let reported = Control {
            verdict: Verdict::NotJudged,
            ..Control::judged(Name::Reproduced, 0, vec![])
        };
        let controls = [reported, Control::judged(Name::ReloadParity, 0, vec![measure(3)])];
        assert!(controls.iter().all(|control| control.verdict != Verdict::Red));
    }
}
