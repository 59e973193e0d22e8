//! The two passes of a resize, written so that the compiler makes vector instructions of them; `pulp` chooses at run time
//! for which processor. Sums are those of plain integer arithmetic, whatever the order.

use super::{PRECISION, Taps};

/// Rows that a horizontal pass works on at once: a lane each.
const ROWS: usize = 16;
/// Bytes of a row that a vertical pass works on at once.
const CHUNK: usize = 64;
/// Bytes of a row that are transposed at once: eight blocks of 8 x 8 side by side.
const WIDE: usize = 64;
/// Initial value of a sum, so that cutting its fraction off rounds it.
const HALF: i32 = 1 << (PRECISION - 1);

#[inline(always)]
fn to_8_bits(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Each output pixel of a row from neighbours in that row.
pub(super) struct Horizontal<'a> {
    /// Rows of `from` bytes, RGB.
    pub(super) image: &'a [u8],
    pub(super) from: usize,
    /// One an output pixel.
    pub(super) taps: &'a [Taps],
    /// Rows of `to` bytes, RGB.
    pub(super) out: &'a mut [u8],
    pub(super) to: usize,
}

impl pulp::WithSimd for Horizontal<'_> {
    type Output = ();

    /// Pixels of a row overlap in what they read, those of a column do not: each block of rows is transposed, so that a
    /// byte of all its rows lies together.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let mut columns = vec![0; self.from.next_multiple_of(WIDE) * ROWS];
        let mut sums = vec![0; self.to.next_multiple_of(WIDE) * ROWS];
        let blocks = self.image.chunks(ROWS * self.from);
        for (rows, out) in blocks.zip(self.out.chunks_mut(ROWS * self.to)) {
            to_columns(rows, self.from, &mut columns);
            for (taps, out) in self.taps.iter().zip(sums.chunks_exact_mut(3 * ROWS)) {
                let mut sums = [HALF; 3 * ROWS];
                let pixels = columns[3 * ROWS * taps.first..].chunks_exact(3 * ROWS);
                for (&weight, pixels) in taps.weights.iter().zip(pixels) {
                    for (sum, &value) in sums.iter_mut().zip(pixels) {
                        *sum += weight * i32::from(value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = to_8_bits(sum);
                }
            }
            to_rows(&sums, out, self.to);
        }
    }
}

/// Each output row from neighbouring rows.
pub(super) struct Vertical<'a> {
    /// Rows of `stride` bytes.
    pub(super) image: &'a [u8],
    pub(super) stride: usize,
    /// One an output row.
    pub(super) taps: &'a [Taps],
    /// Rows of `stride` bytes.
    pub(super) out: &'a mut [u8],
}

impl pulp::WithSimd for Vertical<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        for (taps, out) in self.taps.iter().zip(self.out.chunks_exact_mut(self.stride)) {
            let rows = &self.image[taps.first * self.stride..];
            let whole = out.len() / CHUNK * CHUNK;
            let (chunks, rest) = out.split_at_mut(whole);
            for (i, out) in chunks.chunks_exact_mut(CHUNK).enumerate() {
                let mut sums = [HALF; CHUNK];
                for (&weight, row) in taps.weights.iter().zip(rows.chunks_exact(self.stride)) {
                    for (sum, &value) in sums.iter_mut().zip(&row[i * CHUNK..][..CHUNK]) {
                        *sum += weight * i32::from(value);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = to_8_bits(sum);
                }
            }
            for (i, out) in rest.iter_mut().enumerate() {
                let column = rows[whole + i..].iter().step_by(self.stride);
                let weighted = taps.weights.iter().zip(column).map(|(w, &v)| w * i32::from(v));
                *out = to_8_bits(HALF + weighted.sum::<i32>());
            }
        }
    }
}

/// Eight blocks of 8 x 8 bytes side by side: a row's bytes of each block.
type Blocks = [[u64; 8]; 8];

/// Transposes each block.
#[inline(always)]
fn transpose(rows: &mut Blocks) {
    #[inline(always)]
    fn swap(rows: &mut Blocks, [high, low]: [usize; 2], bits: u32, mask: u64) {
        let (mut upper, mut lower) = (rows[high], rows[low]);
        for (upper, lower) in upper.iter_mut().zip(&mut lower) {
            let changed = ((*upper >> bits) ^ *lower) & mask;
            *lower ^= changed;
            *upper ^= changed << bits;
        }
        (rows[high], rows[low]) = (upper, lower);
    }
    for i in [0, 2, 4, 6] {
        swap(rows, [i, i + 1], 8, 0x00ff_00ff_00ff_00ff);
    }
    for i in [0, 1, 4, 5] {
        swap(rows, [i, i + 2], 16, 0x0000_ffff_0000_ffff);
    }
    for i in [0, 1, 2, 3] {
        swap(rows, [i, i + 4], 32, 0x0000_0000_ffff_ffff);
    }
}

/// Up to [`ROWS`] rows of `stride` bytes to `columns` of [`ROWS`] bytes. Those of missing rows are anything.
#[inline(always)]
fn to_columns(rows: &[u8], stride: usize, columns: &mut [u8]) {
    for (i, columns) in columns.chunks_exact_mut(WIDE * ROWS).enumerate() {
        for (half, rows) in rows.chunks(ROWS / 2 * stride).enumerate() {
            let mut blocks: Blocks = [[0; 8]; 8];
            for (blocks, row) in blocks.iter_mut().zip(rows.chunks_exact(stride)) {
                let row = &row[i * WIDE..];
                match row.first_chunk() {
                    Some(row) => *blocks = words(row),
                    None => {
                        let mut padded = [0; WIDE];
                        padded[..row.len()].copy_from_slice(row);
                        *blocks = words(&padded);
                    }
                }
            }
            transpose(&mut blocks);
            for (j, words) in blocks.iter().enumerate() {
                for (block, word) in words.iter().enumerate() {
                    let at = (8 * block + j) * ROWS + 8 * half;
                    columns[at..at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// Back from columns of [`ROWS`] bytes to up to so many rows of `stride` bytes.
#[inline(always)]
fn to_rows(columns: &[u8], rows: &mut [u8], stride: usize) {
    for (i, columns) in columns.chunks_exact(WIDE * ROWS).enumerate() {
        for (half, rows) in rows.chunks_mut(ROWS / 2 * stride).enumerate() {
            let mut blocks: Blocks = [[0; 8]; 8];
            for (j, words) in blocks.iter_mut().enumerate() {
                for (block, word) in words.iter_mut().enumerate() {
                    let at = (8 * block + j) * ROWS + 8 * half;
                    *word = columns[at..]
                        .first_chunk()
                        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
                }
            }
            transpose(&mut blocks);
            for (blocks, row) in blocks.iter().zip(rows.chunks_exact_mut(stride)) {
                let row = &mut row[i * WIDE..];
                let mut bytes = [0; WIDE];
                for (bytes, word) in bytes.chunks_exact_mut(8).zip(blocks) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                let length = row.len().min(WIDE);
                row[..length].copy_from_slice(&bytes[..length]);
            }
        }
    }
}

#[inline(always)]
fn words(row: &[u8; WIDE]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(row.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
