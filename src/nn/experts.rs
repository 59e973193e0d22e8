//! A mixture of experts: each row goes through the few experts that a router chooses for it. Expert weights are frozen
//! stacks with trainable low-rank updates.

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;

use super::Projection;
use super::ops::{Groups, grouped, grouped_trained, swiglu};
use super::projection::uniform;
use crate::error::Result;

/// One linear layer of E experts: frozen weights in the layout of the hub, with or without a trainable update.
#[derive(Debug, Clone)]
pub struct Experts {
    weight: Tensor, // (E, in, out)
    update: Option<ExpertUpdate>,
    /// True if the update is a copy that is not trained.
    fixed: bool,
}

/// A low-rank update of a stack: of all its outputs, or one of each of several equal shares of them.
#[derive(Debug, Clone)]
pub struct ExpertUpdate {
    /// From the first outputs to the last.
    pub parts: Vec<ExpertFactors>,
    /// alpha / r
    pub scale: f64,
}

/// The factors of E low-rank matrices of rank r.
#[derive(Debug, Clone)]
pub struct ExpertFactors {
    /// From the inputs to the rank.
    pub a: Var,
    /// From the rank to the outputs.
    pub b: Var,
    /// Their shapes.
    pub sharing: Sharing,
}

/// Sharing of factors between experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each expert has its own, as PEFT's `ParamWrapper` lays them out: A (E·r, in) with row `e·r + j`, B (out, r·E)
    /// with column `j·E + e` for rank j of expert e.
    Nothing,
    /// A (r, in) for all experts, B (E, out, r).
    Inputs,
    /// A (E, r, in), B (out, r) for all experts.
    Outputs,
}

impl Experts {
    /// A frozen stack from its weights (E, in, out).
    ///
    /// # Errors
    /// When the weights have another rank.
    pub fn new(weight: Tensor) -> Result<Self> {
        weight.dims3()?;
        Ok(Self {
            weight: weight.contiguous()?,
            update: None,
            fixed: false,
        })
    }

    /// E, width of what goes in, width of what comes out.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        let dims = self.weight.dims();
        (dims[0], dims[1], dims[2])
    }

    /// The trainable update, if there is one.
    #[must_use]
    pub fn update(&self) -> Option<&ExpertUpdate> {
        self.update.as_ref().filter(|_| !self.fixed)
    }

    /// The same stack with this update (`None`: as it was loaded).
    #[must_use]
    pub fn with_update(&self, update: Option<ExpertUpdate>) -> Self {
        Self {
            weight: self.weight.clone(),
            update,
            fixed: false,
        }
    }

    /// The same stack with a copy of its update that is not trained and keeps no graph: the same outputs to the bit.
    /// The copy stands beside the weights, not in them: a second set of all experts would double by far the largest
    /// part of the model.
    pub fn merged(&self) -> Result<Self> {
        let copy = |var: &Var| Var::from_tensor(&var.as_detached_tensor().copy()?);
        let mut update = self.update.clone();
        for factors in update.iter_mut().flat_map(|update| &mut update.parts) {
            (factors.a, factors.b) = (copy(&factors.a)?, copy(&factors.b)?);
        }
        Ok(Self {
            weight: self.weight.clone(),
            update,
            fixed: true,
        })
    }

    /// The weights with the update added in, (E, in, out): in f32, for whoever writes them to round once.
    pub fn updated_weight(&self) -> Result<Tensor> {
        let Some(update) = &self.update else {
            return Ok(self.weight.clone());
        };
        let part = |factors: &ExpertFactors| -> Result<Tensor> {
            let (a, b) = factors.stacks(self.weight.dims()[0], true)?;
            Ok((a.contiguous()?.matmul(&b.contiguous()?)? * update.scale)?)
        };
        let parts = update.parts.iter().map(part).collect::<Result<Vec<_>>>()?;
        let whole = Tensor::cat(&parts, 2)?;
        Ok((self.weight.to_dtype(DType::F32)? + whole)?)
    }

    /// Each row of `x` (P, in) through the expert of its group: (P, out).
    ///
    /// # Errors
    /// When rows and groups do not fit.
    pub fn forward(&self, x: &Tensor, groups: &Groups) -> Result<Tensor> {
        let y = grouped(x, &self.weight, groups)?;
        let Some(update) = &self.update else { return Ok(y) };
        let experts = self.weight.dims()[0];
        let part = |factors: &ExpertFactors| factors.forward(x, groups, experts, update.scale, self.fixed);
        let parts: Vec<Tensor> = update.parts.iter().map(part).collect::<candle_core::Result<_>>()?;
        let low = match &parts[..] {
            [one] => one.clone(),
            several => Tensor::cat(several, 1)?,
        };
        Ok((y + low)?)
    }
}

/// The variable as a part of the graph; one that is fixed is none.
fn factor(var: &Var, fixed: bool) -> Tensor {
    if fixed {
        var.as_detached_tensor()
    } else {
        var.as_tensor().clone()
    }
}

impl ExpertFactors {
    /// A as PEFT initialises it, uniform in ±1/sqrt(in), and B = 0.
    pub fn fresh(
        (experts, inputs, outputs): (usize, usize, usize),
        rank: usize,
        sharing: Sharing,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        let (a, b) = Self::shapes((experts, inputs, outputs), rank, sharing);
        Ok(Self {
            a: uniform(a, inputs, rng, device)?,
            b: Var::zeros(b, DType::F32, device)?,
            sharing,
        })
    }

    /// The shapes of A and B for E, inputs and outputs.
    #[must_use]
    pub fn shapes(
        (experts, inputs, outputs): (usize, usize, usize),
        rank: usize,
        sharing: Sharing,
    ) -> (Vec<usize>, Vec<usize>) {
        match sharing {
            Sharing::Nothing => (vec![experts * rank, inputs], vec![outputs, rank * experts]),
            Sharing::Inputs => (vec![rank, inputs], vec![experts, outputs, rank]),
            Sharing::Outputs => (vec![experts, rank, inputs], vec![outputs, rank]),
        }
    }

    /// r, for E experts.
    #[must_use]
    pub fn rank(&self, experts: usize) -> usize {
        match (self.sharing, self.a.dims()) {
            (Sharing::Nothing, [rows, _]) => rows / experts.max(1),
            (Sharing::Inputs, [rank, _]) | (Sharing::Outputs, [_, rank, _]) => *rank,
            _ => 0,
        }
    }

    fn outputs(&self) -> usize {
        let dims = self.b.dims();
        match self.sharing {
            Sharing::Inputs => dims[1],
            Sharing::Nothing | Sharing::Outputs => dims[0],
        }
    }

    /// The factors as stacks of matrices, (E, in, r) and (E, r, out).
    fn stacks(&self, experts: usize, fixed: bool) -> candle_core::Result<(Tensor, Tensor)> {
        let (a, b) = (factor(&self.a, fixed), factor(&self.b, fixed));
        let of_all = |matrix: Tensor| {
            let (rows, columns) = matrix.dims2()?;
            matrix.unsqueeze(0)?.broadcast_as((experts, rows, columns))
        };
        Ok(match self.sharing {
            Sharing::Nothing => {
                let rank = self.rank(experts);
                let a = a.reshape((experts, rank, a.dim(1)?))?.transpose(1, 2)?;
                (a, b.reshape((b.dim(0)?, rank, experts))?.permute((2, 1, 0))?)
            }
            Sharing::Inputs => (of_all(a.t()?)?, b.transpose(1, 2)?),
            Sharing::Outputs => (a.transpose(1, 2)?, of_all(b.t()?)?),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        groups: &Groups,
        experts: usize,
        scale: f64,
        fixed: bool,
    ) -> candle_core::Result<Tensor> {
        let of_type = |var: &Var| factor(var, fixed).to_dtype(x.dtype());
        let stacks = || -> candle_core::Result<(Tensor, Tensor)> {
            let (a, b) = self.stacks(experts, fixed)?;
            Ok((a.to_dtype(x.dtype())?, b.to_dtype(x.dtype())?))
        };
        let down = match self.sharing {
            Sharing::Inputs => x.matmul(&of_type(&self.a)?.t()?)?,
            _ => grouped_trained(x, &stacks()?.0, groups)?,
        };
        let down = (down * scale)?; // (P, r)
        match self.sharing {
            Sharing::Outputs => down.matmul(&of_type(&self.b)?.t()?),
            // The ranks of an expert stand apart in PEFT's layout, and a product takes rows or columns.
            _ => grouped_trained(&down, &stacks()?.1.contiguous()?, groups),
        }
    }
}

impl ExpertUpdate {
    /// r, for E experts.
    #[must_use]
    pub fn rank(&self, experts: usize) -> usize {
        self.parts.first().map_or(0, |part| part.rank(experts))
    }

    /// The update as each expert's own: shared factors repeated, and of n parts each in a block of ranks of its own. It
    /// computes the same. B is multiplied with n, so that alpha stays the same for n times the rank.
    pub fn expanded(&self, experts: usize) -> Result<Self> {
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        let count = self.parts.len();
        let widths: Vec<usize> = self.parts.iter().map(|part| part.outputs()).collect();
        for (i, part) in self.parts.iter().enumerate() {
            let (a, b) = part.stacks(experts, true)?; // (E, in, r), (E, r, out)
            let (before, after) = (widths[..i].iter().sum(), widths[i + 1..].iter().sum());
            downs.push(a.contiguous()?);
            ups.push((b.contiguous()?.pad_with_zeros(2, before, after)? * count as f64)?);
        }
        let (down, up) = (Tensor::cat(&downs, 2)?, Tensor::cat(&ups, 1)?); // (E, in, R), (E, R, out)
        let (_, inputs, rank) = down.dims3()?;
        let outputs = up.dim(2)?;
        let a = down.transpose(1, 2)?.contiguous()?.reshape((experts * rank, inputs))?;
        let b = up
            .permute((2, 1, 0))?
            .contiguous()?
            .reshape((outputs, rank * experts))?;
        Ok(Self {
            parts: vec![ExpertFactors {
                a: Var::from_tensor(&a)?,
                b: Var::from_tensor(&b)?,
                sharing: Sharing::Nothing,
            }],
            scale: self.scale / count as f64,
        })
    }
}

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
