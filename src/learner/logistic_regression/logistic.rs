//! Logistic regression with a fixed penalty.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::learner::argmax;
use crate::learner::probe::{Rule, TrainingSet, dot};

/// The rule of a fixed penalty.
pub(super) struct Logistic {
    /// L2 penalty.
    l2: f64,
    solution: Solution,
}

/// A linear classifier.
#[derive(Debug, Clone, Default)]
pub(super) struct Solution {
    /// One row of weights per class.
    pub(super) weight: Vec<Vec<f32>>,
    pub(super) bias: Vec<f32>,
}

impl Logistic {
    pub(super) fn new(l2: f64) -> Self {
        Self {
            l2,
            solution: Solution::default(),
        }
    }
}

/// Largest entry of the gradient at which the optimum counts as found.
const GRADIENT_TOLERANCE: f32 = 1e-5;
/// Enough for a condition number of 10⁶ with accelerated descent; reached only if the tolerance is not.
const MAX_ITERATIONS: usize = 5_000;

impl Rule for Logistic {
    /// Nesterov's accelerated gradient descent on a strongly convex objective
    /// (Nesterov 2004, scheme 2.2.11): `mean cross-entropy + λ/2·‖W‖²`, bias not penalised.
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()> {
        let TrainingSet {
            vectors,
            labels,
            classes,
            ..
        } = *shots;
        let cpu = Device::Cpu;
        let (n, width) = (vectors.len(), vectors.first().map_or(0, Vec::len));
        // A constant last column carries the bias.
        let rows: Vec<f32> = vectors.iter().flat_map(|v| v.iter().copied().chain([1.0])).collect();
        let x = Tensor::from_vec(rows, (n, width + 1), &cpu)?; // (N, D+1)
        let mut target = vec![0f32; n * classes];
        for (i, label) in labels.iter().enumerate() {
            target[i * classes + *label as usize] = 1.0;
        }
        let target = Tensor::from_vec(target, (n, classes), &cpu)?; // (N, C)
        let mut penalty = vec![self.l2 as f32; width];
        penalty.push(0.0);
        let penalty = Tensor::from_vec(penalty, (width + 1, 1), &cpu)?;
        let xt = x.t()?.contiguous()?;

        // Rows have squared length 2 (unit vector and the constant), softmax has curvature at most 1/2.
        let lipschitz = 1.0 + self.l2;
        let root = (self.l2 / lipschitz).sqrt();
        let momentum = (1.0 - root) / (1.0 + root);
        let mut w = Tensor::zeros((width + 1, classes), candle_core::DType::F32, &cpu)?; // (D+1, C)
        let mut ahead = w.clone();
        for _ in 0..MAX_ITERATIONS {
            let logits = x.matmul(&ahead)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?.exp()?;
            let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(1)?)?;
            let gradient = ((xt.matmul(&(probabilities - &target)?)? / n as f64)? + ahead.broadcast_mul(&penalty)?)?;
            let next = (&ahead - (&gradient / lipschitz)?)?;
            ahead = (&next + ((&next - &w)? * momentum)?)?;
            w = next;
            if gradient.abs()?.max_all()?.to_scalar::<f32>()? < GRADIENT_TOLERANCE {
                break;
            }
        }
        self.solution = Solution::of(&w)?;
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let log_probs = self.solution.log_probs(vector);
        (argmax(&log_probs.0), Some(log_probs.1))
    }

    fn parameters(&self) -> u64 {
        self.solution.parameters()
    }
}

impl Solution {
    /// Of weights (D+1, C) whose last row is the bias.
    pub(super) fn of(weights: &Tensor) -> Result<Self> {
        let mut rows = weights.t()?.contiguous()?.to_vec2::<f32>()?;
        let bias = rows.iter_mut().filter_map(Vec::pop).collect();
        Ok(Self { weight: rows, bias })
    }

    /// Logits and their log-softmax.
    pub(super) fn log_probs(&self, vector: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let logits: Vec<f32> = self
            .weight
            .iter()
            .zip(&self.bias)
            .map(|(w, b)| dot(w, vector) + b)
            .collect();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = logits.iter().map(|l| (l - max).exp()).sum::<f32>().ln() + max;
        let log_probs = logits.iter().map(|l| l - log_sum).collect();
        (logits, log_probs)
    }

    pub(super) fn parameters(&self) -> u64 {
        self.weight.iter().map(|w| w.len() as u64 + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::probe::tests::separates_two_clusters;
    use crate::learner::probe::unit;

    #[test]
    fn the_rule_separates_two_clusters() {
        separates_two_clusters(&mut Logistic::new(1e-3));
    }

    /// The optimum of a strongly convex objective is where its gradient, written out here once more by hand, is zero.
    #[test]
    fn logistic_regression_reaches_a_stationary_point() {
        let vectors = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]].map(|v| unit(&v));
        let labels = [0, 0, 1, 1];
        let l2 = 1e-2;
        let mut rule = Logistic::new(l2);
        rule.fit(&TrainingSet {
            vectors: &vectors,
            labels: &labels,
            classes: 2,
            folds: None,
        })
        .unwrap();
        for class in 0..2 {
            for d in 0..2 {
                let mut gradient = l2 as f32 * rule.solution.weight[class][d];
                for (vector, label) in vectors.iter().zip(&labels) {
                    let p = rule.classify(vector).1.unwrap()[class].exp();
                    gradient += (p - f32::from(*label as usize == class)) * vector[d] / 4.0;
                }
                assert!(gradient.abs() < 1e-4, "gradient {gradient}");
            }
        }
    }
}
