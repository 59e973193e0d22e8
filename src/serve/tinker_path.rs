//! Addresses of checkpoints, as Tinker writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// Longest name of a checkpoint.
const LONGEST_NAME: usize = 128;

/// Contents of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Adapter and optimiser, to go on with.
    Weights,
    /// The adapter alone, to be asked.
    SamplerWeights,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Weights, Self::SamplerWeights];

    /// Part of a path.
    pub(super) fn segment(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::SamplerWeights => "sampler_weights",
        }
    }

    /// Word for it in listings.
    pub(super) fn listed(self) -> &'static str {
        match self {
            Self::Weights => "training",
            Self::SamplerWeights => "sampler",
        }
    }
}

/// `tinker://RUN/KIND/NAME`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TinkerPath {
    pub(super) run: String,
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl fmt::Display for TinkerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tinker://{}/{}/{}", self.run, self.kind.segment(), self.name)
    }
}

impl TinkerPath {
    /// Reads a whole path.
    ///
    /// # Errors
    /// A refusal that shows the form of paths.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let shown: String = text.chars().take(200).collect();
        let wrong = || {
            Refusal::bad(format!(
                "`{shown}` is not of the form tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME"
            ))
        };
        let (run, checkpoint) = text
            .strip_prefix("tinker://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(wrong)?;
        if !is_run(run) {
            return Err(wrong());
        }
        Self::of(run, checkpoint)
    }

    /// `checkpoint` is `KIND/NAME`.
    ///
    /// # Errors
    /// A refusal when it is not, or the name is no name.
    pub(super) fn of(run: &str, checkpoint: &str) -> Result<Self, Refusal> {
        let shown: String = checkpoint.chars().take(200).collect();
        let wrong = || {
            Refusal::bad(format!(
                "`{shown}` is not of the form weights/NAME or sampler_weights/NAME"
            ))
        };
        let (kind, name) = checkpoint.split_once('/').ok_or_else(wrong)?;
        if kind == "external_weights" {
            return Err(Refusal::bad(
                "external weights are not kept here; download the archive of a checkpoint instead",
            ));
        }
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.segment() == kind)
            .ok_or_else(wrong)?;
        check_name(name)?;
        Ok(Self {
            run: run.to_owned(),
            kind,
            name: name.to_owned(),
        })
    }
}

/// A name becomes the name of a folder: it must not lead anywhere else.
///
/// # Errors
/// A refusal that says which names are allowed.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '=');
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(allowed) {
        let shown: String = name.chars().take(60).collect();
        return Err(Refusal::bad(format!(
            "`{shown}` cannot name a checkpoint: 1 to {LONGEST_NAME} of a-z A-Z 0-9 _ - + = and, not first, a dot"
        )));
    }
    Ok(())
}

/// True of `UUID:train:NUMBER`.
pub(super) fn is_run(id: &str) -> bool {
    let Some((session, number)) = id.split_once(":train:") else {
        return false;
    };
    let session_ok = session.len() == 36 && session.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    session_ok && !number.is_empty() && number.len() <= 9 && number.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01234567-89ab-cdef-0123-456789abcdef:train:0";

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            "a\\b",
            ".a",
            "a\0",
            "é",
            &"a".repeat(200),
        ] {
            assert!(TinkerPath::of(ID, &format!("weights/{name}")).is_err(), "{name}");
        }
        for path in [
            "tinker://../weights/a",
            "tinker://x/weights/a",
            "weights/a",
            &format!("tinker://{ID}/other/a"),
        ] {
            assert!(TinkerPath::parse(path).is_err(), "{path}");
        }
        TinkerPath::of(ID, "sampler_weights/final-1.0").unwrap();
    }
}
