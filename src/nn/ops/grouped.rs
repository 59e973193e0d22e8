//! Products of groups of rows, each group with a matrix of its own: what a mixture of experts consists of.
//!
//! On the CPU the groups are spread over threads, because a group has few rows. The order of every sum inside a
//! product is fixed, so results depend on neither thread count nor scheduling. Elsewhere they come one after the
//! other.

use std::ops::Range;
use std::sync::Arc;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};
use rayon::prelude::*;

use super::fused;

/// The rows that each of E matrices is for: rows stand sorted by matrix.
#[derive(Debug, Clone)]
pub struct Groups(Arc<[Range<usize>]>);

impl Groups {
    /// The groups of so many rows each, one after the other; some may be empty.
    #[must_use]
    pub fn of_sizes(sizes: &[usize]) -> Self {
        let mut start = 0;
        let range = |&size: &usize| {
            let rows = start..start + size;
            start = rows.end;
            rows
        };
        Self(sizes.iter().map(range).collect())
    }

    fn rows(&self) -> usize {
        self.0.last().map_or(0, |range| range.end)
    }

    /// The groups that have rows, with the number of their matrix.
    fn occupied(&self) -> Vec<(usize, Range<usize>)> {
        let all = self.0.iter().cloned().enumerate();
        all.filter(|(_, range)| !range.is_empty()).collect()
    }
}

/// Each row of `x` (P, in) times the matrix of its group in the frozen `weights` (E, in, out): (P, out). The backward
/// gives the gradient of `x` alone. Weights may be of a shorter type than `x`: they are widened matrix by matrix.
///
/// # Errors
/// When rows, groups and weights do not fit.
pub fn grouped(x: &Tensor, weights: &Tensor, groups: &Groups) -> Result<Tensor> {
    let frozen = Frozen {
        weights: weights.detach(),
        groups: groups.clone(),
    };
    x.contiguous()?.apply_op1(frozen)
}

/// As [`grouped`] with weights that are trained and of the type of `x`; a matrix without rows gets zeros as its
/// gradient.
///
/// # Errors
/// When rows, groups and weights do not fit.
pub fn grouped_trained(x: &Tensor, weights: &Tensor, groups: &Groups) -> Result<Tensor> {
    let trained = Trained { groups: groups.clone() };
    x.contiguous()?.apply_op2(weights, trained)
}

/// The width of a product of rows and weights that fit.
fn width(rows: &[usize], weights: &[usize], groups: &Groups) -> Result<usize> {
    match (rows, weights) {
        (&[count, inputs], &[experts, from, out])
            if inputs == from && experts == groups.0.len() && count == groups.rows() =>
        {
            Ok(out)
        }
        _ => bail!(
            "rows {rows:?} in {} groups of {} cannot go through weights {weights:?}",
            groups.0.len(),
            groups.rows()
        ),
    }
}

/// The product of a group's rows of contiguous (P, in) with matrix `e` of (E, in, out).
fn product<S: BackendStorage>(
    (x, x_layout): (&S, &Layout),
    range: &Range<usize>,
    (weights, layout): (&S, &Layout),
    e: usize,
) -> Result<S> {
    let Some((start, _)) = x_layout.contiguous_offsets() else {
        bail!("a grouped product needs contiguous rows, got {x_layout:?}")
    };
    let (_, inputs, out) = layout.shape().dims3()?;
    let stride = layout.stride();
    let first = layout.start_offset() + e * stride[0];
    let matrix = Layout::new(Shape::from((inputs, out)), stride[1..].to_vec(), first);
    let rows = Layout::contiguous_with_offset((range.len(), inputs), start + range.start * inputs);
    x.matmul(weights, (1, range.len(), out, inputs), &rows, &matrix)
}

/// Calls `multiply` for each group with rows, in parallel, and puts what it gives in its place.
fn on_cpu(
    groups: &Groups,
    out: usize,
    multiply: impl Fn(usize, &Range<usize>) -> Result<CpuStorage> + Sync,
) -> Result<(CpuStorage, Shape)> {
    let mut result = vec![0f32; groups.rows() * out];
    let mut pieces = Vec::new();
    let mut rest = &mut result[..];
    for (e, range) in groups.occupied() {
        let (piece, after) = rest.split_at_mut(range.len() * out);
        pieces.push((e, range, piece));
        rest = after;
    }
    pieces.into_par_iter().try_for_each(|(e, range, piece)| {
        piece.copy_from_slice(multiply(e, &range)?.as_slice::<f32>()?);
        Ok::<(), candle_core::Error>(())
    })?;
    Ok((CpuStorage::F32(result), Shape::from((groups.rows(), out))))
}

/// The same on any device, group after group, of whatever type rows and weights have.
fn on_device<S: BackendStorage>(x: (&S, &Layout), weights: (&S, &Layout), groups: &Groups) -> Result<(S, Shape)>
where
    S::Device: BackendDevice<Storage = S>,
{
    let out = width(x.1.dims(), weights.1.dims(), groups)?;
    let shape = Shape::from((groups.rows(), out));
    let mut result = x.0.device().zeros_impl(&shape, x.0.dtype())?;
    for (e, range) in groups.occupied() {
        let part = product(x, &range, weights, e)?;
        let whole = Layout::contiguous((range.len(), out));
        part.copy_strided_src(&mut result, range.start * out, &whole)?;
    }
    Ok((result, shape))
}

struct Frozen {
    weights: Tensor, // (E, in, out)
    groups: Groups,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "grouped-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = width(layout.dims(), self.weights.dims(), &self.groups)?;
        if !fused(self.weights.device()) {
            let (storage, weights_layout) = self.weights.storage_and_layout();
            return match &*storage {
                Storage::Cpu(weights) => on_device((x, layout), (weights, weights_layout), &self.groups),
                _ => bail!("weights and rows are on different devices"),
            };
        }
        on_cpu(&self.groups, out, |e, range| {
            // A view, or this one matrix widened.
            let weight = self.weights.narrow(0, e, 1)?.to_dtype(DType::F32)?;
            let (storage, weight_layout) = weight.storage_and_layout();
            match &*storage {
                Storage::Cpu(weight) => product((x, layout), range, (weight, weight_layout), 0),
                _ => bail!("weights and rows are on different devices"),
            }
        })
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (storage, weights_layout) = self.weights.storage_and_layout();
        match &*storage {
            Storage::Cuda(weights) => on_device((x, layout), (weights, weights_layout), &self.groups),
            _ => bail!("weights and rows are on different devices"),
        }
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let wanted = x.track_op();
        wanted.then(|| back(upstream, &self.weights, &self.groups)).transpose()
    }
}

/// The gradient of the rows.
fn back(upstream: &Tensor, weights: &Tensor, groups: &Groups) -> Result<Tensor> {
    grouped(&upstream.detach(), &weights.detach().transpose(1, 2)?, groups)
}

struct Trained {
    groups: Groups,
}

impl CustomOp2 for Trained {
    fn name(&self) -> &'static str {
        "grouped-product-of-trained-weights"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = width(layout.dims(), weights_layout.dims(), &self.groups)?;
        if !fused(&Device::Cpu) {
            return on_device((x, layout), (weights, weights_layout), &self.groups);
        }
        on_cpu(&self.groups, out, |e, range| {
            product((x, layout), range, (weights, weights_layout), e)
        })
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_device((x, layout), (weights, weights_layout), &self.groups)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = upstream.detach().contiguous()?;
        let to_x = x
            .track_op()
            .then(|| back(&upstream, weights, &self.groups))
            .transpose()?;
        let x = x.detach();
        let (_, inputs, out) = weights.dims3()?;
        let of_group = |range: &Range<usize>| {
            if range.is_empty() {
                return Tensor::zeros((1, inputs, out), x.dtype(), x.device());
            }
            let rows = x.narrow(0, range.start, range.len())?;
            let upstream = upstream.narrow(0, range.start, range.len())?;
            rows.t()?.matmul(&upstream)?.unsqueeze(0)
        };
        let parts: Vec<Tensor> = if x.device().is_cpu() {
            self.groups.0.par_iter().map(of_group).collect::<Result<_>>()?
        } else {
            self.groups.0.iter().map(of_group).collect::<Result<_>>()?
        };
        Ok((to_x, Some(Tensor::cat(&parts, 0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check::{agrees, random};

    /// The same of candle's own operations.
    fn composite(x: &Tensor, weights: &Tensor, groups: &Groups) -> Result<Tensor> {
        let part = |(e, range): (usize, Range<usize>)| x.narrow(0, range.start, range.len())?.matmul(&weights.get(e)?);
        let parts = groups.occupied().into_iter().map(part).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }

    #[test]
    fn values_and_gradients() {
        let groups = Groups::of_sizes(&[3, 0, 1, 5]);
        let inputs = [random(&[9, 6], 1.0, "x"), random(&[4, 6, 7], 1.0, "weights")];
        let exact = inputs[1].to_dtype(DType::F64).unwrap();
        agrees(
            &inputs[..1],
            |x| grouped(&x[0], &inputs[1], &groups),
            |x| composite(&x[0], &exact, &groups),
        );
        agrees(
            &inputs,
            |x| grouped_trained(&x[0], &x[1], &groups),
            |x| composite(&x[0], &x[1], &groups),
        );
        // Weights that stand transposed in memory.
        let transposed = [inputs[0].clone(), random(&[4, 7, 6], 1.0, "transposed")];
        agrees(
            &transposed,
            |x| grouped_trained(&x[0], &x[1].transpose(1, 2)?, &groups),
            |x| composite(&x[0], &x[1].transpose(1, 2)?, &groups),
        );
    }

    #[test]
    fn group_after_group_is_the_same() {
        let groups = Groups::of_sizes(&[3, 0, 1, 5]);
        let (x, weights) = (random(&[9, 6], 1.0, "x"), random(&[4, 7, 6], 1.0, "weights"));
        let turned = weights.transpose(1, 2).unwrap();
        let ((x_storage, x_layout), (storage, layout)) = (x.storage_and_layout(), turned.storage_and_layout());
        let (Storage::Cpu(rows), Storage::Cpu(weights)) = (&*x_storage, &*storage) else {
            panic!("both are in main memory")
        };
        let (found, shape) = on_device((rows, x_layout), (weights, layout), &groups).unwrap();
        let expected = grouped(&x, &turned, &groups).unwrap();
        assert_eq!(shape.dims(), expected.dims());
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.as_slice::<f32>().unwrap(), expected);
    }

    #[test]
    fn shorter_weights_are_widened() {
        let groups = Groups::of_sizes(&[2, 2]);
        let (x, weights) = (random(&[4, 6], 1.0, "x"), random(&[2, 6, 7], 1.0, "weights"));
        let short = weights.to_dtype(DType::BF16).unwrap();
        let bits = |weights: &Tensor| grouped(&x, weights, &groups).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(bits(&short), bits(&short.to_dtype(DType::F32).unwrap()));
        assert_ne!(bits(&short), bits(&weights));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (x, weights) = (random(&[4, 6], 1.0, "x"), random(&[2, 6, 7], 1.0, "weights"));
        assert!(grouped(&x, &weights, &Groups::of_sizes(&[2, 2])).is_ok());
        assert!(grouped(&x, &weights, &Groups::of_sizes(&[2, 1])).is_err());
        assert!(grouped(&x, &weights, &Groups::of_sizes(&[2, 1, 1])).is_err());
        assert!(grouped(&random(&[4, 5], 1.0, "y"), &weights, &Groups::of_sizes(&[2, 2])).is_err());
    }
}
