//! Rules by which shots and test images are chosen.

use serde::{Deserialize, Serialize};

/// The rule by which shots and test images are chosen; printed on every number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Official splits, nested seeded draws, the whole test set, touched once.
    #[default]
    Clean,
    /// As the Tinker cookbook's recipe has it: hub splits, its own seeded draws, capped where a class has fewer.
    Tinker,
    /// CoOp's re-split, with its index files or own independent draws; its validation images are counted.
    Coop,
}

impl Protocol {
    /// Option of `kshot data fetch` for it, where not every form of a dataset will do.
    #[must_use]
    pub fn fetch_option(self) -> &'static str {
        match self {
            Self::Clean => "",
            Self::Tinker => " --source hub",
            Self::Coop => " --source archive",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Tinker => "tinker",
            Self::Coop => "coop",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Clean, Self::Tinker, Self::Coop]
            .into_iter()
            .find(|protocol| protocol.to_string() == text)
            .ok_or_else(|| format!("`{text}` is none of clean, tinker, coop"))
    }
}
