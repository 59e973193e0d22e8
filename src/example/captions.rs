//! Texts as the text towers of CLIP and SigLIP are given them.
//!
//! Only `tokenizer.json` is read (the `tokenizers` library's format, which CLIP and SigLIP repositories hold beside
//! `vocab.json`/`merges.txt` and `spiece.model`). It says how texts are split, and adds the begin and end tokens.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::{Error, Result};
use crate::fs::hash::hex;

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

/// A tokenizer of whole captions.
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
        let fail = |reason: String| Error::Model {
            path: path.clone(),
            reason,
        };
        let bytes = std::fs::read(&path).map_err(|e| {
            let remedy = "`AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers writes it";
            fail(format!(
                "cannot be read: {e}; only this form of tokenizer is supported, {remedy}"
            ))
        })?;
        let mut inner = super::tokens::parse(&bytes).map_err(fail)?;
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams {
                max_length: context,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: TruncationDirection::Right,
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
        let fail = |reason: String| Error::Model {
            path: self.path.clone(),
            reason,
        };
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
