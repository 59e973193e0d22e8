//! `tokenizer.json` of a model folder (the `tokenizers` library's format): of a model that writes, and of the text towers of CLIP
//! and SigLIP, whose repositories hold it beside `vocab.json`/`merges.txt` and `spiece.model`.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokenizers::TruncationParams;

use super::model_error;
use crate::error::{Error, Result};
use crate::fs::hash::hex;

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

/// A tokenizer of the bytes of its `tokenizer.json`; else the reason why it is none. The library panics on some damaged
/// decoders (tokenizers 0.23.2): they are told like other damage.
fn parse(bytes: &[u8]) -> std::result::Result<tokenizers::Tokenizer, String> {
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
        let bytes = std::fs::read(&path).map_err(|e| model_error(&path, format!("cannot be read: {e}")))?;
        let inner = parse(&bytes).map_err(|reason| model_error(&path, reason))?;
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

    /// The text of token ids, special tokens written out.
    ///
    /// # Errors
    /// [`Error::Model`] when an id is unknown to the decoder.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, false)
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
        model_error(&self.path, reason)
    }
}

/// Padding of texts to rows of one length, in transformers' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The tower reads the text at its end token, and places never look ahead: shorter texts of a batch are filled
    /// up to its longest with token 0, which changes nothing.
    Longest,
    /// The tower reads the text at the last place and sees the padding (SigLIP is trained so): every text is filled
    /// up to the whole context.
    MaxLength,
}

/// A tokenizer of whole captions, as the text towers of CLIP and SigLIP are given them. Only `tokenizer.json` is read: it says
/// how texts are split, and adds the begin and end tokens.
#[derive(Debug, Clone)]
pub struct CaptionTokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    padding: Padding,
    context: usize,
    pad: u32,
    canonical: bool,
    fingerprint: String,
}

impl CaptionTokenizer {
    /// Reads `tokenizer.json` of a model folder, for a tower of `context` tokens.
    ///
    /// The pad token of [`Padding::MaxLength`] is `tokenizer_config.json`'s `pad_token`, `</s>` where that says nothing. If its
    /// tokenizer is a `SiglipTokenizer`, which `tokenizer.json` alone may not show, texts are lower-cased and lose
    /// ASCII punctuation first, as transformers' does.
    ///
    /// # Errors
    /// [`Error::Model`] when a file is missing or malformed, or there is no such pad token.
    pub fn load(model_dir: &Path, padding: Padding, context: usize) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let fail = |reason: String| model_error(&path, reason);
        let bytes = std::fs::read(&path).map_err(|e| {
            let remedy = "`AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers writes it";
            fail(format!(
                "cannot be read: {e}; only this form of tokenizer is supported, {remedy}"
            ))
        })?;
        let mut inner = parse(&bytes).map_err(fail)?;
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams {
                max_length: context,
                ..TruncationParams::default()
            }))
            .map_err(|e| fail(format!("texts cannot be cut to {context} tokens: {e}")))?;
        let settings = std::fs::read(model_dir.join("tokenizer_config.json")).unwrap_or_default();
        let stated: serde_json::Value = serde_json::from_slice(&settings).unwrap_or_default();
        let pad = stated.get("pad_token").map(|pad| pad.get("content").unwrap_or(pad));
        let pad = pad.and_then(serde_json::Value::as_str).unwrap_or("</s>");
        let pad = match padding {
            Padding::Longest => 0,
            Padding::MaxLength => inner
                .token_to_id(pad)
                .ok_or_else(|| fail(format!("there is no token `{pad}` to fill texts up with")))?,
        };
        let class = stated.get("tokenizer_class").and_then(serde_json::Value::as_str);
        Ok(Self {
            inner,
            padding,
            context,
            pad,
            canonical: class.is_some_and(|class| class.starts_with("SiglipTokenizer")),
            fingerprint: hex(&Sha256::new().chain_update(&bytes).chain_update(&settings).finalize()),
            path,
        })
    }

    /// Lower-case hex SHA-256 of the tokenizer's files.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Token ids of texts, filled up to rows of one length.
    ///
    /// # Errors
    /// [`Error::Model`] when the tokenizer refuses a text, or ends it with a token that is not the highest of its ids,
    /// by which [`Padding::Longest`] finds the end.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let fail = |reason: String| model_error(&self.path, reason);
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let text = if self.canonical { canonical(text) } else { text.clone() };
            let encoding = self
                .inner
                .encode(text.as_str(), true)
                .map_err(|e| fail(format!("cannot encode a text: {e}")))?;
            let ids = encoding.get_ids().to_vec();
            let end = ids.last().copied().unwrap_or(0);
            if self.padding == Padding::Longest && ids.iter().rev().skip(1).any(|id| *id >= end) {
                return Err(fail(format!("`{text}` does not end with the highest of its token ids")));
            }
            rows.push(ids);
        }
        let length = match self.padding {
            Padding::Longest => rows.iter().map(Vec::len).max().unwrap_or(0),
            Padding::MaxLength => self.context,
        };
        for row in &mut rows {
            row.resize(length, self.pad);
        }
        Ok(rows)
    }
}

/// `SiglipTokenizer.canonicalize_text`: lower case, without the characters of Python's `string.punctuation`, runs of
/// white space one space, none at the ends.
fn canonical(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_made_canonical() {
        // transformers' SiglipTokenizer.canonicalize_text on the same.
        assert_eq!(
            canonical("A photo of a Mercedes-Benz  C-Class."),
            "a photo of a mercedesbenz cclass"
        );
        assert_eq!(canonical(" Colt's foot, É! "), "colts foot é");
    }
}
