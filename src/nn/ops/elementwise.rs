//! Operations value by value: activations, gates of a gated MLP, the residual connection behind LayerScale.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::{Row, by_rows, elementary, fused, gradient, map_rows, values, wide, with_values};

/// `x · Φ(x)` with the normal distribution's Φ, the `gelu` of PyTorch and of DINOv2; any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if fused(x.device()) {
        x.contiguous()?.apply_op1(Forward(Gelu))
    } else {
        wide(x)?.gelu_erf()?.to_dtype(x.dtype())
    }
}

/// `0.5·x·(1 + tanh(sqrt(2/π)·(x + 0.044715·x³)))`, the `gelu_pytorch_tanh` of transformers; any shape.
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
    fn value(self, x: f32) -> f32;
    fn slope(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Gelu;

impl Activation for Gelu {
    const NAME: &'static str = "gelu";

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

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = map_rows(self, [values(x, layout)?], layout.shape());
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        gradient(&Backward(self.0), [x, &upstream.contiguous()?], x.shape()).map(Some)
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

/// `silu(gate) · up` of two tensors of the same shape.
///
/// # Errors
/// When the shapes differ.
pub fn gated_silu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("gate {:?} and values {:?}", gate.shape(), up.shape());
    }
    if fused(gate.device()) {
        gate.contiguous()?.apply_op2(&up.contiguous()?, GatedSilu)
    } else {
        gated_silu_composite(gate, up)
    }
}

fn gated_silu_composite(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (wide(gate)?.silu()? * wide(up)?)?.to_dtype(gate.dtype())
}

struct GatedSilu;

impl Row<2> for GatedSilu {
    #[inline(always)]
    fn apply(&self, [gate, up]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * elementary::sigmoid(*gate) * up;
        }
    }
}

impl CustomOp2 for GatedSilu {
    fn name(&self) -> &'static str {
        "gated-silu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = map_rows(self, [values(gate, layout)?, values(up, up_layout)?], layout.shape());
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = &upstream.contiguous()?;
        let to_gate = gradient(&ToGate, [upstream, gate, up], gate.shape())?;
        // The upstream gradient in place of the values, through the same gate.
        let to_up = gradient(self, [gate, upstream], gate.shape())?;
        Ok((Some(to_gate), Some(to_up)))
    }
}

struct ToGate;

impl Row<3> for ToGate {
    #[inline(always)]
    fn apply(&self, [upstream, gate, up]: [&[f32]; 3], out: &mut [f32]) {
        for (((out, upstream), gate), up) in out.iter_mut().zip(upstream).zip(gate).zip(up) {
            let sigmoid = elementary::sigmoid(*gate);
            *out = upstream * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}

/// SwiGLU of the halves of the last dimension: `silu(x[.., ..H]) · x[.., H..]` for `x` of (…, 2H); gives (…, H).
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
        swiglu_composite(x)
    }
}

fn swiglu_composite(x: &Tensor) -> Result<Tensor> {
    let halves = wide(x)?.chunk(2, D::Minus1)?;
    (halves[0].silu()? * &halves[1])?.to_dtype(x.dtype())
}

struct SwiGlu;

impl Row<1> for SwiGlu {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (gate, up) = x.split_at(out.len());
        GatedSilu.apply([gate, up], out);
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let mut dims = layout.dims().to_vec();
        let Some(width) = dims.last_mut() else {
            bail!("swiglu of a scalar")
        };
        let half = *width / 2;
        *width = half;
        let mut out = vec![0f32; x.len() / 2];
        by_rows(self, [x], [2 * half], &mut out, half);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let half = upstream.dim(D::Minus1)?;
        with_values([x, &upstream.contiguous()?], |inputs| {
            let mut out = vec![0f32; x.elem_count()];
            by_rows(&SwiGluBackward, inputs, [2 * half, half], &mut out, 2 * half);
            Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
        })
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

/// `x + y · scale` for `x`, `y` of (…, D) and a frozen `scale` of (D).
///
/// # Errors
/// When the shapes do not fit.
pub fn scaled_residual(x: &Tensor, y: &Tensor, scale: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("residual of {:?} and {:?}", x.shape(), y.shape());
    }
    if fused(x.device()) {
        let scale = scale.to_dtype(DType::F32)?.contiguous()?;
        x.contiguous()?.apply_op2(&y.contiguous()?, ScaledResidual { scale })
    } else {
        scaled_residual_composite(x, y, scale)
    }
}

fn scaled_residual_composite(x: &Tensor, y: &Tensor, scale: &Tensor) -> Result<Tensor> {
    x + y.broadcast_mul(&scale.to_dtype(y.dtype())?)?
}

struct ScaledResidual {
    scale: Tensor, // (D)
}

/// One row forward.
struct AddScaled<'a>(&'a [f32]);

impl Row<2> for AddScaled<'_> {
    #[inline(always)]
    fn apply(&self, [x, y]: [&[f32]; 2], out: &mut [f32]) {
        for (((out, x), y), scale) in out.iter_mut().zip(x).zip(y).zip(self.0) {
            *out = x + y * scale;
        }
    }
}

/// One row backward.
struct Scale<'a>(&'a [f32]);

impl Row<1> for Scale<'_> {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for ((out, x), scale) in out.iter_mut().zip(x).zip(self.0) {
            *out = x * scale;
        }
    }
}

impl CustomOp2 for ScaledResidual {
    fn name(&self) -> &'static str {
        "scaled-residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (values(x, x_layout)?, values(y, y_layout)?);
        let out = with_values([&self.scale], |[scale]| {
            Ok(map_rows(&AddScaled(scale), [x, y], x_layout.shape()))
        })?;
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_x = x.track_op().then(|| upstream.clone());
        let contiguous = upstream.contiguous()?;
        let to_y = with_values([&self.scale], |[scale]| {
            gradient(&Scale(scale), [&contiguous], y.shape())
        })?;
        Ok((to_x, Some(to_y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check::{agrees, random};

    #[test]
    fn values_and_gradients_of_gelu() {
        for shape in [vec![3, 7], vec![1500]] {
            let inputs = [random(&shape, 5.0, "gelu")];
            agrees(&inputs, |x| gelu(&x[0]), |x| x[0].gelu_erf());
            agrees(&inputs, |x| gelu_tanh(&x[0]), |x| x[0].gelu());
        }
    }

    #[test]
    fn values_and_gradients_of_swiglu() {
        agrees(
            &[random(&[2, 3, 10], 4.0, "swiglu")],
            |x| swiglu(&x[0]),
            |x| swiglu_composite(&x[0]),
        );
        assert!(swiglu(&random(&[2, 5], 1.0, "odd")).is_err());
    }

    #[test]
    fn values_and_gradients_of_gated_silu() {
        let inputs = [random(&[3, 50], 4.0, "gate"), random(&[3, 50], 2.0, "up")];
        agrees(
            &inputs,
            |x| gated_silu(&x[0], &x[1]),
            |x| gated_silu_composite(&x[0], &x[1]),
        );
    }

    #[test]
    fn values_and_gradients_of_a_scaled_residual() {
        let scale = random(&[6], 1.0, "scale");
        let inputs = [random(&[2, 4, 6], 1.0, "x"), random(&[2, 4, 6], 1.0, "y")];
        agrees(
            &inputs,
            |x| scaled_residual(&x[0], &x[1], &scale),
            |x| scaled_residual_composite(&x[0], &x[1], &scale.to_dtype(x[0].dtype())?),
        );
        assert!(scaled_residual(&inputs[0], &random(&[2, 3, 6], 1.0, "y"), &scale).is_err());
    }
}
