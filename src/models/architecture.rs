//! What kind of model a folder holds: `model_type` of its `config.json`.

use std::path::Path;

use crate::error::{Error, Result};

/// The architectures that are run, by the values of `model_type` that stand for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `qwen3_vl`, `qwen3_vl_moe`
    Qwen3Vl,
    /// `dinov2`, `dinov2_with_registers`
    Dinov2,
    /// `clip`
    Clip,
    /// `siglip`
    Siglip,
}

impl Architecture {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it cannot be read, [`Error::Checkpoint`] when it is of another architecture.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read(&path).map_err(|e| Error::Model {
            path: path.clone(),
            reason: format!("cannot be read: {e}"),
        })?;
        Self::parse(&text, &path)
    }

    /// As [`Architecture::of`], from the text of a config; `path` is what errors name.
    ///
    /// # Errors
    /// As [`Architecture::of`].
    pub fn parse(config: &[u8], path: &Path) -> Result<Self> {
        let config: serde_json::Value = serde_json::from_slice(config).map_err(|e| Error::Model {
            path: path.into(),
            reason: format!("is not JSON: {e}"),
        })?;
        let found = config.get("model_type").and_then(serde_json::Value::as_str);
        match found {
            Some("qwen3_vl" | "qwen3_vl_moe") => Ok(Self::Qwen3Vl),
            Some("dinov2" | "dinov2_with_registers") => Ok(Self::Dinov2),
            Some("clip") => Ok(Self::Clip),
            Some("siglip") => Ok(Self::Siglip),
            other => Err(Error::Checkpoint {
                path: path.into(),
                reason: match other {
                    Some(other) => format!("model_type `{other}` is not supported"),
                    None => "there is no model_type".into(),
                },
                remedy: "take a model whose model_type is `qwen3_vl`, `qwen3_vl_moe`, `dinov2`, \
                         `dinov2_with_registers`, `clip` or `siglip`, e.g. Qwen/Qwen3-VL-2B-Instruct or facebook/dinov2-small"
                    .into(),
            }),
        }
    }
}
