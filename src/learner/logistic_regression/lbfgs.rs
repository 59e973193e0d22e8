//! Multinomial logistic regression by L-BFGS (Nocedal & Wright, *Numerical Optimization*, algorithm 7.5), as the solver
//! of DINOv2's official evaluation is: from weak to hardly any penalty in a few steps each, warm-started.

use std::collections::VecDeque;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

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
    pub(super) fn new(vectors: &[&[f32]], labels: &[u32], classes: usize) -> Result<Self> {
        let (rows, width) = (vectors.len(), vectors.first().map_or(0, |v| v.len()));
        let values: Vec<f32> = vectors.iter().flat_map(|v| v.iter().copied().chain([1.0])).collect();
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

    /// As a tensor (D+1, C).
    pub(super) fn tensor(&self, w: &[f64]) -> Result<Tensor> {
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

    /// The minimum from `start` on: until no entry of the gradient exceeds `tolerance`, the loss no longer falls in f32,
    /// or `most` iterations.
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
        let rows: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let problem = Problem::new(&rows, &labels, 3).unwrap();
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
