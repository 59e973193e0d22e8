//! Frozen DINOv2 features, similarity-weighted vote of the nearest neighbours (DINOv2's k-NN evaluation).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learner::argmax;
use crate::learner::base::{Base, Bases};
use crate::learner::probe::{Rule, TrainingSet, dot, probes};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, defaults, hyper_parameters, positive};

/// Settings of the nearest neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
    /// Neighbours that vote, at most the number of shots.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
    /// Temperature of the similarity-weighted vote, as in DINOv2's k-NN evaluation.
    #[serde(default = "temperature")]
    pub temperature: f64,
}

defaults! {
    name: String = "DINOv2 k-NN".into();
    neighbours: usize = 10;
    temperature: f64 = 0.07;
}

impl LearnerSettings for Knn {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn check(&self) -> Result<(), String> {
        positive(&self.name, "neighbours", self.neighbours as f64)?;
        positive(&self.name, "temperature", self.temperature)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name, model; training: neighbours, temperature;)
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let config = self.clone();
        probes(&self.name, &self.model, bases, move |classes| {
            Box::new(Neighbours {
                config: config.clone(),
                shots: Vec::new(),
                classes,
            })
        })
    }
}

impl Cost for Knn {}

struct Neighbours {
    config: Knn,
    shots: Vec<(Vec<f32>, u32)>,
    classes: usize,
}

impl Rule for Neighbours {
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()> {
        self.shots = shots
            .vectors
            .iter()
            .cloned()
            .zip(shots.labels.iter().copied())
            .collect();
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let mut near: Vec<(f32, u32)> = self
            .shots
            .iter()
            .map(|(shot, class)| (dot(shot, vector), *class))
            .collect();
        // A stable sort: equal similarities keep the order of the split.
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = vec![0f32; self.classes];
        for (similarity, class) in near.iter().take(self.config.neighbours) {
            votes[*class as usize] += (similarity / self.config.temperature as f32).exp();
        }
        (argmax(&votes), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::probe::tests::separates_two_clusters;

    #[test]
    fn the_rule_separates_two_clusters() {
        let config = Knn {
            name: String::new(),
            model: "".into(),
            neighbours: 2,
            temperature: 0.07,
        };
        separates_two_clusters(&mut Neighbours {
            config,
            shots: Vec::new(),
            classes: 2,
        });
    }
}
