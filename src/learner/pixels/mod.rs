//! Raw-pixel nearest neighbour, the floor every learner has to clear: it needs no learned representation.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::{ImageLoader, Resizer, resize};
use crate::learner::base::{Base, Bases, base};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, defaults, hyper_parameters, positive};
use crate::learner::{Checkpoints, Classifier, Fit, OnStep, Sink, row};
use crate::prediction::Prediction;

/// Settings of the nearest neighbour on raw pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Side of the square to which images are shrunk, in pixels.
    #[serde(default = "side")]
    pub side: u32,
}

defaults! {
    name: String = "raw pixels 1-NN".into();
    side: u32 = 24;
}

impl LearnerSettings for Pixels {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        None
    }

    fn check(&self) -> Result<(), String> {
        positive(&self.name, "side", f64::from(self.side))
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name; training: side;)
    }

    fn load(&self, _: &mut Bases) -> Result<Arc<dyn Base>> {
        let side = self.side;
        Ok(base(None, move |_, _| {
            Ok(Box::new(PixelNeighbour {
                images: ImageLoader::new(Square(side)),
                shots: Vec::new(),
            }))
        }))
    }
}

impl Cost for Pixels {}

/// Images shrunk to a small square of so many pixels a side. Decoding costs the most, so it is not worth keeping.
struct Square(u32);

impl Resizer for Square {
    fn settings(&self) -> Option<String> {
        None
    }

    fn resize(&self, image: RgbImage) -> RgbImage {
        resize(&image, self.0, self.0)
    }
}

/// 1-nearest neighbour by Euclidean distance on images shrunk to a small square.
struct PixelNeighbour {
    images: ImageLoader<Square>,
    shots: Vec<(Vec<u8>, u32)>,
}

impl PixelNeighbour {
    fn vectors(&self, images: &[LabelledImage]) -> Result<Vec<Vec<u8>>> {
        let vector = |image| self.images.load(image).map(RgbImage::into_raw);
        images.par_iter().map(vector).collect()
    }
}

fn squared_distance(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
}

impl Classifier for PixelNeighbour {
    fn fit(&mut self, shots: &[LabelledImage], _: Option<&Checkpoints>, _: OnStep<'_>) -> Result<Fit> {
        let classes = shots.iter().map(|shot| shot.class);
        self.shots = self.vectors(shots)?.into_iter().zip(classes).collect();
        Ok(Fit::default())
    }

    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
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
