//! Normalisations over the last dimension with frozen weights: no gradient is computed for them.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

use super::{Row, elementary, fused, gradient, map_rows, values, wide, with_values};

/// `(x - mean) / sqrt(variance + eps) · weight + bias`, as `torch.nn.LayerNorm`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// (D)
    pub weight: Tensor,
    /// (D)
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// (…, D) → (…, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> crate::error::Result<Tensor> {
        Ok(layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}

/// `x / sqrt(mean(x²) + eps) · weight`, the root-mean-square norm.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// (D)
    pub weight: Tensor,
    /// Added to the mean of squares.
    pub eps: f64,
}

impl RmsNorm {
    /// (…, D) → (…, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> crate::error::Result<Tensor> {
        Ok(rms_norm(x, &self.weight, self.eps)?)
    }
}

fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(x.device()) {
        in_one_pass(Centred, x, weight, Some(bias), eps)
    } else {
        layer_norm_composite(x, weight, bias, eps)
    }
}

fn layer_norm_composite(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let values = wide(x)?;
    let (weight, bias) = (weight.to_dtype(values.dtype())?, bias.to_dtype(values.dtype())?);
    let centred = values.broadcast_sub(&values.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(&weight)?
        .broadcast_add(&bias)?
        .to_dtype(x.dtype())
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(x.device()) {
        in_one_pass(Uncentred, x, weight, None, eps)
    } else {
        rms_norm_composite(x, weight, eps)
    }
}

fn rms_norm_composite(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let values = wide(x)?;
    let root = (values.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    values
        .broadcast_div(&root)?
        .broadcast_mul(&weight.to_dtype(values.dtype())?)?
        .to_dtype(x.dtype())
}

/// A normalisation of one row of D values; `bias` is empty where it has none. Implementations are
/// `#[inline(always)]`, see [`Row`].
trait Norm: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    fn forward(self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
    fn backward(self, x: &[f32], upstream: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
}

#[derive(Clone, Copy)]
struct Centred;

impl Centred {
    /// Mean and 1 / sqrt(variance + eps) of a row.
    #[inline(always)]
    fn moments(x: &[f32], eps: f32) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = elementary::sum([x], |[x]| x) / n;
        let variance = elementary::sum([x], |[x]| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (variance + eps).sqrt())
    }
}

impl Norm for Centred {
    const NAME: &'static str = "layer-norm";

    #[inline(always)]
    fn forward(self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let (mean, scale) = Self::moments(x, eps);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }

    #[inline(always)]
    fn backward(self, x: &[f32], upstream: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let (mean, scale) = Self::moments(x, eps);
        let (n, width) = (x.len() as f32, out.len());
        let (x, upstream, weight) = (&x[..width], &upstream[..width], &weight[..width]);
        let g_mean = elementary::sum([upstream, weight], |[g, w]| g * w) / n;
        let g_dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * (x - mean)) * scale / n;
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * (upstream[i] * weight[i] - g_mean - (x[i] - mean) * scale * g_dot);
        }
    }
}

#[derive(Clone, Copy)]
struct Uncentred;

impl Uncentred {
    /// 1 / sqrt(mean(x²) + eps).
    #[inline(always)]
    fn inverse_root(x: &[f32], eps: f32) -> f32 {
        1.0 / (elementary::sum([x], |[x]| x * x) / x.len() as f32 + eps).sqrt()
    }
}

impl Norm for Uncentred {
    const NAME: &'static str = "rms-norm";

    #[inline(always)]
    fn forward(self, x: &[f32], weight: &[f32], _bias: &[f32], eps: f32, out: &mut [f32]) {
        let scale = Self::inverse_root(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }

    #[inline(always)]
    fn backward(self, x: &[f32], upstream: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let n = out.len();
        let (x, upstream, weight) = (&x[..n], &upstream[..n], &weight[..n]);
        let scale = Self::inverse_root(x, eps);
        let dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * x) * scale * scale / n as f32;
        for i in 0..n {
            out[i] = scale * (upstream[i] * weight[i] - x[i] * dot);
        }
    }
}

fn in_one_pass<N: Norm>(norm: N, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    for parameter in [Some(weight), bias].into_iter().flatten() {
        if parameter.elem_count() != width {
            bail!("{} of {:?} with weights {:?}", N::NAME, x.shape(), parameter.shape());
        }
    }
    x.contiguous()?.apply_op1(Forward {
        norm,
        weight: weight.to_dtype(DType::F32)?.contiguous()?,
        bias: bias.map(|bias| bias.to_dtype(DType::F32)?.contiguous()).transpose()?,
        eps: eps as f32,
    })
}

struct Forward<N> {
    norm: N,
    weight: Tensor,       // (D)
    bias: Option<Tensor>, // (D)
    eps: f32,
}

/// A normalisation with the values of its weights.
struct Values<'a, N> {
    norm: N,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl<N: Norm> Row<1> for Values<'_, N> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        self.norm.forward(x, self.weight, self.bias, self.eps, out);
    }
}

impl<N: Norm> Row<2> for Values<'_, N> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        self.norm.backward(x, upstream, self.weight, self.eps, out);
    }
}

impl<N: Norm> CustomOp1 for Forward<N> {
    fn name(&self) -> &'static str {
        N::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let run = |weight: &[f32], bias: &[f32]| {
            let row = Values {
                norm: self.norm,
                weight,
                bias,
                eps: self.eps,
            };
            Ok(map_rows(&row, [x], layout.shape()))
        };
        let out = match &self.bias {
            Some(bias) => with_values([&self.weight, bias], |[weight, bias]| run(weight, bias)),
            None => with_values([&self.weight], |[weight]| run(weight, &[])),
        }?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let upstream = upstream.contiguous()?;
        with_values([&self.weight], |[weight]| {
            let row = Values {
                norm: self.norm,
                weight,
                bias: &[],
                eps: self.eps,
            };
            gradient(&row, [x, &upstream], x.shape()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;
    use candle_core::DType;

    #[test]
    fn layer_norm_values_and_gradients() {
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
                    layer_norm_composite(
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

    #[test]
    fn rms_norm_values_and_gradients() {
        for width in [5, 40] {
            let weight = check::random(&[width], 1.5, "weight");
            let exact = weight.to_dtype(DType::F64).unwrap();
            let inputs = [check::random(&[3, 2, width], 2.0, "x")];
            check::agrees(
                &inputs,
                |x| rms_norm(&x[0], &weight, 1e-6),
                |x| rms_norm_composite(&x[0], &exact, 1e-6),
            );
        }
    }

    #[test]
    fn weights_of_another_width_are_refused() {
        let x = check::random(&[2, 8], 1.0, "x");
        let narrow = check::random(&[4], 1.0, "weight");
        assert!(rms_norm(&x, &narrow, 1e-6).is_err() && layer_norm(&x, &narrow, &narrow, 1e-6).is_err());
    }
}
