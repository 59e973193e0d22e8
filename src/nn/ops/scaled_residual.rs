//! `x + y · scale`: a residual connection behind LayerScale.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::{Row, by_rows, fused, values, with_values};

/// `x + y · scale` for `x`, `y` of (…, D) and a frozen `scale` of (D).
///
/// # Errors
/// When the shapes do not fit.
pub fn scaled_residual(x: &Tensor, y: &Tensor, scale: &Tensor) -> Result<Tensor> {
    if x.shape() != y.shape() {
        bail!("residual of {:?} and {:?}", x.shape(), y.shape());
    }
    if fused(x.device()) {
        let op = ScaledResidual {
            scale: scale.to_dtype(DType::F32)?.contiguous()?,
        };
        x.contiguous()?.apply_op2(&y.contiguous()?, op)
    } else {
        composite(x, y, scale)
    }
}

fn composite(x: &Tensor, y: &Tensor, scale: &Tensor) -> Result<Tensor> {
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
        let mut out = vec![0f32; x.len()];
        with_values(&self.scale, |scale| {
            by_rows(&AddScaled(scale), [x, y], [scale.len(); 2], &mut out, scale.len());
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _y: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_x = x.track_op().then(|| upstream.clone());
        let to_y = upstream
            .contiguous()?
            .apply_op1_no_bwd(&Scaled { scale: &self.scale })?;
        Ok((to_x, Some(to_y)))
    }
}

/// `x · scale` over the last dimension.
struct Scaled<'a> {
    scale: &'a Tensor, // (D)
}

impl CustomOp1 for Scaled<'_> {
    fn name(&self) -> &'static str {
        "scaled"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let mut out = vec![0f32; x.len()];
        with_values(self.scale, |scale| {
            by_rows(&Scale(scale), [x], [scale.len()], &mut out, scale.len());
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn values_and_gradients() {
        let scale = check::random(&[6], 1.0, "scale");
        let inputs = [check::random(&[2, 4, 6], 1.0, "x"), check::random(&[2, 4, 6], 1.0, "y")];
        check::agrees(
            &inputs,
            |x| scaled_residual(&x[0], &x[1], &scale),
            |x| composite(&x[0], &x[1], &scale.to_dtype(x[0].dtype())?),
        );
        assert!(scaled_residual(&inputs[0], &check::random(&[2, 3, 6], 1.0, "y"), &scale).is_err());
    }
}
