//! Rows of a frozen weight in f32.

use std::ops::Range;

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::PIECE;

/// Some rows of a contiguous (rows, columns) weight in main memory, in f32.
pub(crate) fn widened(weight: &Tensor, rows: Range<usize>) -> Result<Tensor> {
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
    to.par_chunks_mut(PIECE)
        .zip(from.par_chunks(PIECE))
        .for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, &from)| *to = widen(from)));
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;
    use candle_core::DType;

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
