//! A mixture of experts: each row goes through the few experts that a router chooses for it.

use candle_core::{DType, Tensor};

use super::ops::{Groups, swiglu};
use super::{Experts, Projection};
use crate::error::Result;

/// A router and the gated MLPs of E experts. Letters in shapes: R rows, D width, E experts, k experts of a row,
/// P = R · k pairs of row and expert.
#[derive(Debug, Clone)]
pub struct Moe {
    /// D → E, frozen and never adapted.
    pub router: Projection,
    /// D → twice the middle: gates first, then what they let through.
    pub gate_up: Experts,
    /// Middle → D.
    pub down: Experts,
    /// k
    pub chosen: usize,
}

/// The experts that a router chose for each row.
#[derive(Debug, Clone)]
pub struct Routing {
    /// (R, E)
    pub logits: Tensor,
    /// (R, k), descending in a row, with a sum of 1. Differentiable.
    pub weights: Tensor,
    /// (R, k), u32.
    pub experts: Tensor,
    chosen: Vec<u32>, // the same as numbers, row by row
}

impl Routing {
    /// The `k` likeliest experts of each row of `logits`; of equally likely ones those of the lowest numbers. Their
    /// probabilities (a softmax in f32 over all experts) are scaled to a sum of 1.
    ///
    /// # Errors
    /// Only what the device reports.
    pub fn new(logits: Tensor, k: usize) -> Result<Self> {
        let (rows, experts) = logits.dims2()?;
        let wide = logits.to_dtype(DType::F32)?;
        let shifted = wide.broadcast_sub(&wide.detach().max_keepdim(1)?)?.exp()?;
        let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(1)?)?;
        let mut chosen = Vec::with_capacity(rows * k);
        for row in probabilities.detach().to_vec2::<f32>()? {
            largest(row, k, &mut chosen);
        }
        let flat = |(i, &expert): (usize, &u32)| (i / k * experts) as u32 + expert;
        let flat: Vec<u32> = chosen.iter().enumerate().map(flat).collect();
        let flat = Tensor::from_vec(flat, rows * k, logits.device())?;
        let of_chosen = probabilities
            .flatten_all()?
            .index_select(&flat, 0)?
            .reshape((rows, k))?;
        Ok(Self {
            weights: of_chosen.broadcast_div(&of_chosen.sum_keepdim(1)?)?,
            experts: Tensor::from_slice(&chosen, (rows, k), logits.device())?,
            logits,
            chosen,
        })
    }

    /// The pairs sorted by expert, then by row (as numbers of [`Routing::weights`], row by row), and their groups.
    fn sorted(&self, experts: usize) -> (Vec<u32>, Groups) {
        let mut sizes = vec![0; experts];
        for &expert in &self.chosen {
            sizes[expert as usize] += 1;
        }
        let mut pairs: Vec<u32> = (0..self.chosen.len() as u32).collect();
        pairs.sort_by_key(|&pair| self.chosen[pair as usize]); // stable
        (pairs, Groups::of_sizes(&sizes))
    }
}

/// Adds the positions of the `k` largest values, largest first; of equal ones the first first.
fn largest(mut values: Vec<f32>, k: usize, chosen: &mut Vec<u32>) {
    for _ in 0..k {
        let better = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
        let best = (0..values.len()).reduce(better).unwrap_or(0);
        chosen.push(best as u32);
        values[best] = f32::NEG_INFINITY;
    }
}

impl Moe {
    /// Rows (R, D) through their experts: (R, D), and which those were. Gradients reach the rows through the experts
    /// and through the weights that the router gives them.
    ///
    /// # Errors
    /// When the width is not D.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Routing)> {
        let routing = Routing::new(self.router.forward(x)?, self.chosen)?;
        let (pairs, groups) = routing.sorted(self.router.outputs());
        let count = pairs.len();
        let rows: Vec<u32> = pairs.iter().map(|pair| pair / self.chosen as u32).collect();
        let rows = Tensor::from_vec(rows, count, x.device())?;
        let pairs = Tensor::from_vec(pairs, count, x.device())?;
        let gathered = x.index_select(&rows, 0)?; // (P, D)
        let middle = swiglu(&self.gate_up.forward(&gathered, &groups)?)?;
        let out = self.down.forward(&middle, &groups)?; // (P, D)
        let weights = routing.weights.flatten_all()?.index_select(&pairs, 0)?;
        let weighted = out.broadcast_mul(&weights.to_dtype(out.dtype())?.unsqueeze(1)?)?;
        Ok((x.zeros_like()?.detach().index_add(&rows, &weighted, 0)?, routing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_likeliest_experts_share_a_weight_of_one() {
        let logits = Tensor::new(&[[0f32, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]], &Device::Cpu).unwrap();
        let routing = Routing::new(logits, 2).unwrap();
        assert_eq!(routing.chosen, [1, 3, 0, 1]); // of equals the first
        assert_eq!(routing.experts.to_vec2::<u32>().unwrap(), [[1, 3], [0, 1]]);
        assert_eq!(routing.weights.to_vec2::<f32>().unwrap(), [[0.5, 0.5], [0.5, 0.5]]);
        let (pairs, _) = routing.sorted(4);
        assert_eq!(pairs, [2, 0, 3, 1]);
        let sharp = Tensor::new(&[[0f32, 1.0]], &Device::Cpu).unwrap();
        let weights = Routing::new(sharp, 2).unwrap().weights.to_vec2::<f32>().unwrap();
        let first = 1.0 / (1.0 + (-1f32).exp());
        assert!((weights[0][0] - first).abs() < 1e-6 && (weights[0][0] + weights[0][1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_a_number_chooses_some_experts_all_the_same() {
        let mut chosen = Vec::new();
        largest(vec![f32::NAN; 3], 2, &mut chosen);
        assert_eq!(chosen.len(), 2);
    }
}
