//! The product with a frozen weight: its backward gives the gradient of the input alone.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, Shape, Storage, Tensor, bail, op};
use rayon::prelude::*;

use crate::nn::ops::{self, few_rows};

/// Numbers of a weight that are in f32 at one time: 16 MiB of them.
const PART: usize = if cfg!(test) { 16 } else { 1 << 22 };

/// Calls `$product` with the numbers of a contiguous weight in main memory, of whatever type they are.
macro_rules! with_few_rows {
    ($product:path, $rows:expr, $weight:expr) => {{
        let (_, inputs) = $weight.dims2()?;
        in_main_memory($weight, |storage, layout| {
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("a layer needs a contiguous weight, got {layout:?}")
            };
            Ok(match storage {
                CpuStorage::F32(values) => $product($rows, &values[start..end], inputs),
                CpuStorage::BF16(values) => $product($rows, &values[start..end], inputs),
                CpuStorage::F16(values) => $product($rows, &values[start..end], inputs),
                _ => bail!("a weight of type {:?} cannot be widened", $weight.dtype()),
            })
        })
    }};
}

/// All rows of a (…, width) tensor as one matrix, outside the graph.
pub(super) fn as_matrix(x: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    x.detach().contiguous()?.reshape((x.elem_count() / width.max(1), width))
}

/// Rows for which a product is faster with a small weight that lies as (in, out): gemm transposes it first otherwise. On widths of 64
/// to 512 three times as fast with 5 rows, 1.3 times with 45; with 160 rows 1.06 times, which is not worth a second copy.
const SEVERAL: Range<usize> = 2..129;

/// Numbers of a result that gemm 0.19 sums in another way if it finds both operands row by row: those keep the weight as it is.
const FEW: usize = 16 * 16;

/// The product of (…, in) with a weight that gets no gradient.
///
/// Several rows meet a small weight in f32 in main memory as (in, out), made once for all products: the sums are the same to
/// the bit.
pub(super) struct Frozen {
    pub weight: Tensor,                    // (out, in)
    pub transposed: Arc<OnceLock<Tensor>>, // (in, out), once it was needed
    pub bias: Option<Tensor>,              // (out), of the type of the activations
}

/// `x · Wᵀ` for `x` of `matrix`, (rows, in), and a weight of (out, in) of the same type on the same device.
pub(super) fn multiply<S: BackendStorage>(
    x: &S,
    matrix: &Layout,
    weight: &S,
    layout: &Layout,
) -> candle_core::Result<S> {
    multiply_plain(x, matrix, weight, &layout.transpose(0, 1)?)
}

/// `x · M` for `x` of `matrix`, (rows, in), and a matrix of (in, out) of the same type on the same device.
fn multiply_plain<S: BackendStorage>(x: &S, matrix: &Layout, by: &S, layout: &Layout) -> candle_core::Result<S> {
    let ((rows, inputs), (_, out)) = (matrix.shape().dims2()?, layout.shape().dims2()?);
    x.matmul(by, (1, rows, out, inputs), matrix, layout)
}

/// Calls `body` with a tensor as it lies in main memory.
fn in_main_memory<T>(
    tensor: &Tensor,
    body: impl FnOnce(&CpuStorage, &Layout) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => body(storage, layout),
        _ => bail!("weights and inputs are on different devices"),
    }
}

impl Frozen {
    /// The rows of `x` as one matrix, and the shape of the product.
    pub(super) fn shapes(&self, layout: &Layout) -> candle_core::Result<(Layout, Shape)> {
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
        let (out, inputs) = weight.dims2()?;
        let (rows, _) = matrix.shape().dims2()?;
        let mut product = if x.dtype() == DType::F32 && few_rows::suits(rows, inputs, out) {
            CpuStorage::F32(with_few_rows!(few_rows::product, ops::values(x, &matrix)?, weight)?)
        } else if let Some(transposed) = self.transposed(weight, rows)? {
            in_main_memory(transposed, |by, layout| multiply_plain(x, &matrix, by, layout))?
        } else if weight.dtype() == x.dtype() {
            in_main_memory(weight, |weight, layout| multiply(x, &matrix, weight, layout))?
        } else {
            widened_product(x, &matrix, weight)?
        };
        match (&self.bias, &mut product) {
            (Some(bias), CpuStorage::F32(product)) => ops::with_values([bias], |[bias]| {
                ops::by_rows(&AddBias(bias), [], [], product, out);
                Ok(())
            })?,
            (Some(bias), _) => {
                product = in_main_memory(bias, |bias, layout| add_bias(&product, &shape, bias, layout))?;
            }
            (None, _) => {}
        }
        Ok((product, shape))
    }

    /// This layer's own weight as (in, out), where so many rows are best multiplied by that.
    fn transposed(&self, weight: &Tensor, rows: usize) -> candle_core::Result<Option<&Tensor>> {
        let small = weight.elem_count() < few_rows::WEIGHT && weight.dtype() == DType::F32;
        let several = SEVERAL.contains(&rows) && rows * weight.dim(0)? > FEW;
        if !small || !several || weight.id() != self.weight.id() {
            return Ok(None);
        }
        if let Some(transposed) = self.transposed.get() {
            return Ok(Some(transposed));
        }
        let transposed = weight.detach().t()?.contiguous()?;
        Ok(Some(self.transposed.get_or_init(|| transposed)))
    }

    /// The gradient of `x`, in the type of the upstream gradient: `upstream` is (rows, out).
    pub(super) fn back(&self, upstream: &Tensor) -> candle_core::Result<Tensor> {
        let ((out, inputs), (rows, _)) = (self.weight.dims2()?, upstream.dims2()?);
        if ops::fused(upstream.device()) && few_rows::suits(rows, inputs, out) {
            let gradient = ops::with_values([&upstream.contiguous()?], |[upstream]| {
                with_few_rows!(few_rows::back, upstream, &self.weight)
            })?;
            return Tensor::from_vec(gradient, (rows, inputs), &Device::Cpu);
        }
        if upstream.dtype() == self.weight.dtype() {
            return upstream.matmul(&self.weight);
        }
        let mut sum: Option<Tensor> = None;
        for rows in parts(&self.weight)? {
            let columns = upstream.narrow(1, rows.start, rows.len())?;
            let part = columns.contiguous()?.matmul(&widened(&self.weight, rows)?)?;
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
        let wide = widened(weight, part.clone())?;
        let found = in_main_memory(&wide, |wide, layout| multiply(x, matrix, wide, layout))?;
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

/// Some rows of a contiguous (rows, columns) weight in main memory, in f32.
fn widened(weight: &Tensor, rows: Range<usize>) -> candle_core::Result<Tensor> {
    let (_, columns) = weight.dims2()?;
    let part = weight.narrow(0, rows.start, rows.len())?;
    let (storage, layout) = part.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        bail!(
            "only a contiguous weight in main memory is widened, not {:?}",
            weight.shape()
        )
    };
    let values = match storage {
        CpuStorage::F32(values) => values[start..end].to_vec(),
        // The upper half of an f32.
        CpuStorage::BF16(values) => pieces(&values[start..end], |x| f32::from_bits(u32::from(x.to_bits()) << 16)),
        CpuStorage::F16(values) => pieces(&values[start..end], |x| x.to_f32()),
        _ => bail!("a weight of type {:?} cannot be widened", weight.dtype()),
    };
    Tensor::from_vec(values, (rows.len(), columns), &Device::Cpu)
}

fn pieces<T: Copy + Sync>(from: &[T], widen: impl Fn(T) -> f32 + Sync) -> Vec<f32> {
    let mut to = vec![0f32; from.len()];
    to.par_chunks_mut(ops::PIECE)
        .zip(from.par_chunks(ops::PIECE))
        .for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, &from)| *to = widen(from)));
    to
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

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    #[test]
    fn several_rows_have_the_sums_of_a_general_product() {
        for (inputs, out) in [(128, 384), (512, 128), (7, 33), (300, 70), (5, 1)] {
            let weight = check::random(&[out, inputs], 1.0, "weight");
            for rows in (1..20).chain([36, 128, 129]) {
                let frozen = Frozen {
                    weight: weight.clone(),
                    transposed: Arc::default(),
                    bias: None,
                };
                let x = check::random(&[rows, inputs], 1.0, "x");
                let expected = x.matmul(&weight.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
                let (storage, layout) = x.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    unreachable!()
                };
                let (found, shape) = frozen.product(storage, layout, &frozen.weight).unwrap();
                let found = Tensor::from_slice(found.as_slice::<f32>().unwrap(), shape, &Device::Cpu).unwrap();
                assert!(
                    found.to_vec2::<f32>().unwrap() == expected,
                    "{rows} rows of {inputs} to {out}"
                );
                let several = (2..=128).contains(&rows) && rows * out > 256;
                assert_eq!(frozen.transposed.get().is_some(), several, "{rows} rows");
            }
        }
    }

    #[test]
    fn as_candle_widens() {
        let weight = check::random(&[70, 300], 3.0, "weight");
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let narrow = weight.to_dtype(dtype).unwrap();
            let expected = narrow.narrow(0, 3, 60).unwrap().to_dtype(DType::F32).unwrap();
            let found = widened(&narrow, 3..63).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
        }
        assert!(widened(&weight.to_dtype(DType::F64).unwrap(), 0..1).is_err());
        assert!(widened(&weight.t().unwrap(), 0..1).is_err());
    }
}
