//! Probes on frozen DINOv2 features: nearest class mean, k nearest neighbours, logistic regression.
//!
//! Features are scaled to unit length first, so that all three work on angles.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::config::{Knn, LogisticRegression};
use crate::data::LabelledImage;
use crate::error::Result;
use crate::method::features::{BATCH, Frozen};
use crate::method::pixels::nothing_to_save;
use crate::method::{Classifier, Fit, Keep, Step, argmax, row};
use crate::prediction::Prediction;

/// A rule that turns labelled unit vectors into a class for another unit vector.
trait Rule {
    fn fit(&mut self, vectors: &[Vec<f32>], labels: &[u32], classes: usize) -> Result<()>;
    /// The class, and log-probabilities where the rule has any.
    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>);
    fn parameters(&self) -> u64;
}

/// A frozen model with a rule on its features.
pub struct Probe {
    frozen: Arc<Frozen>,
    classes: usize,
    rule: Box<dyn Rule>,
}

impl Probe {
    /// Nearest class mean by cosine.
    #[must_use]
    pub fn nearest_mean(frozen: Arc<Frozen>, classes: usize) -> Self {
        Self {
            frozen,
            classes,
            rule: Box::new(Mean::default()),
        }
    }

    /// Similarity-weighted vote of the nearest neighbours (DINOv2's k-NN evaluation).
    #[must_use]
    pub fn knn(frozen: Arc<Frozen>, classes: usize, config: Knn) -> Self {
        Self {
            frozen,
            classes,
            rule: Box::new(Neighbours {
                config,
                shots: Vec::new(),
                classes,
            }),
        }
    }

    /// Multinomial logistic regression with an L2 penalty.
    #[must_use]
    pub fn logistic_regression(frozen: Arc<Frozen>, classes: usize, config: LogisticRegression) -> Self {
        Self {
            frozen,
            classes,
            rule: Box::new(Logistic {
                config,
                weight: Vec::new(),
                bias: Vec::new(),
            }),
        }
    }

    fn vectors(&self, images: &[LabelledImage]) -> Result<Vec<Vec<f32>>> {
        Ok(self.frozen.features(images)?.iter().map(|v| unit(v)).collect())
    }
}

impl Classifier for Probe {
    fn fit(&mut self, shots: &[LabelledImage], _: Option<&Keep>, _: &mut dyn FnMut(Step) -> Result<()>) -> Result<Fit> {
        let labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        self.rule.fit(&self.vectors(shots)?, &labels, self.classes)?;
        Ok(Fit {
            images_seen: shots.len() as u64,
            trainable_parameters: self.rule.parameters(),
            ..Fit::default()
        })
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let rows: Vec<Prediction> = self
                .vectors(batch)?
                .iter()
                .zip(batch)
                .map(|(vector, image)| {
                    let (class, log_probs) = self.rule.classify(vector);
                    row(image, class, log_probs)
                })
                .collect();
            sink(&rows)?;
        }
        Ok(())
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        Err(nothing_to_save(dir))
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        Err(nothing_to_save(dir))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(v: &[f32]) -> Vec<f32> {
    let norm = dot(v, v).sqrt().max(f32::MIN_POSITIVE);
    v.iter().map(|x| x / norm).collect()
}

#[derive(Default)]
struct Mean {
    /// One unit vector per class.
    means: Vec<Vec<f32>>,
}

impl Rule for Mean {
    fn fit(&mut self, vectors: &[Vec<f32>], labels: &[u32], classes: usize) -> Result<()> {
        let width = vectors.first().map_or(0, Vec::len);
        let mut sums = vec![vec![0f32; width]; classes];
        for (vector, label) in vectors.iter().zip(labels) {
            for (sum, x) in sums[*label as usize].iter_mut().zip(vector) {
                *sum += x;
            }
        }
        self.means = sums.iter().map(|s| unit(s)).collect();
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let cosines: Vec<f32> = self.means.iter().map(|m| dot(m, vector)).collect();
        (argmax(&cosines), None)
    }

    fn parameters(&self) -> u64 {
        0
    }
}

struct Neighbours {
    config: Knn,
    shots: Vec<(Vec<f32>, u32)>,
    classes: usize,
}

impl Rule for Neighbours {
    fn fit(&mut self, vectors: &[Vec<f32>], labels: &[u32], _: usize) -> Result<()> {
        self.shots = vectors.iter().cloned().zip(labels.iter().copied()).collect();
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let mut near: Vec<(f32, u32)> = self
            .shots
            .iter()
            .map(|(shot, class)| (dot(shot, vector), *class))
            .collect();
        // A stable sort: equal similarities keep the order of the split.
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = vec![0f32; self.classes];
        for (similarity, class) in near.iter().take(self.config.neighbours) {
            votes[*class as usize] += (similarity / self.config.temperature as f32).exp();
        }
        (argmax(&votes), None)
    }

    fn parameters(&self) -> u64 {
        0
    }
}

struct Logistic {
    config: LogisticRegression,
    /// One row of 2·D weights per class.
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

/// Largest entry of the gradient at which the optimum counts as found.
const GRADIENT_TOLERANCE: f32 = 1e-5;
/// Enough for a condition number of 10⁶ with accelerated descent; reached only if the tolerance is not.
const MAX_ITERATIONS: usize = 5_000;

impl Rule for Logistic {
    /// Nesterov's accelerated gradient descent on a strongly convex objective
    /// (Nesterov 2004, scheme 2.2.11): `mean cross-entropy + λ/2·‖W‖²`, bias not penalised.
    fn fit(&mut self, vectors: &[Vec<f32>], labels: &[u32], classes: usize) -> Result<()> {
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
        let mut penalty = vec![self.config.l2 as f32; width];
        penalty.push(0.0);
        let penalty = Tensor::from_vec(penalty, (width + 1, 1), &cpu)?;
        let xt = x.t()?.contiguous()?;

        // Rows have squared length 2 (unit vector and the constant), softmax has curvature at most 1/2.
        let lipschitz = 1.0 + self.config.l2;
        let root = (self.config.l2 / lipschitz).sqrt();
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
        let mut rows = w.t()?.contiguous()?.to_vec2::<f32>()?;
        self.bias = rows.iter_mut().filter_map(Vec::pop).collect();
        self.weight = rows;
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let logits: Vec<f32> = self
            .weight
            .iter()
            .zip(&self.bias)
            .map(|(w, b)| dot(w, vector) + b)
            .collect();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = logits.iter().map(|l| (l - max).exp()).sum::<f32>().ln() + max;
        (argmax(&logits), Some(logits.iter().map(|l| l - log_sum).collect()))
    }

    fn parameters(&self) -> u64 {
        self.weight.iter().map(|w| w.len() as u64 + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_clusters() -> (Vec<Vec<f32>>, Vec<u32>) {
        let vectors = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]].map(|v| unit(&v));
        (vectors.into(), vec![0, 0, 1, 1])
    }

    #[test]
    fn every_rule_separates_two_clusters() {
        let (vectors, labels) = two_clusters();
        let knn = Knn {
            name: String::new(),
            model: "".into(),
            neighbours: 2,
            temperature: 0.07,
        };
        let logistic = LogisticRegression {
            name: String::new(),
            model: "".into(),
            l2: 1e-3,
        };
        let rules: [Box<dyn Rule>; 3] = [
            Box::new(Mean::default()),
            Box::new(Neighbours {
                config: knn,
                shots: Vec::new(),
                classes: 2,
            }),
            Box::new(Logistic {
                config: logistic,
                weight: Vec::new(),
                bias: Vec::new(),
            }),
        ];
        for mut rule in rules {
            rule.fit(&vectors, &labels, 2).unwrap();
            assert_eq!(rule.classify(&unit(&[0.9, 0.3])).0, 0);
            assert_eq!(rule.classify(&unit(&[0.3, 0.9])).0, 1);
        }
    }

    /// The optimum of a strongly convex objective is where its gradient, written out here once more by hand, is zero.
    #[test]
    fn logistic_regression_reaches_a_stationary_point() {
        let (vectors, labels) = two_clusters();
        let l2 = 1e-2;
        let config = LogisticRegression {
            name: String::new(),
            model: "".into(),
            l2,
        };
        let mut rule = Logistic {
            config,
            weight: Vec::new(),
            bias: Vec::new(),
        };
        rule.fit(&vectors, &labels, 2).unwrap();
        for class in 0..2 {
            for d in 0..2 {
                let mut gradient = l2 as f32 * rule.weight[class][d];
                for (vector, label) in vectors.iter().zip(&labels) {
                    let p = rule.classify(vector).1.unwrap()[class].exp();
                    gradient += (p - f32::from(*label as usize == class)) * vector[d] / 4.0;
                }
                assert!(gradient.abs() < 1e-4, "gradient {gradient}");
            }
        }
    }
}
