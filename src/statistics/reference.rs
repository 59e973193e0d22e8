//! Statistics against scipy, statsmodels and numpy: `tests/fixtures/statistics/reference.py` made the numbers.

use serde_json::Value;

use crate::prediction::{Prediction, Reading};
use crate::statistics::metric::{Headline, Metrics};
use crate::statistics::variance::{Components, Part, Scores, components};
use crate::statistics::{distribution, exact, mean_interval, power, wilson};

const REFERENCE: &str = include_str!("../../tests/fixtures/statistics/reference.json");

fn reference(part: &str) -> Value {
    serde_json::from_str::<Value>(REFERENCE).unwrap()[part].clone()
}

fn rows(part: &str) -> Vec<Value> {
    let rows = reference(part).as_array().unwrap().clone();
    assert!(!rows.is_empty());
    rows
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// Largest deviations, absolute and relative.
#[derive(Debug, Default)]
struct Deviation {
    absolute: f64,
    relative: f64,
}

impl Deviation {
    /// Closed formulas: 1e-9, absolute and, however small the number, relative.
    fn check(&mut self, found: f64, expected: &Value, what: &Value) {
        let expected = number(expected);
        let absolute = (found - expected).abs();
        // What has underflowed there, or here, is nothing on both sides.
        let relative = absolute / expected.abs().max(1e-290);
        assert!(
            absolute <= 1e-9 && relative <= 1e-9,
            "{found} is not {expected}: {what}"
        );
        self.absolute = self.absolute.max(absolute);
        self.relative = self.relative.max(relative);
    }
}

impl Drop for Deviation {
    fn drop(&mut self) {
        println!(
            "largest deviation: {:.1e}, relative {:.1e}",
            self.absolute, self.relative
        );
    }
}

#[test]
fn intervals() {
    let mut deviation = Deviation::default();
    for row in rows("wilson") {
        let found = wilson(number(&row["successes"]) as usize, number(&row["n"]) as usize);
        deviation.check(found.low, &row["low"], &row);
        deviation.check(found.high, &row["high"], &row);
    }
    for row in rows("t_intervals") {
        let found = mean_interval(&numbers(&row["values"])).unwrap();
        deviation.check(found.low, &row["low"], &row);
        deviation.check(found.high, &row["high"], &row);
    }
}

#[test]
fn paired_t() {
    let mut deviation = Deviation::default();
    for row in rows("paired_t") {
        let (ours, theirs) = (numbers(&row["ours"]), numbers(&row["theirs"]));
        let differences: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        let interval = mean_interval(&differences).unwrap();
        deviation.check(interval.low, &row["low"], &row);
        deviation.check(interval.high, &row["high"], &row);
        let p = 2.0 * distribution::t_cdf(-number(&row["t"]).abs(), differences.len() as f64 - 1.0);
        deviation.check(p, &row["p"], &row);
    }
}

#[test]
fn exact_tests() {
    let mut deviation = Deviation::default();
    for row in rows("mcnemar") {
        let found = exact::mcnemar(number(&row["wins"]) as u64, number(&row["losses"]) as u64);
        deviation.check(found.less, &row["less"], &row);
        deviation.check(found.greater, &row["greater"], &row);
        deviation.check(found.two_sided(), &row["two_sided"], &row);
    }
    for row in rows("sign_flip") {
        let found = exact::sign_flip(&numbers(&row["sums"]));
        deviation.check(found.less, &row["less"], &row);
        deviation.check(found.greater, &row["greater"], &row);
    }
}

#[test]
fn corrections() {
    let mut deviation = Deviation::default();
    for row in rows("holm") {
        let found = exact::holm(&numbers(&row["p"]));
        let adjusted = row["adjusted"].as_array().unwrap();
        assert_eq!(found.len(), adjusted.len());
        for (found, expected) in found.into_iter().zip(adjusted) {
            deviation.check(found, expected, &row);
        }
    }
}

#[test]
fn distributions() {
    let mut deviation = Deviation::default();
    let pairs = |of: &str, function: &str| reference(of)[function].as_array().unwrap().clone();
    for row in pairs("normal", "cdf") {
        deviation.check(distribution::normal_cdf(number(&row[0])), &row[1], &row);
    }
    for row in pairs("normal", "quantile") {
        deviation.check_quantile(distribution::normal_quantile(number(&row[0])), &row[1], &row);
    }
    for row in pairs("student", "cdf") {
        deviation.check(distribution::t_cdf(number(&row[0]), number(&row[1])), &row[2], &row);
    }
    for row in pairs("student", "quantile") {
        deviation.check_quantile(
            distribution::t_quantile(number(&row[0]), number(&row[1])),
            &row[2],
            &row,
        );
    }
}

impl Deviation {
    /// Quantiles go to infinity in the tails, and through zero: 1e-9 of themselves, at least 1e-9.
    fn check_quantile(&mut self, found: f64, expected: &Value, what: &Value) {
        let expected = number(expected);
        let relative = (found - expected).abs() / expected.abs().max(1.0);
        assert!(relative <= 1e-9, "{found} is not {expected}: {what}");
        self.relative = self.relative.max(relative);
    }
}

/// By scipy's noncentral t and, for two parts, its quadrature.
#[test]
fn smallest_detectable_differences() {
    let mut deviation = Deviation::default();
    for row in rows("detectable") {
        let part = |name: &str| {
            let of = row[name].as_array()?;
            let [variance, degrees] = [number(&of[0]), number(&of[1])];
            Some(Part { variance, degrees })
        };
        let planned = Components {
            mean: 0.0,
            seeds: 2,
            by_seed: part("by_seed"),
            left: None,
            by_image: part("by_image").unwrap(),
            units: 100.0,
        };
        let found = power::power(&planned, number(&row["difference"]), number(&row["level"]));
        deviation.check(found, &row["power"], &row);
        let back = power::smallest_detectable(&planned, number(&row["level"]), found).unwrap();
        deviation.check(back, &row["difference"], &row);
    }
}

/// By numpy, with statsmodels' analysis of variance where units weigh the same.
#[test]
fn variance_of_seeds_and_images() {
    let mut deviation = Deviation::default();
    for row in rows("two_way") {
        let scores = row["scores"].as_array().unwrap();
        let whole = |name: &str| numbers(&row[name]).into_iter().map(|n| n as u32).collect();
        let scores = Scores {
            groups: whole("group"),
            strata: whole("stratum"),
            seeds: scores[0].as_array().unwrap().len(),
            values: scores.iter().flat_map(numbers).collect(),
        };
        let found = components(&scores).unwrap();
        let seed = found.by_seed.map_or(0.0, |part| part.variance);
        for (value, name) in [
            (found.mean, "mean"),
            (seed, "by_seed"),
            (found.by_image.variance, "by_image"),
            (found.by_image.degrees, "degrees"),
            (found.units, "units"),
            (found.half_width(0.05), "half"),
            (found.half_width(0.002), "half_002"),
            (found.p_value(), "p"),
            (found.share_interval(0.05).low, "share_low"),
            (found.share_interval(0.05).high, "share_high"),
        ] {
            if !row[name].is_null() {
                deviation.check(value, &row[name], &row["name"]);
            }
        }
    }
}

#[test]
fn calibration() {
    let table = reference("calibration");
    let truths = table["truth"].as_array().unwrap().iter();
    let rows = truths.zip(table["log_probs"].as_array().unwrap()).enumerate();
    let rows = rows.map(|(i, (truth, log_probs))| Prediction {
        id: i.to_string(),
        sha256: String::new(),
        group: None,
        truth: number(truth) as u32,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some(0),
        log_probs: Some(numbers(log_probs).into_iter().map(|p| p as f32).collect()),
    });
    let rows: Vec<Prediction> = rows.collect();
    let found = Metrics::of(&rows, Reading::Likelihood, Headline::Top1);
    let mut deviation = Deviation::default();
    deviation.check(found.ece.unwrap(), &table["ece"], &table["versions"]);
    deviation.check(found.nll.unwrap(), &table["nll"], &table["versions"]);
}
