//! Uncertainty of numbers: intervals for one proportion, for a mean over seeds, and for means and paired
//! differences over seeds and test images at once ([`variance`]); and exact tests, their correction and their reach.
//! All intervals are two-sided, 95 %.

use serde::{Deserialize, Serialize};

pub mod calibration;
pub mod distribution;
pub mod exact;
pub mod metric;
pub mod power;
pub mod variance;

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson's score interval for `successes` among `n` independent trials (Wilson 1927); `[0, 1]` for no trials.
#[must_use]
pub fn wilson(successes: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (trials, p) = (n as f64, successes as f64 / n as f64);
    let z2 = Z * Z / trials;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (p * (1.0 - p) / trials + z2 / (4.0 * trials)).sqrt();
    // Rounding must not move the ends off a certain 0 or 1.
    Interval {
        low: if successes == 0 { 0.0 } else { centre - half },
        high: if successes == n { 1.0 } else { centre + half },
    }
}

/// Student's t interval for the mean of independent values, here one a seed; `None` for fewer than two.
///
/// It holds for other draws of the shots on the *same* test images.
///
/// ```
/// let accuracies = [0.80, 0.82, 0.84];
/// let interval = kshot::statistics::mean_interval(&accuracies).unwrap();
/// // t with two degrees of freedom on a standard error of 0.0115.
/// assert!((interval.low - 0.7703).abs() < 1e-4 && (interval.high - 0.8697).abs() < 1e-4);
/// ```
#[must_use]
pub fn mean_interval(values: &[f64]) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = distribution::t_quantile(0.975, n - 1.0) * (variance / n).sqrt();
    Some(Interval {
        low: mean - half,
        high: mean + half,
    })
}

/// The place between two ends where a continuous function is zero, from what was `found` at the ends, which differ in
/// sign: false position, halving what was found at an end that stays (Illinois). `settled` is asked of what was found at
/// a place and of the ends around it.
fn false_position(
    (mut low, mut high): (f64, f64),
    (mut at_low, mut at_high): (f64, f64),
    function: impl Fn(f64) -> f64,
    settled: impl Fn(f64, f64, f64) -> bool,
) -> f64 {
    let mut kept = 0_i32;
    for _ in 0..100 {
        let middle = (low * at_high - high * at_low) / (at_high - at_low);
        let found = function(middle);
        if settled(found, low, high) {
            return middle;
        }
        if (found > 0.0) == (at_low > 0.0) {
            (low, at_low) = (middle, found);
            at_high *= if kept < 0 { 0.5 } else { 1.0 };
            kept = -1;
        } else {
            (high, at_high) = (middle, found);
            at_low *= if kept > 0 { 0.5 } else { 1.0 };
            kept = 1;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    use crate::prediction::{Prediction, Reading};
    use crate::statistics::metric::{Headline, Metrics};
    use crate::statistics::variance::{Components, Part, Scores, components};

    fn close(interval: Interval, low: f64, high: f64) {
        assert!(
            (interval.low - low).abs() < 1e-9 && (interval.high - high).abs() < 1e-9,
            "{interval:?}"
        );
    }

    #[test]
    fn wilson_against_scipy() {
        // scipy 1.17: scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.277_532_799_862_889_26),
            (10, 10, 0.722_467_200_137_111, 1.0),
            (7, 10, 0.396_778_147_461_145_26, 0.892_208_732_593_699),
            (61, 96, 0.535_652_262_473_623_4, 0.724_760_599_148_256),
            (3301, 3669, 0.889_558_079_675_633_2, 0.909_006_201_653_774_2),
            (1, 1, 0.206_549_314_377_237_45, 1.0),
            (0, 5000, 0.0, 0.000_767_701_945_057_124_3),
        ] {
            close(wilson(k, n), low, high);
        }
        close(wilson(0, 0), 0.0, 1.0);
    }

    #[test]
    fn t_interval_against_scipy() {
        // scipy 1.17: scipy.stats.t.interval(0.95, len(v) - 1, loc=np.mean(v), scale=scipy.stats.sem(v))
        close(
            mean_interval(&[0.5, 0.6]).unwrap(),
            -0.085_310_236_808_734_51,
            1.185_310_236_808_734_5,
        );
        let values = [0.61, 0.55, 0.63, 0.58, 0.6];
        close(
            mean_interval(&values).unwrap(),
            0.556_134_337_183_605_6,
            0.631_865_662_816_394_6,
        );
        close(mean_interval(&[0.5; 3]).unwrap(), 0.5, 0.5);
        assert_eq!(mean_interval(&[0.5]), None);
    }

    /// Numbers of scipy, statsmodels and numpy, made by `tests/fixtures/statistics/reference.py`.
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
}
