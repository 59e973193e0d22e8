//! Fused operations, each with an explicit backward.
//!
//! On the CPU an operation is one pass over memory, parallel over rows; the order of every sum is
//! fixed, so results depend on neither thread count nor scheduling. On other devices the same
//! function is composed from candle's differentiable primitives.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

mod attention;
mod elementary;
mod gelu;
mod layer_norm;
mod scaled_residual;
mod swiglu;

pub use attention::attention;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use scaled_residual::scaled_residual;
pub use swiglu::swiglu;

/// Rows are handed to threads in pieces of about this many values.
const PIECE: usize = 8192;

/// The values of a contiguous f32 CPU tensor, as a custom operation receives them.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("a fused operation needs contiguous values, got {layout:?}"),
    }
}

/// Calls `body` with the values of a contiguous f32 CPU tensor.
pub(crate) fn with_values<T>(tensor: &Tensor, body: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => body(values(storage, layout)?),
        _ => bail!("a fused operation needs values in main memory"),
    }
}

/// Fills `out`, rows of `width`, from the same rows of `inputs`; `row(inputs, out)` sees one row.
///
/// The closure is compiled for the widest vector instructions of the machine it runs on.
pub(crate) fn by_rows<const N: usize>(
    inputs: [&[f32]; N],
    out: &mut [f32],
    width_in: [usize; N],
    width_out: usize,
    row: impl Fn([&[f32]; N], &mut [f32]) + Sync,
) {
    let rows = (PIECE / width_out.max(1)).max(1);
    out.par_chunks_mut(rows * width_out)
        .enumerate()
        .for_each(|(piece, out)| {
            pulp::Arch::new().dispatch(|| {
                for (i, out) in out.chunks_exact_mut(width_out).enumerate() {
                    let index = piece * rows + i;
                    let inputs =
                        std::array::from_fn(|n| &inputs[n][index * width_in[n]..][..width_in[n]]);
                    row(inputs, out);
                }
            });
        });
}

/// Changes `values`, rows of `width`, in place.
pub(crate) fn update_rows(values: &mut [f32], width: usize, row: impl Fn(&mut [f32]) + Sync) {
    let rows = (PIECE / width.max(1)).max(1);
    values.par_chunks_mut(rows * width).for_each(|values| {
        pulp::Arch::new().dispatch(|| values.chunks_exact_mut(width).for_each(&row));
    });
}
