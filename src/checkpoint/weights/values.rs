//! Do the stored numbers survive as numbers? Looked at where they lie, without a copy.

use candle_core::DType;
use rayon::prelude::*;

/// Bytes that one thread looks at in one go; a multiple of every type's size.
const PART: usize = 1 << 20;

/// Checks that each value of `bytes` (little-endian, of type `from`) is finite, and stays so as type `to`.
///
/// # Errors
/// The problem, as the end of a sentence about a tensor.
pub(super) fn check(bytes: &[u8], from: DType, to: DType) -> Result<(), String> {
    let finite = match from {
        // A value is infinite or no number when all bits of its exponent are set.
        DType::BF16 => all::<2>(bytes, |value| u16::from_le_bytes(value) & 0x7f80 != 0x7f80),
        DType::F16 => all::<2>(bytes, |value| u16::from_le_bytes(value) & 0x7c00 != 0x7c00),
        DType::F32 => all::<4>(bytes, |value| u32::from_le_bytes(value) & 0x7f80_0000 != 0x7f80_0000),
        _ => all::<8>(bytes, |value| f64::from_le_bytes(value).is_finite()),
    };
    if !finite {
        return Err("holds values that are not finite".into());
    }
    let limit = limit(to);
    if limit >= self::limit(from) {
        return Ok(());
    }
    let fit = match from {
        DType::BF16 => all::<2>(bytes, |value| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16)).abs() < limit
        }),
        DType::F32 => all::<4>(bytes, |value| f64::from(f32::from_le_bytes(value)).abs() < limit),
        _ => all::<8>(bytes, |value| f64::from_le_bytes(value).abs() < limit),
    };
    if fit {
        Ok(())
    } else {
        Err(format!("holds values that {} cannot hold", to.as_str()))
    }
}

/// From where on a number becomes infinite as this type: half a step above the largest one.
fn limit(dtype: DType) -> f64 {
    let (digits, exponent) = match dtype {
        DType::F16 => (11, 15),
        DType::BF16 => (8, 127),
        DType::F32 => (24, 127),
        _ => return f64::INFINITY,
    };
    (2.0 - 0.5f64.powi(digits)) * 2f64.powi(exponent)
}

fn all<const N: usize>(bytes: &[u8], good: impl Fn([u8; N]) -> bool + Sync) -> bool {
    // Without an early end inside a part, so that vector instructions do it.
    let part = |part: &[u8]| {
        part.as_chunks::<N>()
            .0
            .iter()
            .fold(true, |all, value| all & good(*value))
    };
    bytes.par_chunks(PART).all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    const FLOATS: [DType; 4] = [DType::BF16, DType::F16, DType::F32, DType::F64];

    fn bytes(value: f64, dtype: DType) -> Vec<u8> {
        let mut values = vec![0.5; 700];
        values[699] = value;
        let tensor = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        safetensors::tensor::View::data(&tensor).into_owned()
    }

    /// True if candle's own conversion keeps the value finite.
    fn stays(value: f64, from: DType, to: DType) -> bool {
        let tensor = Tensor::new(&[value], &Device::Cpu).unwrap().to_dtype(from).unwrap();
        let there = tensor.to_dtype(to).unwrap().to_dtype(DType::F64).unwrap();
        there.to_vec1::<f64>().unwrap()[0].is_finite()
    }

    #[test]
    fn what_is_not_finite_is_seen_in_every_type() {
        for from in FLOATS {
            for wrong in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let refused = check(&bytes(wrong, from), from, DType::F32);
                assert!(refused.unwrap_err().contains("not finite"), "{from:?} {wrong}");
            }
            for right in [0.0, -0.0, 1.0, 65504.0, -65504.0, 6e-8] {
                check(&bytes(right, from), from, DType::F32).unwrap();
            }
        }
    }

    #[test]
    fn what_would_become_infinite_is_refused_and_nothing_else() {
        let values = [
            1.0, 65504.0, 65519.0, 65520.0, 1e5, 3.38e38, 3.3961e38, 3.3962e38, 3.402e38, 1e39, -1e300,
        ];
        for from in FLOATS {
            for to in [DType::BF16, DType::F16, DType::F32] {
                for value in values {
                    let passes = check(&bytes(value, from), from, to).is_ok();
                    assert_eq!(passes, stays(value, from, to), "{value} from {from:?} to {to:?}");
                }
            }
        }
    }
}
