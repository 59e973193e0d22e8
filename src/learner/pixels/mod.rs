//! Raw-pixel nearest neighbour, the floor every learner has to clear: it needs no learned representation.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::LabelledImage;
use crate::error::Result;
use crate::example::resize::resize;
use crate::learner::base::{Base, Bases};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, group, positive};
use crate::learner::{Checkpoints, Classifier, Fit, Step, read_images, row};
use crate::prediction::Prediction;

/// Settings of the nearest neighbour on raw pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Label in tables and figures.
    #[serde(default = "pixels_name")]
    pub name: String,
    /// Side of the square to which images are shrunk, in pixels.
    #[serde(default = "pixel_side")]
    pub side: u32,
}

fn pixels_name() -> String {
    "raw pixels 1-NN".into()
}
fn pixel_side() -> u32 {
    24
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
        let Self { name: _, side } = self;
        HyperParameters {
            training: group!(side),
            ..HyperParameters::default()
        }
    }

    fn load(&self, _: &mut Bases) -> Result<Arc<dyn Base>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Cost for Pixels {}

impl Base for Pixels {
    fn fingerprint(&self) -> Option<&str> {
        None
    }

    fn classifier(&self, _: &[String], _: u64) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(PixelNeighbour::new(self.clone())))
    }
}

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
    fn fit(
        &mut self,
        shots: &[LabelledImage],
        _: Option<&Checkpoints>,
        _: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit> {
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
