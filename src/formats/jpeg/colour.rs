//! Chroma to full size (`jdsample.c`, "fancy") and YCbCr to RGB (`jdcolor.c`), as the Independent JPEG Group has them.

use image::RgbImage;

/// Pixels that are converted at once.
const CHUNK: usize = 32;

/// The two chroma planes.
pub(super) struct Chroma<'a> {
    pub planes: [&'a [u8]; 2],
    pub stride: usize,
    /// Samples that belong to the image.
    pub width: usize,
    pub height: usize,
    /// Pixels to a sample, across and down: 1 x 1, 2 x 1 or 2 x 2.
    pub wider: usize,
    pub higher: usize,
}

/// One value for all three colours.
#[inline(always)]
pub(super) fn grey(plane: &[u8], stride: usize, image: &mut RgbImage) {
    let width = 3 * image.width() as usize;
    for (row, out) in plane.chunks_exact(stride).zip(image.chunks_exact_mut(width)) {
        for (value, out) in row.iter().zip(out.as_chunks_mut::<3>().0) {
            *out = [*value; 3];
        }
    }
}

#[inline(always)]
pub(super) fn rgb(plane: &[u8], stride: usize, chroma: &Chroma, image: &mut RgbImage) {
    let width = image.width() as usize;
    let room = width.next_multiple_of(CHUNK) + 2;
    let mut full = [vec![0u8; room], vec![0u8; room]];
    let mut sums = vec![0u16; chroma.width + 2];
    let rows = plane.chunks_exact(stride).zip(image.chunks_exact_mut(3 * width));
    for (y, (luma, out)) in rows.enumerate() {
        for (plane, full) in chroma.planes.iter().zip(&mut full) {
            chroma.row(plane, y, &mut sums, full);
        }
        let [cb, cr] = &full;
        let mut at = 0;
        for out in out.chunks_mut(3 * CHUNK) {
            // The planes are of whole blocks of eight: the last chunk may reach beyond them.
            let mut y = [0; CHUNK];
            let there = &luma[at..(at + CHUNK).min(luma.len())];
            match there.first_chunk() {
                Some(whole) => y = *whole,
                None => y[..there.len()].copy_from_slice(there),
            }
            let pixels = converted(&y, &cb[at..][..CHUNK], &cr[at..][..CHUNK]);
            out.copy_from_slice(&pixels.as_flattened()[..out.len()]);
            at += CHUNK;
        }
    }
}

impl Chroma<'_> {
    /// A row at full width, from the nearest row and, where there are half as many, the next nearest.
    #[inline(always)]
    fn row(&self, plane: &[u8], y: usize, sums: &mut [u16], full: &mut [u8]) {
        let row = |at: usize| &plane[at * self.stride..][..self.width];
        let near = y / self.higher;
        if self.wider == 1 {
            full[..self.width].copy_from_slice(row(near));
            return;
        }
        let (shift, left, right) = if self.higher == 1 { (2, 1, 2) } else { (4, 8, 7) };
        let inner = &mut sums[1..=self.width];
        if self.higher == 1 {
            for (sum, &value) in inner.iter_mut().zip(row(near)) {
                *sum = u16::from(value);
            }
        } else {
            let far = if y.is_multiple_of(2) {
                near.saturating_sub(1)
            } else {
                (near + 1).min(self.height - 1)
            };
            for ((sum, &near), &far) in inner.iter_mut().zip(row(near)).zip(row(far)) {
                *sum = 3 * u16::from(near) + u16::from(far);
            }
        }
        // Beyond the edges lies what lies at them.
        sums[0] = sums[1];
        sums[self.width + 1] = sums[self.width];
        for (window, out) in sums.windows(3).zip(full.as_chunks_mut::<2>().0) {
            let here = 3 * window[1];
            out[0] = ((here + window[0] + left) >> shift) as u8;
            out[1] = ((here + window[2] + right) >> shift) as u8;
        }
    }
}

#[inline(always)]
fn converted(y: &[u8; CHUNK], cb: &[u8], cr: &[u8]) -> [[u8; 3]; CHUNK] {
    const HALF: i32 = 1 << 15;
    let mut planes = [[0u8; CHUNK]; 3];
    for i in 0..CHUNK {
        let (y, cb, cr) = (i32::from(y[i]), i32::from(cb[i]) - 128, i32::from(cr[i]) - 128);
        let of = |x: i32| x.clamp(0, 255) as u8;
        planes[0][i] = of(y + ((91_881 * cr + HALF) >> 16));
        planes[1][i] = of(y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16));
        planes[2][i] = of(y + ((116_130 * cb + HALF) >> 16));
    }
    let mut pixels = [[0; 3]; CHUNK];
    for i in 0..CHUNK {
        pixels[i] = [planes[0][i], planes[1][i], planes[2][i]];
    }
    pixels
}
