//! Learning-rate schedule.

/// Factor in [0, 1] on the peak learning rate at zero-based `step` of `steps`.
///
/// It rises linearly over the first `warmup_steps` (the first step already moves), reaches 1 at the
/// last of them and follows a cosine to 0, which the step after the last would have.
#[must_use]
pub fn warmup_cosine(step: usize, steps: usize, warmup_steps: usize) -> f64 {
    if step < warmup_steps {
        return (step + 1) as f64 / warmup_steps as f64;
    }
    let (passed, length) = (step - warmup_steps, steps.saturating_sub(warmup_steps).max(1));
    let progress = (passed as f64 / length as f64).min(1.0);
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_zero() {
        let factors: Vec<f64> = (0..=100).map(|step| warmup_cosine(step, 100, 10)).collect();
        assert!((factors[0] - 0.1).abs() < 1e-12 && factors[9] == 1.0 && factors[10] == 1.0);
        assert!(factors[..10].is_sorted() && factors[10..].is_sorted_by(|a, b| a >= b));
        assert!((factors[55] - 0.5).abs() < 1e-12 && factors[99] > 0.0 && factors[100].abs() < 1e-12);
    }

    #[test]
    fn degenerate_lengths_stay_in_range() {
        for (step, steps, warmup) in [(0, 0, 0), (0, 1, 0), (0, 1, 1), (5, 3, 3), (7, 3, 0)] {
            assert!((0.0..=1.0).contains(&warmup_cosine(step, steps, warmup)));
        }
    }
}
