//! GELU in its tanh approximation.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Row, by_rows, elementary, values};

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `0.5·x·(1 + tanh(sqrt(2/π)·(x + 0.044715·x³)))`, the `gelu_pytorch_tanh` of transformers; any shape.
///
/// # Errors
/// Only what candle reports.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(GeluTanh)
    } else {
        x.gelu()
    }
}

/// (1 + tanh u) / 2 is the sigmoid of 2u.
#[inline(always)]
fn gate(x: f32) -> f32 {
    elementary::sigmoid(2.0 * SQRT_2_OVER_PI * x * (1.0 + CUBIC * x * x))
}

struct GeluTanh;

impl Row<1> for GeluTanh {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * gate(x);
        }
    }
}

impl CustomOp1 for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu-tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; x.len()];
        by_rows(self, [x], [width], &mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&upstream.contiguous()?, &GeluTanhBackward).map(Some)
    }
}

struct GeluTanhBackward;

impl Row<2> for GeluTanhBackward {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, &x), upstream) in out.iter_mut().zip(x).zip(upstream) {
            let gate = gate(x);
            let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
            *out = upstream * gate * (1.0 + x * (1.0 - gate) * slope);
        }
    }
}

impl CustomOp2 for GeluTanhBackward {
    fn name(&self) -> &'static str {
        "gelu-tanh-backward"
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
            let inputs = [check::random(&shape, 5.0, "gelu")];
            check::agrees(&inputs, |x| gelu_tanh(&x[0]), |x| x[0].gelu());
        }
    }
}
