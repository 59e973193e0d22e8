//! Fused operations, each with an explicit backward.
//!
//! On the CPU an operation is one pass over memory, parallel over rows; the order of every sum is
//! fixed, so results depend on neither thread count nor scheduling. On other devices the same
//! function is composed from candle's differentiable primitives.
//!
//! The CPU computes in f32 whatever type the frozen weights are kept in. A GPU computes in the type of
//! the weights, but for norms, activations, softmax and losses, which are f32 inside.

use std::sync::LazyLock;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::environment::Variable;

mod attention;
mod elementary;
mod elementwise;
pub(crate) mod few_rows;
mod grouped;
mod norm;
mod product;
mod rotary;
mod segment_attention;

pub use attention::attention;
pub use elementwise::{gated_silu, gelu, gelu_tanh, scaled_residual, swiglu};
pub use grouped::{Groups, grouped, grouped_trained};
pub use norm::{LayerNorm, RmsNorm};
pub use rotary::rotary;
pub use segment_attention::{Heads, Mask, Segment, segment_attention};

/// True if operations on this device are fused. Where the environment variable `KSHOT_FUSED` is 0 they are fused
/// nowhere, and the CPU does what a GPU would do.
pub(crate) fn fused(device: &Device) -> bool {
    static SWITCH: LazyLock<bool> = LazyLock::new(|| Variable::Fused.text().is_none_or(|value| value != "0"));
    device.is_cpu() && *SWITCH
}

/// The type of activations that meet this frozen weight.
pub(crate) fn compute_type(weight: &Tensor) -> DType {
    if fused(weight.device()) {
        DType::F32
    } else {
        weight.dtype()
    }
}

/// The same values in f32 where they are narrower.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::BF16 | DType::F16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// Rows are handed to threads in pieces of about this many values.
pub(crate) const PIECE: usize = 8192;

/// The values of a contiguous f32 CPU tensor, as a custom operation receives them.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("a fused operation needs contiguous values, got {layout:?}"),
    }
}

/// Calls `body` with the values of contiguous f32 CPU tensors.
pub(crate) fn with_values<const N: usize, T>(
    tensors: [&Tensor; N],
    body: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let stored = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[][..]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&stored) {
        *slice = match &**storage {
            Storage::Cpu(storage) => values(storage, layout)?,
            _ => bail!("a fused operation needs values in main memory"),
        };
    }
    body(slices)
}

/// The forward and backward pass of an operation on one row.
///
/// Implementations are `#[inline(always)]`: only then are they compiled for the widest vector
/// instructions of the machine that they run on.
pub(crate) trait Row<const N: usize>: Sync {
    /// Fills `out`, or changes it in place, from the same row of each input.
    fn apply(&self, inputs: [&[f32]; N], out: &mut [f32]);
}

/// Applies `row` to every row of `out` (`width_out` values) and of the `inputs` (`widths` values).
pub(crate) fn by_rows<const N: usize>(
    row: &impl Row<N>,
    inputs: [&[f32]; N],
    widths: [usize; N],
    out: &mut [f32],
    width_out: usize,
) {
    let rows = (PIECE / width_out.max(1)).max(1);
    out.par_chunks_mut((rows * width_out).max(1))
        .enumerate()
        .for_each(|(piece, out)| {
            let start = piece * rows;
            pulp::Arch::new().dispatch(Piece {
                row,
                inputs,
                widths,
                out,
                width_out,
                start,
            });
        });
}

/// Adds its input to what is there.
pub(crate) struct Add;

impl Row<1> for Add {
    #[inline(always)]
    fn apply(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}

/// The result of `row` on inputs that are all as wide as it is, of this shape.
fn map_rows<const N: usize>(row: &impl Row<N>, inputs: [&[f32]; N], shape: &Shape) -> Vec<f32> {
    let width = shape.dims().last().copied().unwrap_or(1);
    let mut out = vec![0f32; shape.elem_count()];
    by_rows(row, inputs, [width; N], &mut out, width);
    out
}

/// A gradient, outside the graph: `row` on tensors that all have its shape.
fn gradient<const N: usize>(row: &impl Row<N>, inputs: [&Tensor; N], shape: &Shape) -> Result<Tensor> {
    with_values(inputs, |inputs| {
        Tensor::from_vec(map_rows(row, inputs, shape), shape, &Device::Cpu)
    })
}

/// Some rows of work for one thread, from row `start` on.
struct Piece<'a, const N: usize, R> {
    row: &'a R,
    inputs: [&'a [f32]; N],
    widths: [usize; N],
    out: &'a mut [f32],
    width_out: usize,
    start: usize,
}

impl<const N: usize, R: Row<N>> pulp::WithSimd for Piece<'_, N, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for (i, out) in self.out.chunks_exact_mut(self.width_out).enumerate() {
            let mut inputs = self.inputs;
            for (input, width) in inputs.iter_mut().zip(self.widths) {
                *input = &input[(self.start + i) * width..][..width];
            }
            self.row.apply(inputs, out);
        }
    }
}

#[cfg(test)]
pub(crate) mod check {
    //! A fused operation against its composite form, in value and gradient.

    use candle_core::{DType, Device, Result, Tensor, Var};
    use rand::Rng as _;

    /// Values in ±`width`, the same on every run.
    pub(crate) fn random(shape: &[usize], width: f32, purpose: &str) -> Tensor {
        let mut rng = crate::seed::rng(7, purpose);
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-width..width)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn doubles(tensor: &Tensor) -> Vec<f64> {
        tensor
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn assert_close(found: &[f64], expected: &[f64], what: &str) {
        let scale = expected.iter().fold(1e-3f64, |a, b| a.max(b.abs()));
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= 2e-5 * scale,
                "{what} {i}: {found} is not {expected}"
            );
        }
    }

    /// `fused` in f32 gives the values of `composite` in f64, and the backward of both the
    /// finite differences of `composite`, for every element of every input.
    pub(crate) fn agrees(
        inputs: &[Tensor],
        fused: impl Fn(&[Tensor]) -> Result<Tensor>,
        composite: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let exact: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(DType::F64).unwrap()).collect();
        let (found, expected) = (fused(&tensors).unwrap(), composite(&exact).unwrap());
        assert_eq!(found.shape(), expected.shape());
        assert_close(&doubles(&found), &doubles(&expected), "value");

        let upstream = random(found.dims(), 1.0, "upstream");
        let gradients = (&found * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let upstream = upstream.to_dtype(DType::F64).unwrap();
        let exact_vars: Vec<Var> = exact.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let exact_tensors: Vec<Tensor> = exact_vars.iter().map(|var| var.as_tensor().clone()).collect();
        let product = (composite(&exact_tensors).unwrap() * &upstream).unwrap();
        let of_composite = product.sum_all().unwrap().backward().unwrap();
        let objective = |inputs: &[Tensor]| {
            let product = (composite(inputs).unwrap() * &upstream).unwrap();
            product.sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        const STEP: f64 = 1e-5;
        for (n, tensor) in tensors.iter().enumerate() {
            let found = doubles(gradients.get(tensor).expect("a gradient"));
            let values = doubles(&exact[n]);
            let slope = |i: usize| {
                let at = |offset: f64| {
                    let mut moved = values.clone();
                    moved[i] += offset;
                    let mut inputs = exact.clone();
                    inputs[n] = Tensor::from_vec(moved, exact[n].shape(), &Device::Cpu).unwrap();
                    objective(&inputs)
                };
                (at(STEP) - at(-STEP)) / (2.0 * STEP)
            };
            let expected: Vec<f64> = (0..values.len()).map(slope).collect();
            assert_close(&found, &expected, &format!("gradient of input {n} at"));
            let found = doubles(of_composite.get(&exact_tensors[n]).expect("a gradient"));
            assert_close(&found, &expected, &format!("composite's gradient of input {n} at"));
        }
    }
}
