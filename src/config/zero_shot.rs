//! Settings of models that answer from class names alone and are never trained.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of [`super::Learner::ClipZeroShot`] and [`super::Learner::SiglipZeroShot`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot {
    /// Label in tables and figures; where none is given, `CLIP zero-shot` or `SigLIP zero-shot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hub-layout folder of the model, or `owner/name` on the hub.
    pub model: PathBuf,
    /// Texts with `{}` where the class name goes; where none are given, those published for the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<String>>,
}

impl ZeroShot {
    /// What the types do not rule out.
    pub(super) fn check(&self, label: &str) -> Result<(), String> {
        let Some(templates) = &self.templates else {
            return Ok(());
        };
        if templates.is_empty() {
            return Err(format!("learner `{label}`: templates is empty"));
        }
        match templates.iter().find(|template| template.matches("{}").count() != 1) {
            Some(wrong) => Err(format!("learner `{label}`: the template `{wrong}` needs one `{{}}`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_place_for_the_name() {
        let with = |templates: &[&str]| ZeroShot {
            name: None,
            model: "m".into(),
            templates: Some(templates.iter().map(|t| (*t).to_owned()).collect()),
        };
        assert!(with(&["a photo of a {}."]).check("CLIP").is_ok());
        for wrong in [&[][..], &["a photo."], &["{} and {}"]] {
            let reason = with(wrong).check("CLIP").unwrap_err();
            assert!(reason.contains("`CLIP`"), "{reason}");
        }
    }
}
