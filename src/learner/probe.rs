//! Probes: rules on frozen DINOv2 features, as nearest mean, nearest neighbours and logistic regression are.
//!
//! Features are scaled to unit length first, so that all rules work on angles.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Chosen, Dtype};
use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::base::{Base, Bases, base};
use crate::learner::features::{BATCH, Frozen};
use crate::learner::folds;
use crate::learner::{Checkpoints, Classifier, Fit, OnStep, Sink, row};

/// Parts of the shots that are held out in turn by a rule that chooses inside them: at four shots one of each class.
pub(super) const FOLDS: usize = 4;

/// A rule that turns labelled unit vectors into a class for another unit vector.
pub(super) trait Rule {
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()>;
    /// The class, and log-probabilities where the rule has any.
    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>);
    /// Numbers that were trained.
    fn parameters(&self) -> u64 {
        0
    }
    /// Its choice inside the shots, if it chooses.
    fn chosen(&self) -> Option<Chosen> {
        None
    }
}

/// The shots as a rule is given them.
pub(super) struct TrainingSet<'a> {
    /// Of unit length: [CLS; mean patch].
    pub vectors: &'a [Vec<f32>],
    pub labels: &'a [u32],
    pub classes: usize,
    /// Fold of each shot, where there are enough of every class for [`FOLDS`].
    pub folds: Option<&'a [usize]>,
}

/// The base of the probes of the learner of this name, whose rule for so many classes `rule` makes.
///
/// # Errors
/// As [`Frozen::shared`].
pub(super) fn probes(
    learner: &str,
    model: &Path,
    bases: &mut Bases,
    rule: impl Fn(usize) -> Box<dyn Rule> + Send + Sync + 'static,
) -> Result<Arc<dyn Base>> {
    let (frozen, _) = Frozen::shared(learner, model, Dtype::Auto, None, bases)?;
    Ok(base(Some(frozen.fingerprint.clone()), move |classes, _| {
        Ok(Box::new(Probe {
            frozen: frozen.clone(),
            classes: classes.len(),
            rule: rule(classes.len()),
        }))
    }))
}

/// A frozen model with a rule on its features.
struct Probe {
    frozen: Arc<Frozen>,
    classes: usize,
    rule: Box<dyn Rule>,
}

impl Probe {
    fn vectors(&self, images: &[LabelledImage]) -> Result<Vec<Vec<f32>>> {
        Ok(self.frozen.features(images)?.iter().map(|v| unit(v)).collect())
    }
}

impl Classifier for Probe {
    fn fit(&mut self, shots: &[LabelledImage], _: Option<&Checkpoints>, _: OnStep<'_>) -> Result<Fit> {
        let labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        let folds = folds::stratified(shots, FOLDS);
        self.rule.fit(&TrainingSet {
            vectors: &self.vectors(shots)?,
            labels: &labels,
            classes: self.classes,
            folds: folds.as_deref(),
        })?;
        Ok(Fit {
            images_seen: shots.len() as u64,
            trainable_parameters: self.rule.parameters(),
            chosen: self.rule.chosen(),
            ..Fit::default()
        })
    }

    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let vectors = self.vectors(batch)?;
            let answer = |(vector, image): (&Vec<f32>, &LabelledImage)| {
                let (class, log_probs) = self.rule.classify(vector);
                row(image, class, log_probs)
            };
            sink(&vectors.iter().zip(batch).map(answer).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The vector at unit length.
pub(super) fn unit(v: &[f32]) -> Vec<f32> {
    let norm = dot(v, v).sqrt().max(f32::MIN_POSITIVE);
    v.iter().map(|x| x / norm).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn two_clusters() -> (Vec<Vec<f32>>, Vec<u32>) {
        let vectors = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]].map(|v| unit(&v));
        (vectors.into(), vec![0, 0, 1, 1])
    }

    /// Every rule has to pass it.
    pub(in crate::learner) fn separates_two_clusters(rule: &mut dyn Rule) {
        let (vectors, labels) = two_clusters();
        rule.fit(&TrainingSet {
            vectors: &vectors,
            labels: &labels,
            classes: 2,
            folds: None,
        })
        .unwrap();
        assert_eq!(rule.classify(&unit(&[0.9, 0.3])).0, 0);
        assert_eq!(rule.classify(&unit(&[0.3, 0.9])).0, 1);
    }
}
