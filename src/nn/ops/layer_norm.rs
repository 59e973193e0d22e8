//! Layer normalisation over the last dimension with frozen weights.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{Row, by_rows, elementary, values, with_values};

/// `(x - mean) / sqrt(variance + eps) · weight + bias` over the last dimension, as `torch.nn.LayerNorm`.
///
/// `x` is (…, D), `weight` and `bias` are (D) and frozen: no gradient is computed for them.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        let op = LayerNorm {
            weight: weight.contiguous()?,
            bias: bias.contiguous()?,
            eps: eps as f32,
        };
        x.contiguous()?.apply_op1(op)
    } else {
        composite(x, weight, bias, eps)
    }
}

fn composite(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

struct LayerNorm {
    weight: Tensor, // (D)
    bias: Tensor,   // (D)
    eps: f32,
}

/// Mean and 1 / sqrt(variance + eps) of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = elementary::sum([x], |[x]| x) / n;
    let variance = elementary::sum([x], |[x]| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// One row forward.
struct Normalise<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Row<1> for Normalise<'_> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (mean, scale) = moments(x, self.eps);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

/// One row backward.
struct Denormalise<'a> {
    weight: &'a [f32],
    eps: f32,
}

impl Row<2> for Denormalise<'_> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        let (mean, scale) = moments(x, self.eps);
        let (n, width) = (x.len() as f32, out.len());
        let (x, upstream, weight) = (&x[..width], &upstream[..width], &self.weight[..width]);
        let g_mean = elementary::sum([upstream, weight], |[g, w]| g * w) / n;
        let g_dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * (x - mean)) * scale / n;
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * (upstream[i] * weight[i] - g_mean - (x[i] - mean) * scale * g_dot);
        }
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut out = vec![0f32; x.len()];
        with_values(&self.weight, |weight| {
            with_values(&self.bias, |bias| {
                let row = Normalise {
                    weight,
                    bias,
                    eps: self.eps,
                };
                by_rows(&row, [x], [weight.len()], &mut out, weight.len());
                Ok(())
            })
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let op = LayerNormBackward {
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

struct LayerNormBackward<'a> {
    weight: &'a Tensor, // (D)
    eps: f32,
}

impl CustomOp2 for LayerNormBackward<'_> {
    fn name(&self) -> &'static str {
        "layer-norm-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, upstream) = (values(x, x_layout)?, values(upstream, upstream_layout)?);
        let mut out = vec![0f32; x.len()];
        with_values(self.weight, |weight| {
            let row = Denormalise { weight, eps: self.eps };
            by_rows(&row, [x, upstream], [weight.len(); 2], &mut out, weight.len());
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        for width in [5, 32, 70] {
            let x = (check::random(&[2, 3, width], 2.0, "x") + 0.7).unwrap();
            let (weight, bias) = (
                check::random(&[width], 1.5, "weight"),
                check::random(&[width], 1.0, "bias"),
            );
            check::agrees(
                &[x],
                |x| layer_norm(&x[0], &weight, &bias, 1e-6),
                |x| {
                    composite(
                        &x[0],
                        &weight.to_dtype(x[0].dtype())?,
                        &bias.to_dtype(x[0].dtype())?,
                        1e-6,
                    )
                },
            );
        }
    }

    #[test]
    fn epsilon_counts() {
        let x = check::random(&[1, 8], 1e-3, "small");
        let (weight, bias) = (
            x.ones_like().unwrap().squeeze(0).unwrap(),
            check::random(&[8], 1.0, "bias"),
        );
        let at = |eps| layer_norm(&x, &weight, &bias, eps).unwrap().to_vec2::<f32>().unwrap();
        assert_ne!(at(1e-6), at(1e-5));
    }
}
