//! Elementary functions and sums over a row, written without branches so that the compiler turns
//! loops over them into vector instructions.

/// Independent partial sums: wide enough for two AVX-512 registers, and a fixed order of additions.
const LANES: usize = 32;

/// Sum of `term(i)` for `i` in `0..count`.
#[inline(always)]
pub(super) fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = count - count % LANES;
    let mut start = 0;
    while start < whole {
        for (lane, partial) in lanes.iter_mut().enumerate() {
            *partial += term(start + lane);
        }
        start += LANES;
    }
    let mut total = 0f32;
    for i in whole..count {
        total += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    total + lanes[0]
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
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    let mantissa = p * (r * r) + r + 1.0;
    let power = f32::from_bits(
        shifted
            .to_bits()
            .wrapping_sub(SHIFT.to_bits())
            .wrapping_add(127)
            << 23,
    );
    mantissa * power
}

/// `erf(x)` to a few units in the last place: the rational approximation of Eigen's `generic_fast_erf`.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * z + 2.770_681_4e-8;
    p = p * z - 2.101_024e-6;
    p = p * z - 5.692_506_5e-5;
    p = p * z - 7.349_906e-4;
    p = p * z - 2.954_6e-3;
    p = p * z - 1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * z - 2.133_740_6e-4;
    q = q * z - 1.682_827e-3;
    q = q * z - 7.373_329_2e-3;
    q = q * z - 1.426_474_e-2;
    x * p / q
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
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
            assert!(
                ((f64::from(exp(x)) - exact) / exact).abs() < 3e-7,
                "exp({x})"
            );
        }
        assert!(exp(-1000.0) < 1e-37 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        for x in grid() {
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!(
                (f64::from(erf(x)) - exact).abs() < 4e-7,
                "erf({x}) = {} not {exact}",
                erf(x)
            );
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_of_any_length() {
        for count in [0, 1, 31, 32, 33, 100, 384] {
            assert_eq!(
                sum(count, |i| i as f32),
                (count * count.saturating_sub(1) / 2) as f32
            );
        }
    }
}
