//! Exact (erf) GELU.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use std::f32::consts::FRAC_1_SQRT_2;

use super::{Row, by_rows, elementary, values};

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

impl Row<1> for Gelu {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = 0.5 * x * (1.0 + elementary::erf(x * FRAC_1_SQRT_2));
        }
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; x.len()];
        by_rows(self, [x], [width], &mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&upstream.contiguous()?, &GeluBackward).map(Some)
    }
}

struct GeluBackward;

impl Row<2> for GeluBackward {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        const INV_SQRT_2_PI: f32 = 0.398_942_3;
        for ((out, &x), upstream) in out.iter_mut().zip(x).zip(upstream) {
            let phi = 0.5 * (1.0 + elementary::erf(x * FRAC_1_SQRT_2));
            *out = upstream * (phi + x * INV_SQRT_2_PI * elementary::exp(-0.5 * x * x));
        }
    }
}

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
        let (x, upstream) = (values(x, x_layout)?, values(upstream, upstream_layout)?);
        let width = x_layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; x.len()];
        by_rows(self, [x, upstream], [width; 2], &mut out, width);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        for shape in [vec![3, 7], vec![1500]] {
            check::agrees(
                &[check::random(&shape, 5.0, "gelu")],
                |x| gelu(&x[0]),
                |x| x[0].gelu_erf(),
            );
        }
    }
}
