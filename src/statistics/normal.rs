//! The standard normal distribution.

/// P(X ≤ x), to about 13 digits also far out in the lower tail.
#[must_use]
pub fn cdf(x: f64) -> f64 {
    if x > 0.0 {
        return 1.0 - cdf(-x);
    }
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x > -2.5 {
        // Φ(x) = 1/2 + φ(x) (x + x³/3 + x⁵/(3·5) + …), DLMF 7.6.2.
        let (mut term, mut sum, mut odd) = (x, x, 3.0);
        while term.abs() > f64::EPSILON * 0.01 * sum.abs() {
            term *= x * x / odd;
            sum += term;
            odd += 2.0;
        }
        0.5 + density * sum
    } else {
        // φ(x) / (y + 1/(y + 2/(y + 3/(y + …)))) with y = −x, DLMF 7.9.1; 120 terms are enough from 2.5 on.
        let fraction = (1..=120).rev().fold(-x, |below, n| f64::from(n) / below - x);
        density / fraction
    }
}

/// The `p` quantile, for 0 ≤ `p` ≤ 1; infinite at the ends.
#[must_use]
pub fn quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -quantile(1.0 - p); // exact
    }
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let (mut low, mut high) = (-40.0, 0.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high || high - low < 1e-17 {
            return middle; // neighbouring floats
        }
        if cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        assert_eq!(cdf(0.0), 0.5);
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-13);
        assert!((quantile(0.8) - 0.841_621_233_572_914_3).abs() < 1e-13);
        assert!(quantile(0.5).abs() < 1e-15);
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(quantile(1.0), f64::INFINITY);
        // Both ways of working it out meet.
        let (left, right) = (cdf(-2.5 - 1e-12), cdf(-2.5 + 1e-12));
        assert!((right / left - 1.0).abs() < 1e-11, "{left} {right}");
    }
}
