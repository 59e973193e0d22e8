//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>) with halves rotated against each other.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

use super::{Row, by_rows, fused, values, wide, with_values};

/// Turns each head's pair (i, i + K/2) by its row's angle i: `x` is (…, H·K), `cos` and `sin` are
/// (rows, K/2) of the angles, one row for each row of `x`.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let width = x.dim(D::Minus1)?;
    if cos.shape() != sin.shape() || half == 0 || width % (2 * half) != 0 || rows * width != x.elem_count() {
        bail!("rotation of {:?} by angles {:?}", x.shape(), cos.shape());
    }
    if fused(x.device()) {
        x.contiguous()?.apply_op1(Rotary {
            cos: cos.contiguous()?,
            sin: sin.contiguous()?,
            direction: 1.0,
        })
    } else {
        composite(x, cos, sin)
    }
}

fn composite(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let heads = x.elem_count() / (rows * 2 * half);
    let pairs = wide(x)?.reshape((rows, heads, 2, half))?;
    let (first, second) = (pairs.narrow(2, 0, 1)?, pairs.narrow(2, 1, 1)?);
    let (cos, sin) = (cos.reshape((rows, 1, 1, half))?, sin.reshape((rows, 1, 1, half))?);
    let turned = Tensor::cat(
        &[
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ],
        2,
    )?;
    turned.reshape(x.shape())?.to_dtype(x.dtype())
}

#[derive(Clone)]
struct Rotary {
    cos: Tensor, // (rows, K/2)
    sin: Tensor, // (rows, K/2)
    /// 1 forward, -1 back: the inverse of a rotation is its transpose.
    direction: f32,
}

impl Row<3> for Rotary {
    #[inline(always)]
    fn apply(&self, [x, cos, sin]: [&[f32]; 3], out: &mut [f32]) {
        let half = cos.len();
        for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
            let (first, second) = x.split_at(half);
            let (to_first, to_second) = out.split_at_mut(half);
            let (second, to_second, sin) = (&second[..half], &mut to_second[..half], &sin[..half]);
            for i in 0..half {
                let sin = sin[i] * self.direction;
                to_first[i] = first[i] * cos[i] - second[i] * sin;
                to_second[i] = second[i] * cos[i] + first[i] * sin;
            }
        }
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (rows, half) = self.cos.dims2()?;
        let width = x.len() / rows.max(1);
        let mut out = vec![0f32; x.len()];
        with_values([&self.cos, &self.sin], |[cos, sin]| {
            by_rows(self, [x, cos, sin], [width, half, half], &mut out, width);
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            direction: -self.direction,
            ..self.clone()
        };
        upstream.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check::{agrees, random};
    use candle_core::{DType, Device};

    #[test]
    fn values_and_gradients() {
        let angles = random(&[6, 4], 3.0, "angles");
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let exact = [&cos, &sin].map(|x| x.to_dtype(DType::F64).unwrap());
        let inputs = [random(&[2, 3, 24], 2.0, "x")];
        agrees(
            &inputs,
            |x| rotary(&x[0], &cos, &sin),
            |x| composite(&x[0], &exact[0], &exact[1]),
        );
    }

    #[test]
    fn turns_pairs_half_a_head_apart() {
        let x = Tensor::new(&[[1f32, 0.0, 0.0, 2.0]], &Device::Cpu).unwrap();
        let (cos, sin) = (
            Tensor::new(&[[0f32, 0.0]], &Device::Cpu).unwrap(),
            Tensor::new(&[[1f32, 1.0]], &Device::Cpu).unwrap(),
        );
        assert_eq!(
            rotary(&x, &cos, &sin).unwrap().to_vec2::<f32>().unwrap(),
            [[0.0, -2.0, 1.0, 0.0]]
        );
    }
}
