//! Stacks of frozen expert weights with trainable low-rank updates.

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::ops::{Groups, grouped, grouped_trained};
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

    /// The frozen weights, (E, in, out).
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
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
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn merged(&self) -> Result<Self> {
        let copy = |factors: &ExpertFactors| -> Result<ExpertFactors> {
            Ok(ExpertFactors {
                a: Var::from_tensor(&factors.a.as_detached_tensor().copy()?)?,
                b: Var::from_tensor(&factors.b.as_detached_tensor().copy()?)?,
                sharing: factors.sharing,
            })
        };
        let update = match &self.update {
            None => None,
            Some(update) => Some(ExpertUpdate {
                parts: update.parts.iter().map(copy).collect::<Result<_>>()?,
                scale: update.scale,
            }),
        };
        Ok(Self {
            weight: self.weight.clone(),
            update,
            fixed: true,
        })
    }

    /// The weights with the update added in, (E, in, out): in f32, for whoever writes them to round once.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn updated_weight(&self) -> Result<Tensor> {
        let Some(update) = &self.update else {
            return Ok(self.weight.clone());
        };
        let part = |factors: &ExpertFactors| -> Result<Tensor> {
            let (a, b) = factors.stacks(self.weight.dims()[0], &|var| var.as_detached_tensor())?;
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
        let factor = |var: &Var| {
            if self.fixed {
                var.as_detached_tensor()
            } else {
                var.as_tensor().clone()
            }
        };
        let part = |factors: &ExpertFactors| factors.forward(x, groups, self.weight.dims()[0], update.scale, &factor);
        let parts: Vec<Tensor> = update.parts.iter().map(part).collect::<candle_core::Result<_>>()?;
        let low = match &parts[..] {
            [one] => one.clone(),
            several => Tensor::cat(several, 1)?,
        };
        Ok((y + low)?)
    }
}

/// Use of a variable: as part of the graph or not.
type Use<'a> = dyn Fn(&Var) -> Tensor + 'a;

impl ExpertFactors {
    /// A as PEFT initialises it, uniform in ±1/sqrt(in), and B = 0.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn fresh(
        (experts, inputs, outputs): (usize, usize, usize),
        rank: usize,
        sharing: Sharing,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        let (a, b) = Self::shapes((experts, inputs, outputs), rank, sharing);
        let bound = 1.0 / (inputs as f32).sqrt();
        let count = a.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-bound..bound)).collect();
        Ok(Self {
            a: Var::from_vec(values, a, device)?,
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

    /// The factors as stacks of matrices, (E, in, r) and (E, r, out).
    fn stacks(&self, experts: usize, factor: &Use) -> candle_core::Result<(Tensor, Tensor)> {
        let (a, b) = (factor(&self.a), factor(&self.b));
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
        factor: &Use,
    ) -> candle_core::Result<Tensor> {
        let of_type = |var: &Var| factor(var).to_dtype(x.dtype());
        let stacks = || -> candle_core::Result<(Tensor, Tensor)> {
            let (a, b) = self.stacks(experts, factor)?;
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
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn expanded(&self, experts: usize) -> Result<Self> {
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        let count = self.parts.len();
        let widths: Vec<usize> = self.parts.iter().map(|part| part.outputs()).collect();
        for (i, part) in self.parts.iter().enumerate() {
            let (a, b) = part.stacks(experts, &|var| var.as_detached_tensor())?; // (E, in, r), (E, r, out)
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

impl ExpertFactors {
    fn outputs(&self) -> usize {
        let dims = self.b.dims();
        match self.sharing {
            Sharing::Inputs => dims[1],
            Sharing::Nothing | Sharing::Outputs => dims[0],
        }
    }
}
