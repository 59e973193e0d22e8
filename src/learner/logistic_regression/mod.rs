//! Frozen DINOv2 features, multinomial logistic regression with an L2 penalty, fixed or chosen inside the shots.

mod grid;
mod lbfgs;
mod logistic;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::learner::base::{Base, Bases};
use crate::learner::probe::{ProbeBase, Rule};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, group, positive};
use grid::Grid;
use logistic::Logistic;

/// Settings of the logistic regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticRegression {
    /// Label in tables and figures.
    #[serde(default = "logistic_name")]
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

fn logistic_name() -> String {
    "DINOv2 logistic regression".into()
}
fn l2() -> f64 {
    1e-3
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
        let Self {
            name: _,
            model: _,
            l2,
            grid,
        } = self;
        let grid = grid.then_some(true);
        HyperParameters {
            training: group!(l2; optional grid),
            ..HyperParameters::default()
        }
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let (l2, grid) = (self.l2, self.grid);
        ProbeBase::load(&self.name, &self.model, bases, move |_| -> Box<dyn Rule> {
            if grid {
                Box::new(Grid::new(l2))
            } else {
                Box::new(Logistic::new(l2))
            }
        })
    }
}

impl Cost for LogisticRegression {}
