//! Softmax of one row in place, and its backward.

use candle_core::{D, Result, Tensor};

use super::elementary;

/// The same over the last dimension by candle's operations; differentiable.
pub(super) fn composite(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

/// `row = softmax(row · scale)`.
#[inline(always)]
pub(super) fn forward(row: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let mut max = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for lane in lanes {
        max = max.max(lane);
    }
    for x in row.iter_mut() {
        *x = elementary::exp((*x - max) * scale);
    }
    let inverse = 1.0 / elementary::sum([row], |[x]| x);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// Turns the gradient of `probabilities = softmax(row · scale)` into the gradient of `row`.
#[inline(always)]
pub(super) fn backward(gradient: &mut [f32], probabilities: &[f32], scale: f32) {
    let dot = elementary::sum([gradient, probabilities], |[g, p]| g * p);
    for (g, p) in gradient.iter_mut().zip(probabilities) {
        *g = p * (*g - dot) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_scores_do_not_overflow() {
        for length in [1, 15, 16, 40] {
            let mut row: Vec<f32> = (0..length).map(|i| 1e4 + 3.0 * i as f32).collect();
            forward(&mut row, 0.5);
            let weights: Vec<f64> = (0..length)
                .map(|i| (1.5 * (f64::from(i) - f64::from(length - 1))).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (found, weight) in row.iter().zip(weights) {
                assert!((f64::from(*found) - weight / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let mut row = [0.0, f32::NAN, 1.0];
        forward(&mut row, 1.0);
        assert!(row.iter().all(|p| p.is_nan()));
    }
}
