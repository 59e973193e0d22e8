//! `tokenizer.json` of a model folder.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

/// A tokenizer of the bytes of its `tokenizer.json`; else the reason why it is none. The library panics on some damaged
/// decoders (tokenizers 0.23.2): they are told like other damage.
pub(super) fn parse(bytes: &[u8]) -> std::result::Result<tokenizers::Tokenizer, String> {
    catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()))
        .unwrap_or_else(|_| Err("its decoder is damaged".into()))
        .map_err(|reason| format!("not a tokenizer: {reason}"))
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing or malformed.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|e| Error::Model {
            path: path.clone(),
            reason: format!("cannot be read: {e}"),
        })?;
        let inner = parse(&bytes).map_err(|reason| Error::Model {
            path: path.clone(),
            reason,
        })?;
        Ok(Self { inner, path })
    }

    /// Token ids of a text; special tokens are recognised, none are added.
    ///
    /// # Errors
    /// [`Error::Model`] when the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|e| self.error(format!("cannot encode a text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::Model`] when an id is unknown to the decoder.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| self.error(format!("cannot decode tokens: {e}")))
    }

    /// The id of a token that must be there, such as `<|im_end|>`.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not.
    pub fn id(&self, token: &str) -> Result<u32> {
        self.inner
            .token_to_id(token)
            .ok_or_else(|| self.error(format!("there is no token `{token}`")))
    }

    fn error(&self, reason: String) -> Error {
        Error::Model {
            path: self.path.clone(),
            reason,
        }
    }
}
