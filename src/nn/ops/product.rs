//! Products of small matrices inside one thread, for attention: the heads of a sequence are too many
//! and too small for a general matrix product with its set-up and its threads.
//!
//! Both operands are packed into tiles, so that the inner loop is one multiply-add per vector without
//! a bounds check; compiled for the machine's vectors by the caller's dispatch.

/// Rows of the left operand in a tile.
const ROWS: usize = 8;
/// Columns of the right operand in a tile: one AVX-512 register.
const COLUMNS: usize = 16;

/// A matrix inside a slice: element (i, k) stands at `start + i * stride + k * step`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub start: usize,
    pub stride: usize,
    pub step: usize,
}

impl Matrix<'_> {
    pub(super) fn transposed(self) -> Self {
        Self {
            stride: self.step,
            step: self.stride,
            ..self
        }
    }
}

/// Room for packed operands, kept from product to product.
#[derive(Default)]
pub(super) struct Room {
    left: Vec<[f32; ROWS]>,
    right: Vec<[f32; COLUMNS]>,
}

/// Where a product goes: element (i, j) to `start + i * stride + j`.
pub(super) struct Target<'a> {
    pub values: &'a mut [f32],
    pub start: usize,
    pub stride: usize,
}

impl Room {
    /// `target = a · bᵀ` for `a` of (rows, depth) and `b` of (columns, depth).
    #[inline(always)]
    pub(super) fn multiply(
        &mut self,
        (rows, columns, depth): (usize, usize, usize),
        a: Matrix,
        b: Matrix,
        target: Target,
    ) {
        pack(a, rows, depth, &mut self.left);
        pack(b, columns, depth, &mut self.right);
        for (j, right) in self.right.chunks_exact(depth).enumerate() {
            let width = COLUMNS.min(columns - j * COLUMNS);
            for (i, left) in self.left.chunks_exact(depth).enumerate() {
                let mut sums = [[0f32; COLUMNS]; ROWS];
                for (left, right) in left.iter().zip(right) {
                    for (sums, &factor) in sums.iter_mut().zip(left) {
                        for (sum, &value) in sums.iter_mut().zip(right) {
                            *sum = factor.mul_add(value, *sum);
                        }
                    }
                }
                for (row, sums) in (i * ROWS..rows).zip(&sums) {
                    let start = target.start + row * target.stride + j * COLUMNS;
                    target.values[start..start + width].copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

/// Tiles of `W` rows, each tile depth by depth; missing rows are zeros.
#[inline(always)]
fn pack<const W: usize>(matrix: Matrix, rows: usize, depth: usize, tiles: &mut Vec<[f32; W]>) {
    tiles.clear();
    tiles.resize(rows.div_ceil(W) * depth, [0f32; W]);
    for (i, tile) in tiles.chunks_exact_mut(depth).enumerate() {
        for lane in 0..W.min(rows - i * W) {
            let row = &matrix.values[matrix.start + (i * W + lane) * matrix.stride..];
            for (k, values) in tile.iter_mut().enumerate() {
                values[lane] = row[k * matrix.step];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_and_layout() {
        let value = |i: usize, k: usize| ((3 * i + 7 * k) % 11) as f32 - 5.0;
        for (rows, columns, depth) in [(1, 1, 1), (8, 16, 4), (9, 17, 5), (37, 37, 32), (3, 40, 2)]
        {
            let a: Vec<f32> = (0..rows * depth)
                .map(|i| value(i / depth, i % depth))
                .collect();
            // The right operand stands transposed: depth first.
            let b: Vec<f32> = (0..depth * columns)
                .map(|i| value(i % columns + 1, i / columns))
                .collect();
            let a = Matrix {
                values: &a,
                start: 0,
                stride: depth,
                step: 1,
            };
            let b = Matrix {
                values: &b,
                start: 0,
                stride: columns,
                step: 1,
            }
            .transposed();
            let mut out = vec![f32::NAN; rows * (columns + 2) + 1];
            let target = Target {
                values: &mut out,
                start: 1,
                stride: columns + 2,
            };
            Room::default().multiply((rows, columns, depth), a, b, target);
            for i in 0..rows {
                for j in 0..columns {
                    let expected: f32 = (0..depth).map(|k| value(i, k) * value(j + 1, k)).sum();
                    assert_eq!(out[1 + i * (columns + 2) + j], expected);
                }
            }
        }
    }
}
