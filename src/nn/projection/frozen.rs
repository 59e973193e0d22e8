//! The product with a frozen weight: its backward gives the gradient of the input alone.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor, bail, op};

use crate::nn::ops;

/// Numbers of a weight that are in f32 at one time: 16 MiB of them.
const PART: usize = if cfg!(test) { 16 } else { 1 << 22 };

/// All rows of a (…, width) tensor as one matrix, outside the graph.
pub(super) fn as_matrix(x: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    x.detach().contiguous()?.reshape((x.elem_count() / width.max(1), width))
}

/// The product of (…, in) with a weight that gets no gradient.
pub(super) struct Frozen {
    pub(super) weight: Tensor,       // (out, in)
    pub(super) bias: Option<Tensor>, // (out), of the type of the activations
}

/// `x · Wᵀ` for `x` of `matrix`, (rows, in), and a weight of (out, in) of the same type on the same device.
fn multiply<S: BackendStorage>(x: &S, matrix: &Layout, weight: &S, layout: &Layout) -> candle_core::Result<S> {
    let ((rows, inputs), (out, _)) = (matrix.shape().dims2()?, layout.shape().dims2()?);
    x.matmul(weight, (1, rows, out, inputs), matrix, &layout.transpose(0, 1)?)
}

impl Frozen {
    /// The rows of `x` as one matrix, and the shape of the product.
    fn shapes(&self, layout: &Layout) -> candle_core::Result<(Layout, Shape)> {
        let (out, inputs) = self.weight.dims2()?;
        let mut dims = layout.dims().to_vec();
        if dims.last() != Some(&inputs) {
            bail!("a layer of {inputs} inputs cannot take {:?}", layout.shape());
        }
        if layout.contiguous_offsets().is_none() {
            bail!("a layer needs contiguous values, got {layout:?}");
        }
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        let rows = layout.shape().elem_count() / inputs.max(1);
        let matrix = Layout::contiguous_with_offset((rows, inputs), layout.start_offset());
        Ok((matrix, Shape::from(dims)))
    }

    pub(super) fn product(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &Tensor,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (matrix, shape) = self.shapes(layout)?;
        let (out, _) = weight.dims2()?;
        let mut product = if weight.dtype() == x.dtype() {
            let (storage, weight_layout) = weight.storage_and_layout();
            let Storage::Cpu(weight) = &*storage else {
                bail!("weights and inputs are on different devices")
            };
            multiply(x, &matrix, weight, weight_layout)?
        } else {
            widened_product(x, &matrix, weight)?
        };
        match (&self.bias, &mut product) {
            (Some(bias), CpuStorage::F32(product)) => ops::with_values(bias, |bias| {
                ops::by_rows(&AddBias(bias), [], [], product, out);
                Ok(())
            })?,
            (Some(bias), _) => {
                let (storage, layout) = bias.storage_and_layout();
                let Storage::Cpu(bias) = &*storage else {
                    bail!("weights and inputs are on different devices")
                };
                product = add_bias(&product, &shape, bias, layout)?;
            }
            (None, _) => {}
        }
        Ok((product, shape))
    }

    /// The gradient of `x`, in the type of the upstream gradient: `upstream` is (rows, out).
    fn back(&self, upstream: &Tensor) -> candle_core::Result<Tensor> {
        if upstream.dtype() == self.weight.dtype() {
            return upstream.matmul(&self.weight);
        }
        let mut sum: Option<Tensor> = None;
        for rows in parts(&self.weight)? {
            let columns = upstream.narrow(1, rows.start, rows.len())?;
            let part = columns.contiguous()?.matmul(&ops::widened(&self.weight, rows)?)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        sum.map_or_else(|| bail!("a layer without outputs"), Ok)
    }
}

fn add_bias<S: BackendStorage>(product: &S, shape: &Shape, bias: &S, layout: &Layout) -> candle_core::Result<S> {
    product.binary_impl::<op::Add>(bias, &Layout::contiguous(shape), &layout.broadcast_as(shape)?)
}

/// The rows of a weight that are widened at one time.
fn parts(weight: &Tensor) -> candle_core::Result<impl Iterator<Item = Range<usize>> + use<>> {
    let (out, inputs) = weight.dims2()?;
    let rows = (PART / inputs.max(1)).max(1);
    Ok((0..out).step_by(rows).map(move |start| start..(start + rows).min(out)))
}

/// `x · Wᵀ` in f32 for a narrower weight.
fn widened_product(x: &CpuStorage, matrix: &Layout, weight: &Tensor) -> candle_core::Result<CpuStorage> {
    let ((rows, _), (out, _)) = (matrix.shape().dims2()?, weight.dims2()?);
    let mut product = Vec::new();
    for part in parts(weight)? {
        let wide = ops::widened(weight, part.clone())?;
        let (storage, layout) = wide.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("weights and inputs are on different devices")
        };
        let found = multiply(x, matrix, storage, layout)?;
        if part.len() == out {
            return Ok(found);
        }
        product.resize(rows * out, 0f32);
        let found = found.as_slice::<f32>()?;
        for (to, from) in product.chunks_exact_mut(out).zip(found.chunks_exact(part.len())) {
            to[part.clone()].copy_from_slice(from);
        }
    }
    Ok(CpuStorage::F32(product))
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let (matrix, shape) = self.shapes(layout)?;
        let (storage, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cuda(weight) = &*storage else {
            bail!("weights and inputs are on different devices")
        };
        let product = multiply(x, &matrix, weight, weight_layout)?;
        let Some(bias) = &self.bias else {
            return Ok((product, shape));
        };
        let (storage, bias_layout) = bias.storage_and_layout();
        let Storage::Cuda(bias) = &*storage else {
            bail!("weights and inputs are on different devices")
        };
        Ok((add_bias(&product, &shape, bias, bias_layout)?, shape))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let upstream = as_matrix(upstream, self.weight.dim(0)?)?;
        self.back(&upstream)?.reshape(x.shape()).map(Some)
    }
}
