//! The part that PEFT takes out of a base weight before it adds B · A, for adapters that say so in `init_lora_weights`.
//!
//! PEFT does not keep it: each time an adapter is loaded it is computed again from the base (`pissa_init` and
//! `olora_init` of peft 0.21.2's `tuners/lora/layer.py`). Signs and order of singular vectors, and signs of a QR
//! decomposition, cancel in the product, so that any exact method finds the same; that is checked here.

use candle_core::{DType, Device, Tensor};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::settings::Init;
use crate::error::Result;
use crate::seed;

/// The part that a weight starts without: B₀ (out, r) and A₀ (r, in), in f32.
pub(in crate::models) struct Initial {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
}

/// Two singular values that differ by less than this share of the largest are the same in f32.
const SAME: f64 = 1e-6;
/// The residual that an eigenpair may have, as a share of the largest eigenvalue.
const RESIDUAL: f64 = 1e-11;
/// Directions that are tried at once beside those that are sought.
const BESIDE: usize = 8;
/// Directions that are kept at most, per direction that is sought.
const KEPT: usize = 24;

impl Initial {
    /// The part that is taken out of `weight`, (out, in), by an adapter of this rank: `scale · B₀ · A₀`. The rank is at most the
    /// smaller side of the weight.
    ///
    /// # Errors
    /// In words, where rounding decides it, so that PEFT itself would find something else on another machine.
    pub(super) fn of(init: Init, weight: &Tensor, rank: usize, scale: f64) -> Result<Result<Self, String>> {
        let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let found = match init {
            Init::Plain => Err("nothing is taken out".into()),
            Init::Pissa => principal(&weight, rank, scale)?,
            Init::Olora => leading(&weight, rank)?,
        };
        let narrow = |x: Tensor| x.to_dtype(DType::F32)?.contiguous();
        let factors = found.map(|(b, a)| {
            candle_core::Result::Ok(Self {
                a: narrow(a)?,
                b: narrow(b)?,
            })
        });
        Ok(match factors {
            Ok(factors) => Ok(factors?),
            Err(reason) => Err(reason),
        })
    }
}

type Factors = Result<(Tensor, Tensor), String>;

/// B₀ = U √(S / scale) and A₀ = √(S / scale) Vᵀ of the largest singular values.
fn principal(weight: &Tensor, rank: usize, scale: f64) -> Result<Factors> {
    let (out, inputs) = weight.dims2()?;
    let wide = inputs > out;
    let tall = if wide { weight.t()? } else { weight.clone() };
    let tall = tall.contiguous()?; // (m, n), m ≥ n
    let Some((values, vectors)) = largest(&tall, rank)? else {
        return Ok(Err("its singular values lie too close together to be told apart".into()));
    };
    let top = values.first().copied().unwrap_or(0.0);
    let (last, next) = (values.get(rank - 1).copied().unwrap_or(0.0), values.get(rank).copied());
    if let Some(next) = next
        && last > SAME * top
        && last - next < SAME * top
    {
        return Ok(Err(format!(
            "its singular values number {rank} and {} are the same ({last:.6e}): rounding decides which is taken out",
            rank + 1
        )));
    }
    // v are right singular vectors of the tall matrix; A v = σ u.
    let right = vectors.narrow(1, 0, rank)?; // (n, r)
    let image = tall.matmul(&right)?; // (m, r), columns σ u
    let column = |power: f64| {
        let stands = |value: f64| value > SAME * SAME * top;
        let of = |&value: &f64| if stands(value) { value.powf(power) } else { 0.0 };
        let column: Vec<f64> = values[..rank].iter().map(of).collect();
        Tensor::from_vec(column, (1, rank), &Device::Cpu)
    };
    let scaled = (1.0 / scale).sqrt();
    let left = (image.broadcast_mul(&column(-0.5)?)? * scaled)?; // u √σ / √scale
    let right = (right.broadcast_mul(&column(0.5)?)? * scaled)?; // v √σ / √scale
    Ok(Ok(if wide { (right, left.t()?) } else { (left, right.t()?) }))
}

/// The `count` largest singular values of (m, n), the next one if there is any, and the right singular vectors (n, …), by a
/// block Krylov space of AᵀA; `None` where that does not settle.
fn largest(a: &Tensor, count: usize) -> Result<Option<(Vec<f64>, Tensor)>> {
    let (_, n) = a.dims2()?;
    let sought = (count + 1).min(n);
    let block = (count + BESIDE).min(n);
    let most = n.min(block * KEPT);
    let mut rng = seed::rng(0, "singular vectors");
    let start: Vec<f64> = (0..n * block).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut basis = Basis::new(n);
    basis.extend(&start, block);
    let mut image = a.matmul(&basis.columns(0)?)?; // A Q
    // The small problem grows with the third power: it is looked at only when there is half as much again.
    let mut look = 2 * block;
    loop {
        let kept = basis.count;
        if kept < look.min(n) && kept < most {
            image = grow(a, &mut basis, &image, block, &mut rng)?;
            continue;
        }
        look = kept + kept / 2;
        // The small problem: (A Q)ᵀ (A Q).
        let small = image.t()?.matmul(&image)?;
        let (values, rotation) = symmetric(small.to_vec2::<f64>()?)?;
        let taken = sought.min(kept);
        let q = basis.columns(0)?;
        let rotation = rotation.narrow(1, 0, taken)?;
        let vectors = q.matmul(&rotation.contiguous()?)?; // (n, taken)
        let values: Vec<f64> = values[..taken].iter().map(|value| value.max(0.0)).collect();
        let settled = kept == n || {
            let mapped = a.t()?.matmul(&image.matmul(&rotation.contiguous()?)?)?; // AᵀA v
            let lambda = Tensor::from_vec(values.clone(), (1, taken), &Device::Cpu)?;
            let left = (mapped - vectors.broadcast_mul(&lambda)?)?;
            let left = left.sqr()?.sum(0)?.to_vec1::<f64>()?;
            let top = values.first().copied().unwrap_or(0.0);
            // The one after those that are sought only tells how far away it is.
            let bound = |i: usize| if i < count { RESIDUAL } else { 1e-4 };
            taken == sought && (0..taken).all(|i| left[i].sqrt() <= bound(i) * top)
        };
        if settled {
            return Ok(Some((values.iter().map(|value| value.sqrt()).collect(), vectors)));
        }
        if kept >= most {
            return Ok(None);
        }
        image = grow(a, &mut basis, &image, block, &mut rng)?;
    }
}

/// Adds AᵀA of the last block to the basis; gives A of all that it has then.
fn grow(a: &Tensor, basis: &mut Basis, image: &Tensor, block: usize, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let before = basis.count;
    let last = image.narrow(1, basis.last, before - basis.last)?.contiguous()?;
    let next = a.t()?.matmul(&last)?; // (n, columns)
    basis.extend(&next.flatten_all()?.to_vec1()?, next.dim(1)?);
    if basis.count == before {
        // The space is closed: what is left is orthogonal to it.
        let fresh: Vec<f64> = (0..basis.n * block).map(|_| rng.random_range(-1.0..1.0)).collect();
        basis.extend(&fresh, block);
    }
    let new = a.matmul(&basis.columns(before)?)?;
    Ok(Tensor::cat(&[image, &new], 1)?)
}

/// Orthonormal columns of length n, one after the other.
#[derive(Default)]
struct Basis {
    n: usize,
    values: Vec<f64>,
    count: usize,
    /// Start of the last block.
    last: usize,
}

impl Basis {
    fn new(n: usize) -> Self {
        Self { n, ..Self::default() }
    }

    /// Adds what is new of a block (n, columns), row by row.
    fn extend(&mut self, block: &[f64], columns: usize) {
        self.last = self.count;
        for j in 0..columns {
            let mut column: Vec<f64> = (0..self.n).map(|i| block[i * columns + j]).collect();
            let before = norm(&column);
            // Twice is enough.
            for _ in 0..2 {
                for other in self.values.chunks_exact(self.n) {
                    let along: f64 = other.iter().zip(&column).map(|(a, b)| a * b).sum();
                    column.iter_mut().zip(other).for_each(|(x, other)| *x -= along * other);
                }
            }
            let left = norm(&column);
            if self.count < self.n && left > 1e-10 * before && left > 0.0 {
                self.values.extend(column.iter().map(|x| x / left));
                self.count += 1;
            }
        }
    }

    /// The columns from `first` on, (n, …).
    fn columns(&self, first: usize) -> candle_core::Result<Tensor> {
        let count = self.count - first;
        let values = self.values[first * self.n..].to_vec();
        Tensor::from_vec(values, (count, self.n), &Device::Cpu)?
            .t()?
            .contiguous()
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// B₀ = Q and A₀ = R of the first `rank` columns' span: `Q[:, :r]` and `R[:r]` of W = Q R.
fn leading(weight: &Tensor, rank: usize) -> Result<Factors> {
    let (out, _) = weight.dims2()?;
    let columns = weight.narrow(1, 0, rank)?.contiguous()?;
    let values: Vec<f64> = columns.flatten_all()?.to_vec1()?;
    let largest = norm(&values);
    let mut basis = Basis::new(out);
    for j in 0..rank {
        let column: Vec<f64> = (0..out).map(|i| values[i * rank + j]).collect();
        let (size, before) = (norm(&column), basis.count);
        basis.extend(&column, 1);
        let along = |other: &[f64]| -> f64 { other.iter().zip(&column).map(|(a, b)| a * b).sum() };
        let others = basis.values.chunks_exact(out).take(before);
        let in_span: f64 = others.map(|other| along(other).powi(2)).sum();
        let left = (size * size - in_span).max(0.0).sqrt();
        if basis.count == before || left < SAME * largest {
            return Ok(Err(format!(
                "its column {} lies in the span of those before it: rounding decides what is taken out",
                j + 1
            )));
        }
    }
    let q = basis.columns(0)?; // (out, r)
    let r = q.t()?.matmul(weight)?; // (r, in)
    Ok(Ok((q, r)))
}

/// QL steps for one eigenvalue, at most; two or three are usual.
const STEPS: usize = 60;

/// Eigenvalues, the largest first, and eigenvectors as columns (k, k), of a small symmetric matrix (k, k), in f64:
/// Householder's tridiagonal form, then implicit QL steps (EISPACK's `tred2` and `tql2`, as in Wilkinson and Reinsch,
/// Handbook for Automatic Computation II).
fn symmetric(a: Vec<Vec<f64>>) -> candle_core::Result<(Vec<f64>, Tensor)> {
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

    fn random(out: usize, inputs: usize, name: &str) -> Tensor {
        let mut rng = seed::rng(1, name);
        let values: Vec<f64> = (0..out * inputs).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, (out, inputs), &Device::Cpu).unwrap()
    }

    fn size(x: &Tensor) -> f64 {
        x.to_dtype(DType::F64)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    }

    fn product(initial: &Initial, scale: f64) -> Tensor {
        (initial.b.matmul(&initial.a).unwrap().to_dtype(DType::F64).unwrap() * scale).unwrap()
    }

    /// W of known singular values from two orthonormal bases.
    fn made(out: usize, inputs: usize, values: &[f64]) -> (Tensor, Tensor, Tensor) {
        let side = |n: usize, name: &str| {
            let mut basis = Basis::new(n);
            basis.extend(
                &random(n, values.len(), name)
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f64>()
                    .unwrap(),
                values.len(),
            );
            basis.columns(0).unwrap()
        };
        let (u, v) = (side(out, "u"), side(inputs, "v"));
        let s = Tensor::new(values, &Device::Cpu)
            .unwrap()
            .reshape((1, values.len()))
            .unwrap();
        (u.broadcast_mul(&s).unwrap().matmul(&v.t().unwrap()).unwrap(), u, v)
    }

    #[test]
    fn pissa_takes_the_largest_singular_values_of_any_shape() {
        let values: Vec<f64> = (0..40).map(|i| 3.0 * 0.9f64.powi(i)).collect();
        for (out, inputs) in [(300, 64), (64, 300), (40, 40), (700, 500)] {
            let (weight, u, v) = made(out, inputs, &values);
            for rank in [1, 4, 16] {
                let found = Initial::of(Init::Pissa, &weight, rank, 2.5).unwrap().unwrap();
                let s = Tensor::new(&values[..rank], &Device::Cpu)
                    .unwrap()
                    .reshape((1, rank))
                    .unwrap();
                let (u, v) = (u.narrow(1, 0, rank).unwrap(), v.narrow(1, 0, rank).unwrap());
                let wanted = u.broadcast_mul(&s).unwrap().matmul(&v.t().unwrap()).unwrap();
                let error = size(&(product(&found, 2.5) - wanted).unwrap()) / size(&weight);
                assert!(error < 1e-6, "{out} x {inputs}, rank {rank}: {error:e}");
            }
        }
    }

    #[test]
    fn pissa_of_the_full_rank_and_of_nothing() {
        let weight = random(7, 5, "small");
        let whole = Initial::of(Init::Pissa, &weight, 5, 1.0).unwrap().unwrap();
        assert!(size(&(product(&whole, 1.0) - &weight).unwrap()) < 1e-6);
        let nothing = Tensor::zeros((6, 9), DType::F32, &Device::Cpu).unwrap();
        let found = Initial::of(Init::Pissa, &nothing, 2, 1.0).unwrap().unwrap();
        assert_eq!(size(&product(&found, 1.0)), 0.0);
    }

    #[test]
    fn what_rounding_decides_is_refused() {
        let (weight, ..) = made(50, 60, &[4.0, 2.0, 2.0, 1.0]);
        let same = Initial::of(Init::Pissa, &weight, 2, 1.0).unwrap().err().unwrap();
        assert!(same.contains("number 2 and 3"), "{same}");
        assert!(Initial::of(Init::Pissa, &weight, 3, 1.0).unwrap().is_ok());
        let first = random(20, 1, "column");
        let twice = Tensor::cat(&[&first, &first, &random(20, 4, "others")], 1).unwrap();
        assert!(Initial::of(Init::Olora, &twice, 1, 1.0).unwrap().is_ok());
        let refused = Initial::of(Init::Olora, &twice, 2, 1.0).unwrap().err().unwrap();
        assert!(refused.contains("column 2"), "{refused}");
    }

    #[test]
    fn olora_projects_on_the_first_columns() {
        for (out, inputs) in [(30, 12), (12, 30)] {
            let weight = random(out, inputs, "qr");
            let found = Initial::of(Init::Olora, &weight, 4, 0.5).unwrap().unwrap();
            let product = product(&found, 1.0);
            let left = (&weight - &product).unwrap();
            // The first columns are whole, the others lose what lies in their span.
            assert!(size(&left.narrow(1, 0, 4).unwrap()) < 1e-5);
            let along = weight.narrow(1, 0, 4).unwrap().t().unwrap().matmul(&left).unwrap();
            assert!(size(&along) < 1e-5 && size(&left) > 1.0);
        }
    }

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
