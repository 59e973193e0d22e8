//! Shots that are decoded when they are first seen, and stay so while there is room.

use std::collections::HashMap;
use std::sync::Arc;

use image::RgbImage;

use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::read_images;

/// Bytes of pixels that are kept: some thousand photographs; the rest of a larger pool is decoded each time it is seen.
const ROOM: usize = 1 << 30;

/// The shots of a training.
pub(super) struct Decoded<'a> {
    shots: &'a [LabelledImage],
    known: HashMap<usize, Arc<RgbImage>>,
    bytes: usize,
    room: usize,
}

impl<'a> Decoded<'a> {
    /// None decoded yet.
    pub(super) fn new(shots: &'a [LabelledImage]) -> Self {
        Self {
            shots,
            known: HashMap::new(),
            bytes: 0,
            room: ROOM,
        }
    }

    /// All shots.
    pub(super) fn shots(&self) -> &'a [LabelledImage] {
        self.shots
    }

    /// The pixels of some of them, in order.
    ///
    /// # Errors
    /// The first unreadable image, by name.
    pub(super) fn get(&mut self, numbers: &[usize]) -> Result<Vec<Arc<RgbImage>>> {
        let mut new: Vec<usize> = numbers
            .iter()
            .filter(|i| !self.known.contains_key(i))
            .copied()
            .collect();
        new.sort_unstable();
        new.dedup();
        let images: Vec<LabelledImage> = new.iter().map(|&i| self.shots[i].clone()).collect();
        let read: HashMap<usize, Arc<RgbImage>> = new
            .into_iter()
            .zip(read_images(&images)?.into_iter().map(Arc::new))
            .collect();
        let found = |i: &usize| self.known.get(i).or_else(|| read.get(i)).cloned();
        let all = numbers.iter().filter_map(found).collect();
        for (i, image) in read {
            let bytes = image.as_raw().len();
            if self.bytes + bytes <= self.room {
                self.bytes += bytes;
                self.known.insert(i, image);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_the_same_with_and_without_room() {
        let folder = tempfile::tempdir().unwrap();
        let shots: Vec<LabelledImage> = (0..4u8)
            .map(|i| {
                let path = folder.path().join(format!("{i}.png"));
                RgbImage::from_pixel(2, 2, image::Rgb([i, 0, 0])).save(&path).unwrap();
                LabelledImage {
                    id: i.to_string(),
                    class: 0,
                    sha256: String::new(),
                    path,
                    ..LabelledImage::default()
                }
            })
            .collect();
        for (room, kept) in [(ROOM, 3), (25, 2), (0, 0)] {
            let mut decoded = Decoded::new(&shots);
            decoded.room = room;
            for _ in 0..2 {
                let images = decoded.get(&[3, 0, 3, 1]).unwrap();
                assert_eq!(
                    images.iter().map(|image| image.as_raw()[0]).collect::<Vec<_>>(),
                    [3, 0, 3, 1]
                );
            }
            assert_eq!(decoded.known.len(), kept, "room for {room} bytes");
        }
    }
}
