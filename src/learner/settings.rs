//! The side of a learner that is known before anything is loaded: its settings, their identity and their cost.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::checkpoint::architecture::Architecture;
use crate::config::{Dtype, Protocol, Shots};
use crate::cost::fit::Footprint;
use crate::cost::memory::Demand;
use crate::cost::operations::{self, Work};
use crate::cost::shape::Shape;
use crate::data::LabelledImage;
use crate::error::Result;
use crate::learner::base::{Base, Bases};
use crate::learner::features;
use crate::manifest::Layout;
use crate::prediction::Reading;

/// Settings of one learner. Everything outside of the learner's folder asks through this trait; a new learner states what
/// differs from the defaults.
pub trait LearnerSettings: Cost {
    /// Label in tables, figures and the cell key; unique in a sweep.
    fn name(&self) -> &str;

    /// Folder of the base model, if the learner has one.
    fn model(&self) -> Option<&Path>;

    /// The settings that may change a number, in the groups that [`HyperParameters`] has.
    fn hyper_parameters(&self) -> HyperParameters;

    /// Loads what the learner stands on, or takes what another one has loaded.
    ///
    /// # Errors
    /// [`crate::error::Error::Checkpoint`] when the model is not on this machine or not as it should be,
    /// [`crate::error::Error::Model`] when its folder lacks something; [`crate::error::Error::Device`],
    /// [`crate::error::Error::Memory`].
    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>>;

    /// Checks ranges that the types do not express.
    ///
    /// # Errors
    /// The reason, which names the learner.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Type of the base's weights.
    fn dtype(&self) -> Dtype {
        Dtype::Auto
    }

    /// True if it trains weights that can be kept as an adapter folder.
    fn has_adapter(&self) -> bool {
        false
    }

    /// True if labelled examples change its answers; one that does not learn has cells without shots only.
    fn learns(&self) -> bool {
        true
    }

    /// True if it can answer without having seen a labelled example.
    fn answers_unseen(&self) -> bool {
        !self.learns()
    }

    /// True if its answers come with a probability for every class.
    fn has_probabilities(&self) -> bool {
        false
    }

    /// The reading of its answers that stands in figures and tables.
    fn reading(&self) -> Reading {
        Reading::Likelihood
    }

    /// Readings that are taken.
    fn readings(&self) -> Vec<Reading> {
        vec![self.reading()]
    }

    /// Training images that pass through a model for a dataset of `classes` classes, repeats counted; 0 for a learner that
    /// takes no optimiser steps.
    fn images_seen(&self, _classes: usize) -> usize {
        0
    }

    /// Takes on what follows from protocol and number of shots; see [`super::Learner::under`].
    fn specialise(&mut self, _protocol: Protocol, _shots: Shots) {}

    /// Writes out what follows from the dataset, so that it is part of what a cell is known by.
    fn describe(&mut self, _layout: Option<Layout>) {}

    /// True if its preprocessor takes no image of this size.
    fn refuses(&self, _width: u32, _height: u32) -> bool {
        false
    }

    /// The architecture whose models are trained and asked by this learner where a verb names nothing but a model.
    fn architecture() -> Option<Architecture>
    where
        Self: Sized,
    {
        None
    }
}

/// Computation and memory that a learner takes. The defaults are those of a probe on frozen DINOv2 features.
pub trait Cost {
    /// Operations for one image of so many tokens.
    fn work(&self, shape: &Shape, tokens: f64) -> Work {
        operations::of_frozen_features(shape, tokens)
    }

    /// Memory at most, with so many bytes a number of states and weights.
    fn demand(&self, shape: &Shape, tokens: f64, bytes: f64) -> Demand {
        Footprint::frozen(features::BATCH).demand(shape, tokens, bytes)
    }

    /// Tokens of an image: of `examples` where some are at hand.
    fn tokens(&self, folder: Option<&Path>, _examples: &[LabelledImage]) -> f64 {
        operations::vision_tokens(folder)
    }

    /// Images that its vision tower encodes for itself in a cell; `None` where it shares frozen features with other learners.
    fn encoded(&self, _trained: usize, _shots: usize, _tested: usize) -> Option<usize> {
        None
    }

    /// Pixels of the longest side to which images are shrunk, and cached, first.
    fn longest_side(&self) -> Option<u32> {
        None
    }
}

/// The settings that may change a number: neither label nor paths.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HyperParameters {
    /// Settings that act on the training alone: none of a cell without shots.
    pub training: Map<String, Value>,
    /// Settings that shape answers, trained or not.
    pub prediction: Map<String, Value>,
}

/// Functions that give the defaults of settings, as serde asks for them.
macro_rules! defaults {
    ($($setting:ident: $of:ty = $value:expr;)+) => {
        $(fn $setting() -> $of {
            $value
        })+
    };
}
pub(super) use defaults;

/// The [`HyperParameters`] of some settings, which are taken apart field by field: one that stands in neither group and is not
/// left out by name does not compile. `field = value` has an `Option` in place of the field, and `None` is left out.
macro_rules! hyper_parameters {
    ($settings:ident without $($without:ident),*; $($group:ident: $($field:ident $(= $value:expr)?),+;)*) => {{
        let Self { $($without: _,)* $($($field,)+)* } = $settings;
        #[allow(unused_mut)]
        let mut groups = $crate::learner::HyperParameters::default();
        $($(hyper_parameters!(@insert groups.$group, $field $(, $value)?);)+)*
        groups
    }};
    (@insert $group:expr, $field:ident) => {
        hyper_parameters!(@insert $group, $field, Some($field))
    };
    (@insert $group:expr, $field:ident, $value:expr) => {
        if let Some(value) = $value {
            // Numbers, strings and lists always have a JSON form.
            $group.insert(stringify!($field).into(), serde_json::to_value(value).unwrap_or_default());
        }
    };
}
pub(super) use hyper_parameters;

/// Refuses a number that is not above 0, in the words of a config's error.
pub(super) fn positive(learner: &str, what: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(format!("learner `{learner}`: {what} must be above 0"))
    }
}

/// Refuses settings by which no adapter can be trained, in the words of a config's error: numbers that are to be above 0, adapted
/// layers, the share of the steps in which the learning rate rises.
pub(super) fn check_training(
    learner: &str,
    numbers: &[(&str, f64)],
    targets: &[String],
    warmup: f64,
) -> Result<(), String> {
    numbers
        .iter()
        .try_for_each(|(what, value)| positive(learner, what, *value))?;
    if targets.is_empty() {
        return Err(format!("learner `{learner}`: targets is empty"));
    }
    if !(0.0..=1.0).contains(&warmup) {
        return Err(format!("learner `{learner}`: warmup is a share of the steps, 0 to 1"));
    }
    Ok(())
}
