//! How small a difference a comparison can see.

use super::normal;

/// The smallest true difference that a two-sided test at `level` finds with probability `power`, for a
/// difference measured with `standard_error`: (z₁₋level⸝₂ + z_power) · standard error.
///
/// The normal approximation of Cohen (*Statistical Power Analysis for the Behavioral Sciences*, 2nd ed.,
/// 1988, ch. 2); the standard error taken as known, and the chance of finding it with the wrong sign left out.
#[must_use]
pub fn smallest_detectable(standard_error: f64, level: f64, power: f64) -> f64 {
    (normal::quantile(1.0 - level / 2.0) + normal::quantile(power)) * standard_error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textbook_factor() {
        // 1.959964 + 0.841621
        assert!((smallest_detectable(1.0, 0.05, 0.8) - 2.801_585_218_112_968_3).abs() < 1e-12);
        assert_eq!(smallest_detectable(0.0, 0.05, 0.8), 0.0);
    }
}
