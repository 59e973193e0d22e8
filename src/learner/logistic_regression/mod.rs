//! Frozen DINOv2 features, multinomial logistic regression with an L2 penalty, fixed or chosen inside the shots.
//!
//! The grid of choices is that of DINOv2's official evaluation (facebookresearch/dinov2, `dinov2/eval/log_regression.py`): 45 values of C,
//! evenly spaced in the logarithm from 1e-6 to 1e5, for `sum of cross-entropies + ‖W‖²/(2C)`; and, as in its linear
//! evaluation, the CLS feature alone or with the mean of the patches. The official choice is made on a tenth of a large
//! training set; here it is made by cross-validation: of every class a part is held out in turn, and what is right most often
//! over all parts wins, the lower cross-entropy among equals, then the stronger penalty. The winner is fitted to all
//! shots. No test image has a part in it.

mod logistic;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::Chosen;
use crate::error::Result;
use crate::learner::argmax;
use crate::learner::base::{Base, Bases};
use crate::learner::probe::{FOLDS, Rule, TrainingSet, probes, unit};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, defaults, hyper_parameters, positive};
use logistic::{Logistic, Problem};

/// Settings of the logistic regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticRegression {
    /// Label in tables and figures.
    #[serde(default = "name")]
    pub name: String,
    /// Hub-layout folder of the model.
    pub model: PathBuf,
    /// L2 penalty λ on the weights of `mean cross-entropy + λ/2·‖W‖²`, features of unit length.
    #[serde(default = "l2")]
    pub l2: f64,
    /// Choose penalty and features inside the shots, over the grid of DINOv2's official evaluation. It takes four
    /// independent images of every class; with fewer, `l2` holds, on [CLS; mean patch].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grid: bool,
}

defaults! {
    name: String = "DINOv2 logistic regression".into();
    l2: f64 = 1e-3;
}

impl LearnerSettings for LogisticRegression {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn check(&self) -> Result<(), String> {
        positive(&self.name, "l2", self.l2)
    }

    fn has_probabilities(&self) -> bool {
        true
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name, model; training: l2, grid = grid.then_some(true);)
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let (l2, grid) = (self.l2, self.grid);
        probes(&self.name, &self.model, bases, move |_| -> Box<dyn Rule> {
            if grid {
                Box::new(Grid::new(l2))
            } else {
                Box::new(Logistic::new(l2))
            }
        })
    }
}

impl Cost for LogisticRegression {}

/// Values of C.
const VALUES: usize = 45;
/// Their first and last power of ten.
const POWERS: (f64, f64) = (-6.0, 5.0);
/// Largest entry of the gradient, and iterations: while choosing, and for the winner.
const CHOOSING: (f64, usize) = (1e-5, 100);
const FITTING: (f64, usize) = (1e-7, 1_000);

/// The rule that chooses.
struct Grid {
    /// The rule for too few shots to choose by; else with the solution of the winner.
    rule: Logistic,
    chosen: Option<Chosen>,
}

/// Held-out results of one setting.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    right: usize,
    /// Sum of cross-entropies, nats.
    loss: f64,
}

impl Grid {
    fn new(l2: f64) -> Self {
        Self {
            rule: Logistic::new(l2),
            chosen: None,
        }
    }
}

/// The values of C, ascending.
fn grid() -> impl Iterator<Item = f64> {
    let step = (POWERS.1 - POWERS.0) / (VALUES - 1) as f64;
    (0..VALUES).map(move |i| 10f64.powf(POWERS.0 + step * i as f64))
}

/// The part of [CLS; mean patch] that is used, of unit length.
fn view(vector: &[f32], cls_only: bool) -> Vec<f32> {
    match cls_only {
        true => unit(vector.get(..vector.len() / 2).unwrap_or(vector)),
        false => vector.to_vec(),
    }
}

/// Scores of all values of C with the shots of `fold` held out, each started where the one before ended.
fn held_out(views: &[Vec<f32>], shots: &TrainingSet<'_>, folds: &[usize], fold: usize) -> Result<Vec<Score>> {
    let all = || views.iter().zip(shots.labels).zip(folds);
    let (learned, labels): (Vec<&[f32]>, Vec<u32>) = all()
        .filter(|(_, f)| **f != fold)
        .map(|((v, l), _)| (v.as_slice(), *l))
        .unzip();
    let problem = Problem::new(&learned, &labels, shots.classes)?;
    let mut w = problem.start();
    let mut scores = Vec::with_capacity(VALUES);
    for c in grid() {
        w = problem.minimum(w, 1.0 / (c * learned.len() as f64), CHOOSING.0, CHOOSING.1)?;
        let solution = problem.solution(&w)?;
        let mut score = Score::default();
        for ((vector, label), _) in all().filter(|(_, f)| **f == fold) {
            let (logits, log_probs) = solution.log_probs(vector);
            score.right += usize::from(argmax(&logits) == *label);
            score.loss -= log_probs.get(*label as usize).map_or(0.0, |p| f64::from(*p));
        }
        scores.push(score);
    }
    Ok(scores)
}

impl Rule for Grid {
    fn fit(&mut self, shots: &TrainingSet<'_>) -> Result<()> {
        self.chosen = None;
        let Some(folds) = shots.folds else {
            return self.rule.fit(shots);
        };
        let mut best: Option<(Score, f64, bool)> = None;
        for cls_only in [true, false] {
            let views: Vec<Vec<f32>> = shots.vectors.iter().map(|v| view(v, cls_only)).collect();
            let mut totals = vec![Score::default(); VALUES];
            for fold in 0..FOLDS {
                for (total, score) in totals.iter_mut().zip(held_out(&views, shots, folds, fold)?) {
                    total.right += score.right;
                    total.loss += score.loss;
                }
            }
            for (c, score) in grid().zip(totals) {
                let better = best.is_none_or(|(other, ..)| {
                    score.right > other.right || (score.right == other.right && score.loss < other.loss)
                });
                if better {
                    best = Some((score, c, cls_only));
                }
            }
        }
        let Some((score, c, cls_only)) = best else {
            return self.rule.fit(shots);
        };
        let views: Vec<Vec<f32>> = shots.vectors.iter().map(|v| view(v, cls_only)).collect();
        let problem = Problem::new(&views, shots.labels, shots.classes)?;
        let penalty = 1.0 / (c * views.len() as f64);
        let w = problem.minimum(problem.start(), penalty, FITTING.0, FITTING.1)?;
        self.rule.solution = problem.solution(&w)?;
        self.chosen = Some(Chosen {
            c,
            features: if cls_only { "cls" } else { "cls+mean" }.into(),
            folds: FOLDS,
            held_out_top1: score.right as f64 / views.len() as f64,
        });
        Ok(())
    }

    fn classify(&self, vector: &[f32]) -> (u32, Option<Vec<f32>>) {
        let cls_only = self.chosen.as_ref().is_some_and(|chosen| chosen.features == "cls");
        self.rule.classify(&view(vector, cls_only))
    }

    fn parameters(&self) -> u64 {
        self.rule.parameters()
    }

    fn chosen(&self) -> Option<Chosen> {
        self.chosen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Grid {
        Grid::new(1e-3)
    }

    /// Two classes told apart by one half of the features, noise in the other half; `cls` says which half tells.
    fn shots(cls: bool) -> (Vec<Vec<f32>>, Vec<u32>) {
        let row = |i: usize| {
            let sign = if i.is_multiple_of(2) { 1.0 } else { -1.0 };
            let (tells, noise) = ([1.0, 0.6 * sign], [(1.9 * i as f32).sin(), (2.7 * i as f32).cos()]);
            let halves = if cls { [tells, noise] } else { [noise, tells] };
            unit(&halves.concat())
        };
        ((0..16).map(row).collect(), (0..16).map(|i| i % 2).collect())
    }

    #[test]
    fn the_grid_is_the_official_one() {
        let values: Vec<f64> = grid().collect();
        // torch.linspace(-6, 5, 45)
        assert_eq!(values.len(), 45);
        assert!((values[0].log10() + 6.0).abs() < 1e-12 && (values[44].log10() - 5.0).abs() < 1e-12);
        assert!((values[4].log10() + 5.0).abs() < 1e-12);
    }

    #[test]
    fn features_that_tell_are_chosen_and_the_choice_is_repeated() {
        for cls in [true, false] {
            let (vectors, labels) = shots(cls);
            let folds: Vec<usize> = (0..16).map(|i| i / 2 % FOLDS).collect();
            let shots = TrainingSet {
                vectors: &vectors,
                labels: &labels,
                classes: 2,
                folds: Some(&folds),
            };
            let (mut one, mut two) = (rule(), rule());
            one.fit(&shots).unwrap();
            two.fit(&shots).unwrap();
            let chosen = one.chosen().unwrap();
            assert_eq!(Some(&chosen), two.chosen().as_ref());
            assert!((chosen.held_out_top1 - 1.0).abs() < 1e-12, "{chosen:?}");
            assert!(cls || chosen.features == "cls+mean", "{chosen:?}");
            for (vector, label) in vectors.iter().zip(&labels) {
                let (class, log_probs) = one.classify(vector);
                assert_eq!(class, *label);
                assert_eq!(log_probs, two.classify(vector).1);
            }
        }
    }

    #[test]
    fn too_few_shots_leave_the_fixed_penalty() {
        let (vectors, labels) = shots(true);
        let shots = TrainingSet {
            vectors: &vectors,
            labels: &labels,
            classes: 2,
            folds: None,
        };
        let (mut grid, mut fixed) = (rule(), Logistic::new(1e-3));
        grid.fit(&shots).unwrap();
        fixed.fit(&shots).unwrap();
        assert_eq!(grid.chosen(), None);
        assert_eq!(grid.classify(&vectors[0]), fixed.classify(&vectors[0]));
    }
}
