//! Accuracy against labelled examples per class, as the table that figures and tables are made from.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::comparison::paired;
use crate::comparison::series::{Run, Series};
use crate::config::{Protocol, Shots};
use crate::error::{Error, Result};
use crate::prediction::Reading;
use crate::statistics::metric::Headline;
use crate::statistics::variance::{Estimate, Scores};
use crate::statistics::{Interval, mean_interval, wilson};
use crate::store::record::Timing;
use crate::store::spreadsheet;

mod mean;

/// One point of one curve, and all that a figure says about it. Shares are between 0 and 1, rounded to
/// six digits, so that the table survives being written and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Whether it is of one dataset or the mean of all.
    #[serde(default)]
    pub panel: Panel,
    /// Name of the dataset; for a mean "mean of 5 datasets".
    pub dataset: String,
    /// How shots and test images were chosen.
    pub protocol: Protocol,
    /// "known" or "novel", where that is told.
    pub regime: Option<String>,
    /// From a miniature dataset, or by a micro model.
    pub micro: bool,
    /// Which accuracy it is; `None` for a mean of datasets that report different ones.
    pub metric: Option<Headline>,
    /// Accuracy of guessing: one over the number of classes.
    pub chance: f64,
    /// Label of the learner.
    pub learner: String,
    /// How its answers were read, where it writes them.
    #[serde(default)]
    pub reading: Option<Reading>,
    /// One of the learners that [comparisons are about](paired::subjects).
    #[serde(default)]
    pub subject: bool,
    /// Labelled examples per class; 0: none, the model answers as it is.
    pub shots: Shots,
    /// Seeds, separated by spaces; none without examples, and for a mean of datasets with different ones.
    pub seeds: String,
    /// Test images; for a mean, of all datasets.
    pub n_test: usize,
    /// Mean accuracy over seeds.
    pub mean: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Which interval it is.
    pub interval: IntervalKind,
    /// Student's t interval over seeds on the same test images, lower end; `None` for one seed.
    pub t_low: Option<f64>,
    /// Its upper end; beyond 1 or below 0 when seeds are few and far apart.
    pub t_high: Option<f64>,
    /// A sanity control of one of its runs is red: not to be used.
    #[serde(default)]
    pub red: bool,
    /// Wall-clock seconds of training and testing times devices, mean over runs, to three digits; `None` where
    /// they were not taken.
    #[serde(default)]
    pub device_seconds: Option<f64>,
    /// What the runs ran on, e.g. "cpu, 2 threads"; several are separated by "; ".
    #[serde(default)]
    pub device: String,
    /// Shots that a class really has, where more were asked for and the protocol takes what there is; for a mean the
    /// fewest of its datasets.
    #[serde(default)]
    pub capped: Option<u32>,
}

impl Point {
    /// The shots at which it has its place on an axis: those that a class really has.
    #[must_use]
    pub fn place(&self) -> Shots {
        match (self.panel, self.capped) {
            (Panel::Dataset, Some(k)) => Shots::K(k),
            _ => self.shots,
        }
    }
}

/// Which panel of the figure a point is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Panel {
    /// The one of its dataset.
    #[default]
    Dataset,
    /// The one of the mean over datasets of one protocol.
    Mean,
}

/// The sources of variation that an interval is over, and the way it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalKind {
    /// Over test images, those of one drawing together: one run.
    Images,
    /// Over seeds and test images: several runs.
    SeedsImages,
    /// Over seeds and test images of several datasets, which are the same datasets.
    Datasets,
    /// In tables of versions before: Wilson's score interval over test images.
    Wilson,
    /// In tables of versions before: bootstrap over groups of test images.
    BootstrapImages,
    /// In tables of versions before: crossed bootstrap over seeds and groups of test images.
    BootstrapSeedsImages,
    /// In tables of versions before: the bootstraps of several datasets, averaged resample by resample.
    BootstrapDatasets,
}

impl IntervalKind {
    /// The sources of variation that it is over.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "interval over test images, those of one drawing together",
            Self::SeedsImages => "interval over seeds and test images, those of one drawing together",
            Self::Datasets => "interval over seeds and test images of these datasets",
            Self::Wilson => "Wilson interval over test images",
            Self::BootstrapImages => "bootstrap over groups of dependent test images",
            Self::BootstrapSeedsImages => "bootstrap over seeds and groups of dependent test images",
            Self::BootstrapDatasets => "mean of the datasets' bootstraps",
        }
    }
}

impl std::fmt::Display for IntervalKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seeds = match self {
            Self::Images | Self::Wilson | Self::BootstrapImages => " (one seed: not over draws)",
            _ => "",
        };
        write!(f, "{}{seeds}", self.name())
    }
}

/// Said where an interval over seeds stands: below three nothing but a bound can be read from it.
pub const FEW_SEEDS: &str = "With two seeds the variance between draws is hardly known and an interval is as wide as \
                             that makes it (Student's t with one degree of freedom): take it for a bound, and five \
                             seeds for a result.";

/// Seeds below which [`FEW_SEEDS`] is said.
pub const ENOUGH_SEEDS: usize = 3;

/// The points of all curves, in the order of `series`.
#[must_use]
pub fn points(series: &[Series]) -> Vec<Point> {
    let subjects = paired::subjects(series);
    series
        .par_iter()
        .map(|one| point(one, subjects.contains(&one.learner.as_str())))
        .collect()
}

/// `points`, which are those of `series`, followed by their means over datasets: all that a figure shows.
#[must_use]
pub fn with_means(mut points: Vec<Point>, series: &[Series]) -> Vec<Point> {
    points.extend(mean::means(&points, series));
    points
}

/// Mean and interval of `scores`, which are those of `series` by one reading.
pub(crate) fn share(series: &Series, scores: &Scores) -> (f64, Interval, IntervalKind) {
    let kind = if series.runs.len() == 1 {
        IntervalKind::Images
    } else {
        IntervalKind::SeedsImages
    };
    // A finished cell has at least one image, so there is an estimate; without one, know nothing.
    match Estimate::share(scores) {
        Some(estimate) => (estimate.mean, estimate.interval, kind),
        None => (0.0, wilson(0, 0), kind),
    }
}

fn point(series: &Series, subject: bool) -> Point {
    let record = &series.runs[0].record;
    let (mean, interval, kind) = share(series, &series.scores());
    let over_seeds = mean_interval(&series.values());
    Point {
        panel: Panel::Dataset,
        dataset: series.dataset.clone(),
        protocol: series.protocol,
        regime: record.regime.clone(),
        micro: series.is_micro(),
        metric: Some(series.headline()),
        chance: rounded(1.0 / record.classes.len().max(1) as f64),
        learner: series.learner.clone(),
        reading: series.reading(),
        subject,
        shots: series.shots,
        seeds: series
            .seeds()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
        n_test: record.n_test,
        mean: rounded(mean),
        low: rounded(interval.low),
        high: rounded(interval.high),
        interval: kind,
        t_low: over_seeds.map(|interval| rounded(interval.low)),
        t_high: over_seeds.map(|interval| rounded(interval.high)),
        red: series.runs.iter().any(|run| run.red),
        device_seconds: device_seconds(&series.runs),
        device: devices(series.runs.iter().map(|run| machine(&run.record.timing))),
        capped: series.capped(),
    }
}

/// A share to six digits.
fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

/// A duration to three digits, more than the timing of a run is worth.
fn three_digits(seconds: f64) -> f64 {
    format!("{seconds:.2e}").parse().unwrap_or(seconds)
}

/// Mean over runs of seconds × devices, where the runs were timed.
fn device_seconds(runs: &[Run]) -> Option<f64> {
    let one = |timing: &Timing| (timing.train_seconds + timing.eval_seconds) * timing.devices.max(1) as f64;
    let total: f64 = runs.iter().map(|run| one(&run.record.timing)).sum();
    (total > 0.0).then(|| three_digits(total / runs.len() as f64))
}

/// What a run ran on: threads are told where they are what computes.
fn machine(timing: &Timing) -> String {
    let count = match timing.devices {
        0 | 1 => String::new(),
        n => format!("{n} × "),
    };
    let threads = match timing.threads {
        n if n == 0 || timing.device != "cpu" => String::new(),
        1 => ", 1 thread".into(),
        n => format!(", {n} threads"),
    };
    format!("{count}{}{threads}", timing.device)
}

/// The distinct ones of lists of devices, as one list.
pub(crate) fn devices(lists: impl Iterator<Item = String>) -> String {
    let lists: Vec<String> = lists.collect();
    let distinct: BTreeSet<&str> = lists
        .iter()
        .flat_map(|list| list.split("; "))
        .filter(|device| !device.is_empty())
        .collect();
    distinct.into_iter().collect::<Vec<_>>().join("; ")
}

/// A point with its names written in another way.
fn named(point: &Point, change: impl Fn(&str) -> String) -> Point {
    Point {
        dataset: change(&point.dataset),
        learner: change(&point.learner),
        regime: point.regime.as_deref().map(&change),
        seeds: change(&point.seeds),
        device: change(&point.device),
        ..point.clone()
    }
}

/// The table as CSV.
///
/// # Errors
/// [`Error::Io`] naming `path`, where it is to be written.
pub fn to_csv(points: &[Point], path: &Path) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::io("write", path)(e.into());
    let mut table = csv::Writer::from_writer(Vec::new());
    points
        .iter()
        .try_for_each(|point| table.serialize(named(point, |name| spreadsheet::cell(name).into_owned())))
        .map_err(failed)?;
    table.into_inner().map_err(|e| failed(e.into_error().into()))
}

/// The table back from CSV.
///
/// # Errors
/// [`Error::Malformed`] naming `path`, with the line.
pub fn from_csv(path: &Path, bytes: &[u8]) -> Result<Vec<Point>> {
    let mut table = csv::Reader::from_reader(bytes);
    // A table without rows, or a text that is none, has nothing else to be told by.
    let header = table.headers().map_or_else(|_| csv::StringRecord::new(), Clone::clone);
    if let Some(lacking) = ["dataset", "learner", "shots", "mean"]
        .into_iter()
        .find(|name| !header.iter().any(|column| column == *name))
    {
        return Err(Error::Malformed {
            kind: "curve table",
            path: path.into(),
            reason: format!("it has no column `{lacking}`"),
        });
    }
    table
        .deserialize()
        .map(|point| Ok(named(&point?, |name| spreadsheet::text(name).to_owned())))
        .collect::<Result<_, _>>()
        .map_err(|e: csv::Error| Error::Malformed {
            kind: "curve table",
            path: path.into(),
            reason: e.to_string(),
        })
}

/// The distinct values of a field, in order of appearance.
pub(crate) fn distinct<T: PartialEq>(points: &[Point], field: impl Fn(&Point) -> T) -> Vec<T> {
    let mut values = Vec::new();
    for value in points.iter().map(field) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::series::tests::{cell, written_cell};

    #[test]
    fn without_shots_there_is_one_level_and_old_tables_are_read() {
        let cells = [
            written_cell(("a", "VLM LoRA", 0, 0), 40, |i| i % 4 == 0, |i| i % 2 == 0),
            cell(("a", "x", 4, 0), 40, |i| i % 4 > 0),
        ];
        let points = points(&Series::group(cells.into_iter().map(Ok)).unwrap());
        assert_eq!(
            (points[0].shots, points[0].seeds.as_str(), points[0].mean),
            (Shots::K(0), "", 0.25)
        );
        assert_eq!(points[0].interval, IntervalKind::Images);
        let readings: Vec<_> = points.iter().map(|p| (p.reading, p.subject)).collect();
        assert_eq!(readings, [(Some(Reading::Free), true), (None, true)]);
        let csv = to_csv(&points, Path::new("p")).unwrap();
        assert_eq!(from_csv(Path::new("p"), &csv).unwrap(), points);
        // Tables as they were once written, the first of them without readings.
        let old = "dataset,protocol,regime,micro,metric,chance,learner,shots,seeds,n_test,mean,low,high,interval,t_low,t_high\n\
                   a,clean,novel,true,top1,0.25,x,4,0 1,40,0.75,0.6,0.875,bootstrap-seeds-images,,\n";
        let readings = old.replace("learner,", "learner,reading,").replace("x,4", "x,trie,4");
        for (table, reading) in [(old, None), (&readings, Some(Reading::Trie))] {
            let read = from_csv(Path::new("p"), table.as_bytes()).unwrap();
            let one = &read[0];
            assert_eq!(
                (one.reading, one.panel, one.metric),
                (reading, Panel::Dataset, Some(Headline::Top1))
            );
            assert_eq!(
                (one.shots, one.red, one.subject, one.device_seconds),
                (Shots::K(4), false, false, None)
            );
        }
    }

    #[test]
    fn one_seed_several_seeds_and_independent_images() {
        let grouped = [cell(("a", "x", 4, 0), 40, |i| i % 4 > 0)];
        let two_seeds = [
            cell(("a", "x", 8, 0), 40, |i| i % 4 > 0),
            cell(("a", "x", 8, 1), 40, |i| i % 4 > 1),
        ];
        let mut alone = cell(("a", "x", 16, 0), 40, |i| i % 4 > 0);
        alone.1.iter_mut().for_each(|row| row.group = None);
        alone.0.n_groups = 40;
        let single = Series::group([Ok(alone)].into_iter()).unwrap();
        let series = Series::group(grouped.into_iter().chain(two_seeds).map(Ok)).unwrap();
        let points: Vec<_> = points(&series).into_iter().chain(points(&single)).collect();

        let kinds: Vec<_> = points.iter().map(|p| p.interval).collect();
        assert_eq!(
            kinds,
            [IntervalKind::Images, IntervalKind::SeedsImages, IntervalKind::Images]
        );
        let means: Vec<_> = points.iter().map(|p| p.mean).collect();
        assert_eq!(means, [0.75, 0.625, 0.75]);
        assert!(
            points
                .iter()
                .all(|p| p.low < p.mean && p.mean < p.high && (p.chance - 0.25).abs() < 1e-12)
        );
        assert_eq!(points[1].seeds, "0 1");
        assert!(points[0].t_low.is_none() && points[1].t_low.is_some_and(|low| low < 0.0));

        let csv = to_csv(&points, Path::new("p")).unwrap();
        assert_eq!(from_csv(Path::new("p"), &csv).unwrap(), points);
        let error = from_csv(Path::new("p.csv"), &csv[..csv.len() - 30]).unwrap_err();
        assert!(error.to_string().contains("p.csv"), "{error}");
    }
}
