//! Multi-head attention without a mask, for short sequences.
//!
//! One task per sequence: scores, softmax and weighted sum of a head stay in cache.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::elementary::{softmax, softmax_backward, softmax_composite};
use super::product::{Matrix, Scratch, Target};
use super::{fused, values, wide, with_values};

/// `softmax(q · kᵀ / sqrt(K)) · v` per head for `q`, `k`, `v` of (B, T, H·K); gives (B, T, H·K).
///
/// # Errors
/// When the shapes differ or `heads` does not divide the width.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, width) = q.dims3()?;
    if k.shape() != q.shape() || v.shape() != q.shape() || heads == 0 || width % heads != 0 {
        bail!(
            "{heads} heads of attention over {:?}, {:?}, {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    let op = Attention {
        batch,
        tokens,
        heads,
        head_dim: width / heads,
    };
    if fused(q.device()) {
        in_main_memory(op, q, k, v)
    } else {
        op.composite(q, k, v)
    }
}

/// Attention over values in main memory. Queries, keys and values alone are kept for the backward pass; the probabilities
/// are computed again.
pub(super) trait CpuAttention: Send + Sync + 'static {
    const NAME: &'static str;

    /// The weighted values, laid out as the queries.
    fn forward(&self, inputs: [&[f32]; 3]) -> Vec<f32>;

    /// Gradients of queries, keys and values; the upstream gradient is the last of the inputs.
    fn backward(&self, inputs: [&[f32]; 4]) -> [Vec<f32>; 3];
}

/// `op` as a part of the graph.
pub(super) fn in_main_memory(op: impl CpuAttention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Op(op))
}

struct Op<A>(A);

impl<A: CpuAttention> CustomOp3 for Op<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [values(q, q_layout)?, values(k, k_layout)?, values(v, v_layout)?];
        Ok((CpuStorage::F32(self.0.forward(inputs)), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let upstream = upstream.contiguous()?;
        let [to_q, to_k, to_v] = with_values([q, k, v, &upstream], |inputs| Ok(self.0.backward(inputs)))?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((tensor(to_q, q)?, tensor(to_k, k)?, tensor(to_v, v)?))
    }
}

#[derive(Clone, Copy)]
struct Attention {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Attention {
    fn composite(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let split = |x: &Tensor| {
            x.reshape((self.batch, self.tokens, self.heads, self.head_dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let scores = (wide(&split(q)?.matmul(&split(k)?.t()?)?)? * f64::from(self.scale()))?; // (B, H, T, T)
        softmax_composite(&scores)?
            .to_dtype(v.dtype())?
            .matmul(&split(v)?)?
            .transpose(1, 2)?
            .reshape((self.batch, self.tokens, self.width()))
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// One head of one sequence of a (B, T, H·K) tensor, as (T, K).
    #[inline(always)]
    fn head<'a>(&self, values: &'a [f32], sequence: usize, head: usize) -> Matrix<'a> {
        let start = sequence * self.tokens * self.width() + head * self.head_dim;
        Matrix::rows(values, start, self.width())
    }

    /// One head of a sequence's (T, H·K) result.
    #[inline(always)]
    fn target<'a>(&self, values: &'a mut [f32], head: usize) -> Target<'a> {
        Target {
            values,
            start: head * self.head_dim,
            stride: self.width(),
        }
    }

    /// `target = a · bᵀ` of (T, K) each: (T, T).
    #[inline(always)]
    fn outer<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, a: Matrix, b: Matrix, target: &mut [f32]) {
        let sizes = (self.tokens, self.tokens, self.head_dim);
        scratch.multiply(simd, sizes, a, b, Target::rows(target, self.tokens));
    }

    /// `target = a · b` of (T, T) and (T, K): (T, K).
    #[inline(always)]
    fn weighted<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, a: Matrix, b: Matrix, target: Target) {
        let sizes = (self.tokens, self.head_dim, self.tokens);
        scratch.multiply(simd, sizes, a, b.transposed(), target);
    }

    /// softmax(q · kᵀ · scale) of one head: (T, T).
    #[inline(always)]
    fn probabilities<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, q: Matrix, k: Matrix, target: &mut [f32]) {
        self.outer(simd, scratch, q, k, target);
        for row in target.chunks_exact_mut(self.tokens) {
            softmax(row, self.scale());
        }
    }
}

/// One sequence forward, compiled for the machine's vectors: the weighted values, as (T, H·K).
struct Forward<'a> {
    op: Attention,
    inputs: [&'a [f32]; 3],
    sequence: usize,
    out: &'a mut [f32],
}

impl pulp::WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let op = self.op;
        let mut scratch = Scratch::default();
        let mut probabilities = vec![0f32; op.tokens * op.tokens];
        for head in 0..op.heads {
            let [q, k, v] = self.inputs.map(|values| op.head(values, self.sequence, head));
            op.probabilities(simd, &mut scratch, q, k, &mut probabilities);
            let weights = Matrix::rows(&probabilities, 0, op.tokens);
            op.weighted(simd, &mut scratch, weights, v, op.target(self.out, head));
        }
    }
}

/// One sequence backward, compiled for the machine's vectors: gradients of q, k and v, as (T, H·K).
struct Backward<'a> {
    op: Attention,
    inputs: [&'a [f32]; 4],
    sequence: usize,
    targets: [&'a mut [f32]; 3],
}

impl pulp::WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let op = self.op;
        let [to_q, to_k, to_v] = self.targets;
        let mut scratch = Scratch::default();
        let mut probabilities = vec![0f32; op.tokens * op.tokens];
        let mut scores = probabilities.clone();
        for head in 0..op.heads {
            let [q, k, v, upstream] = self.inputs.map(|values| op.head(values, self.sequence, head));
            op.probabilities(simd, &mut scratch, q, k, &mut probabilities);
            op.outer(simd, &mut scratch, upstream, v, &mut scores); // gradient of the probabilities
            let rows = scores
                .chunks_exact_mut(op.tokens)
                .zip(probabilities.chunks_exact(op.tokens));
            for (row, p) in rows {
                softmax_backward(row, p, op.scale());
            }
            let [probabilities, scores] = [&probabilities, &scores].map(|values| Matrix::rows(values, 0, op.tokens));
            op.weighted(simd, &mut scratch, scores, k, op.target(to_q, head));
            op.weighted(simd, &mut scratch, scores.transposed(), q, op.target(to_k, head));
            let weights = probabilities.transposed();
            op.weighted(simd, &mut scratch, weights, upstream, op.target(to_v, head));
        }
    }
}

impl CpuAttention for Attention {
    const NAME: &'static str = "attention";

    fn forward(&self, inputs: [&[f32]; 3]) -> Vec<f32> {
        let mut out = vec![0f32; inputs[0].len()];
        let sequences = out.par_chunks_mut(self.tokens * self.width()).enumerate();
        sequences.for_each(|(sequence, out)| {
            pulp::Arch::new().dispatch(Forward {
                op: *self,
                inputs,
                sequence,
                out,
            });
        });
        out
    }

    fn backward(&self, inputs: [&[f32]; 4]) -> [Vec<f32>; 3] {
        let count = inputs[0].len();
        let (mut to_q, mut to_k, mut to_v) = (vec![0f32; count], vec![0f32; count], vec![0f32; count]);
        let step = self.tokens * self.width();
        let targets = to_q
            .par_chunks_mut(step)
            .zip(to_k.par_chunks_mut(step))
            .zip(to_v.par_chunks_mut(step));
        targets.enumerate().for_each(|(sequence, ((to_q, to_k), to_v))| {
            pulp::Arch::new().dispatch(Backward {
                op: *self,
                inputs,
                sequence,
                targets: [to_q, to_k, to_v],
            });
        });
        [to_q, to_k, to_v]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        for (tokens, heads) in [(5, 2), (19, 1), (1, 3)] {
            let op = Attention {
                batch: 2,
                tokens,
                heads,
                head_dim: 4,
            };
            let shape = [2, tokens, heads * 4];
            let inputs = ["q", "k", "v"].map(|name| check::random(&shape, 1.5, name));
            check::agrees(
                &inputs,
                |x| attention(&x[0], &x[1], &x[2], heads),
                |x| op.composite(&x[0], &x[1], &x[2]),
            );
        }
    }

    #[test]
    fn sequences_are_independent_of_their_batch() {
        let x = check::random(&[3, 6, 8], 2.0, "x");
        let whole = attention(&x, &x, &x, 2).unwrap();
        let last = x.narrow(0, 2, 1).unwrap();
        let alone = attention(&last, &last, &last, 2).unwrap();
        let expected = whole
            .narrow(0, 2, 1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert_eq!(alone.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }

    #[test]
    fn heads_must_divide_the_width() {
        let x = check::random(&[1, 2, 6], 1.0, "x");
        assert!(attention(&x, &x, &x, 4).is_err() && attention(&x, &x, &x, 0).is_err());
    }
}
