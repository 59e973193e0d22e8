//! Accuracy against labelled examples per class, as the table that figures and tables are made from, of each dataset and
//! of their mean; and accuracy of a model before it has seen an example, by every reading, next to guessing.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::comparison::paired;
use crate::comparison::series::{READINGS, Run, Series};
use crate::config::{Protocol, Shots};
use crate::error::{Error, Result};
use crate::prediction::Reading;
use crate::statistics::metric::Headline;
use crate::statistics::variance::{Components, Estimate, Scores, components};
use crate::statistics::{Interval, mean_interval, wilson};
use crate::store::ledger;
use crate::store::record::Timing;

/// One point of one curve, and all that a figure says about it. Shares are between 0 and 1, rounded to
/// six digits, so that the table survives being written and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// One dataset, or the mean of all.
    #[serde(default)]
    pub panel: Panel,
    /// Name of the dataset; for a mean "mean of 5 datasets".
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
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
    /// Reading of its answers, where it writes them.
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
    /// Devices of the runs, e.g. "cpu, 2 threads"; several are separated by "; ".
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
    let point = |one: &Series| point(one, subjects.contains(&one.learner.as_str()));
    series.par_iter().map(point).collect()
}

/// `points`, which are those of `series`, followed by their means over datasets: all that a figure shows.
#[must_use]
pub fn with_means(mut points: Vec<Point>, series: &[Series]) -> Vec<Point> {
    points.extend(means(&points, series));
    points
}

/// Mean and interval of `scores`, which are those of `series` by one reading.
fn share(series: &Series, scores: &Scores) -> (f64, Interval, IntervalKind) {
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
    let seeds: Vec<String> = series.seeds().iter().map(ToString::to_string).collect();
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
        seeds: seeds.join(" "),
        n_test: record.n_test,
        mean: rounded(mean),
        low: rounded(interval.low),
        high: rounded(interval.high),
        interval: kind,
        t_low: over_seeds.map(|interval| rounded(interval.low)),
        t_high: over_seeds.map(|interval| rounded(interval.high)),
        red: series.is_red(),
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

/// Mean over runs of their device-seconds, where they were timed.
fn device_seconds(runs: &[Run]) -> Option<f64> {
    let total: f64 = runs.iter().map(|run| run.record.timing.device_seconds()).sum();
    (total > 0.0).then(|| three_digits(total / runs.len() as f64))
}

/// Device of a run: threads are told where they are what computes.
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
    let all = lists.iter().flat_map(|list| list.split("; "));
    let distinct: BTreeSet<&str> = all.filter(|device| !device.is_empty()).collect();
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
    let marked = |point| named(point, |name| ledger::cell(name).into_owned());
    ledger::to_csv(points.iter().map(marked), path)
}

/// The table back from CSV.
///
/// # Errors
/// [`Error::Malformed`] naming `path`, with the line.
pub fn from_csv(path: &Path, bytes: &[u8]) -> Result<Vec<Point>> {
    let mut table = csv::Reader::from_reader(bytes);
    // A table without rows, or a text that is none, has nothing else to be told by.
    let header = table.headers().map_or_else(|_| csv::StringRecord::new(), Clone::clone);
    let lacks = |name: &&str| !header.iter().any(|column| column == *name);
    if let Some(lacking) = ["dataset", "learner", "shots", "mean"].into_iter().find(lacks) {
        let reason = format!("it has no column `{lacking}`");
        return Err(Error::malformed("curve table", path, reason));
    }
    table
        .deserialize()
        .map(|point| Ok(named(&point?, |name| ledger::text(name).to_owned())))
        .collect::<Result<_, _>>()
        .map_err(|e: csv::Error| Error::malformed("curve table", path, e))
}

/// The distinct values of a field, in order of appearance.
pub(crate) fn distinct<'a, T: PartialEq>(
    points: impl IntoIterator<Item = &'a Point>,
    field: impl Fn(&Point) -> T,
) -> Vec<T> {
    let mut values = Vec::new();
    for value in points.into_iter().map(field) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// A point for each protocol, learner and number of shots that every dataset of the protocol has, where there are
/// at least two; `points` are those of `series`, in its order.
///
/// Datasets weigh the same, and stay the same ones. Their draws and images are independent of one another, so that
/// variances add.
fn means(points: &[Point], series: &[Series]) -> Vec<Point> {
    let mut together: Vec<Vec<(&Point, &Series)>> = Vec::new();
    for protocol in distinct(points, |p| p.protocol) {
        let of = points
            .iter()
            .zip(series)
            .filter(|(point, _)| point.protocol == protocol);
        let of: Vec<(&Point, &Series)> = of.collect();
        let mut datasets: Vec<&str> = of.iter().map(|(point, _)| point.dataset.as_str()).collect();
        datasets.sort_unstable();
        datasets.dedup();
        let mut lines: Vec<Vec<(&Point, &Series)>> = Vec::new();
        for one in of {
            let key = |(point, _): &(&Point, &Series)| (point.learner.clone(), point.reading, point.shots);
            match lines.iter_mut().find(|line| key(&line[0]) == key(&one)) {
                Some(line) => line.push(one),
                None => lines.push(vec![one]),
            }
        }
        lines.retain(|line| datasets.len() > 1 && line.len() == datasets.len());
        together.extend(lines);
    }
    together.par_iter().filter_map(|line| mean(line)).collect()
}

fn mean(line: &[(&Point, &Series)]) -> Option<Point> {
    let count = line.len() as f64;
    let over = |number: &dyn Fn(&Point) -> f64| line.iter().map(|(point, _)| number(point)).sum::<f64>() / count;
    let parts: Option<Vec<Components>> = line.iter().map(|(_, series)| components(&series.scores())).collect();
    let parts = parts?;
    let estimate = Estimate::of_share(Components::average(&parts)?);
    let first = line[0].0;
    let same = |equal: &dyn Fn(&Point) -> bool| line.iter().all(|(point, _)| equal(point));
    let timed: Option<Vec<f64>> = line.iter().map(|(point, _)| point.device_seconds).collect();
    Some(Point {
        panel: Panel::Mean,
        dataset: format!("mean of {} datasets", line.len()),
        protocol: first.protocol,
        regime: None,
        micro: line.iter().any(|(point, _)| point.micro),
        metric: first.metric.filter(|_| same(&|p| p.metric == first.metric)),
        chance: rounded(over(&|p| p.chance)),
        learner: first.learner.clone(),
        reading: first.reading,
        subject: first.subject,
        shots: first.shots,
        seeds: if same(&|p| p.seeds == first.seeds) {
            first.seeds.clone()
        } else {
            String::new()
        },
        n_test: line.iter().map(|(point, _)| point.n_test).sum(),
        mean: rounded(estimate.mean),
        low: rounded(estimate.interval.low),
        high: rounded(estimate.interval.high),
        interval: IntervalKind::Datasets,
        t_low: None,
        t_high: None,
        red: line.iter().any(|(point, _)| point.red),
        device_seconds: timed.map(|seconds| three_digits(seconds.iter().sum::<f64>() / count)),
        device: devices(line.iter().map(|(point, _)| point.device.clone())),
        capped: line.iter().filter_map(|(point, _)| point.capped).min(),
    })
}

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

impl Against {
    /// As it stands in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Above => "above guessing",
            Self::Contains => "contains guessing",
            Self::Below => "below guessing",
        }
    }
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
            red: series.is_red(),
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
    use crate::config::Shots;
    use crate::statistics::metric::Headline;
    use crate::store::record::tests::{cell, written_cell};

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

    #[test]
    fn only_what_every_dataset_has_is_averaged() {
        let mut cells = Vec::new();
        for (dataset, right) in [("a", 8), ("b", 4), ("c", 6)] {
            for seed in 0..3 {
                let mut cell = cell((dataset, "x LoRA", 4, seed), 80, |i| i % 8 < right);
                cell.0.timing.train_seconds = f64::from(right);
                cell.0.timing.devices = 2;
                (cell.0.timing.device, cell.0.timing.threads) = ("cpu".into(), seed as usize + 1);
                cells.push(cell);
            }
        }
        cells.push(cell(("a", "x LoRA", 16, 0), 80, |_| true));
        cells.push(cell(("b", "x LoRA", 16, 0), 80, |_| true));
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        let all = with_means(points(&series), &series);
        let mean: Vec<&Point> = all.iter().filter(|p| p.panel == Panel::Mean).collect();
        let [mean] = mean[..] else { panic!("{mean:?}") };
        assert_eq!(
            (mean.dataset.as_str(), mean.shots, mean.mean),
            ("mean of 3 datasets", Shots::K(4), 0.75)
        );
        assert_eq!(
            (mean.metric, mean.seeds.as_str(), mean.n_test),
            (Some(Headline::Top1), "0 1 2", 240)
        );
        assert_eq!(mean.device_seconds, Some(12.0));
        assert_eq!(mean.device, "2 × cpu, 1 thread; 2 × cpu, 2 threads; 2 × cpu, 3 threads");
        // Independent datasets: variances add, and one of them is certain.
        let half = |p: &Point| (p.high - p.low) / 2.0;
        let own = all.iter().filter(|p| p.panel == Panel::Dataset && p.shots == 4);
        let own: f64 = own.map(|p| half(p).powi(2)).sum();
        assert!((half(mean) - own.sqrt() / 3.0).abs() < 0.12 * half(mean), "{all:?}");

        let one = &series[..1];
        assert_eq!(with_means(points(one), one).len(), 1);
    }

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
