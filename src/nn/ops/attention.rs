//! Multi-head attention without a mask, for short sequences.
//!
//! One task per sequence: scores, softmax and weighted sum of a head stay in cache. Only queries,
//! keys and values are kept for the backward pass; the probabilities are computed again.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::product::{Matrix, Scratch, Target};
use super::{fused, softmax, values, wide, with_values};

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
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        op.composite(q, k, v)
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
        softmax::composite(&scores)?
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
        Matrix {
            values,
            start,
            stride: self.width(),
            step: 1,
        }
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

    /// A (T, T) matrix of one head.
    #[inline(always)]
    fn square<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix {
            values,
            start: 0,
            stride: self.tokens,
            step: 1,
        }
    }

    /// `target = a · bᵀ` of (T, K) each: (T, T).
    #[inline(always)]
    fn outer<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, a: Matrix, b: Matrix, target: &mut [f32]) {
        let target = Target {
            values: target,
            start: 0,
            stride: self.tokens,
        };
        scratch.multiply(simd, (self.tokens, self.tokens, self.head_dim), a, b, target);
    }

    /// `target = a · b` of (T, T) and (T, K): (T, K).
    #[inline(always)]
    fn weighted<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, a: Matrix, b: Matrix, target: Target) {
        scratch.multiply(
            simd,
            (self.tokens, self.head_dim, self.tokens),
            a,
            b.transposed(),
            target,
        );
    }

    /// softmax(q · kᵀ · scale) of one head: (T, T).
    #[inline(always)]
    fn probabilities<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, q: Matrix, k: Matrix, target: &mut [f32]) {
        self.outer(simd, scratch, q, k, target);
        for row in target.chunks_exact_mut(self.tokens) {
            softmax::forward(row, self.scale());
        }
    }

    /// The weighted values of one sequence, as (T, H·K).
    #[inline(always)]
    fn sequence<S: pulp::Simd>(&self, simd: S, [q, k, v]: [&[f32]; 3], sequence: usize, out: &mut [f32]) {
        let mut scratch = Scratch::default();
        let mut probabilities = vec![0f32; self.tokens * self.tokens];
        for head in 0..self.heads {
            let (q, k, v) = (
                self.head(q, sequence, head),
                self.head(k, sequence, head),
                self.head(v, sequence, head),
            );
            self.probabilities(simd, &mut scratch, q, k, &mut probabilities);
            self.weighted(
                simd,
                &mut scratch,
                self.square(&probabilities),
                v,
                self.target(out, head),
            );
        }
    }

    /// Gradients of q, k and v of one sequence, as (T, H·K), from the upstream gradient.
    #[inline(always)]
    fn gradients<S: pulp::Simd>(
        &self,
        simd: S,
        [q, k, v, upstream]: [&[f32]; 4],
        sequence: usize,
        [to_q, to_k, to_v]: [&mut [f32]; 3],
    ) {
        let mut scratch = Scratch::default();
        let mut probabilities = vec![0f32; self.tokens * self.tokens];
        let mut scores = probabilities.clone();
        for head in 0..self.heads {
            let (q, k, v) = (
                self.head(q, sequence, head),
                self.head(k, sequence, head),
                self.head(v, sequence, head),
            );
            let upstream = self.head(upstream, sequence, head);
            self.probabilities(simd, &mut scratch, q, k, &mut probabilities);
            self.outer(simd, &mut scratch, upstream, v, &mut scores); // gradient of the probabilities
            let rows = scores
                .chunks_exact_mut(self.tokens)
                .zip(probabilities.chunks_exact(self.tokens));
            for (row, p) in rows {
                softmax::backward(row, p, self.scale());
            }
            let (probabilities, scores) = (self.square(&probabilities), self.square(&scores));
            self.weighted(simd, &mut scratch, scores, k, self.target(to_q, head));
            self.weighted(simd, &mut scratch, scores.transposed(), q, self.target(to_k, head));
            self.weighted(
                simd,
                &mut scratch,
                probabilities.transposed(),
                upstream,
                self.target(to_v, head),
            );
        }
    }
}

/// One sequence forward, compiled for the machine's vectors.
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
        self.op.sequence(simd, self.inputs, self.sequence, self.out);
    }
}

/// One sequence backward, compiled for the machine's vectors.
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
        self.op.gradients(simd, self.inputs, self.sequence, self.targets);
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let mut out = vec![0f32; q_layout.shape().elem_count()];
        out.par_chunks_mut(self.tokens * self.width())
            .enumerate()
            .for_each(|(sequence, out)| {
                pulp::Arch::new().dispatch(Forward {
                    op: *self,
                    inputs,
                    sequence,
                    out,
                });
            });
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let count = q.elem_count();
        let (mut to_q, mut to_k, mut to_v) = (vec![0f32; count], vec![0f32; count], vec![0f32; count]);
        let step = self.tokens * self.width();
        let mut run = |inputs: [&[f32]; 4]| {
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
            Ok(())
        };
        with_values(q, |q| {
            with_values(k, |k| {
                with_values(v, |v| {
                    with_values(&upstream.contiguous()?, |upstream| run([q, k, v, upstream]))
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, q.shape(), q.device()).map(Some);
        Ok((tensor(to_q)?, tensor(to_k)?, tensor(to_v)?))
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
