//! The product of few rows with a wide frozen weight: decoding, and logits at the positions of answers.
//!
//! A general product packs the weight first, which for few rows costs more than the product itself. Here the weight is
//! read once, as it lies in memory: four of its rows at a time meet all rows of `x`, whose blocks stay in the innermost
//! cache. Each number of the result is one sum in a fixed order, so a row's result depends neither on the rows beside
//! it nor on the number of threads.

use std::ops::Range;

use half::{bf16, f16};
use pulp::Simd;
use rayon::prelude::*;

/// Most rows for which this is faster than a general product.
pub(crate) const ROWS: usize = 64;
/// Fewest numbers of a weight for which it is: smaller ones lie packed in a cache.
pub(crate) const WEIGHT: usize = 1 << 20;
/// Rows of the weight at a time.
const COLUMNS: usize = 4;
/// Numbers of a row at a time: those of 24 rows of `x` take half of an innermost cache.
const BLOCK: usize = 256;
/// Rows of the weight for one thread at a time.
const PIECE: usize = 64;

/// A number of a weight.
pub(crate) trait Stored: Copy + Sync {
    /// These numbers in f32: in place where they are, else in `wide`.
    fn wide<'a>(from: &'a [Self], wide: &'a mut Vec<f32>) -> &'a [f32];
}

impl Stored for f32 {
    fn wide<'a>(from: &'a [Self], _: &'a mut Vec<f32>) -> &'a [f32] {
        from
    }
}

impl Stored for bf16 {
    fn wide<'a>(from: &'a [Self], wide: &'a mut Vec<f32>) -> &'a [f32] {
        wide.clear();
        // The upper half of an f32.
        wide.extend(from.iter().map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)));
        wide
    }
}

impl Stored for f16 {
    fn wide<'a>(from: &'a [Self], wide: &'a mut Vec<f32>) -> &'a [f32] {
        wide.clear();
        wide.extend(from.iter().map(|x| x.to_f32()));
        wide
    }
}

/// True if [`product`] is for this shape.
pub(crate) fn suits(rows: usize, inputs: usize, out: usize) -> bool {
    (1..=ROWS).contains(&rows) && inputs * out >= WEIGHT && inputs.is_multiple_of(lanes())
}

/// Numbers of a vector of this machine.
fn lanes() -> usize {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    pulp::Arch::new().dispatch(Lanes)
}

/// `x · Wᵀ` for `x` of (rows, in) and `weight` of (out, in), where it [`suits`]: (rows, out).
pub(crate) fn product<T: Stored>(x: &[f32], weight: &[T], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    let mut result = vec![0f32; rows * outputs];
    let packed = pulp::Arch::new().dispatch(Packing { x, inputs });
    let mut pieces: Vec<Vec<&mut [f32]>> = Vec::new();
    pieces.resize_with(outputs.div_ceil(PIECE), || Vec::with_capacity(rows));
    for row in result.chunks_exact_mut(outputs) {
        for (piece, part) in pieces.iter_mut().zip(row.chunks_mut(PIECE)) {
            piece.push(part);
        }
    }
    let parts = weight.par_chunks(PIECE * inputs);
    pieces
        .par_iter_mut()
        .zip(parts)
        .for_each_init(Vec::new, |wide, (out, weight)| {
            pulp::Arch::new().dispatch(Piece {
                x: &packed,
                weight,
                inputs,
                wide,
                out,
            });
        });
    result
}

/// Rows of `x` in a tile: 24 sums of a tile stay in the registers of AVX-512, 8 in those of AVX2.
#[inline(always)]
fn height<S: Simd>() -> usize {
    if S::F32_LANES >= 16 { 6 } else { 2 }
}

/// Blocks of `x`, one after the other; in each the tiles of rows, in each vector by vector the rows; missing rows are zeros.
struct Packing<'a> {
    x: &'a [f32],
    inputs: usize,
}

impl pulp::WithSimd for Packing<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let (lanes, height) = (S::F32_LANES, height::<S>());
        let rows: Vec<&[f32]> = self.x.chunks_exact(self.inputs).collect();
        let mut packed = Vec::with_capacity(rows.len().next_multiple_of(height) * self.inputs);
        for start in (0..self.inputs).step_by(BLOCK) {
            let end = (start + BLOCK).min(self.inputs);
            for tile in rows.chunks(height) {
                for at in (start..end).step_by(lanes) {
                    for row in tile {
                        packed.extend_from_slice(&row[at..at + lanes]);
                    }
                    packed.resize(packed.len() + (height - tile.len()) * lanes, 0.0);
                }
            }
        }
        packed
    }
}

/// Some rows of the weight, and their columns of the result, row by row.
struct Piece<'a, 'b, T> {
    x: &'a [f32],
    weight: &'a [T],
    inputs: usize,
    wide: &'a mut Vec<f32>,
    out: &'a mut [&'b mut [f32]],
}

impl<T: Stored> pulp::WithSimd for Piece<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if height::<S>() == 6 {
            self.multiply::<S, 6>(simd);
        } else {
            self.multiply::<S, 2>(simd);
        }
    }
}

impl<T: Stored> Piece<'_, '_, T> {
    #[inline(always)]
    fn multiply<S: Simd, const HEIGHT: usize>(self, simd: S) {
        let zero = [[simd.splat_f32s(0.0); COLUMNS]; HEIGHT];
        let mut sums = vec![zero; self.out.len().div_ceil(HEIGHT)];
        for (group, rows) in self.weight.chunks(COLUMNS * self.inputs).enumerate() {
            let rows = T::wide(rows, self.wide);
            let columns = rows.len() / self.inputs;
            // Missing ones are the last once more.
            let row = |i: usize| &rows[i.min(columns - 1) * self.inputs..][..self.inputs];
            let rows = [row(0), row(1), row(2), row(3)];
            sums.fill(zero);
            let mut packed = self.x;
            for start in (0..self.inputs).step_by(BLOCK) {
                let end = (start + BLOCK).min(self.inputs);
                let block = rows.map(|row| S::as_simd_f32s(&row[start..end]).0);
                for sums in &mut sums {
                    let (tile, rest) = packed.split_at((end - start) * HEIGHT);
                    *sums = multiplied::<S, HEIGHT>(simd, tile, block, *sums);
                    packed = rest;
                }
            }
            for (tile, sums) in self.out.chunks_mut(HEIGHT).zip(&sums) {
                for (out, sums) in tile.iter_mut().zip(sums) {
                    let out = &mut out[group * COLUMNS..][..columns];
                    for (out, &sum) in out.iter_mut().zip(sums) {
                        *out = simd.reduce_sum_f32s(sum);
                    }
                }
            }
        }
    }
}

/// The sums with the products of a tile of `x` and four rows of the weight added, vector by vector.
#[inline(always)]
fn multiplied<S: Simd, const HEIGHT: usize>(
    simd: S,
    tile: &[f32],
    [w0, w1, w2, w3]: [&[S::f32s]; COLUMNS],
    mut sums: [[S::f32s; COLUMNS]; HEIGHT],
) -> [[S::f32s; COLUMNS]; HEIGHT] {
    let (tile, _) = S::as_simd_f32s(tile).0.as_chunks::<HEIGHT>();
    for ((((x, &w0), &w1), &w2), &w3) in tile.iter().zip(w0).zip(w1).zip(w2).zip(w3) {
        for (sums, &x) in sums.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip([w0, w1, w2, w3]) {
                *sum = simd.mul_add_e_f32s(x, w, *sum);
            }
        }
    }
    sums
}

/// Rows of the weight whose products are added up before they meet those of the others.
const PART: usize = 2048;
/// Columns of the weight at a time: those of 24 rows of the result take half of an innermost cache.
const STRIP: usize = 256;
/// Rows of the weight that meet a vector of the result at a time.
const DEPTH: usize = 8;

/// The way back: `y · W` for `y` of (rows, out) and `weight` of (out, in), where it [`suits`]: (rows, in).
pub(crate) fn back<T: Stored>(y: &[f32], weight: &[T], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let rows = y.len() / outputs;
    let strips = inputs.div_ceil(STRIP);
    let sums: Vec<Vec<f32>> = (0..outputs.div_ceil(PART) * strips)
        .into_par_iter()
        .map_init(<[Vec<f32>; DEPTH]>::default, |wide, at| {
            let (part, strip) = (at / strips, at % strips);
            pulp::Arch::new().dispatch(Strip {
                y,
                weight,
                outputs,
                inputs,
                rows: part * PART..(part * PART + PART).min(outputs),
                columns: strip * STRIP..(strip * STRIP + STRIP).min(inputs),
                wide,
            })
        })
        .collect();
    let mut result = vec![0f32; rows * inputs];
    for (at, sums) in sums.iter().enumerate() {
        let start = at % strips * STRIP;
        let width = STRIP.min(inputs - start);
        for (to, from) in result.chunks_exact_mut(inputs).zip(sums.chunks_exact(width)) {
            to[start..start + width]
                .iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to += from);
        }
    }
    result
}

/// Some rows and columns of the weight.
struct Strip<'a, T> {
    y: &'a [f32],
    weight: &'a [T],
    outputs: usize,
    inputs: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    wide: &'a mut [Vec<f32>; DEPTH],
}

impl<T: Stored> pulp::WithSimd for Strip<'_, T> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let (width, rows) = (self.columns.len(), self.y.len() / self.outputs);
        let mut sums = vec![0f32; rows * width];
        for first in self.rows.clone().step_by(DEPTH) {
            let depth = DEPTH.min(self.rows.end - first);
            let mut i = 0;
            let weights = self.wide.each_mut().map(|wide| {
                // Missing ones are the last once more, times zero.
                let row = first + i.min(depth - 1);
                i += 1;
                let from = &self.weight[row * self.inputs..][self.columns.clone()];
                S::as_simd_f32s(T::wide(from, wide)).0
            });
            for (y, sums) in self.y.chunks_exact(self.outputs).zip(sums.chunks_exact_mut(width)) {
                let mut factors = [0f32; DEPTH];
                factors[..depth].copy_from_slice(&y[first..first + depth]);
                add_products(simd, factors, weights, S::as_mut_simd_f32s(sums).0);
            }
        }
        sums
    }
}

/// `sums += Σ factors[i] · weights[i]`, in this order.
#[inline(always)]
fn add_products<S: Simd>(
    simd: S,
    factors: [f32; DEPTH],
    [w0, w1, w2, w3, w4, w5, w6, w7]: [&[S::f32s]; DEPTH],
    sums: &mut [S::f32s],
) {
    let factors = factors.map(|factor| simd.splat_f32s(factor));
    let first = w0.iter().zip(w1).zip(w2).zip(w3);
    let second = w4.iter().zip(w5).zip(w6).zip(w7);
    for ((sum, (((w0, w1), w2), w3)), (((w4, w5), w6), w7)) in sums.iter_mut().zip(first).zip(second) {
        for (factor, &weight) in factors.into_iter().zip([w0, w1, w2, w3, w4, w5, w6, w7]) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    fn values(shape: &[usize], name: &str) -> Vec<f32> {
        check::random(shape, 1.0, name)
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    #[test]
    fn any_number_of_rows_and_outputs_and_each_row_as_if_alone() {
        for (rows, inputs, outputs) in [(1, 16, 1), (5, 288, 70), (7, 512, 66), (64, 1040, 131)] {
            let (x, weight) = (values(&[rows, inputs], "x"), values(&[outputs, inputs], "weight"));
            let found = product(&x, &weight, inputs);
            for (i, (found, x)) in found.chunks(outputs).zip(x.chunks(inputs)).enumerate() {
                for (found, weight) in found.iter().zip(weight.chunks(inputs)) {
                    let exact: f64 = x.iter().zip(weight).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let size: f64 = x.iter().zip(weight).map(|(&a, &b)| f64::from(a * b).abs()).sum();
                    assert!(
                        (f64::from(*found) - exact).abs() <= 1e-6 * size,
                        "{found} is not {exact}"
                    );
                }
                assert_eq!(product(x, &weight, inputs), found, "row {i}");
            }
        }
    }

    #[test]
    fn the_way_back_too() {
        for (rows, inputs, outputs) in [(1, 16, 1), (5, 288, 70), (64, 512, 3), (3, 32, 4100)] {
            let (y, weight) = (values(&[rows, outputs], "y"), values(&[outputs, inputs], "weight"));
            let found = back(&y, &weight, inputs);
            for (i, (found, y)) in found.chunks(inputs).zip(y.chunks(outputs)).enumerate() {
                for (j, found) in found.iter().enumerate() {
                    let column = weight.iter().skip(j).step_by(inputs);
                    let products = || y.iter().zip(column.clone());
                    let exact: f64 = products().map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let size: f64 = products().map(|(&a, &b)| f64::from(a * b).abs()).sum();
                    assert!(
                        (f64::from(*found) - exact).abs() <= 1e-6 * size,
                        "{found} is not {exact}"
                    );
                }
                assert_eq!(back(y, &weight, inputs), found, "row {i}");
            }
            let brain: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
            let wide: Vec<f32> = brain.iter().map(|x| x.to_f32()).collect();
            assert_eq!(back(&y, &brain, inputs), back(&y, &wide, inputs));
        }
    }

    #[test]
    fn narrow_weights_are_widened_exactly() {
        let (x, weight) = (values(&[3, 64], "x"), values(&[37, 64], "weight"));
        let brain: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
        let half: Vec<f16> = weight.iter().map(|&x| f16::from_f32(x)).collect();
        let wide = |values: Vec<f32>| product(&x, &values, 64);
        assert_eq!(
            product(&x, &brain, 64),
            wide(brain.iter().map(|x| x.to_f32()).collect())
        );
        assert_eq!(product(&x, &half, 64), wide(half.iter().map(|x| x.to_f32()).collect()));
    }

    #[test]
    fn it_is_for_few_rows_and_wide_weights() {
        assert!(suits(1, 1024, 1024) && suits(ROWS, 2048, 6144));
        assert!(!suits(0, 1024, 1024) && !suits(ROWS + 1, 2048, 6144) && !suits(4, 256, 1024) && !suits(4, 1025, 1024));
    }
}
