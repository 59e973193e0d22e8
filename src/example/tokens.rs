//! `tokenizer.json` of a model folder.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing or malformed.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|e| Error::Model {
            path: path.clone(),
            reason: format!("not a tokenizer: {e}"),
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
