//! The common kind of JPEG, fast: sequential Huffman coding of 8-bit samples in one scan (ITU-T T.81, SOF0), grey or YCbCr
//! 4:4:4, 4:2:2 or 4:2:0. Whatever is unusual or damaged is left to the library, so that nothing is decided here about it.

use image::RgbImage;

use crate::formats::jpeg::colour;
use crate::formats::jpeg::colour::Chroma;
use crate::formats::jpeg::huffman::{Bits, Table};
use crate::formats::jpeg::idct;
use crate::formats::jpeg::idct::Block;

/// Places of a block's coefficients, row by row, in the order in which they are coded.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Largest sum of a block's coefficients without sign: undamaged ones stay below 64^½ · 1024 and what quantisation adds, and up
/// to here the transform fits 32 bits.
const LARGEST: i32 = 11_000;

/// One component of the image: Y, Cb or Cr.
#[derive(Default)]
struct Component {
    id: u8,
    /// Blocks of it in a unit, across and down.
    across: usize,
    down: usize,
    quantisation: usize,
    dc: usize,
    ac: usize,
    /// Samples, whole units.
    plane: Vec<u8>,
    stride: usize,
    /// The DC coefficient of the block before.
    before: i32,
}

/// Contents of the segments before the scan.
#[derive(Default)]
struct Header {
    quantisation: [Option<[i32; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// Units between two restart markers; 0 for none.
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

/// The pixels of a file that is of this kind and undamaged, if they are no more than `limit` bytes; else nothing.
pub(super) fn decode(bytes: &[u8], limit: u64) -> Option<RgbImage> {
    let (mut header, scan) = Header::read(bytes)?;
    if 3 * header.width as u64 * header.height as u64 > limit {
        return None;
    }
    header.set_aside();
    pulp::Arch::new().dispatch(Decode {
        header: &mut header,
        scan,
    })
}

struct Decode<'a> {
    header: &'a mut Header,
    scan: &'a [u8],
}

impl pulp::WithSimd for Decode<'_> {
    type Output = Option<RgbImage>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
        self.header.samples(self.scan)?;
        self.header.pixels()
    }
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

impl Header {
    /// Everything up to the scan, and the bytes from there on.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut header = Self::default();
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let (&[0xff, marker], after) = rest.split_first_chunk()? else {
                return None;
            };
            let length = short(after, 0)?;
            let segment = after.get(2..length)?;
            rest = after.get(length..)?;
            match marker {
                0xe0 => header.jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
                0xee if segment.starts_with(b"Adobe") => header.adobe = Some(*segment.get(11)?),
                0xe1..=0xef | 0xfe => {}
                0xdb => header.quantise(segment)?,
                0xc4 => header.huffman(segment)?,
                0xdd => header.restart = short(segment, 0)?,
                0xc0 => header.frame(segment)?,
                0xda => {
                    header.scan(segment)?;
                    return Some((header, rest));
                }
                _ => return None,
            }
        }
    }

    fn quantise(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, after)) = segment.split_first() {
            // Sixteen-bit tables have a one in the upper half.
            let (values, after) = after.split_first_chunk::<64>()?;
            let mut table = [0; 64];
            for (value, at) in values.iter().zip(ZIGZAG) {
                table[usize::from(at)] = i32::from(*value);
            }
            *self.quantisation.get_mut(usize::from(which))? = Some(table);
            segment = after;
        }
        Some(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, after)) = segment.split_first() {
            let (counts, after) = after.split_first_chunk::<16>()?;
            let symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, after) = after.split_at_checked(symbols)?;
            // A difference of DC coefficients has at most 15 bits.
            if which < 16 && symbols.iter().any(|&bits| bits > 15) {
                return None;
            }
            let tables = if which < 16 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(which % 16)).filter(|_| which < 32)? = Some(Table::new(counts, symbols)?);
            segment = after;
        }
        Some(())
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let &[bits, .., count] = segment.first_chunk::<6>()?;
        (self.height, self.width) = (short(segment, 1)?, short(segment, 3)?);
        let parts = segment.get(6..)?;
        if bits != 8
            || self.width == 0
            || self.height == 0
            || !self.components.is_empty()
            || parts.len() != 3 * usize::from(count)
        {
            return None;
        }
        for part in parts.chunks_exact(3) {
            let allowed = |factor: u8| (1..=4).contains(&factor).then_some(usize::from(factor));
            self.components.push(Component {
                id: part[0],
                across: allowed(part[1] >> 4)?,
                down: allowed(part[1] & 15)?,
                quantisation: usize::from(part[2]),
                ..Component::default()
            });
        }
        Some(())
    }

    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, parts) = segment.split_first()?;
        if usize::from(count) != self.components.len() || parts.get(2 * self.components.len()..)? != [0, 63, 0] {
            return None;
        }
        for (component, part) in self.components.iter_mut().zip(parts.chunks_exact(2)) {
            if part[0] != component.id {
                return None;
            }
            (component.dc, component.ac) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        }
        match self.components.as_mut_slice() {
            [grey] => (grey.across, grey.down) = (1, 1),
            [y, cb, cr] => {
                let ids = [y.id, cb.id, cr.id];
                let is_ycc = self.jfif || self.adobe == Some(1) || (self.adobe.is_none() && ids == [1, 2, 3]);
                let chroma = [cb.across, cb.down, cr.across, cr.down] == [1; 4];
                // Narrow chroma is not interpolated.
                let wide = self.width.div_ceil(y.across.max(1)) > 2;
                if !(is_ycc && chroma && wide && matches!((y.across, y.down), (1, 1) | (2, 1) | (2, 2))) {
                    return None;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Memory for the samples, once the size is known to be allowed.
    fn set_aside(&mut self) {
        let (across, down) = self.units();
        for component in &mut self.components {
            component.stride = across * component.across * 8;
            component.plane = vec![0; component.stride * down * component.down * 8];
        }
    }

    /// Units of blocks, across and down.
    fn units(&self) -> (usize, usize) {
        let (across, down) = self.components.first().map_or((1, 1), |y| (y.across, y.down));
        (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down))
    }

    /// Decodes every block to samples.
    #[inline(always)]
    fn samples(&mut self, mut scan: &[u8]) -> Option<()> {
        let (across, down) = self.units();
        let units = across * down;
        let run = if self.restart == 0 { units } else { self.restart };
        let mut data = Vec::new();
        for first in (0..units).step_by(run) {
            let (marker, rest) = Bits::unstuff(scan, &mut data)?;
            let last = first + run >= units;
            let expected = if last { 0xd9 } else { 0xd0 + (first / run % 8) as u8 };
            if marker != expected {
                return None;
            }
            scan = rest;
            let mut bits = Bits::new(&data);
            for component in &mut self.components {
                component.before = 0;
            }
            for unit in first..units.min(first + run) {
                let (row, column) = (unit / across, unit % across);
                for component in &mut self.components {
                    let dc = self.dc.get(component.dc)?.as_ref()?;
                    let ac = self.ac.get(component.ac)?.as_ref()?;
                    let quantisation = self.quantisation.get(component.quantisation)?.as_ref()?;
                    for y in 0..component.down {
                        for x in 0..component.across {
                            let mut block = [0; 64];
                            let flat = component.before.checked_add(bits.difference(dc)?)?;
                            component.before = flat;
                            block[0] = flat * quantisation[0];
                            let coded = coefficients(&mut bits, ac, quantisation, &mut block)?;
                            let at =
                                (row * component.down + y) * 8 * component.stride + (column * component.across + x) * 8;
                            let samples = component.plane.get_mut(at..)?;
                            if !idct::samples(&block, coded, samples, component.stride) {
                                return None;
                            }
                        }
                    }
                }
            }
            if !bits.all_read() {
                return None;
            }
        }
        Some(())
    }

    /// Samples to pixels.
    #[inline(always)]
    fn pixels(&self) -> Option<RgbImage> {
        let mut image = RgbImage::new(self.width as u32, self.height as u32);
        match self.components.as_slice() {
            [grey] => colour::grey(&grey.plane, grey.stride, &mut image),
            [y, cb, cr] => {
                let width = self.width.div_ceil(y.across);
                let height = self.height.div_ceil(y.down);
                let chroma = Chroma {
                    planes: [&cb.plane, &cr.plane],
                    stride: cb.stride,
                    width,
                    height,
                    wider: y.across,
                    higher: y.down,
                };
                colour::rgb(&y.plane, y.stride, &chroma, &mut image);
            }
            _ => return None,
        }
        Some(image)
    }
}

/// The coefficients of a block beyond the first; how far they go.
#[inline(always)]
fn coefficients(bits: &mut Bits, table: &Table, quantisation: &[i32; 64], block: &mut Block) -> Option<usize> {
    let (mut at, mut last) = (1, 0);
    let mut sum = block[0].abs();
    while at < 64 {
        let (run, value) = bits.coefficient(table)?;
        if value == 0 {
            match run {
                0 => break,
                15 => at += 16,
                _ => return None,
            }
            continue;
        }
        at += run;
        let place = usize::from(*ZIGZAG.get(at)?);
        block[place] = value * quantisation[place];
        sum += block[place].abs();
        last = at;
        at += 1;
    }
    (at <= 64 && sum <= LARGEST).then_some(last)
}

#[cfg(test)]
mod tests {
    use mozjpeg::{ColorSpace, Compress};
    use proptest::prelude::*;

    use super::*;

    /// An image of smooth and of hard changes, as a sequential JPEG.
    fn file(width: usize, height: usize, quality: f32, sampling: Option<(u8, u8)>) -> Vec<u8> {
        let channels = if sampling.is_some() { 3 } else { 1 };
        let mut pixels = Vec::new();
        for i in 0..width * height * channels {
            let (x, y, c) = (i / channels % width, i / channels / width, i % channels);
            let hard = if (x / 5 + y / 3) % 2 == 0 { 90 } else { 0 };
            pixels.push(((x * (c + 1) * 3 + y * 5 + x * y % 7) % 160 + hard) as u8);
        }
        let space = if channels == 3 {
            ColorSpace::JCS_RGB
        } else {
            ColorSpace::JCS_GRAYSCALE
        };
        let mut encoder = Compress::new(space);
        encoder.set_size(width, height);
        encoder.set_fastest_defaults();
        encoder.set_quality(quality);
        if let Some(chroma) = sampling {
            encoder.set_chroma_sampling_pixel_sizes(chroma, chroma);
        }
        let mut encoder = encoder.start_compress(Vec::new()).unwrap();
        encoder.write_scanlines(&pixels).unwrap();
        encoder.finish().unwrap()
    }

    fn library(bytes: &[u8]) -> RgbImage {
        crate::formats::jpeg::pixels(bytes, u64::MAX).unwrap().unwrap()
    }

    #[test]
    fn pixels_are_those_of_the_library() {
        for sampling in [None, Some((1, 1)), Some((2, 1)), Some((2, 2))] {
            for (width, height) in [(8, 8), (5, 1), (17, 33), (64, 48), (37, 23), (131, 70)] {
                for quality in [30.0, 75.0, 95.0, 100.0] {
                    let bytes = file(width, height, quality, sampling);
                    let what = format!("{width} x {height}, {sampling:?}, quality {quality}");
                    let found = decode(&bytes, u64::MAX).unwrap_or_else(|| panic!("left to the library: {what}"));
                    assert!(found == library(&bytes), "{what}");
                }
            }
        }
    }

    /// Written by Pillow 13: `save(…, quality=60, restart_marker_blocks=2)`, 4:2:0.
    #[test]
    fn restart_markers_are_followed() {
        let bytes = include_bytes!("../../../tests/fixtures/images/restarts.jpg");
        assert!(bytes.windows(2).any(|pair| pair == [0xff, 0xd7]));
        assert!(decode(bytes, u64::MAX).unwrap() == library(bytes));
    }

    #[test]
    fn the_unusual_and_the_large_are_left_to_the_library() {
        let bytes = file(40, 24, 80.0, Some((1, 2)));
        assert!(decode(&bytes, u64::MAX).is_none());
        let bytes = file(40, 24, 80.0, Some((2, 2)));
        assert!(decode(&bytes, 3 * 40 * 24).is_some() && decode(&bytes, 3 * 40 * 24 - 1).is_none());
        let whole = bytes.len();
        assert!((0..whole).all(|length| decode(&bytes[..length], u64::MAX).is_none()));
    }

    proptest! {
        /// Damage is left to the library, or makes the same of the picture.
        #[test]
        fn damage_is_never_decoded_otherwise(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            kind in 0..4usize,
        ) {
            let mut bytes = file(41, 26, 85.0, [None, Some((1, 1)), Some((2, 1)), Some((2, 2))][kind]);
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(found) = decode(&bytes, 1 << 24) {
                prop_assert!(found == library(&bytes));
            }
        }
    }
}
