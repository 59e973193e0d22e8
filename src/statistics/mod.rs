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

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;

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
}
