//! A sweep's config: datasets × shots × seeds × learners.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::config::{Protocol, Shots, patch};
use crate::error::{Error, Result};
use crate::learner::Learner;

/// The config that `kshot sweep` runs when none is named.
pub const QUICKSTART: &str = include_str!("../../configs/quickstart.toml");

/// A sweep, as written in `configs/*.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Name of the results folder.
    pub name: String,
    /// Rule by which shots and test images are chosen.
    #[serde(default)]
    pub protocol: Protocol,
    /// Names of manifests in `datasets/`.
    pub datasets: Vec<String>,
    /// Labelled examples per class, or "all"; at 0 only learners that can answer without examples have a cell.
    pub shots: Vec<Shots>,
    /// One draw of the shots and one training run per seed.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Folder of few-shot index files, `<dataset>/shot_<k>-seed_<s>.json` as in cross_modal_adaptation: the shots
    /// and validation images of `coop`. Without it `coop` draws on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indices: Option<PathBuf>,
    /// Turn photographs as their EXIF orientation says, as transformers and `datasets` do; `false` shows them as they are stored, as
    /// torchvision's loaders do.
    #[serde(default = "yes")]
    pub exif: bool,
    /// Keep the trained adapter of each cell in `adapters/<run_id>/`.
    #[serde(default)]
    pub save_adapters: bool,
    /// Optimiser steps between two kept states of a running cell: what a kill may cost.
    #[serde(default = "default_checkpoint_steps")]
    pub checkpoint_steps: usize,
    /// Fit a temperature to each cell's probabilities inside its shots; without it none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The learners, each with its settings.
    #[serde(rename = "learner")]
    pub learners: Vec<Learner>,
}

/// The fit of a temperature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Parts of the shots that are held out in turn: so many trainings more for each cell with as many shots.
    #[serde(default = "default_folds")]
    pub folds: usize,
}

fn default_folds() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn default_seeds() -> Vec<u64> {
    vec![0]
}
fn default_checkpoint_steps() -> usize {
    25
}

impl Sweep {
    /// Parses a config; each override is `path.to.field=value`, list items by number
    /// (`learner.0.rank=8`), applied before any field is interpreted.
    ///
    /// # Errors
    /// [`Error::Config`] names `origin` or the override, and the field.
    ///
    /// ```
    /// use kshot::experiment::config::Sweep;
    ///
    /// let config = "name = 'pets'\ndatasets = ['mini-pets']\nshots = [1, 4]\n[[learner]]\nmethod = 'pixels'\n";
    /// let sweep = Sweep::parse(config, "pets.toml", &["shots=[2, 8]".to_owned()])?;
    /// assert!(sweep.shots[0] == 2 && sweep.shots[1] == 8);
    /// # Ok::<(), kshot::error::Error>(())
    /// ```
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let fail = |origin: &str, reason: &str| Error::config(origin, reason.trim_end());
        let sweep: Self = if overrides.is_empty() {
            toml::from_str(text).map_err(|e| fail(origin, &e.to_string()))?
        } else {
            let mut table: Table = toml::from_str(text).map_err(|e| fail(origin, &e.to_string()))?;
            for text in overrides {
                patch(&mut table, text).map_err(|reason| fail(&format!("override `{text}`"), &reason))?;
            }
            let origin = format!("{origin} with {}", overrides.join(" "));
            table.try_into().map_err(|e| fail(&origin, &e.to_string()))?
        };
        sweep.check().map_err(|reason| fail(origin, &reason))?;
        Ok(sweep)
    }

    /// True if it is [`QUICKSTART`], unchanged.
    #[must_use]
    pub fn is_quickstart(&self) -> bool {
        Self::parse(QUICKSTART, "quickstart", &[]).is_ok_and(|quickstart| quickstart == *self)
    }

    /// The config with every default written out.
    ///
    /// # Errors
    /// Never for a config that was parsed; the signature says so because the TOML writer can fail.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config(&self.name, e.to_string()))
    }

    /// Checks what the types do not rule out.
    fn check(&self) -> Result<(), String> {
        let unique = |what: &str, items: Vec<String>| {
            if items.is_empty() {
                return Err(format!("{what} is empty"));
            }
            let mut seen = BTreeSet::new();
            match items.iter().find(|item| !seen.insert(*item)) {
                Some(twice) => Err(format!("{what} names `{twice}` twice")),
                None => Ok(()),
            }
        };
        unique("datasets", self.datasets.clone())?;
        unique("shots", self.shots.iter().map(ToString::to_string).collect())?;
        unique("seeds", self.seeds.iter().map(ToString::to_string).collect())?;
        unique("learner", self.learners.iter().map(|l| l.name().to_owned()).collect())?;
        if self.shots.contains(&Shots::K(0)) && !self.learners.iter().any(|learner| learner.answers_unseen()) {
            return Err("shots has 0, but no learner can answer without examples".into());
        }
        if let Some(learner) = self.learners.iter().find(|learner| !learner.learns())
            && !self.shots.contains(&Shots::K(0))
        {
            return Err(format!(
                "learner `{}` answers without examples only: it needs 0 among the shots",
                learner.name()
            ));
        }
        if self.indices.is_some() && self.protocol != Protocol::Coop {
            return Err(format!(
                "indices belong to the protocol `coop`, this sweep is `{}`",
                self.protocol
            ));
        }
        if self.calibration.as_ref().is_some_and(|fit| fit.folds < 2) {
            return Err("calibration.folds must be above 1".into());
        }
        if self.checkpoint_steps == 0 {
            return Err("checkpoint_steps must be above 0".into());
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return Err(format!("name `{}` cannot be a folder's name", self.name));
        }
        self.learners.iter().try_for_each(|learner| learner.check())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::Reading;
    use std::path::Path;

    const MINIMAL: &str = "name = 'm'\ndatasets = ['a']\nshots = [1]\n[[learner]]\nmethod = 'pixels'\n";

    fn reason(result: Result<Sweep>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn defaults_survive_a_round_trip() {
        let sweep = Sweep::parse(QUICKSTART, "quickstart", &[]).unwrap();
        assert_eq!(Sweep::parse(&sweep.to_toml().unwrap(), "resolved", &[]).unwrap(), sweep);
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        assert!(reason(Sweep::parse(&format!("shot = 1\n{MINIMAL}"), "c", &[])).contains("shot"));
        assert!(reason(Sweep::parse(&format!("{MINIMAL}sides = 3\n"), "c", &[])).contains("sides"));
    }

    #[test]
    fn overrides_reach_tables_lists_and_plain_strings() {
        let set = ["shots=[1, 2]", "name=other", "learner.0.side=12"].map(String::from);
        let sweep = Sweep::parse(MINIMAL, "c", &set).unwrap();
        assert_eq!(
            (sweep.shots.as_slice(), sweep.name.as_str()),
            ([Shots::K(1), Shots::K(2)].as_slice(), "other")
        );
        assert!(matches!(&sweep.learners[0], Learner::Pixels(p) if p.side == 12));
    }

    #[test]
    fn an_override_that_leads_nowhere_is_named() {
        for set in ["learner.7.side=1", "nothing.here=1", "shots"] {
            assert!(reason(Sweep::parse(MINIMAL, "c", &[set.into()])).contains(set), "{set}");
        }
    }

    #[test]
    fn no_shots_need_a_learner_that_answers_unseen() {
        let shots = ["shots=[0, 1]".to_owned()];
        let refused = reason(Sweep::parse(MINIMAL, "c", &shots));
        assert!(refused.contains("no learner can answer without examples"), "{refused}");
        let writing = format!("{MINIMAL}[[learner]]\nmethod = 'qwen3-vl-lora'\nmodel = 'm'\nreading = 'trie'\n");
        let sweep = Sweep::parse(&writing, "c", &shots).unwrap();
        let of = |learner: &Learner| (learner.answers_unseen(), learner.reading(), learner.images_seen(3));
        assert_eq!(
            sweep.learners.iter().map(of).collect::<Vec<_>>(),
            [(false, Reading::Likelihood, 0), (true, Reading::Trie, 480)]
        );
    }

    #[test]
    fn a_learner_that_does_not_learn_needs_cells_without_shots() {
        let config = format!("{MINIMAL}[[learner]]\nmethod = 'clip-zero-shot'\nmodel = 'm'\n");
        assert!(reason(Sweep::parse(&config, "c", &[])).contains("`CLIP zero-shot`"));
        let sweep = Sweep::parse(&config, "c", &["shots=[0, 1]".to_owned()]).unwrap();
        assert_eq!(Sweep::parse(&sweep.to_toml().unwrap(), "resolved", &[]).unwrap(), sweep);
    }

    #[test]
    fn index_files_belong_to_coop() {
        let set = |protocol: &str| [format!("protocol={protocol}"), "indices=files".to_owned()];
        let sweep = Sweep::parse(MINIMAL, "c", &set("coop")).unwrap();
        assert_eq!(sweep.indices.as_deref(), Some(Path::new("files")));
        assert_eq!(Sweep::parse(&sweep.to_toml().unwrap(), "resolved", &[]).unwrap(), sweep);
        for other in ["clean", "tinker"] {
            let refused = reason(Sweep::parse(MINIMAL, "c", &set(other)));
            assert!(
                refused.contains("belong to the protocol `coop`") && refused.contains(other),
                "{refused}"
            );
        }
    }

    #[test]
    fn repeated_or_zero_values_are_refused() {
        for set in [
            "shots=[1, 1]",
            "shots=[0]",
            "shots=[]",
            "datasets=['a', 'a']",
            "name=../x",
        ] {
            assert!(Sweep::parse(MINIMAL, "c", &[set.into()]).is_err(), "{set}");
        }
    }

    #[test]
    fn hyper_parameters_hold_no_path_and_no_label() {
        let sweep: Sweep = toml::from_str(QUICKSTART).unwrap();
        for learner in &sweep.learners {
            let value = learner.identity(Shots::K(1));
            assert!(value.get("model").is_none() && value.get("name").is_none(), "{value}");
            assert!(value.get("method").is_some(), "{value}");
        }
    }
}
