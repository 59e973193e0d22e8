//! The standard normal distribution, and Student's t distribution through the regularised incomplete beta function.

/// P(X ≤ x), to about 13 digits also far out in the lower tail.
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// The `p` quantile, for 0 ≤ `p` ≤ 1; infinite at the ends.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -normal_quantile(1.0 - p); // exact
    }
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let (mut low, mut high) = (-40.0, 0.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high || high - low < 1e-17 {
            return middle; // neighbouring floats
        }
        if normal_cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// P(T ≤ t) with `degrees` > 0 of freedom.
#[must_use]
pub fn t_cdf(t: f64, degrees: f64) -> f64 {
    let tail = upper_tail(t.abs(), degrees);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// P(T > t) for t ≥ 0. With x = ν / (ν + t²) it is I_x(ν/2, 1/2) / 2, which falls from 1/2 to 0 as t grows.
fn upper_tail(t: f64, degrees: f64) -> f64 {
    let square = t * t;
    if square <= 1.0 {
        // x is near 1, where 1 − x must not be left to subtraction; the tail is far from 0.
        0.5 - 0.5 * regularised_beta(square / (degrees + square), 0.5, degrees / 2.0)
    } else {
        0.5 * regularised_beta(degrees / (degrees + square), degrees / 2.0, 0.5)
    }
}

/// The `p` quantile, for 0 < `p` < 1 and `degrees` > 0 of freedom.
#[must_use]
pub fn t_quantile(p: f64, degrees: f64) -> f64 {
    if p < 0.5 {
        -t_upper_quantile(p, degrees)
    } else {
        t_upper_quantile(1.0 - p, degrees) // exact
    }
}

/// The value above which lies the share 0 < `tail` ≤ 1/2: Newton's steps, kept inside a bracket.
#[must_use]
pub fn t_upper_quantile(tail: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while upper_tail(high, degrees) > tail && high < 1e300 {
        (low, high) = (high, high * 2.0);
    }
    let log_front = ln_gamma(f64::midpoint(degrees, 1.0)) - ln_gamma(degrees / 2.0);
    let front = (log_front - 0.5 * (degrees * std::f64::consts::PI).ln()).exp();
    let mut at = f64::midpoint(low, high);
    for _ in 0..200 {
        let found = upper_tail(at, degrees);
        if found > tail {
            low = at;
        } else {
            high = at;
        }
        // Newton in the logarithm of the tail, which is nearly straight.
        let density = front * (-0.5 * (degrees + 1.0) * (at * at / degrees).ln_1p()).exp();
        let newton = at + (found / tail).ln() * found / density;
        let next = if newton > low && newton < high {
            newton
        } else {
            f64::midpoint(low, high)
        };
        let moved = (next - at).abs();
        at = next;
        if moved <= 1e-15 * at {
            break;
        }
    }
    at
}

/// `I_x(a, b)` by its continued fraction (DLMF 8.17.22), evaluated with the modified Lentz algorithm.
fn regularised_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - regularised_beta(1.0 - x, b, a); // where the fraction converges fast
    }
    let log_front = a * x.ln() + b * (-x).ln_1p() - (ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b));
    let keep_off_zero = |v: f64| {
        if v.abs() < f64::MIN_POSITIVE {
            f64::MIN_POSITIVE
        } else {
            v
        }
    };
    let mut c = 1.0;
    let mut d = 1.0 / keep_off_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / keep_off_zero(1.0 + term * d);
            c = keep_off_zero(1.0 + term / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= f64::EPSILON * fraction.abs() {
            break;
        }
    }
    log_front.exp() * fraction / a
}

/// ln Γ(x) for x > 0: Stirling's series (DLMF 5.11.1), reached from small x by Γ(x + 1) = x Γ(x).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0_f64);
    while x < 16.0 {
        product *= x;
        x += 1.0;
    }
    let inverse_square = 1.0 / (x * x);
    let coefficients = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0];
    let series = coefficients.iter().rev().fold(0.0, |sum, c| sum * inverse_square + c) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        assert_eq!(normal_cdf(0.0), 0.5);
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-13);
        assert!((normal_quantile(0.8) - 0.841_621_233_572_914_3).abs() < 1e-13);
        assert!(normal_quantile(0.5).abs() < 1e-15);
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
        // Both ways of working it out meet.
        let (left, right) = (normal_cdf(-2.5 - 1e-12), normal_cdf(-2.5 + 1e-12));
        assert!((right / left - 1.0).abs() < 1e-11, "{left} {right}");
    }

    #[test]
    fn quantiles_against_scipy() {
        // scipy 1.17: scipy.stats.t.ppf(p, df)
        for (p, df, t) in [
            (0.975, 1.0, 12.706_204_736_174_694),
            (0.975, 2.0, 4.302_652_729_749_462),
            (0.975, 3.0, 3.182_446_305_283_707_8),
            (0.975, 4.0, 2.776_445_105_197_793_4),
            (0.975, 9.0, 2.262_157_162_798_205),
            (0.975, 29.0, 2.045_229_642_132_703),
            (0.975, 199.0, 1.971_956_544_251_753_3),
            (0.975, 5000.0, 1.960_438_551_706_507_3),
            (0.6, 1.0, 0.324_919_696_232_906_3),
            (0.9, 4.0, 1.533_206_274_058_944),
            (0.995, 7.0, 3.499_483_297_350_492_4),
            (0.5001, 30.0, 0.000_252_760_025_393_364_7),
        ] {
            let found = t_quantile(p, df);
            assert!(
                (found - t).abs() < 1e-9 * t.max(1.0),
                "p {p}, df {df}: {found} is not {t}"
            );
            assert!((t_quantile(1.0 - p, df) + found).abs() < 1e-9 * t.max(1.0));
        }
    }

    #[test]
    fn ln_gamma_at_known_points() {
        for (x, value) in [
            (1.0, 0.0),
            (2.0, 0.0),
            (0.5, 0.572_364_942_924_700_1),
            (11.0, 15.104_412_573_075_516),
        ] {
            assert!((ln_gamma(x) - value).abs() < 1e-12, "{x}: {}", ln_gamma(x));
        }
    }
}
