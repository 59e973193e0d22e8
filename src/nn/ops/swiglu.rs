//! SwiGLU: `silu(first half) · second half` of the last dimension.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

use super::{Row, by_rows, elementary, fused, values, wide};

/// `silu(x[.., ..H]) · x[.., H..]` for `x` of (…, 2H); gives (…, H).
///
/// # Errors
/// When the last dimension is odd.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    if x.dim(D::Minus1)? % 2 != 0 {
        bail!("swiglu of an odd width: {:?}", x.shape());
    }
    if fused(x.device()) {
        x.contiguous()?.apply_op1(SwiGlu)
    } else {
        composite(x)
    }
}

fn composite(x: &Tensor) -> Result<Tensor> {
    let halves = wide(x)?.chunk(2, D::Minus1)?;
    (halves[0].silu()? * &halves[1])?.to_dtype(x.dtype())
}

/// (…, 2H) → (H, shape (…, H)).
fn halved(shape: &Shape) -> Result<(usize, Shape)> {
    let mut dims = shape.dims().to_vec();
    match dims.last_mut() {
        Some(last) => {
            *last /= 2;
            Ok((*last, Shape::from(dims)))
        }
        None => bail!("swiglu of a scalar"),
    }
}

struct SwiGlu;

impl Row<1> for SwiGlu {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (gate, up) = x.split_at(out.len());
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * elementary::sigmoid(*gate) * up;
        }
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (half, shape) = halved(layout.shape())?;
        let mut out = vec![0f32; x.len() / 2];
        by_rows(self, [x], [2 * half], &mut out, half);
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&upstream.contiguous()?, &SwiGluBackward).map(Some)
    }
}

struct SwiGluBackward;

impl Row<2> for SwiGluBackward {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        let half = upstream.len();
        let (gate, up) = x.split_at(half);
        let (to_gate, to_up) = out.split_at_mut(half);
        let (gate, up, to_gate, to_up) = (&gate[..half], &up[..half], &mut to_gate[..half], &mut to_up[..half]);
        for i in 0..half {
            let sigmoid = elementary::sigmoid(gate[i]);
            to_gate[i] = upstream[i] * up[i] * sigmoid * (1.0 + gate[i] * (1.0 - sigmoid));
            to_up[i] = upstream[i] * gate[i] * sigmoid;
        }
    }
}

impl CustomOp2 for SwiGluBackward {
    fn name(&self) -> &'static str {
        "swiglu-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, upstream) = (values(x, x_layout)?, values(upstream, upstream_layout)?);
        let (half, _) = halved(x_layout.shape())?;
        let mut out = vec![0f32; x.len()];
        by_rows(self, [x, upstream], [2 * half, half], &mut out, 2 * half);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        check::agrees(
            &[check::random(&[2, 3, 10], 4.0, "swiglu")],
            |x| swiglu(&x[0]),
            |x| composite(&x[0]),
        );
        assert!(swiglu(&check::random(&[2, 5], 1.0, "odd")).is_err());
    }
}
