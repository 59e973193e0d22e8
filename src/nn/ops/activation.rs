//! Functions of single values: GELU and its tanh approximation.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Row, by_rows, elementary, fused, values, wide};

/// `x · Φ(x)` with the normal distribution's Φ, the `gelu` of PyTorch and of DINOv2; any shape.
///
/// # Errors
/// Only what candle reports.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if fused(x.device()) {
        x.contiguous()?.apply_op1(Forward(Gelu))
    } else {
        wide(x)?.gelu_erf()?.to_dtype(x.dtype())
    }
}

/// `0.5·x·(1 + tanh(sqrt(2/π)·(x + 0.044715·x³)))`, the `gelu_pytorch_tanh` of transformers; any shape.
///
/// # Errors
/// Only what candle reports.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if fused(x.device()) {
        x.contiguous()?.apply_op1(Forward(GeluTanh))
    } else {
        wide(x)?.gelu()?.to_dtype(x.dtype())
    }
}

/// A function of one value with its derivative. Implementations are `#[inline(always)]`, see [`Row`].
trait Activation: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    const BACKWARD: &'static str;
    fn value(self, x: f32) -> f32;
    fn slope(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Gelu;

impl Activation for Gelu {
    const NAME: &'static str = "gelu";
    const BACKWARD: &'static str = "gelu-backward";

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        0.5 * x * (1.0 + elementary::erf(x * FRAC_1_SQRT_2))
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        const INV_SQRT_2_PI: f32 = 0.398_942_3;
        let phi = 0.5 * (1.0 + elementary::erf(x * FRAC_1_SQRT_2));
        phi + x * INV_SQRT_2_PI * elementary::exp(-0.5 * x * x)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl GeluTanh {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;

    /// (1 + tanh u) / 2 is the sigmoid of 2u.
    #[inline(always)]
    fn gate(x: f32) -> f32 {
        elementary::sigmoid(2.0 * Self::SQRT_2_OVER_PI * x * (1.0 + Self::CUBIC * x * x))
    }
}

impl Activation for GeluTanh {
    const NAME: &'static str = "gelu-tanh";
    const BACKWARD: &'static str = "gelu-tanh-backward";

    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * Self::gate(x)
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        let gate = Self::gate(x);
        let inner = 2.0 * Self::SQRT_2_OVER_PI * (1.0 + 3.0 * Self::CUBIC * x * x);
        gate * (1.0 + x * (1.0 - gate) * inner)
    }
}

struct Forward<A>(A);

impl<A: Activation> Row<1> for Forward<A> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = self.0.value(x);
        }
    }
}

impl<A: Activation> CustomOp1 for Forward<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; x.len()];
        by_rows(self, [x], [width], &mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&upstream.contiguous()?, &Backward(self.0)).map(Some)
    }
}

struct Backward<A>(A);

impl<A: Activation> Row<2> for Backward<A> {
    #[inline(always)]
    fn apply(&self, [x, upstream]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, &x), upstream) in out.iter_mut().zip(x).zip(upstream) {
            *out = upstream * self.0.slope(x);
        }
    }
}

impl<A: Activation> CustomOp2 for Backward<A> {
    fn name(&self) -> &'static str {
        A::BACKWARD
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
            check::agrees(&inputs, |x| gelu(&x[0]), |x| x[0].gelu_erf());
            check::agrees(&inputs, |x| gelu_tanh(&x[0]), |x| x[0].gelu());
        }
    }
}
