//! Settings of models that answer from class names alone and are never trained.

use std::marker::PhantomData;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::architecture::Architecture;
use crate::models::contrastive::Family;

/// A family of models with the texts that are published for it.
pub trait Published {
    /// Label in tables and figures, unless another one is set.
    const NAME: &'static str;
    /// The template for a dataset that has none of its own.
    const TEMPLATE: &'static str;
    /// Loss and preprocessing.
    const FAMILY: Family;
    /// Architecture of its models.
    const ARCHITECTURE: Architecture;
}

/// CLIP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip;

impl Published for Clip {
    const NAME: &'static str = "CLIP zero-shot";
    const TEMPLATE: &'static str = "a photo of a {}.";
    const FAMILY: Family = Family::Clip;
    const ARCHITECTURE: Architecture = Architecture::Clip;
}

/// SigLIP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Siglip;

impl Published for Siglip {
    const NAME: &'static str = "SigLIP zero-shot";
    const TEMPLATE: &'static str = "This is a photo of {}.";
    const FAMILY: Family = Family::Siglip;
    const ARCHITECTURE: Architecture = Architecture::Siglip;
}

/// Settings of CLIP.
pub type ClipZeroShot = ZeroShot<Clip>;
/// Settings of SigLIP.
pub type SiglipZeroShot = ZeroShot<Siglip>;

/// Settings of a model that answers from class names alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot<F> {
    /// Label in tables and figures; where none is given, `CLIP zero-shot` or `SigLIP zero-shot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hub-layout folder of the model, or `owner/name` on the hub.
    pub model: PathBuf,
    /// Texts with `{}` where the class name goes; where none are given, those published for the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<String>>,
    #[serde(skip)]
    pub(super) family: PhantomData<F>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::LearnerSettings as _;

    #[test]
    fn a_template_has_one_place_for_the_name() {
        let with = |templates: &[&str]| ClipZeroShot {
            name: Some("CLIP".into()),
            model: "m".into(),
            templates: Some(templates.iter().map(|t| (*t).to_owned()).collect()),
            family: PhantomData,
        };
        assert!(with(&["a photo of a {}."]).check().is_ok());
        for wrong in [&[][..], &["a photo."], &["{} and {}"]] {
            let reason = with(wrong).check().unwrap_err();
            assert!(reason.contains("`CLIP`"), "{reason}");
        }
    }
}
