//! Multi-head attention without a mask, for short sequences.
//!
//! One task per sequence: scores, softmax and weighted sum of all its heads stay in cache. Only
//! queries, keys and values are kept for the backward pass; the probabilities are computed again.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::{elementary, values};

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
    if q.device().is_cpu() {
        q.contiguous()?
            .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        op.composite(q, k, v)
    }
}

/// A contiguous (B, T, H·K) tensor in main memory.
#[derive(Clone, Copy)]
struct Values<'a> {
    storage: &'a CpuStorage,
    start: usize,
}

impl<'a> Values<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        values(storage, layout)?;
        Ok(Self {
            storage,
            start: layout.start_offset(),
        })
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
        let scores = (split(q)?.matmul(&split(k)?.t()?)? * f64::from(self.scale()))?; // (B, H, T, T)
        let shifted = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
            .exp()?;
        let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        probabilities.matmul(&split(v)?)?.transpose(1, 2)?.reshape((
            self.batch,
            self.tokens,
            self.width(),
        ))
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// One sequence seen as (H, T, K).
    fn head_major(&self, x: Values, sequence: usize) -> Layout {
        let shape = Shape::from((self.heads, self.tokens, self.head_dim));
        let strides = vec![self.head_dim, self.width(), 1];
        Layout::new(
            shape,
            strides,
            x.start + sequence * self.tokens * self.width(),
        )
    }

    /// One sequence seen as (H, K, T).
    fn head_major_transposed(&self, x: Values, sequence: usize) -> Layout {
        let shape = Shape::from((self.heads, self.head_dim, self.tokens));
        let strides = vec![self.head_dim, 1, self.width()];
        Layout::new(
            shape,
            strides,
            x.start + sequence * self.tokens * self.width(),
        )
    }

    /// `a · bᵀ` of (H, T, K) each: (H, T, T).
    fn outer(&self, a: Values, b: Values, sequence: usize) -> Result<Vec<f32>> {
        let (t, k) = (self.tokens, self.head_dim);
        let (a_layout, b_layout) = (
            self.head_major(a, sequence),
            self.head_major_transposed(b, sequence),
        );
        into_vec(
            a.storage
                .matmul(b.storage, (self.heads, t, t, k), &a_layout, &b_layout)?,
        )
    }

    /// `a · b` (or `aᵀ · b`) of a contiguous (H, T, T) and one sequence of `b` as (H, T, K): (H, T, K).
    fn weighted(
        &self,
        a: &CpuStorage,
        transposed: bool,
        b: Values,
        sequence: usize,
    ) -> Result<Vec<f32>> {
        let (h, t, k) = (self.heads, self.tokens, self.head_dim);
        let strides = if transposed {
            vec![t * t, 1, t]
        } else {
            vec![t * t, t, 1]
        };
        let layout = Layout::new(Shape::from((h, t, t)), strides, 0);
        into_vec(a.matmul(
            b.storage,
            (h, t, k, t),
            &layout,
            &self.head_major(b, sequence),
        )?)
    }

    /// Writes (H, T, K) as (T, H·K).
    fn merge_heads(&self, from: &[f32], to: &mut [f32]) {
        for (head, rows) in from.chunks_exact(self.tokens * self.head_dim).enumerate() {
            for (token, row) in rows.chunks_exact(self.head_dim).enumerate() {
                to[token * self.width() + head * self.head_dim..][..self.head_dim]
                    .copy_from_slice(row);
            }
        }
    }

    /// softmax(q · kᵀ · scale) of one sequence: (H, T, T).
    fn probabilities(&self, q: Values, k: Values, sequence: usize) -> Result<Vec<f32>> {
        let mut scores = self.outer(q, k, sequence)?;
        let (tokens, scale) = (self.tokens, self.scale());
        pulp::Arch::new().dispatch(|| {
            for row in scores.chunks_exact_mut(tokens) {
                softmax_scaled(row, scale);
            }
        });
        Ok(scores)
    }

    /// Gradients of q, k and v of one sequence, as (T, H·K), from the upstream gradient.
    fn gradients(
        &self,
        [q, k, v, upstream]: [Values; 4],
        sequence: usize,
        [to_q, to_k, to_v]: [&mut [f32]; 3],
    ) -> Result<()> {
        let probabilities = self.probabilities(q, k, sequence)?;
        let mut scores = self.outer(upstream, v, sequence)?; // gradient of the probabilities
        let (tokens, scale) = (self.tokens, self.scale());
        pulp::Arch::new().dispatch(|| {
            for (row, p) in scores
                .chunks_exact_mut(tokens)
                .zip(probabilities.chunks_exact(tokens))
            {
                let dot = elementary::sum(tokens, |i| row[i] * p[i]);
                for i in 0..tokens {
                    row[i] = p[i] * (row[i] - dot) * scale;
                }
            }
        });
        let (probabilities, scores) = (CpuStorage::F32(probabilities), CpuStorage::F32(scores));
        self.merge_heads(&self.weighted(&scores, false, k, sequence)?, to_q);
        self.merge_heads(&self.weighted(&scores, true, q, sequence)?, to_k);
        self.merge_heads(
            &self.weighted(&probabilities, true, upstream, sequence)?,
            to_v,
        );
        Ok(())
    }
}

/// `row = softmax(row · scale)`.
#[inline(always)]
fn softmax_scaled(row: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let mut max = chunks
        .remainder()
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| a.max(b));
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
    let inverse = 1.0 / elementary::sum(row.len(), |i| row[i]);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

fn into_vec(storage: CpuStorage) -> Result<Vec<f32>> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        other => bail!("attention works on f32, not {:?}", other.dtype()),
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
        let (q, k, v) = (
            Values::new(q, q_layout)?,
            Values::new(k, k_layout)?,
            Values::new(v, v_layout)?,
        );
        let mut out = vec![0f32; q_layout.shape().elem_count()];
        out.par_chunks_mut(self.tokens * self.width())
            .enumerate()
            .try_for_each(|(sequence, out)| {
                let probabilities = CpuStorage::F32(self.probabilities(q, k, sequence)?);
                self.merge_heads(&self.weighted(&probabilities, false, v, sequence)?, out);
                Ok::<_, candle_core::Error>(())
            })?;
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
        let upstream = upstream.contiguous()?;
        let inputs = [q, k, v, &upstream].map(Tensor::storage_and_layout);
        let [
            (q_in, q_layout),
            (k_in, k_layout),
            (v_in, v_layout),
            (upstream_in, upstream_layout),
        ] = &inputs;
        let (Storage::Cpu(q_in), Storage::Cpu(k_in), Storage::Cpu(v_in), Storage::Cpu(upstream_in)) =
            (&**q_in, &**k_in, &**v_in, &**upstream_in)
        else {
            bail!("attention's backward needs values in main memory");
        };
        let inputs = [
            Values::new(q_in, q_layout)?,
            Values::new(k_in, k_layout)?,
            Values::new(v_in, v_layout)?,
            Values::new(upstream_in, upstream_layout)?,
        ];
        let count = q.elem_count();
        let (mut to_q, mut to_k, mut to_v) =
            (vec![0f32; count], vec![0f32; count], vec![0f32; count]);
        let step = self.tokens * self.width();
        to_q.par_chunks_mut(step)
            .zip(to_k.par_chunks_mut(step))
            .zip(to_v.par_chunks_mut(step))
            .enumerate()
            .try_for_each(|(sequence, ((to_q, to_k), to_v))| {
                self.gradients(inputs, sequence, [to_q, to_k, to_v])
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
        assert_eq!(
            alone.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            expected
        );
    }

    #[test]
    fn heads_must_divide_the_width() {
        let x = check::random(&[1, 2, 6], 1.0, "x");
        assert!(attention(&x, &x, &x, 4).is_err() && attention(&x, &x, &x, 0).is_err());
    }
}
