//! The settings by which a model folder has images prepared: `preprocessor_config.json`, or the part `image_processor` of
//! `processor_config.json`, which transformers 5 writes instead.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file that transformers 4 writes, and 5 for models without text.
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
/// The file that transformers 5 writes for models with text. Older ones have it too, with other things in it.
pub(crate) const PROCESSOR: &str = "processor_config.json";
/// The largest of both that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// The settings of an image processor and the file that holds them.
#[derive(Debug)]
pub(crate) struct ImageSettings {
    pub(crate) path: PathBuf,
    /// The file itself; of `processor_config.json` the part alone, its keys in order.
    pub(crate) text: Vec<u8>,
}

/// Reads them. Where both files have them, `processor_config.json` counts, as in transformers 5.24
/// (`ImageProcessingMixin.get_image_processor_dict`).
///
/// # Errors
/// [`Error::Model`] when there are none, or the file is not JSON.
pub(crate) fn image_settings(dir: &Path) -> Result<ImageSettings> {
    let (newer, older) = (dir.join(PROCESSOR), dir.join(PREPROCESSOR));
    if newer.exists() {
        let text = read(&newer)?;
        let part = nested(&text).map_err(|reason| fail(&newer, reason))?;
        match part {
            Some(text) => return Ok(ImageSettings { path: newer, text }),
            None if !older.exists() => {
                let reason = format!("has no `image_processor`, and there is no `{PREPROCESSOR}` beside it");
                return Err(fail(&newer, reason));
            }
            None => {}
        }
    }
    let text = read(&older)?;
    Ok(ImageSettings { path: older, text })
}

/// The part `image_processor` of the text of a `processor_config.json`, if it has one.
///
/// # Errors
/// In words, when it is not JSON.
pub(crate) fn nested(text: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let file: serde_json::Value = serde_json::from_slice(text).map_err(|e| format!("is not JSON: {e}"))?;
    match file.get("image_processor") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(part) => serde_json::to_vec(part).map(Some).map_err(|e| e.to_string()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e: std::io::Error| fail(path, format!("cannot be read: {e}"));
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LONGEST {
        return Err(fail(
            path,
            format!("has {size} bytes, the most that is read are {LONGEST}"),
        ));
    }
    std::fs::read(path).map_err(unreadable)
}

fn fail(path: &Path, reason: String) -> Error {
    Error::Model {
        path: path.to_path_buf(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_file_counts_where_it_says_something() {
        let folder = tempfile::tempdir().unwrap();
        let text = || image_settings(folder.path()).map(|found| String::from_utf8(found.text).unwrap());
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(text().unwrap_err().to_string().contains(PREPROCESSOR));
        put(PROCESSOR, r#"{"processor_class": "X"}"#);
        assert!(text().unwrap_err().to_string().contains("no `image_processor`"));
        put(PREPROCESSOR, r#"{"size": 1}"#);
        assert_eq!(text().unwrap(), r#"{"size": 1}"#);
        put(PROCESSOR, r#"{"image_processor": {"size": 2, "crop": 3}}"#);
        assert_eq!(text().unwrap(), r#"{"crop":3,"size":2}"#);
        put(PROCESSOR, r#"{"image_processor": null}"#);
        assert_eq!(text().unwrap(), r#"{"size": 1}"#);
        put(PROCESSOR, "{");
        assert!(text().unwrap_err().to_string().contains("not JSON"));
    }
}
