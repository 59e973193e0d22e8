//! The kind of model that a folder holds: `model_type` of its `config.json`.

use std::path::{Path, PathBuf};

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
    /// The first of its values of `model_type`.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen3Vl => "qwen3_vl",
            Self::Dinov2 => "dinov2",
            Self::Clip => "clip",
            Self::Siglip => "siglip",
        }
    }

    /// True if it needs a tokenizer.
    #[must_use]
    pub fn reads_text(self) -> bool {
        self != Self::Dinov2
    }

    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it cannot be read, [`Error::Checkpoint`] when it is of another architecture.
    pub fn of(dir: &Path) -> Result<Self> {
        let (path, text) = read_config(dir)?;
        Self::parse(&text, &path)
    }

    /// As [`Architecture::of`], from the text of a config; `path` is what errors name.
    ///
    /// # Errors
    /// As [`Architecture::of`].
    pub fn parse(config: &[u8], path: &Path) -> Result<Self> {
        let config: serde_json::Value =
            serde_json::from_slice(config).map_err(|e| Error::model(path, format!("is not JSON: {e}")))?;
        if let Some(stated) = config.get("quantization_config").filter(|stated| !stated.is_null()) {
            let method = stated.get("quant_method").and_then(serde_json::Value::as_str);
            let method = method.unwrap_or("by a method that it does not name");
            return Err(Error::checkpoint(
                path,
                format!("`quantization_config` says that the weights are quantised ({method})"),
                "take the checkpoint that is not quantised: BF16, F16, F32 and F64 are supported",
            ));
        }
        let found = config.get("model_type").and_then(serde_json::Value::as_str);
        match found {
            Some("qwen3_vl" | "qwen3_vl_moe") => Ok(Self::Qwen3Vl),
            Some("dinov2" | "dinov2_with_registers") => Ok(Self::Dinov2),
            Some("clip") => Ok(Self::Clip),
            Some("siglip") => Ok(Self::Siglip),
            other => Err(Error::checkpoint(
                path,
                match other {
                    Some(other) => format!("model_type `{other}` is not supported"),
                    None => "there is no model_type".into(),
                },
                "take a model whose model_type is `qwen3_vl`, `qwen3_vl_moe`, `dinov2`, \
                 `dinov2_with_registers`, `clip` or `siglip`, e.g. Qwen/Qwen3-VL-2B-Instruct or facebook/dinov2-small",
            )),
        }
    }
}

/// Path and bytes of `config.json` in a model folder.
pub(crate) fn read_config(dir: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let path = dir.join("config.json");
    match std::fs::read(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(e) => Err(Error::model(path, format!("cannot be read: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_weights_are_told_by_the_config() {
        for method in ["fp8", "gptq", "awq", "bitsandbytes"] {
            let config =
                format!(r#"{{"model_type": "qwen3_vl", "quantization_config": {{"quant_method": "{method}"}}}}"#);
            let error = Architecture::parse(config.as_bytes(), Path::new("config.json")).unwrap_err();
            assert!(error.to_string().contains("quantization_config") && error.to_string().contains(method));
        }
        let plain = br#"{"model_type": "dinov2", "quantization_config": null}"#;
        let found = Architecture::parse(plain, Path::new("config.json")).unwrap();
        assert_eq!(found, Architecture::Dinov2);
        found.check(plain, Path::new("config.json")).unwrap();
        let huge = br#"{"model_type": "dinov2", "num_hidden_layers": 1000000000000}"#;
        let error = found.check(huge, Path::new("config.json")).unwrap_err();
        assert!(error.to_string().contains("num_hidden_layers"), "{error}");
    }
}
