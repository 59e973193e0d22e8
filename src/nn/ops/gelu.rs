//! Exact (erf) GELU.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use std::f32::consts::FRAC_1_SQRT_2;

use super::{by_rows, elementary, values};

/// Values are independent: this many make a row of work.
const ROW: usize = 1024;

/// `x · Φ(x)` with the normal distribution's Φ, the `gelu` of PyTorch and of DINOv2; any shape.
///
/// # Errors
/// Only what candle reports.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(Gelu)
    } else {
        x.gelu_erf()
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut out = vec![0f32; x.len()];
        elementwise([x], &mut out, |[x]| {
            0.5 * x * (1.0 + elementary::erf(x * FRAC_1_SQRT_2))
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&upstream.contiguous()?, &GeluBackward)
            .map(Some)
    }
}

struct GeluBackward;

impl CustomOp2 for GeluBackward {
    fn name(&self) -> &'static str {
        "gelu-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        const INV_SQRT_2_PI: f32 = 0.398_942_3;
        let (x, upstream) = (values(x, x_layout)?, values(upstream, upstream_layout)?);
        let mut out = vec![0f32; x.len()];
        elementwise([x, upstream], &mut out, |[x, upstream]| {
            let phi = 0.5 * (1.0 + elementary::erf(x * FRAC_1_SQRT_2));
            upstream * (phi + x * INV_SQRT_2_PI * elementary::exp(-0.5 * x * x))
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// `out[i] = value(inputs[0][i], …)`.
fn elementwise<const N: usize>(
    inputs: [&[f32]; N],
    out: &mut [f32],
    value: impl Fn([f32; N]) -> f32 + Sync + Copy,
) {
    let whole = out.len() - out.len() % ROW;
    let (body, rest) = out.split_at_mut(whole);
    let fill = |inputs: [&[f32]; N], out: &mut [f32]| {
        for i in 0..out.len() {
            out[i] = value(std::array::from_fn(|n| inputs[n][i]));
        }
    };
    by_rows(inputs, body, [ROW; N], ROW, fill);
    fill(inputs.map(|input| &input[whole..]), rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        // More than one row of work, and a rest.
        for shape in [vec![3, 7], vec![1500]] {
            check::agrees(
                &[check::random(&shape, 5.0, "gelu")],
                |x| gelu(&x[0]),
                |x| x[0].gelu_erf(),
            );
        }
    }
}
