//! Linear layers with frozen weights, with or without a trainable low-rank update (LoRA,
//! <https://arxiv.org/abs/2106.09685>).
//!
//! On the CPU a weight in bf16 or f16 is widened part by part while it is multiplied: what is kept is half as
//! large, what is computed is f32.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Shape, Tensor, Var, bail};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::ops;
use crate::error::Result;
use frozen::{Frozen, as_matrix, multiply};

mod frozen;

/// A trainable update of a weight, `scale · B · A`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// (r, in)
    pub a: Var,
    /// (out, r)
    pub b: Var,
    /// alpha / r
    pub scale: f64,
}

impl LowRank {
    /// A as PEFT initialises it, and B = 0.
    pub fn fresh(
        inputs: usize,
        outputs: usize,
        rank: usize,
        alpha: f64,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            a: uniform(vec![rank, inputs], inputs, rng, device)?,
            b: Var::zeros((outputs, rank), DType::F32, device)?,
            scale: alpha / rank as f64,
        })
    }
}

/// The first factor of a fresh update as PEFT initialises it: uniform in ±1/sqrt(in) (`kaiming_uniform` with a = sqrt 5).
pub(super) fn uniform(shape: Vec<usize>, inputs: usize, rng: &mut ChaCha8Rng, device: &Device) -> Result<Var> {
    let bound = 1.0 / (inputs as f32).sqrt();
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-bound..bound))
        .collect();
    Ok(Var::from_vec(values, shape, device)?)
}

/// A linear layer `x · Wᵀ + b`: W and b are frozen, a [`LowRank`] update is trained.
#[derive(Debug, Clone)]
pub struct Projection {
    weight: Tensor,       // (out, in)
    bias: Option<Tensor>, // (out)
    /// The weight as (in, out), see [`Frozen`].
    transposed: Arc<OnceLock<Tensor>>,
    update: Option<LowRank>,
    /// An update as it was at one moment, where it cannot be added into the weight without being rounded.
    fixed: Option<Fixed>,
}

/// A and B of [`LowRank`], no longer trainable.
#[derive(Debug, Clone)]
struct Fixed {
    a: Tensor, // (r, in)
    b: Tensor, // (out, r)
    scale: f64,
}

impl Projection {
    /// A frozen layer from its weight (out, in) and bias (out).
    ///
    /// # Errors
    /// When the bias does not fit the weight.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [out]
        {
            let reason = format!("bias {:?} does not fit weight {:?}", bias.shape(), weight.shape());
            return Err(candle_core::Error::Msg(reason).into());
        }
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self {
            weight: weight.contiguous()?,
            bias,
            transposed: Arc::default(),
            update: None,
            fixed: None,
        })
    }

    /// Width of what goes in.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Width of what comes out.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// The frozen weight, (out, in).
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The trainable update, if there is one.
    #[must_use]
    pub fn update(&self) -> Option<&LowRank> {
        self.update.as_ref()
    }

    /// The same layer with this update (`None`: as it was loaded).
    #[must_use]
    pub fn with_update(&self, update: Option<LowRank>) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            transposed: self.transposed.clone(),
            update,
            fixed: None,
        }
    }

    /// The same layer as it computes now: nothing trainable, no graph, and training the update changes it no more.
    /// Into a weight in f32 the update is added, with the same outputs to the bit on the CPU; beside a narrower one it
    /// is kept, since the sum would be rounded.
    pub fn merged(&self) -> Result<Self> {
        let Some(update) = &self.update else {
            return Ok(self.clone());
        };
        let frozen = self.with_update(None);
        if self.weight.dtype() == DType::F32 {
            return Ok(Self {
                weight: self.summed()?,
                transposed: Arc::default(),
                ..frozen
            });
        }
        let dtype = ops::compute_type(&self.weight);
        let copied = |var: &Tensor| var.detach().to_dtype(dtype)?.copy();
        let fixed = Some(Fixed {
            a: copied(update.a.as_tensor())?,
            b: copied(update.b.as_tensor())?,
            scale: update.scale,
        });
        Ok(Self { fixed, ..frozen })
    }

    /// `W + scale · B · A` in f32, detached.
    pub fn summed(&self) -> Result<Tensor> {
        let weight = self.weight.to_dtype(DType::F32)?;
        Ok(match self.factors() {
            Some((a, b, scale)) => updated(&weight, &a.to_dtype(DType::F32)?, &b.to_dtype(DType::F32)?, scale)?,
            None => weight,
        })
    }

    /// A and B of the update, trained or fixed, and its scale.
    fn factors(&self) -> Option<(&Tensor, &Tensor, f64)> {
        match (&self.update, &self.fixed) {
            (Some(LowRank { a, b, scale }), _) => Some((a.as_tensor(), b.as_tensor(), *scale)),
            (None, fixed) => fixed.as_ref().map(|Fixed { a, b, scale }| (a, b, *scale)),
        }
    }

    /// `x · (W + scale·B·A)ᵀ + b` for `x` of (…, in); gives (…, out).
    ///
    /// # Errors
    /// When the last dimension is not `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(ops::compute_type(&self.weight))?.contiguous()?;
        let Some(update) = self.update.as_ref().filter(|_| ops::fused(x.device())) else {
            return Ok(self.composite(&x)?);
        };
        let (frozen, scale) = (self.frozen()?, update.scale);
        let (a, b) = (update.a.as_tensor(), update.b.as_tensor());
        let rows = x.elem_count() / self.inputs().max(1);
        Ok(
            if self.weight.dtype() == DType::F32 && summing_pays(rows, self.inputs(), self.outputs()) {
                x.apply_op3(a, b, Summed { frozen, scale })?
            } else {
                x.apply_op3(a, b, Beside { frozen, scale })?
            },
        )
    }

    fn frozen(&self) -> candle_core::Result<Frozen> {
        let dtype = ops::compute_type(&self.weight);
        Ok(Frozen {
            weight: self.weight.clone(),
            transposed: self.transposed.clone(),
            bias: self.bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?,
        })
    }

    /// The update on a path of its own, in the type of `x`.
    fn composite(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.apply_op1(self.frozen()?)?;
        let Some((a, b, scale)) = self.factors() else {
            return Ok(y);
        };
        let (a, b) = (a.to_dtype(x.dtype())?, b.to_dtype(x.dtype())?);
        let rows = x.elem_count() / self.inputs().max(1);
        let down = x.reshape((rows, self.inputs()))?.matmul(&a.t()?)?; // (rows, r)
        let low = (down.matmul(&b.t()?)? * scale)?.reshape(y.shape())?;
        y + low
    }
}

/// `W + scale · B · A`, detached.
fn updated(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    weight + (b.detach().matmul(&a.detach())? * scale)?
}

/// Numbers of a weight that stay in a core's cache while the update is added to them.
const CACHED: usize = 1 << 20;

/// True if adding the update into the weight costs less than a path of its own: it takes as many products as `in · out`
/// rows-of-one-rank, the path `rows · (in + out)`. A weight beyond the cache would be read and written several times for it.
fn summing_pays(rows: usize, inputs: usize, outputs: usize) -> bool {
    let weight = inputs * outputs;
    weight < CACHED || rows * (inputs + outputs) >= weight
}

/// The gradients of A and B, and the gradient of `x · Aᵀ` (rows, r), from those rows of `x` (rows, in) and of the upstream
/// gradient (rows, out).
fn of_factors(
    (rows, upstream): (&Tensor, &Tensor),
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
    let down = (rows.matmul(&a.t()?)? * scale)?; // (rows, r)
    let to_b = upstream.t()?.matmul(&down)?; // (out, r)
    let to_down = (upstream.matmul(b)? * scale)?; // (rows, r)
    let to_a = to_down.t()?.matmul(rows)?; // (r, in)
    Ok((to_a, to_b, to_down))
}

/// A projection of (x, A, B) on a path of the update's own, which keeps nothing but its result.
struct Beside {
    frozen: Frozen,
    scale: f64,
}

impl CustomOp3 for Beside {
    fn name(&self) -> &'static str {
        "projection-beside"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (mut product, shape) = self.frozen.product(x, x_layout, &self.frozen.weight)?;
        let (matrix, _) = self.frozen.shapes(x_layout)?;
        let (rows, _) = matrix.shape().dims2()?;
        let (out, rank) = b_layout.shape().dims2()?;
        let mut down = multiply(x, &matrix, a, a_layout)?; // (rows, r)
        if let CpuStorage::F32(down) = &mut down {
            let scale = self.scale as f32;
            down.iter_mut().for_each(|value| *value *= scale);
        }
        let low = multiply(&down, &Layout::contiguous((rows, rank)), b, b_layout)?;
        let (CpuStorage::F32(values), CpuStorage::F32(low)) = (&mut product, &low) else {
            bail!("an update beside a layer that does not compute in f32")
        };
        ops::by_rows(&ops::Add, [low], [out], values, out);
        Ok((product, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (out, inputs) = self.frozen.weight.dims2()?;
        let (a, b) = (a.detach(), b.detach());
        let (upstream, rows) = (as_matrix(upstream, out)?, as_matrix(x, inputs)?);
        let (to_a, to_b, to_down) = of_factors((&rows, &upstream), (&a, &b), self.scale)?;
        let to_x = if x.track_op() {
            let sum = self.frozen.back(&upstream)?;
            Some((sum + to_down.matmul(&a)?)?.reshape(x.shape())?)
        } else {
            None
        };
        Ok((to_x, Some(to_a), Some(to_b)))
    }
}

/// A projection of (x, A, B): the update is added into the weight first, which for more rows than
/// ranks costs far less than a second path through the layer, forward and backward.
struct Summed {
    frozen: Frozen,
    scale: f64,
}

impl CustomOp3 for Summed {
    fn name(&self) -> &'static str {
        "projection-summed"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let tensor = |storage: &CpuStorage, layout: &Layout| {
            Tensor::from_slice(ops::values(storage, layout)?, layout.shape(), &Device::Cpu)
        };
        let weight = updated(
            &self.frozen.weight,
            &tensor(a, a_layout)?,
            &tensor(b, b_layout)?,
            self.scale,
        )?;
        self.frozen.product(x, x_layout, &weight)
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (out, inputs) = self.frozen.weight.dims2()?;
        let (a, b) = (a.detach(), b.detach());
        let upstream = as_matrix(upstream, out)?; // (rows, out)
        let rows = as_matrix(x, inputs)?; // (rows, in)
        let to_x = if x.track_op() {
            let weight = updated(&self.frozen.weight, &a, &b, self.scale)?;
            Some(upstream.matmul(&weight)?.reshape(x.shape())?)
        } else {
            None
        };
        let (to_a, to_b, _) = of_factors((&rows, &upstream), (&a, &b), self.scale)?;
        Ok((to_x, Some(to_a), Some(to_b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;
    use candle_core::Var;

    fn adapted(weight: &Tensor, bias: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Projection {
        let update = LowRank {
            a: Var::from_tensor(a).unwrap(),
            b: Var::from_tensor(b).unwrap(),
            scale: 0.5,
        };
        Projection::new(weight.clone(), bias.cloned())
            .unwrap()
            .with_update(Some(update))
    }

    /// The layer by candle's own operations; inputs are x, and A and B of an update if there is one.
    fn reference(weight: &Tensor, bias: Option<&Tensor>, x: &[Tensor]) -> candle_core::Result<Tensor> {
        let mut y = x[0].broadcast_matmul(&weight.t()?)?;
        if let [x, a, b] = x {
            let down = x.broadcast_matmul(&a.t()?)?;
            y = (y + (down.broadcast_matmul(&b.t()?)? * 0.5)?)?;
        }
        match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    #[test]
    fn values_and_gradients() {
        let inputs = [
            check::random(&[2, 3, 7], 1.0, "x"),
            check::random(&[2, 7], 1.0, "a"),
            check::random(&[5, 2], 1.0, "b"),
        ];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let stored = |shape: &[usize], name| check::random(shape, 1.0, name).to_dtype(dtype).unwrap();
            let (weight, bias) = (stored(&[5, 7], "weight"), stored(&[5], "bias"));
            let exact = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
            let weight64 = exact(&weight);
            for bias in [None, Some(&bias)] {
                let bias64 = bias.map(exact);
                let expected = |x: &[Tensor]| reference(&weight64, bias64.as_ref(), x);
                let frozen = Projection::new(weight.clone(), bias.cloned()).unwrap();
                check::agrees(&inputs[..1], |x| Ok(frozen.forward(&x[0]).unwrap()), expected);
                let layer = |x: &[Tensor]| adapted(&weight, bias, &x[1], &x[2]);
                check::agrees(&inputs, |x| Ok(layer(x).forward(&x[0]).unwrap()), expected);
                check::agrees(&inputs, |x| layer(x).composite(&x[0]), expected);
                let beside = |x: &[Tensor]| {
                    let (frozen, scale) = (frozen.frozen()?, 0.5);
                    x[0].apply_op3(&x[1], &x[2], Beside { frozen, scale })
                };
                check::agrees(&inputs, beside, expected);
            }
        }
    }

    /// As large as those that have ways of their own: few rows, and an update that is not added into the weight.
    #[test]
    fn wide_layers() {
        let weight = check::random(&[1040, 1024], 1.0, "weight");
        let (a, b) = (check::random(&[4, 1024], 1.0, "a"), check::random(&[1040, 4], 1.0, "b"));
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let close = |found: &Tensor, expected: &Tensor| {
            let scale = flat(expected).iter().fold(0f32, |a, b| a.max(b.abs()));
            let pairs = flat(found).into_iter().zip(flat(expected));
            assert!(found.shape() == expected.shape() && scale > 0.0);
            pairs.for_each(|(found, expected)| assert!((found - expected).abs() <= 1e-5 * scale));
        };
        for (rows, dtype) in [(3, DType::F32), (3, DType::BF16), (100, DType::F32), (100, DType::BF16)] {
            let weight = weight.to_dtype(dtype).unwrap();
            let layer = adapted(&weight, None, &a, &b);
            assert!(!summing_pays(rows, 1024, 1040));
            let x = Var::from_tensor(&check::random(&[rows, 1024], 1.0, "x")).unwrap();
            let upstream = check::random(&[rows, 1040], 1.0, "upstream");
            let inputs = [x.as_tensor().clone(), a.clone(), b.clone()].map(|x| Var::from_tensor(&x).unwrap());
            let of_inputs = inputs.each_ref().map(|var| var.as_tensor().clone());
            let expected = reference(&weight.to_dtype(DType::F32).unwrap(), None, &of_inputs).unwrap();
            let found = layer.forward(x.as_tensor()).unwrap();
            close(&found, &expected);
            let gradients = |y: &Tensor| (y * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
            let (found, expected) = (gradients(&found), gradients(&expected));
            let update = layer.update().unwrap();
            for (ours, theirs) in [&x, &update.a, &update.b].into_iter().zip(&inputs) {
                close(found.get(ours).unwrap(), expected.get(theirs).unwrap());
            }
        }
    }

    #[test]
    fn beside_a_narrow_weight_an_update_is_fixed_and_not_rounded() {
        let stored = check::random(&[5, 7], 1.0, "weight").to_dtype(DType::BF16).unwrap();
        let (a, b) = (check::random(&[2, 7], 1e-2, "a"), check::random(&[5, 2], 1e-2, "b"));
        let x = check::random(&[4, 7], 1.0, "x");
        let trained = adapted(&stored, None, &a, &b);
        let merged = trained.merged().unwrap();
        let values = |layer: &Projection| layer.forward(&x).unwrap().to_vec2::<f32>().unwrap();
        let (before, sum) = (values(&merged), merged.summed().unwrap());
        assert_eq!(values(&trained), before);
        assert!(merged.update().is_none() && !merged.forward(&x).unwrap().track_op());
        // Training goes on; what was merged stays.
        let update = trained.update().unwrap();
        update.a.set(&(&a * 3.0).unwrap()).unwrap();
        assert_eq!(values(&merged), before);
        assert_ne!(values(&trained), before);
        // The update is smaller than what the weight's type could hold beside it.
        let sum = Projection::new(sum, None).unwrap();
        for (found, expected) in values(&sum).concat().iter().zip(before.concat()) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_ne!(before, values(&Projection::new(stored, None).unwrap()));
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient() {
        let layer = Projection::new(check::random(&[5, 7], 1.0, "weight"), None).unwrap();
        let x = Var::from_tensor(&check::random(&[3, 7], 1.0, "x")).unwrap();
        let y = layer.forward(x.as_tensor()).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(x.as_tensor()).is_some() && gradients.get(&layer.weight).is_none());
    }

    #[test]
    fn fresh_updates_change_no_bit_and_merging_neither() {
        let layer = Projection::new(check::random(&[40, 30], 1.0, "weight"), None).unwrap();
        let x = check::random(&[50, 30], 1.0, "x");
        let mut rng = crate::seed::rng(0, "lora");
        let update = LowRank::fresh(30, 40, 4, 8.0, &mut rng, &Device::Cpu).unwrap();
        let bound = 1.0 / 30f32.sqrt();
        assert!(
            update
                .a
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .iter()
                .all(|a| a.abs() <= bound)
        );
        let bits = |layer: &Projection| layer.forward(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(bits(&layer), bits(&layer.with_update(Some(update))));
        let trained = adapted(
            &layer.weight,
            None,
            &check::random(&[2, 30], 1.0, "a"),
            &check::random(&[40, 2], 1.0, "b"),
        );
        assert_ne!(bits(&trained), bits(&layer));
        assert_eq!(bits(&trained), bits(&trained.merged().unwrap()));
    }

    #[test]
    fn wrong_widths_are_errors() {
        let layer = Projection::new(check::random(&[5, 7], 1.0, "weight"), None).unwrap();
        assert!(layer.forward(&check::random(&[3, 6], 1.0, "x")).is_err());
        assert!(Projection::new(check::random(&[5, 7], 1.0, "w"), Some(check::random(&[4], 1.0, "b"))).is_err());
    }
}
