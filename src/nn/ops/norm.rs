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
        Ok(normalise(x, &self.weight, Some(&self.bias), self.eps)?)
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
        Ok(normalise(x, &self.weight, None, self.eps)?)
    }
}

/// A layer norm where there is a bias, else a root-mean-square norm.
fn normalise(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if !fused(x.device()) {
        return composite(x, weight, bias, eps);
    }
    let width = x.dim(D::Minus1)?;
    let op = Norm {
        weight: weight.to_dtype(DType::F32)?.contiguous()?,
        bias: bias.map(|bias| bias.to_dtype(DType::F32)?.contiguous()).transpose()?,
        eps: eps as f32,
    };
    for parameter in [Some(weight), bias].into_iter().flatten() {
        if parameter.elem_count() != width {
            bail!("{} of {:?} with weights {:?}", op.name(), x.shape(), parameter.shape());
        }
    }
    x.contiguous()?.apply_op1(op)
}

fn composite(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let values = wide(x)?;
    let (values, shift) = match bias {
        Some(bias) => {
            let shift = bias.to_dtype(values.dtype())?;
            (values.broadcast_sub(&values.mean_keepdim(D::Minus1)?)?, Some(shift))
        }
        None => (values, None),
    };
    let root = (values.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let scaled = values
        .broadcast_div(&root)?
        .broadcast_mul(&weight.to_dtype(values.dtype())?)?;
    match shift {
        Some(shift) => scaled.broadcast_add(&shift)?,
        None => scaled,
    }
    .to_dtype(x.dtype())
}

struct Norm {
    weight: Tensor,       // (D)
    bias: Option<Tensor>, // (D)
    eps: f32,
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        match self.bias {
            Some(_) => "layer-norm",
            None => "rms-norm",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, shape, eps) = (values(x, layout)?, layout.shape(), self.eps);
        let out = match &self.bias {
            Some(bias) => with_values([&self.weight, bias], |[weight, bias]| {
                Ok(map_rows(&Centred { weight, bias, eps }, [x], shape))
            }),
            None => with_values([&self.weight], |[weight]| {
                Ok(map_rows(&Uncentred { weight, eps }, [x], shape))
            }),
        }?;
        Ok((CpuStorage::F32(out), shape.clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let (inputs, shape, eps) = ([x, &upstream.contiguous()?], x.shape(), self.eps);
        with_values([&self.weight], |[weight]| match self.bias {
            Some(_) => gradient(&Centred { weight, bias: &[], eps }, inputs, shape),
            None => gradient(&Uncentred { weight, eps }, inputs, shape),
        })
        .map(Some)
    }
}

/// The layer norm of a row forward, or its gradient, which no bias is needed for.
struct Centred<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Centred<'_> {
    /// Mean and 1 / sqrt(variance + eps) of a row.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = elementary::sum([x], |[x]| x) / n;
        let variance = elementary::sum([x], |[x]| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

impl Row<1> for Centred<'_> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (mean, scale) = self.moments(x);
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

impl Row<2> for Centred<'_> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        let (mean, scale) = self.moments(x);
        let (n, width) = (x.len() as f32, out.len());
        let (x, upstream, weight) = (&x[..width], &upstream[..width], &self.weight[..width]);
        let g_mean = elementary::sum([upstream, weight], |[g, w]| g * w) / n;
        let g_dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * (x - mean)) * scale / n;
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * (upstream[i] * weight[i] - g_mean - (x[i] - mean) * scale * g_dot);
        }
    }
}

/// The root-mean-square norm of a row forward, or its gradient.
struct Uncentred<'a> {
    weight: &'a [f32],
    eps: f32,
}

impl Uncentred<'_> {
    /// 1 / sqrt(mean(x²) + eps).
    #[inline(always)]
    fn inverse_root(&self, x: &[f32]) -> f32 {
        1.0 / (elementary::sum([x], |[x]| x * x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl Row<1> for Uncentred<'_> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let scale = self.inverse_root(x);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

impl Row<2> for Uncentred<'_> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        let n = out.len();
        let (x, upstream, weight) = (&x[..n], &upstream[..n], &self.weight[..n]);
        let scale = self.inverse_root(x);
        let dot = elementary::sum([upstream, weight, x], |[g, w, x]| g * w * x) * scale * scale / n as f32;
        for i in 0..n {
            out[i] = scale * (upstream[i] * weight[i] - x[i] * dot);
        }
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
                |x| normalise(&x[0], &weight, Some(&bias), 1e-6),
                |x| {
                    composite(
                        &x[0],
                        &weight.to_dtype(x[0].dtype())?,
                        Some(&bias.to_dtype(x[0].dtype())?),
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
        let at = |eps| {
            normalise(&x, &weight, Some(&bias), eps)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap()
        };
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
                |x| normalise(&x[0], &weight, None, 1e-6),
                |x| composite(&x[0], &exact, None, 1e-6),
            );
        }
    }

    #[test]
    fn weights_of_another_width_are_refused() {
        let x = check::random(&[2, 8], 1.0, "x");
        let narrow = check::random(&[4], 1.0, "weight");
        assert!(normalise(&x, &narrow, None, 1e-6).is_err() && normalise(&x, &narrow, Some(&narrow), 1e-6).is_err());
    }
}
