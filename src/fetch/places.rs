//! What the environment says about the network: hub, token, mirror, offline.

use std::env;
use std::path::{Path, PathBuf};

use crate::fetch::Policy;

/// Where hub files come from and lie, as Python's `huggingface_hub` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPlaces {
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Folder that holds `datasets--<owner>--<name>/`.
    pub cache: PathBuf,
    /// Sent to the endpoint's host only.
    pub token: Option<Token>,
    /// No connection may be made.
    pub offline: bool,
}

/// Secret of the user's account; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Without white space around it; `None` if nothing is left.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let secret = secret.trim();
        (!secret.is_empty()).then(|| Self(secret.into()))
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubPlaces {
    /// `HF_ENDPOINT`; `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in the platform's cache folder; `HF_TOKEN`, else
    /// the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`; `KSHOT_OFFLINE` or `HF_HUB_OFFLINE`.
    #[must_use]
    pub fn from_env() -> Self {
        let home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME")
                .or_else(|| folder("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(env::temp_dir)
                .join("huggingface")
        });
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            token: token.as_deref().and_then(Token::new),
            offline: ["KSHOT_OFFLINE", "HF_HUB_OFFLINE"].into_iter().any(is_set),
        }
    }
}

/// Everything that fetching needs to know of the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Base URL or folder that holds `<dataset>/<file>`: tried first.
    pub mirror: Option<String>,
    /// The hub, its cache, and whether connections are allowed at all.
    pub hub: HubPlaces,
    /// When to try again.
    pub policy: Policy,
}

impl Remote {
    /// `KSHOT_MIRROR` and what [`HubPlaces::from_env`] reads.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            mirror: variable("KSHOT_MIRROR").map(|mirror| mirror.trim_end_matches('/').into()),
            hub: HubPlaces::from_env(),
            policy: Policy::default(),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// A folder or file that a variable names; `~/` is the user's home as in Python.
fn folder(name: &str) -> Option<PathBuf> {
    let path = env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    match (path.strip_prefix("~"), env::var_os("HOME")) {
        (Ok(inside), Some(home)) => Some(Path::new(&home).join(inside)),
        _ => Some(path),
    }
}

/// The values that Python's hub client takes for yes.
fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(Token::new(" \n"), None);
    }
}
