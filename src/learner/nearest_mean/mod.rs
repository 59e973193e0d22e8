//! Frozen DINOv2 features, nearest class mean by cosine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learner::argmax;
use crate::learner::base::{Base, Bases};
use crate::learner::probe::{Rule, TrainingSet, dot, probes, unit};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, defaults, hyper_parameters};

/// Settings of the nearest class mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestMean {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
}

defaults! {
    name: String = "DINOv2 nearest mean".into();
}

impl LearnerSettings for NearestMean {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name, model;)
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        probes(&self.name, &self.model, bases, |_| Box::new(Means::default()))
    }
}

impl Cost for NearestMean {}

#[derive(Default)]
struct Means {
    /// One unit vector per class.
    means: Vec<Vec<f32>>,
}

impl Rule for Means {
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()> {
        let width = shots.vectors.first().map_or(0, Vec::len);
        let mut sums = vec![vec![0f32; width]; shots.classes];
        for (vector, label) in shots.vectors.iter().zip(shots.labels) {
            for (sum, x) in sums[*label as usize].iter_mut().zip(vector) {
                *sum += x;
            }
        }
        self.means = sums.iter().map(|s| unit(s)).collect();
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let cosines: Vec<f32> = self.means.iter().map(|m| dot(m, vector)).collect();
        (argmax(&cosines), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::probe::tests::separates_two_clusters;

    #[test]
    fn the_rule_separates_two_clusters() {
        separates_two_clusters(&mut Means::default());
    }
}
