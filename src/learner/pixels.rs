//! Raw-pixel nearest neighbour: what can be had without any learned representation.

use rayon::prelude::*;

use crate::config::Pixels;
use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::resize::resize;
use crate::learner::{Classifier, Fit, Keep, Step, read_images, row};
use crate::prediction::Prediction;

/// 1-nearest neighbour by Euclidean distance on images shrunk to a small square.
pub struct PixelNeighbour {
    config: Pixels,
    shots: Vec<(Vec<u8>, u32)>,
}

impl PixelNeighbour {
    /// A classifier that has seen nothing yet.
    #[must_use]
    pub fn new(config: Pixels) -> Self {
        Self {
            config,
            shots: Vec::new(),
        }
    }

    fn vectors(&self, images: &[LabelledImage]) -> Result<Vec<Vec<u8>>> {
        let side = self.config.side;
        Ok(read_images(images)?
            .par_iter()
            .map(|image| resize(image, side, side).into_raw())
            .collect())
    }
}

fn squared_distance(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
}

impl Classifier for PixelNeighbour {
    fn fit(&mut self, shots: &[LabelledImage], _: Option<&Keep>, _: &mut dyn FnMut(Step) -> Result<()>) -> Result<Fit> {
        self.shots = self
            .vectors(shots)?
            .into_iter()
            .zip(shots.iter().map(|s| s.class))
            .collect();
        Ok(Fit::default())
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        for batch in images.chunks(256) {
            let rows: Vec<Prediction> = self
                .vectors(batch)?
                .par_iter()
                .zip(batch)
                .filter_map(|(vector, image)| {
                    let nearest = self
                        .shots
                        .iter()
                        .min_by_key(|(shot, _)| squared_distance(shot, vector))?;
                    Some(row(image, nearest.1, None))
                })
                .collect();
            sink(&rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_euclidean_squared() {
        assert_eq!(squared_distance(&[0, 255, 3], &[255, 0, 3]), 2 * 255 * 255);
    }
}
