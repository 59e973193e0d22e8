//! Multinomial logistic regression with a fixed penalty, and the problem and solution that it shares with a chosen one.

use std::collections::VecDeque;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::learner::argmax;
use crate::learner::probe::{Rule, TrainingSet, dot};

/// The rule of a fixed penalty.
pub(super) struct Logistic {
    /// L2 penalty.
    l2: f64,
    pub solution: Solution,
}

/// A linear classifier.
#[derive(Debug, Clone, Default)]
pub(super) struct Solution {
    /// One row of weights per class.
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
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
        let Problem {
            x,
            xt,
            target,
            rows,
            width,
            classes,
        } = Problem::new(shots.vectors, shots.labels, shots.classes)?;
        let mut penalty = vec![self.l2 as f32; width];
        penalty.push(0.0);
        let penalty = Tensor::from_vec(penalty, (width + 1, 1), &Device::Cpu)?;

        // Rows have squared length 2 (unit vector and the constant), softmax has curvature at most 1/2.
        let lipschitz = 1.0 + self.l2;
        let root = (self.l2 / lipschitz).sqrt();
        let momentum = (1.0 - root) / (1.0 + root);
        let mut w = Tensor::zeros((width + 1, classes), DType::F32, &Device::Cpu)?; // (D+1, C)
        let mut ahead = w.clone();
        for _ in 0..MAX_ITERATIONS {
            let logits = x.matmul(&ahead)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?.exp()?;
            let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(1)?)?;
            let gradient =
                ((xt.matmul(&(probabilities - &target)?)? / rows as f64)? + ahead.broadcast_mul(&penalty)?)?;
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
        let (logits, log_probs) = self.solution.log_probs(vector);
        (argmax(&logits), Some(log_probs))
    }

    fn parameters(&self) -> u64 {
        self.solution.parameters()
    }
}

impl Solution {
    /// Of weights (D+1, C) whose last row is the bias.
    fn of(weights: &Tensor) -> Result<Self> {
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

    fn parameters(&self) -> u64 {
        self.weight.iter().map(|w| w.len() as u64 + 1).sum()
    }
}

/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 10;
/// Halvings of a step before the optimum counts as reached to rounding.
const HALVINGS: usize = 20;
/// Sufficient decrease (Armijo).
const DECREASE: f64 = 1e-4;
/// Rounding of an f32 loss, relative: a step may raise it by so much.
const ROUNDING: f64 = 1e-7;

/// `mean cross-entropy + λ/2·‖W‖²`, bias not penalised, of fixed rows and classes.
pub(super) struct Problem {
    /// (N, D+1), a constant last column for the bias.
    x: Tensor,
    /// Its transpose.
    xt: Tensor,
    /// One-hot: (N, C).
    target: Tensor,
    rows: usize,
    width: usize,
    classes: usize,
}

impl Problem {
    pub(super) fn new(vectors: &[impl AsRef<[f32]>], labels: &[u32], classes: usize) -> Result<Self> {
        let vectors = || vectors.iter().map(AsRef::as_ref);
        let (rows, width) = (vectors().len(), vectors().next().map_or(0, <[f32]>::len));
        let values: Vec<f32> = vectors().flat_map(|v| v.iter().copied().chain([1.0])).collect();
        let x = Tensor::from_vec(values, (rows, width + 1), &Device::Cpu)?;
        let mut target = vec![0f32; rows * classes];
        for (i, label) in labels.iter().enumerate() {
            target[i * classes + *label as usize] = 1.0;
        }
        Ok(Self {
            xt: x.t()?.contiguous()?,
            x,
            target: Tensor::from_vec(target, (rows, classes), &Device::Cpu)?,
            rows,
            width,
            classes,
        })
    }

    /// Weights and bias all zero: (D+1)·C numbers, row by row.
    pub(super) fn start(&self) -> Vec<f64> {
        vec![0.0; (self.width + 1) * self.classes]
    }

    /// The classifier with these weights.
    pub(super) fn solution(&self, w: &[f64]) -> Result<Solution> {
        Solution::of(&self.tensor(w)?)
    }

    /// As a tensor (D+1, C).
    fn tensor(&self, w: &[f64]) -> Result<Tensor> {
        let narrow: Vec<f32> = w.iter().map(|x| *x as f32).collect();
        Ok(Tensor::from_vec(narrow, (self.width + 1, self.classes), &Device::Cpu)?)
    }

    /// Objective and gradient at `w` for a penalty λ. Products in f32, sums in f64.
    fn at(&self, w: &[f64], penalty: f64) -> Result<(f64, Vec<f64>)> {
        let logits = self.x.matmul(&self.tensor(w)?)?; // (N, C)
        let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
        let weights = shifted.exp()?;
        let sums = weights.sum_keepdim(1)?;
        let right = (&shifted * &self.target)?.sum_keepdim(1)?;
        let losses = (sums.log()? - right)?.flatten_all()?.to_vec1::<f32>()?;
        let residual = (weights.broadcast_div(&sums)? - &self.target)?;
        let slopes = self.xt.matmul(&residual)?.to_dtype(DType::F64)?;
        let n = self.rows as f64;
        let mut gradient: Vec<f64> = slopes.flatten_all()?.to_vec1::<f64>()?;
        let penalised = self.width * self.classes;
        let mut square = 0.0;
        for (i, (slope, w)) in gradient.iter_mut().zip(w).enumerate() {
            *slope /= n;
            if i < penalised {
                *slope += penalty * w;
                square += w * w;
            }
        }
        let loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / n;
        Ok((loss + 0.5 * penalty * square, gradient))
    }

    /// The minimum from `start` on by L-BFGS (Nocedal & Wright, *Numerical Optimization*, algorithm 7.5), as the solver of DINOv2's
    /// official evaluation is: from weak to hardly any penalty in a few steps each, warm-started. It ends when no entry of the gradient exceeds `tolerance`, the loss no
    /// longer falls in f32, or after `most` iterations.
    pub(super) fn minimum(&self, start: Vec<f64>, penalty: f64, tolerance: f64, most: usize) -> Result<Vec<f64>> {
        let mut w = start;
        let (mut value, mut gradient) = self.at(&w, penalty)?;
        let mut memory: VecDeque<Pair> = VecDeque::new();
        for _ in 0..most {
            if gradient.iter().all(|g| g.abs() <= tolerance) {
                break;
            }
            let mut direction = descent(&gradient, &memory);
            let mut slope = inner(&gradient, &direction);
            if slope >= 0.0 {
                memory.clear();
                direction = gradient.iter().map(|g| -g).collect();
                slope = -inner(&gradient, &gradient);
            }
            let mut length = 1.0;
            let mut found = None;
            for _ in 0..HALVINGS {
                let next: Vec<f64> = w.iter().zip(&direction).map(|(w, d)| w + length * d).collect();
                let (there, slopes) = self.at(&next, penalty)?;
                if there <= value + DECREASE * length * slope + ROUNDING * value.abs() {
                    found = Some((next, there, slopes));
                    break;
                }
                length *= 0.5;
            }
            let Some((next, there, slopes)) = found else {
                break;
            };
            let step: Vec<f64> = next.iter().zip(&w).map(|(a, b)| a - b).collect();
            let change: Vec<f64> = slopes.iter().zip(&gradient).map(|(a, b)| a - b).collect();
            let curvature = inner(&step, &change);
            if curvature > 1e-12 * inner(&change, &change).max(f64::MIN_POSITIVE) {
                memory.push_back(Pair {
                    step,
                    change,
                    curvature,
                });
                if memory.len() > MEMORY {
                    memory.pop_front();
                }
            }
            (w, value, gradient) = (next, there, slopes);
        }
        Ok(w)
    }
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Their inner product, above 0.
    curvature: f64,
}

/// The quasi-Newton direction (the two loops of algorithm 7.4).
fn descent(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut q = gradient.to_vec();
    let mut shares = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let share = inner(&pair.step, &q) / pair.curvature;
        add(&mut q, -share, &pair.change);
        shares.push(share);
    }
    if let Some(last) = memory.back() {
        let scale = last.curvature / inner(&last.change, &last.change);
        q.iter_mut().for_each(|x| *x *= scale);
    }
    for (pair, share) in memory.iter().zip(shares.into_iter().rev()) {
        let other = inner(&pair.change, &q) / pair.curvature;
        add(&mut q, share - other, &pair.step);
    }
    q.iter_mut().for_each(|x| *x = -*x);
    q
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], times: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += times * what);
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

    /// Twelve unit vectors of four numbers in three classes that overlap: cos and sin of multiples of the row's number.
    fn overlapping() -> (Vec<Vec<f32>>, Vec<u32>) {
        let row = |i: usize| {
            let t = i as f64;
            let v = [(1.3 * t).sin(), (0.7 * t).cos(), (2.1 * t).sin(), 1.0 + 0.1 * t];
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            v.iter().map(|x| (x / norm) as f32).collect()
        };
        ((0..12).map(row).collect(), vec![0, 1, 2, 0, 2, 1, 1, 0, 2, 2, 1, 0])
    }

    /// Minima of the same objective by scipy 1.17 (`minimize(method="BFGS", options={"gtol": 1e-12})`, f64):
    /// C, objective, and the probability of class 0 for the first row.
    const BY_SCIPY: [(f64, f64, f64); 3] = [
        (0.1, 1.0872492324522238, 0.3374860760689189),
        (10.0, 0.8409838824981182, 0.4478514474940684),
        (300.0, 0.6600598498206532, 0.38082522747472647),
    ];

    #[test]
    fn the_minimum_is_that_of_scipy() {
        let (vectors, labels) = overlapping();
        let problem = Problem::new(&vectors, &labels, 3).unwrap();
        let mut w = problem.start();
        for (c, objective, first) in BY_SCIPY {
            let penalty = 1.0 / (c * 12.0);
            w = problem.minimum(w, penalty, 1e-7, 1000).unwrap();
            let (value, _) = problem.at(&w, penalty).unwrap();
            assert!((value - objective).abs() < 1e-6, "C = {c}: {value}, scipy {objective}");
            let logits = problem.x.matmul(&problem.tensor(&w).unwrap()).unwrap();
            let row = logits.to_vec2::<f32>().unwrap().remove(0);
            let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            let p = f64::from(row[0]).exp() / sum;
            assert!((p - first).abs() < 2e-4, "C = {c}: {p}, scipy {first}");
        }
    }
}
