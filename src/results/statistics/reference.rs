//! Statistics against scipy, statsmodels and numpy: `tests/fixtures/statistics/reference.py` made the numbers.

use serde_json::Value;

use super::bootstrap::{self, Image};
use super::{detectable, exact, holm, mean_interval, normal, student, wilson};
use crate::prediction::{Prediction, Reading};
use crate::results::metric::{Headline, Metrics};

const REFERENCE: &str = include_str!("../../../tests/fixtures/statistics/reference.json");

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
        let p = 2.0 * student::cdf(-number(&row["t"]).abs(), differences.len() as f64 - 1.0);
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
        let found = holm::holm(&numbers(&row["p"]));
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
        deviation.check(normal::cdf(number(&row[0])), &row[1], &row);
    }
    for row in pairs("normal", "quantile") {
        deviation.check_quantile(normal::quantile(number(&row[0])), &row[1], &row);
    }
    for row in pairs("student", "cdf") {
        deviation.check(student::cdf(number(&row[0]), number(&row[1])), &row[2], &row);
    }
    for row in pairs("student", "quantile") {
        deviation.check_quantile(student::quantile(number(&row[0]), number(&row[1])), &row[2], &row);
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

#[test]
fn smallest_detectable_differences() {
    let mut deviation = Deviation::default();
    for row in rows("detectable") {
        let [error, level, power] = ["standard_error", "level", "power"].map(|name| number(&row[name]));
        let found = detectable::smallest_detectable(error, level, power);
        deviation.check(found, &row["difference"], &row);
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

/// Simulated on both sides: numpy's 400,000 resamples know the answer, and how much 5,000 resamples vary around it
/// (one standard deviation, measured over 80 blocks). Four of these are allowed.
#[test]
fn crossed_bootstrap() {
    for row in rows("bootstrap") {
        let (groups, strata) = (numbers(&row["group"]), numbers(&row["stratum"]));
        let scores = row["scores"].as_array().unwrap().iter().map(numbers);
        let images = groups.iter().zip(&strata).zip(scores);
        let images: Vec<Image> = images
            .map(|((group, stratum), scores)| Image {
                group: *group as u32,
                stratum: *stratum as u32,
                scores,
            })
            .collect();
        let found = bootstrap::estimate(&images, "reference").unwrap();
        let name = &row["name"];
        assert!((found.mean - number(&row["mean"])).abs() < 1e-9, "{name}: {found:?}");
        for (part, value) in [
            ("low", found.interval.low),
            ("high", found.interval.high),
            ("sd", found.sd),
            ("not_positive", found.share_not_positive),
        ] {
            let (expected, error) = (number(&row[part]), number(&row["error"][part]));
            let errors = (value - expected).abs() / error.max(1e-9);
            println!("{name}, {part}: {value:.5} for {expected:.5}, {errors:.1} Monte-Carlo errors");
            assert!(errors <= 4.0, "{name}, {part}: {value} is not {expected} ± {error}");
        }
    }
}
