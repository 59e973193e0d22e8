//! Products of small matrices inside one thread, for attention: the heads of a sequence are too many
//! and too small for a general matrix product with its set-up and its threads.
//!
//! Both operands are packed into tiles, so that the inner loop is one multiply-add per vector without
//! a bounds check. Its sums are named as vectors: the compiler would not keep an array in registers.

use pulp::Simd;

/// Rows of the left operand in a tile; columns of the right one are the lanes of a vector.
const ROWS: usize = 8;

/// A matrix inside a slice: element (i, k) stands at `start + i * stride + k * step`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    start: usize,
    stride: usize,
    step: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of contiguous values, `stride` apart.
    #[inline(always)]
    pub(super) fn rows(values: &'a [f32], start: usize, stride: usize) -> Self {
        Self {
            values,
            start,
            stride,
            step: 1,
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            stride: self.step,
            step: self.stride,
            ..self
        }
    }
}

/// Memory for packed operands, kept from product to product.
#[derive(Default)]
pub(super) struct Scratch {
    left: Vec<f32>,
    right: Vec<f32>,
}

/// Layout of a product in memory: element (i, j) goes to `start + i * stride + j`.
pub(super) struct Target<'a> {
    pub values: &'a mut [f32],
    pub start: usize,
    pub stride: usize,
}

impl<'a> Target<'a> {
    /// Rows of contiguous values from the first on, `stride` apart.
    #[inline(always)]
    pub(super) fn rows(values: &'a mut [f32], stride: usize) -> Self {
        Self {
            values,
            start: 0,
            stride,
        }
    }
}

impl Scratch {
    /// `target = a · bᵀ` for `a` of (rows, depth) and `b` of (columns, depth).
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(
        &mut self,
        simd: S,
        (rows, columns, depth): (usize, usize, usize),
        a: Matrix,
        b: Matrix,
        target: Target,
    ) {
        let lanes = S::F32_LANES;
        pack(a, rows, depth, ROWS, &mut self.left);
        pack(b, columns, depth, lanes, &mut self.right);
        for (j, right) in self.right.chunks_exact(depth * lanes).enumerate() {
            let (right, _) = S::as_simd_f32s(right);
            let width = lanes.min(columns - j * lanes);
            for (i, left) in self.left.chunks_exact(depth * ROWS).enumerate() {
                let (left, _) = left.as_chunks::<ROWS>();
                let mut sums = [simd.splat_f32s(0.0); ROWS];
                for (left, &right) in left.iter().zip(right) {
                    for (sum, &factor) in sums.iter_mut().zip(left) {
                        *sum = simd.mul_add_e_f32s(simd.splat_f32s(factor), right, *sum);
                    }
                }
                for (row, sum) in (i * ROWS..rows).zip(sums) {
                    let start = target.start + row * target.stride + j * lanes;
                    simd.partial_store_f32s(&mut target.values[start..start + width], sum);
                }
            }
        }
    }
}

/// `target = a · bᵀ` for one row `a` and rows `b`, which need no packing. The sums are those of [`Scratch::multiply`], to the bit.
#[inline(always)]
pub(super) fn multiply_row<S: Simd>(simd: S, a: &[f32], b: Matrix, target: &mut [f32]) {
    let depth = a.len();
    let row = |j: usize| &b.values[b.start + j * b.stride..][..depth];
    for (i, target) in target.chunks_mut(ROWS).enumerate() {
        // Sums that stand for no row are not stored.
        let rows: [&[f32]; ROWS] = std::array::from_fn(|lane| row(i * ROWS + lane.min(target.len() - 1)));
        let mut sums = [simd.splat_f32s(0.0); ROWS];
        for (k, &factor) in a.iter().enumerate() {
            let factor = simd.splat_f32s(factor);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = simd.mul_add_e_f32s(factor, simd.splat_f32s(row[k]), *sum);
            }
        }
        for (target, sum) in target.iter_mut().zip(sums) {
            simd.partial_store_f32s(std::slice::from_mut(target), sum);
        }
    }
}

/// `target = a · b` for one row `a` and as many rows `b` of the target's width. The sums are those of [`Scratch::multiply`] with `b`
/// transposed, to the bit.
#[inline(always)]
pub(super) fn add_rows<S: Simd>(simd: S, a: &[f32], b: Matrix, target: &mut [f32]) {
    for (j, target) in target.chunks_mut(S::F32_LANES).enumerate() {
        let (start, width) = (b.start + j * S::F32_LANES, target.len());
        let mut sum = simd.splat_f32s(0.0);
        for (k, &factor) in a.iter().enumerate() {
            let row = simd.partial_load_f32s(&b.values[start + k * b.stride..][..width]);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(factor), row, sum);
        }
        simd.partial_store_f32s(target, sum);
    }
}

/// Tiles of `height` rows, each tile depth by depth; missing rows are zeros.
#[inline(always)]
fn pack(matrix: Matrix, rows: usize, depth: usize, height: usize, tiles: &mut Vec<f32>) {
    tiles.clear();
    tiles.resize(rows.div_ceil(height) * height * depth, 0.0);
    for (i, tile) in tiles.chunks_exact_mut(height * depth).enumerate() {
        let first = i * height;
        for lane in 0..height.min(rows - first) {
            let row = &matrix.values[matrix.start + (first + lane) * matrix.stride..];
            let from = row.iter().step_by(matrix.step);
            let to = tile[lane..].iter_mut().step_by(height);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Product<'a> {
        sizes: (usize, usize, usize),
        a: Matrix<'a>,
        b: Matrix<'a>,
        target: Target<'a>,
    }

    impl pulp::WithSimd for Product<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            Scratch::default().multiply(simd, self.sizes, self.a, self.b, self.target);
        }
    }

    /// A row by rows and a row of weights for rows, packed and not.
    struct Row<'a> {
        a: &'a [f32],
        b: &'a [f32],
        stride: usize,
        outs: [&'a mut [f32]; 2],
    }

    impl pulp::WithSimd for Row<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let [packed, direct] = self.outs;
            let (left, b) = (
                Matrix::rows(self.a, 0, self.a.len()),
                Matrix::rows(self.b, 1, self.stride),
            );
            let (columns, depth) = (packed.len(), self.a.len());
            let target = Target::rows(packed, columns);
            // As many rows as the weights have, or rows of their length.
            if (self.b.len() - 1) / self.stride == depth {
                Scratch::default().multiply(simd, (1, columns, depth), left, b.transposed(), target);
                add_rows(simd, self.a, b, direct);
            } else {
                Scratch::default().multiply(simd, (1, columns, depth), left, b, target);
                multiply_row(simd, self.a, b, direct);
            }
        }
    }

    #[test]
    fn a_single_row_needs_no_packing_and_has_the_same_sums_to_the_bit() {
        use rand::Rng as _;
        let mut rng = crate::seed::rng(0, "rows");
        let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-2.0..2.0)).collect() };
        for (columns, depth) in [(1, 32), (7, 3), (8, 32), (90, 32), (37, 128), (16, 5), (130, 64)] {
            let a = random(depth);
            for (rows, width) in [(columns, depth), (depth, columns)] {
                let stride = width + 3;
                let b = random(rows * stride + 1);
                let (mut packed, mut direct) = (vec![f32::NAN; columns], vec![f32::NAN; columns]);
                pulp::Arch::new().dispatch(Row {
                    a: &a,
                    b: &b,
                    stride,
                    outs: [&mut packed, &mut direct],
                });
                let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
                assert_eq!(bits(&packed), bits(&direct), "{columns} {depth}");
            }
        }
    }

    #[test]
    fn any_size_and_layout() {
        let value = |i: usize, k: usize| ((3 * i + 7 * k) % 11) as f32 - 5.0;
        for (rows, columns, depth) in [(1, 1, 1), (8, 16, 4), (9, 17, 5), (37, 37, 32), (3, 40, 2)] {
            let a: Vec<f32> = (0..rows * depth).map(|i| value(i / depth, i % depth)).collect();
            // The right operand stands transposed: depth first.
            let b: Vec<f32> = (0..depth * columns)
                .map(|i| value(i % columns + 1, i / columns))
                .collect();
            let (a, b) = (Matrix::rows(&a, 0, depth), Matrix::rows(&b, 0, columns).transposed());
            let mut out = vec![f32::NAN; rows * (columns + 2) + 1];
            let target = Target {
                values: &mut out,
                start: 1,
                stride: columns + 2,
            };
            pulp::Arch::new().dispatch(Product {
                sizes: (rows, columns, depth),
                a,
                b,
                target,
            });
            for i in 0..rows {
                for j in 0..columns {
                    let expected: f32 = (0..depth).map(|k| value(i, k) * value(j + 1, k)).sum();
                    assert_eq!(out[1 + i * (columns + 2) + j], expected);
                }
            }
        }
    }
}
