//! Number of labelled examples per class.

use std::cmp::Ordering;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Labelled examples per class; in files a number, or "all". Sorted with `All` last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shots {
    /// So many of each class; at 0 nothing is trained.
    K(u32),
    /// The whole training pool, of whatever size each class is there.
    All,
}

impl Shots {
    /// The number for each class; `None` for all of them.
    #[must_use]
    pub fn count(self) -> Option<u32> {
        match self {
            Self::K(k) => Some(k),
            Self::All => None,
        }
    }

    /// True if there is anything to learn from.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::K(0)
    }
}

impl From<u32> for Shots {
    fn from(k: u32) -> Self {
        Self::K(k)
    }
}

impl PartialEq<u32> for Shots {
    fn eq(&self, k: &u32) -> bool {
        *self == Self::K(*k)
    }
}

impl PartialOrd<u32> for Shots {
    fn partial_cmp(&self, k: &u32) -> Option<Ordering> {
        self.partial_cmp(&Self::K(*k))
    }
}

impl std::fmt::Display for Shots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::K(k) => k.fmt(f),
            Self::All => f.pad("all"),
        }
    }
}

impl FromStr for Shots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::K)
                .map_err(|_| format!("`{text}` is neither a number nor \"all\"")),
        }
    }
}

impl Serialize for Shots {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::K(k) => serializer.serialize_u32(*k),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Shots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Shots;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of examples per class, or \"all\"")
            }
            fn visit_u64<E: de::Error>(self, k: u64) -> Result<Shots, E> {
                let k = u32::try_from(k).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(k), &self))?;
                Ok(Shots::K(k))
            }
            fn visit_i64<E: de::Error>(self, k: i64) -> Result<Shots, E> {
                let k = u32::try_from(k).map_err(|_| E::invalid_value(de::Unexpected::Signed(k), &self))?;
                Ok(Shots::K(k))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Shots, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_all_in_every_form() {
        let both = [Shots::K(16), Shots::All];
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"[16,"all"]"#);
        assert_eq!(serde_json::from_str::<[Shots; 2]>(r#"[16,"all"]"#).unwrap(), both);
        for wrong in ["-1", "1.5", r#""most""#, "4294967296"] {
            assert!(serde_json::from_str::<Shots>(wrong).is_err(), "{wrong}");
        }
        assert!(Shots::K(u32::MAX) < Shots::All && Shots::All > 16 && Shots::K(4) == 4);
        assert_eq!(both.map(|shots| shots.to_string()), ["16", "all"]);
        assert!(Shots::All.any() && Shots::K(1).any() && !Shots::K(0).any());
    }
}
