//! Probes on frozen DINOv2 features: nearest class mean, k nearest neighbours, logistic regression.
//!
//! Features are scaled to unit length first, so that all three work on angles.

mod grid;
mod lbfgs;
mod logistic;

use std::sync::Arc;

use crate::config::{Chosen, Knn, LogisticRegression};
use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::features::{BATCH, Frozen};
use crate::learner::folds;
use crate::learner::{Classifier, Fit, Keep, Step, argmax, row};
use crate::prediction::Prediction;
use grid::{FOLDS, Grid};
use logistic::Logistic;

/// A rule that turns labelled unit vectors into a class for another unit vector.
trait Rule {
    fn fit(&mut self, lesson: &Lesson<'_>) -> Result<()>;
    /// The class, and log-probabilities where the rule has any.
    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>);
    fn parameters(&self) -> u64;
    /// What it chose inside the shots, if it chooses.
    fn chosen(&self) -> Option<Chosen> {
        None
    }
}

/// The shots as a rule sees them.
struct Lesson<'a> {
    /// Of unit length: [CLS; mean patch].
    vectors: &'a [Vec<f32>],
    labels: &'a [u32],
    classes: usize,
    /// Fold of each shot, where there are enough of every class for [`FOLDS`].
    folds: Option<&'a [usize]>,
}

/// A frozen model with a rule on its features.
pub struct Probe {
    frozen: Arc<Frozen>,
    classes: usize,
    rule: Box<dyn Rule>,
}

impl Probe {
    /// Nearest class mean by cosine.
    #[must_use]
    pub fn nearest_mean(frozen: Arc<Frozen>, classes: usize) -> Self {
        Self {
            frozen,
            classes,
            rule: Box::new(Mean::default()),
        }
    }

    /// Similarity-weighted vote of the nearest neighbours (DINOv2's k-NN evaluation).
    #[must_use]
    pub fn knn(frozen: Arc<Frozen>, classes: usize, config: Knn) -> Self {
        Self {
            frozen,
            classes,
            rule: Box::new(Neighbours {
                config,
                shots: Vec::new(),
                classes,
            }),
        }
    }

    /// Multinomial logistic regression with an L2 penalty, fixed or chosen inside the shots.
    #[must_use]
    pub fn logistic_regression(frozen: Arc<Frozen>, classes: usize, config: LogisticRegression) -> Self {
        let rule: Box<dyn Rule> = match config.grid {
            false => Box::new(Logistic::new(config)),
            true => Box::new(Grid::new(config)),
        };
        Self { frozen, classes, rule }
    }

    fn vectors(&self, images: &[LabelledImage]) -> Result<Vec<Vec<f32>>> {
        Ok(self.frozen.features(images)?.iter().map(|v| unit(v)).collect())
    }
}

impl Classifier for Probe {
    fn fit(&mut self, shots: &[LabelledImage], _: Option<&Keep>, _: &mut dyn FnMut(Step) -> Result<()>) -> Result<Fit> {
        let labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        let folds = folds::stratified(shots, FOLDS);
        self.rule.fit(&Lesson {
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

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let rows: Vec<Prediction> = self
                .vectors(batch)?
                .iter()
                .zip(batch)
                .map(|(vector, image)| {
                    let (class, log_probs) = self.rule.classify(vector);
                    row(image, class, log_probs)
                })
                .collect();
            sink(&rows)?;
        }
        Ok(())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(v: &[f32]) -> Vec<f32> {
    let norm = dot(v, v).sqrt().max(f32::MIN_POSITIVE);
    v.iter().map(|x| x / norm).collect()
}

#[derive(Default)]
struct Mean {
    /// One unit vector per class.
    means: Vec<Vec<f32>>,
}

impl Rule for Mean {
    fn fit(&mut self, lesson: &Lesson<'_>) -> Result<()> {
        let width = lesson.vectors.first().map_or(0, Vec::len);
        let mut sums = vec![vec![0f32; width]; lesson.classes];
        for (vector, label) in lesson.vectors.iter().zip(lesson.labels) {
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

    fn parameters(&self) -> u64 {
        0
    }
}

struct Neighbours {
    config: Knn,
    shots: Vec<(Vec<f32>, u32)>,
    classes: usize,
}

impl Rule for Neighbours {
    fn fit(&mut self, lesson: &Lesson<'_>) -> Result<()> {
        self.shots = lesson
            .vectors
            .iter()
            .cloned()
            .zip(lesson.labels.iter().copied())
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

    fn parameters(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_clusters() -> (Vec<Vec<f32>>, Vec<u32>) {
        let vectors = [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]].map(|v| unit(&v));
        (vectors.into(), vec![0, 0, 1, 1])
    }

    #[test]
    fn every_rule_separates_two_clusters() {
        let (vectors, labels) = two_clusters();
        let knn = Knn {
            name: String::new(),
            model: "".into(),
            neighbours: 2,
            temperature: 0.07,
        };
        let logistic = LogisticRegression {
            name: String::new(),
            model: "".into(),
            l2: 1e-3,
            grid: false,
        };
        let rules: [Box<dyn Rule>; 3] = [
            Box::new(Mean::default()),
            Box::new(Neighbours {
                config: knn,
                shots: Vec::new(),
                classes: 2,
            }),
            Box::new(Logistic::new(logistic)),
        ];
        for mut rule in rules {
            rule.fit(&Lesson {
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
}
