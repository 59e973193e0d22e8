//! Root-mean-square normalisation over the last dimension with frozen weights.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{Row, by_rows, elementary, values, with_values};

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension: `x` is (…, D), the frozen `weight` (D).
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        if x.dim(D::Minus1)? != weight.elem_count() {
            candle_core::bail!("rms norm of {:?} with weights {:?}", x.shape(), weight.shape());
        }
        x.contiguous()?.apply_op1(RmsNorm {
            weight: weight.contiguous()?,
            eps: eps as f32,
        })
    } else {
        composite(x, weight, eps)
    }
}

fn composite(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

struct RmsNorm {
    weight: Tensor, // (D)
    eps: f32,
}

/// 1 / sqrt(mean(x²) + eps).
#[inline(always)]
fn inverse_root(x: &[f32], eps: f32) -> f32 {
    1.0 / (elementary::sum([x], |[x]| x * x) / x.len() as f32 + eps).sqrt()
}

/// One row forward.
struct Normalise<'a> {
    weight: &'a [f32],
    eps: f32,
}

impl Row<1> for Normalise<'_> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let scale = inverse_root(x, self.eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

/// One row backward.
struct Backward<'a> {
    weight: &'a [f32],
    eps: f32,
}

impl Row<2> for Backward<'_> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        let n = out.len();
        let (x, upstream, weight) = (&x[..n], &upstream[..n], &self.weight[..n]);
        let scale = inverse_root(x, self.eps);
        let dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * x) * scale * scale / n as f32;
        for i in 0..n {
            out[i] = scale * (upstream[i] * weight[i] - x[i] * dot);
        }
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = self.weight.elem_count();
        let mut out = vec![0f32; x.len()];
        with_values(&self.weight, |weight| {
            by_rows(&Normalise { weight, eps: self.eps }, [x], [width], &mut out, width);
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let op = RmsNormBackward {
            weight: &self.weight,
            eps: self.eps,
        };
        if x.track_op() {
            x.apply_op2_no_bwd(&upstream.contiguous()?, &op).map(Some)
        } else {
            Ok(None)
        }
    }
}

struct RmsNormBackward<'a> {
    weight: &'a Tensor, // (D)
    eps: f32,
}

impl CustomOp2 for RmsNormBackward<'_> {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, upstream) = (values(x, x_layout)?, values(upstream, upstream_layout)?);
        let width = self.weight.elem_count();
        let mut out = vec![0f32; x.len()];
        with_values(self.weight, |weight| {
            by_rows(
                &Backward { weight, eps: self.eps },
                [x, upstream],
                [width; 2],
                &mut out,
                width,
            );
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check::{agrees, random};
    use candle_core::DType;

    #[test]
    fn values_and_gradients() {
        for width in [5, 40] {
            let weight = random(&[width], 1.5, "weight");
            let exact = weight.to_dtype(DType::F64).unwrap();
            let inputs = [random(&[3, 2, width], 2.0, "x")];
            agrees(
                &inputs,
                |x| rms_norm(&x[0], &weight, 1e-6),
                |x| composite(&x[0], &exact, 1e-6),
            );
        }
    }
}
