//! Frozen DINOv2 features, nearest class median by cosine: the worked example of `docs/adding-a-learner.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learner::argmax;
use crate::learner::base::{Base, Bases};
use crate::learner::probe::{Rule, TrainingSet, dot, probes, unit};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, defaults, hyper_parameters};

/// Settings of the nearest class median.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestMedian {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
    /// Take the lower of the two middle values of an even number of shots, not their mean.
    #[serde(default)]
    pub lower: bool,
}

defaults! {
    name: String = "DINOv2 nearest median".into();
}

impl LearnerSettings for NearestMedian {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name, model; training: lower;)
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let lower = self.lower;
        probes(&self.name, &self.model, bases, move |_| {
            Box::new(Medians {
                lower,
                medians: Vec::new(),
            })
        })
    }
}

impl Cost for NearestMedian {}

/// One unit vector per class: the median of each feature over the class's shots.
struct Medians {
    lower: bool,
    medians: Vec<Vec<f32>>,
}

impl Rule for Medians {
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()> {
        let width = shots.vectors.first().map_or(0, Vec::len);
        let of_class = |class: usize| {
            let pairs = shots.vectors.iter().zip(shots.labels);
            let own: Vec<&Vec<f32>> = pairs
                .filter(|(_, label)| **label as usize == class)
                .map(|(v, _)| v)
                .collect();
            let feature = |place: usize| median(own.iter().map(|vector| vector[place]).collect(), self.lower);
            unit(&(0..width).map(feature).collect::<Vec<f32>>())
        };
        self.medians = (0..shots.classes).map(of_class).collect();
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let cosines: Vec<f32> = self.medians.iter().map(|median| dot(median, vector)).collect();
        (argmax(&cosines), None)
    }
}

fn median(mut values: Vec<f32>, lower: bool) -> f32 {
    values.sort_by(f32::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    let (below, upper) = (at(values.len().saturating_sub(1) / 2), at(values.len() / 2));
    if lower { below } else { (below + upper) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::probe::tests::separates_two_clusters;

    #[test]
    fn the_rule_separates_two_clusters() {
        let medians = Vec::new();
        separates_two_clusters(&mut Medians { lower: false, medians });
    }

    #[test]
    fn settings_have_defaults_and_an_identity() {
        let learner: NearestMedian = toml::from_str("model = 'm'").unwrap();
        assert_eq!((learner.name(), learner.check()), ("DINOv2 nearest median", Ok(())));
        assert_eq!(learner.hyper_parameters().training["lower"], false);
    }

    #[test]
    fn the_middle_of_an_even_number_is_a_choice() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0], false), 2.5);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0], true), 2.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0], false), 2.0);
    }
}
