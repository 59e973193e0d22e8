//! The numbers of a figure as tables: Markdown for a README, plain for a terminal, LaTeX for a paper, CSV and JSON
//! for programs. A cell holds numbers, not text, so that every form shows the same.

use crate::comparison::curve::Point;
use crate::comparison::paired::{SeedTest, Test};
use crate::comparison::saved::Bounded;
use crate::comparison::series::Series;
use crate::comparison::{curve, paired, saved};
use crate::config::{Protocol, Shots};
use crate::error::Result;
use crate::report::figure::MICRO_CAVEAT;
use crate::statistics::Interval;
use crate::statistics::metric::Headline;

mod contents;
mod forms;

pub use crate::report::table::contents::{accuracy, calibration, normalisations, readings, wordings, zero_shot};
pub use crate::report::table::contents::{along_shots, between, differences, images_saved, micro_gates, paired_tests};
pub use crate::report::table::forms::json;

/// Printed under every table that shows a number of shots which a class does not have.
pub const CAP_NOTE: &str = "Marked *: fewer examples per class than were asked for, all that the smallest class has";

/// Printed under every table that shows a number whose sanity control is red.
pub const RED_NOTE: &str = "† a sanity control of this cell is red: its numbers are not to be used";

/// A table, in groups of rows, with notes below.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its file's name, without an ending.
    pub name: &'static str,
    /// Its title.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, those of one group together.
    pub rows: Vec<Row>,
    /// Sentences below it, to which those on micro models and red controls are added where they belong.
    pub remarks: Vec<String>,
    /// So long that a terminal only gets to know where it is.
    pub long: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Kind of its values.
    pub kind: Kind,
}

/// Kind of the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words.
    Text,
    /// A whole number, or a number of shots.
    Count,
    /// A share between 0 and 1, or a difference of such without its sign; shown in %.
    Share,
    /// A share with its interval, and that over seeds alone.
    Accuracy,
    /// A difference of shares with its interval; shown with its sign, in percentage points.
    Gain,
    /// A p value.
    P,
    /// Nats, or another plain number.
    Nats,
    /// Exact tests of several seeds.
    SeedTests,
    /// A number of examples of which sometimes only a bound is known, with its interval.
    Examples,
}

/// Group of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Kind of its accuracies, in tables of accuracies.
    pub about: Option<AccuracyKind>,
}

impl Group {
    /// Rows of a dataset under a protocol.
    #[must_use]
    pub fn of(dataset: &str, protocol: Protocol) -> Self {
        Self {
            dataset: dataset.into(),
            protocol,
            about: None,
        }
    }

    /// The same in a table of accuracies.
    fn measured_by(self, metric: Headline, regime: Option<String>, n_test: usize, chance: f64) -> Self {
        let about = Some(AccuracyKind {
            metric,
            regime,
            n_test,
            chance,
        });
        Self { about, ..self }
    }
}

/// Kind of the accuracies of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct AccuracyKind {
    /// Which accuracy.
    pub metric: Headline,
    /// "known" or "novel", where that is told.
    pub regime: Option<String>,
    /// Test images.
    pub n_test: usize,
    /// Accuracy of guessing.
    pub chance: f64,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its group.
    pub group: Group,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// One cell a column.
    pub cells: Vec<Cell>,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its value.
    pub value: Value,
    /// A sanity control behind it is red.
    pub red: bool,
    /// Examples per class that it is really of, where more were asked for.
    pub capped: Option<u32>,
}

/// Value of a cell. Shares are between 0 and 1, differences of shares between −1 and 1.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Missing,
    /// Words.
    Text(String),
    /// A whole number.
    Count(usize),
    /// Labelled examples per class.
    Shots(Shots),
    /// A share.
    Share(f64),
    /// A share with its interval, and Student's t interval over seeds on the same test images.
    Accuracy(f64, Interval, Option<Interval>),
    /// A difference of shares with its interval.
    Gain(f64, Interval),
    /// A p value.
    P(f64),
    /// Nats, or another plain number.
    Nats(f64),
    /// The exact tests of the seeds, and whether the difference over all is a gain.
    SeedTests(Vec<SeedTest>, bool),
    /// A number of examples with its interval; shown with its sign where it is a number saved, and with so many
    /// digits after the point.
    Examples {
        /// The number.
        number: Bounded,
        /// Its interval.
        interval: (Bounded, Bounded),
        /// True if it is a difference.
        signed: bool,
        /// Digits after the point.
        digits: usize,
    },
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        Self {
            value,
            red: false,
            capped: None,
        }
    }
}

impl Value {
    /// Words.
    fn text(words: impl Into<String>) -> Self {
        Self::Text(words.into())
    }

    /// With a mark if a control behind it is red; a missing value has none.
    fn marked(self, red: bool) -> Cell {
        let red = red && self != Self::Missing;
        Cell {
            red,
            ..Cell::from(self)
        }
    }
}

impl Cell {
    /// With the examples per class that it is really of; a missing value is of none.
    fn capped(mut self, capped: Option<u32>) -> Self {
        self.capped = capped.filter(|_| self.value != Value::Missing);
        self
    }
}

impl Column {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
        }
    }

    /// True if it holds words, which stand left; numbers stand right.
    fn is_text(&self) -> bool {
        self.kind == Kind::Text
    }
}

/// Columns of one kind after the other, by their names.
pub(crate) fn columns(kinds: &[(Kind, &[&str])]) -> Vec<Column> {
    let named =
        |(kind, names): &(Kind, &[&str])| names.iter().map(|name| Column::new(*name, *kind)).collect::<Vec<_>>();
    kinds.iter().flat_map(named).collect()
}

/// All tables of some series, their points and paired tests, also those without a row: accuracy; for learners that write their answers,
/// accuracy by reading and without examples, over wordings of the question and by normalisation of likelihoods;
/// calibration; paired differences between the trained learners and the others, tested; the labelled images that one trained
/// learner saves against another; and for micro datasets the bar they have to clear.
///
/// # Errors
/// As [`paired::paired`].
pub fn all(series: &[Series], points: &[Point], tests: &[Test]) -> Result<Vec<Table>> {
    let subjects = paired::subjects(series);
    let micro: Vec<Series> = series.iter().filter(|s| s.is_micro()).cloned().collect();
    let (mut gains, mut gates) = (Vec::new(), Vec::new());
    for learner in &subjects {
        if series.iter().any(|s| s.learner == *learner && s.reading().is_some()) {
            gains.extend(paired::along_shots(series, learner, &subjects)?);
        }
        gates.extend(paired::micro_gates(&micro, learner)?);
    }
    gains.sort_by(|a, b| a.dataset.cmp(&b.dataset));
    gates.sort_by(|a, b| a.dataset.cmp(&b.dataset));
    Ok(vec![
        accuracy(points),
        readings(series),
        zero_shot(&curve::zero_shots(series)),
        wordings(series),
        normalisations(series),
        calibration(series),
        differences(&paired::at_most_shots(tests)),
        along_shots(&gains),
        paired_tests(tests),
        images_saved(&saved::labelled_images_saved(series, &subjects)?),
        micro_gates(&gates),
    ])
}

impl Table {
    /// The sentences below it.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.remarks.clone();
        notes.extend(self.is_capped().then(|| CAP_NOTE.to_owned()));
        notes.extend(self.is_micro().then(|| MICRO_CAVEAT.to_owned()));
        let red = self.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.red);
        notes.extend(red.then(|| RED_NOTE.to_owned()));
        notes
    }

    /// True if any of it is of fewer examples than were asked for.
    fn is_capped(&self) -> bool {
        let mut cells = self.rows.iter().flat_map(|row| &row.cells);
        cells.any(|cell| cell.capped.is_some())
    }

    /// True if any of it is from a miniature dataset, or by a micro model.
    #[must_use]
    pub fn is_micro(&self) -> bool {
        self.rows.iter().any(|row| row.micro)
    }
}

#[cfg(test)]
mod tests;
