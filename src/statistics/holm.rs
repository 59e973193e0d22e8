//! Holm's step-down correction for several tests at once.

/// Adjusted p values in the order given (Holm, Scandinavian Journal of Statistics 6, 1979): rejecting those
/// that are at most α keeps the chance of any false rejection at α, whatever the dependence between the tests.
///
/// The smallest of m is multiplied by m, the next by m − 1 and so on; none falls below an earlier one or
/// exceeds 1.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut ascending: Vec<usize> = (0..p.len()).collect();
    ascending.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut before = 0.0_f64;
    for (rank, &test) in ascending.iter().enumerate() {
        before = before.max((p.len() - rank) as f64 * p[test]).min(1.0);
        adjusted[test] = before;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_down_and_never_back() {
        // By hand: 0.01·4, 0.02·3 (raised to none), 0.03·2, then 0.5·1.
        let found = holm(&[0.03, 0.5, 0.01, 0.02]);
        for (found, expected) in found.iter().zip([0.06, 0.5, 0.04, 0.06]) {
            assert!((found - expected).abs() < 1e-15, "{found} is not {expected}");
        }
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.4]), [0.4]);
        assert_eq!(holm(&[0.9, 0.8, 1.0]), [1.0, 1.0, 1.0]);
        assert_eq!(holm(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
