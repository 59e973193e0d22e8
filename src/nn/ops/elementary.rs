//! Elementary functions, and sums and softmax over a row, written without branches so that the compiler turns
//! loops over them into vector instructions.

use candle_core::{D, Result, Tensor};

/// Independent partial sums: wide enough for two AVX-512 registers, and a fixed order of additions.
const LANES: usize = 32;

/// Sum of `term` over the elements of slices of equal length.
#[inline(always)]
pub(super) fn sum<const N: usize>(inputs: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let parts = inputs.map(<[f32]>::as_chunks::<LANES>);
    for i in 0..parts.iter().map(|part| part.0.len()).min().unwrap_or(0) {
        let chunks: [&[f32; LANES]; N] = parts.map(|part| &part.0[i]);
        for lane in 0..LANES {
            lanes[lane] += term(chunks.map(|chunk| chunk[lane]));
        }
    }
    let mut total = 0f32;
    for i in 0..parts.iter().map(|part| part.1.len()).min().unwrap_or(0) {
        total += term(parts.map(|part| part.1[i]));
    }
    // Halves are added to halves, with constant sizes: each step is one addition of vectors.
    let mut half = [0f32; LANES / 2];
    for lane in 0..LANES / 2 {
        half[lane] = lanes[lane] + lanes[lane + LANES / 2];
    }
    let mut quarter = [0f32; LANES / 4];
    for lane in 0..LANES / 4 {
        quarter[lane] = half[lane] + half[lane + LANES / 4];
    }
    quarter.iter().fold(total, |total, lane| total + lane)
}

/// `e^x` to about 1e-7 relative (Cephes `expf`), at least 1e-38 and at most 1e38.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves round(x / ln 2) in the low bits of the mantissa.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let mantissa = p * (r * r) + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23);
    mantissa * power
}

/// `erf(x)` to one or two units in the last place and without bias: N. Juffa's minimax polynomials,
/// one for `erf(x) / x - 1` near zero, one for `ln(1 - erf(x))` farther out.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let t = x.abs().clamp(0.0, 6.0);
    let s = t * t;
    let mut far = (-1.728_534_7e-5 * t + 3.831_971_3e-4) * s + (-3.883_964_4e-3 * t + 2.425_462_2e-2);
    far = far * t - 1.067_778_8e-1;
    far = far * t - 6.348_467e-1;
    far = far * t - 1.287_175_1e-1;
    far = far * t - t;
    let far = (1.0 - exp(far)).copysign(x);
    let mut near = -5.967_617e-4 * s + 4.991_194e-3;
    near = near * s - 2.676_813_5e-2;
    near = near * s + 1.128_199_25e-1;
    near = near * s - 3.761_253_4e-1;
    near = near * s + 1.283_791_7e-1;
    let near = near * x + x;
    if t > 0.927_734_4 { far } else { near }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `row = softmax(row · scale)`.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let mut max = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for lane in lanes {
        max = max.max(lane);
    }
    for x in row.iter_mut() {
        *x = exp((*x - max) * scale);
    }
    let inverse = 1.0 / sum([row], |[x]| x);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// Turns the gradient of `probabilities = softmax(row · scale)` into the gradient of `row`.
#[inline(always)]
pub(super) fn softmax_backward(gradient: &mut [f32], probabilities: &[f32], scale: f32) {
    let dot = sum([gradient, probabilities], |[g, p]| g * p);
    for (g, p) in gradient.iter_mut().zip(probabilities) {
        *g = p * (*g - dot) * scale;
    }
}

/// Softmax over the last dimension by candle's operations; differentiable.
pub(super) fn softmax_composite(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> impl Iterator<Item = f32> {
        (-9000..=9000).map(|i| i as f32 / 1000.0)
    }

    #[test]
    fn exp_is_accurate() {
        for x in grid().chain([-60.0, -30.5, 40.25, 80.0]) {
            let exact = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - exact) / exact).abs() < 3e-7, "exp({x})");
        }
        assert!(exp(-1000.0) < 1e-37 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        let mut bias = 0.0;
        for x in grid() {
            let error = f64::from(erf(x)) - candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!(error.abs() < 1.5e-7, "erf({x}) is off by {error:e}");
            bias += error * f64::from(x.signum());
        }
        // Errors of one sign would add up over the width of a layer.
        assert!((bias / grid().count() as f64).abs() < 1e-8);
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_of_any_length() {
        for count in [0, 1, 31, 32, 33, 100, 384] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let expected: f32 = values.iter().sum(); // whole numbers: exact in any order
            assert_eq!(sum([&values], |[x]| x), expected);
            assert_eq!(sum([&values, &vec![2.0; count]], |[x, y]| x * y), 2.0 * expected);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        for length in [1, 15, 16, 40] {
            let mut row: Vec<f32> = (0..length).map(|i| 1e4 + 3.0 * i as f32).collect();
            softmax(&mut row, 0.5);
            let weights: Vec<f64> = (0..length)
                .map(|i| (1.5 * (f64::from(i) - f64::from(length - 1))).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (found, weight) in row.iter().zip(weights) {
                assert!((f64::from(*found) - weight / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let mut row = [0.0, f32::NAN, 1.0];
        softmax(&mut row, 1.0);
        assert!(row.iter().all(|p| p.is_nan()));
    }
}
