//! Eigenvalues of small symmetric matrices, in f64: Householder's tridiagonal form, then implicit QL steps (EISPACK's
//! `tred2` and `tql2`, as in Wilkinson and Reinsch, Handbook for Automatic Computation II).

use candle_core::{Device, Tensor};

/// QL steps for one eigenvalue, at most; two or three are usual.
const STEPS: usize = 60;

/// Eigenvalues, the largest first, and eigenvectors as columns (k, k), of a symmetric matrix (k, k).
///
/// # Errors
/// Only what candle reports.
pub(super) fn symmetric(a: Vec<Vec<f64>>) -> candle_core::Result<(Vec<f64>, Tensor)> {
    let k = a.len();
    let (mut v, mut d, mut e) = (a, vec![0.0; k], vec![0.0; k]);
    if k > 0 {
        tridiagonal(&mut v, &mut d, &mut e);
        diagonal(&mut v, &mut d, &mut e);
    }
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&i, &j| d[j].total_cmp(&d[i]));
    let columns: Vec<f64> = v.iter().flat_map(|row| order.iter().map(|&j| row[j])).collect();
    let vectors = Tensor::from_vec(columns, (k, k), &Device::Cpu)?;
    Ok((order.iter().map(|&j| d[j]).collect(), vectors))
}

/// Leaves the diagonal in `d`, what stands below it in `e`, and the transformation in `v`.
fn tridiagonal(v: &mut [Vec<f64>], d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    d.copy_from_slice(&v[n - 1]);
    for i in (1..n).rev() {
        let (mut h, scale) = (0.0, d[..i].iter().map(|x| x.abs()).sum::<f64>());
        if scale == 0.0 {
            e[i] = d[i - 1];
            for j in 0..i {
                d[j] = v[i - 1][j];
                v[i][j] = 0.0;
                v[j][i] = 0.0;
            }
        } else {
            for x in &mut d[..i] {
                *x /= scale;
                h += *x * *x;
            }
            let f = d[i - 1];
            let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
            e[i] = scale * g;
            h -= f * g;
            d[i - 1] = f - g;
            e[..i].fill(0.0);
            for j in 0..i {
                let f = d[j];
                v[j][i] = f;
                let mut g = e[j] + v[j][j] * f;
                for l in j + 1..i {
                    g += v[l][j] * d[l];
                    e[l] += v[l][j] * f;
                }
                e[j] = g;
            }
            let mut f = 0.0;
            for j in 0..i {
                e[j] /= h;
                f += e[j] * d[j];
            }
            let hh = f / (h + h);
            for j in 0..i {
                e[j] -= hh * d[j];
            }
            for j in 0..i {
                let (f, g) = (d[j], e[j]);
                for l in j..i {
                    v[l][j] -= f * e[l] + g * d[l];
                }
                d[j] = v[i - 1][j];
                v[i][j] = 0.0;
            }
        }
        d[i] = h;
    }
    for i in 0..n - 1 {
        v[n - 1][i] = v[i][i];
        v[i][i] = 1.0;
        let h = d[i + 1];
        if h != 0.0 {
            for l in 0..=i {
                d[l] = v[l][i + 1] / h;
            }
            for j in 0..=i {
                let g: f64 = (0..=i).map(|l| v[l][i + 1] * v[l][j]).sum();
                for l in 0..=i {
                    v[l][j] -= g * d[l];
                }
            }
        }
        for row in &mut v[..=i] {
            row[i + 1] = 0.0;
        }
    }
    for j in 0..n {
        d[j] = v[n - 1][j];
        v[n - 1][j] = 0.0;
    }
    v[n - 1][n - 1] = 1.0;
    e[0] = 0.0;
}

/// Leaves the eigenvalues in `d` and the eigenvectors in `v`.
fn diagonal(v: &mut [Vec<f64>], d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    e.rotate_left(1);
    e[n - 1] = 0.0;
    let (mut shift, mut largest) = (0.0f64, 0.0f64);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        // The last one is zero, so that there always is one.
        let m = (l..n).find(|&m| e[m].abs() <= f64::EPSILON * largest).unwrap_or(n - 1);
        if m > l {
            for _ in 0..STEPS {
                let g = d[l];
                let mut p = (d[l + 1] - g) / (2.0 * e[l]);
                let mut r = p.hypot(1.0).copysign(p);
                d[l] = e[l] / (p + r);
                d[l + 1] = e[l] * (p + r);
                let next = d[l + 1];
                let mut h = g - d[l];
                for x in &mut d[l + 2..] {
                    *x -= h;
                }
                shift += h;
                p = d[m];
                let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
                let (mut s, mut s2) = (0.0, 0.0);
                let below = e[l + 1];
                for i in (l..m).rev() {
                    (c3, c2, s2) = (c2, c, s);
                    let g = c * e[i];
                    h = c * p;
                    r = p.hypot(e[i]);
                    e[i + 1] = s * r;
                    s = e[i] / r;
                    c = p / r;
                    p = c * d[i] - s * g;
                    d[i + 1] = h + s * (c * g + s * d[i]);
                    for row in v.iter_mut() {
                        let h = row[i + 1];
                        row[i + 1] = s * row[i] + c * h;
                        row[i] = c * row[i] - s * h;
                    }
                }
                p = -s * s2 * c3 * below * e[l] / next;
                e[l] = s * p;
                d[l] = c * p;
                if e[l].abs() <= f64::EPSILON * largest {
                    break;
                }
            }
        }
        d[l] += shift;
        e[l] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;
    use rand::Rng as _;

    #[test]
    fn a_matrix_comes_back_from_its_eigenvalues() {
        for k in [1, 2, 3, 17, 60] {
            let mut rng = seed::rng(k as u64, "symmetric");
            let mut a = vec![vec![0.0f64; k]; k];
            for (i, j) in (0..k).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                a[i][j] = rng.random_range(-1.0..1.0);
                a[j][i] = a[i][j];
            }
            let (values, vectors) = symmetric(a.clone()).unwrap();
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            let v = vectors.to_vec2::<f64>().unwrap();
            for i in 0..k {
                for j in 0..k {
                    let made: f64 = (0..k).map(|l| v[i][l] * values[l] * v[j][l]).sum();
                    assert!((made - a[i][j]).abs() < 1e-12, "{k}: {i}, {j}");
                    let unit: f64 = (0..k).map(|l| v[l][i] * v[l][j]).sum();
                    assert!((unit - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn equal_and_vanishing_eigenvalues() {
        let (values, _) = symmetric(vec![vec![0.0; 4]; 4]).unwrap();
        assert_eq!(values, [0.0; 4]);
        let mut identity = vec![vec![0.0; 3]; 3];
        (0..3).for_each(|i| identity[i][i] = 2.0);
        assert_eq!(symmetric(identity).unwrap().0, [2.0; 3]);
    }
}
