//! Linear layers with frozen weights, with or without a trainable low-rank update (LoRA,
//! <https://arxiv.org/abs/2106.09685>).

use super::{LowRank, ops};
use crate::error::Result;
use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, Layout, Shape, Storage, Tensor, bail};

/// A linear layer `x · Wᵀ + b`: W and b are frozen, a [`LowRank`] update is trained.
#[derive(Debug, Clone)]
pub struct Projection {
    weight: Tensor,       // (out, in)
    bias: Option<Tensor>, // (out)
    update: Option<LowRank>,
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
            return Err(candle_core::Error::Msg(format!(
                "bias {:?} does not fit weight {:?}",
                bias.shape(),
                weight.shape()
            ))
            .into());
        }
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self {
            weight: weight.contiguous()?,
            bias,
            update: None,
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
            update,
        }
    }

    /// The same layer with its update added into the weight: the same outputs to the bit on the CPU,
    /// nothing trainable, no graph.
    ///
    /// # Errors
    /// Only what candle reports.
    pub fn merged(&self) -> Result<Self> {
        let weight = match &self.update {
            None => self.weight.clone(),
            Some(update) => updated(&self.weight, update.a.as_tensor(), update.b.as_tensor(), update.scale)?,
        };
        Ok(Self {
            weight,
            bias: self.bias.clone(),
            update: None,
        })
    }

    /// `x · (W + scale·B·A)ᵀ + b` for `x` of (…, in); gives (…, out).
    ///
    /// # Errors
    /// When the last dimension is not `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let result = match (&self.update, x.device().is_cpu()) {
            (None, true) => x.contiguous()?.apply_op1(self.frozen()),
            (Some(update), true) => {
                let op = Adapted {
                    frozen: self.frozen(),
                    scale: update.scale,
                };
                x.contiguous()?
                    .apply_op3(update.a.as_tensor(), update.b.as_tensor(), op)
            }
            (_, false) => self.composite(x),
        };
        Ok(result?)
    }

    fn frozen(&self) -> Frozen {
        Frozen {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
        }
    }

    fn composite(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut y = x.broadcast_matmul(&self.weight.t()?)?;
        if let Some(update) = &self.update {
            let down = x.broadcast_matmul(&update.a.as_tensor().t()?)?;
            y = (y + (down.broadcast_matmul(&update.b.as_tensor().t()?)? * update.scale)?)?;
        }
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// `W + scale · B · A`, detached.
fn updated(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    weight + (b.detach().matmul(&a.detach())? * scale)?
}

/// All rows of a (…, width) tensor as one matrix, outside the graph.
fn as_matrix(x: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    x.detach().contiguous()?.reshape((x.elem_count() / width.max(1), width))
}

struct Frozen {
    weight: Tensor,       // (out, in)
    bias: Option<Tensor>, // (out)
}

impl Frozen {
    fn product(&self, x: &CpuStorage, layout: &Layout, weight: &Tensor) -> candle_core::Result<(CpuStorage, Shape)> {
        let (out, inputs) = weight.dims2()?;
        let mut dims = layout.dims().to_vec();
        if dims.last() != Some(&inputs) {
            bail!("a layer of {inputs} inputs cannot take {:?}", layout.shape());
        }
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        ops::values(x, layout)?;
        let rows = layout.shape().elem_count() / inputs.max(1);
        let matrix = Layout::contiguous_with_offset((rows, inputs), layout.start_offset());
        let (storage, weight_layout) = weight.storage_and_layout();
        let Storage::Cpu(weight) = &*storage else {
            bail!("weights and inputs are on different devices")
        };
        let mut product = x.matmul(weight, (1, rows, out, inputs), &matrix, &weight_layout.transpose(0, 1)?)?;
        if let (Some(bias), CpuStorage::F32(product)) = (&self.bias, &mut product) {
            ops::with_values(bias, |bias| {
                ops::by_rows(&AddBias(bias), [], [], product, out);
                Ok(())
            })?;
        }
        Ok((product, Shape::from(dims)))
    }
}

struct AddBias<'a>(&'a [f32]);

impl ops::Row<0> for AddBias<'_> {
    #[inline(always)]
    fn apply(&self, _: [&[f32]; 0], out: &mut [f32]) {
        for (out, bias) in out.iter_mut().zip(self.0) {
            *out += bias;
        }
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-projection"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.product(x, layout, &self.weight)
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let upstream = as_matrix(upstream, self.weight.dim(0)?)?;
        upstream.matmul(&self.weight)?.reshape(x.shape()).map(Some)
    }
}

/// A projection of (x, A, B): the update is merged into the weight first, which for more rows than
/// ranks costs far less than a second path through the layer, forward and backward.
struct Adapted {
    frozen: Frozen,
    scale: f64,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-projection"
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
        let down = (rows.matmul(&a.t()?)? * self.scale)?; // (rows, r)
        let to_b = upstream.t()?.matmul(&down)?; // (out, r)
        let to_down = (upstream.matmul(&b)? * self.scale)?; // (rows, r)
        let to_a = to_down.t()?.matmul(&rows)?; // (r, in)
        Ok((to_x, Some(to_a), Some(to_b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;
    use candle_core::{DType, Var};

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

    #[test]
    fn values_and_gradients() {
        let (weight, bias) = (check::random(&[5, 7], 1.0, "weight"), check::random(&[5], 1.0, "bias"));
        let exact = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
        let inputs = [
            check::random(&[2, 3, 7], 1.0, "x"),
            check::random(&[2, 7], 1.0, "a"),
            check::random(&[5, 2], 1.0, "b"),
        ];
        for bias in [None, Some(&bias)] {
            let frozen = Projection::new(weight.clone(), bias.cloned()).unwrap();
            let frozen64 = Projection::new(exact(&weight), bias.map(exact)).unwrap();
            check::agrees(
                &inputs[..1],
                |x| x[0].apply_op1(frozen.frozen()),
                |x| frozen64.composite(&x[0]),
            );
            check::agrees(
                &inputs,
                |x| {
                    x[0].apply_op3(
                        &x[1],
                        &x[2],
                        Adapted {
                            frozen: frozen.frozen(),
                            scale: 0.5,
                        },
                    )
                },
                |x| adapted(&exact(&weight), bias.map(exact).as_ref(), &x[1], &x[2]).composite(&x[0]),
            );
        }
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
