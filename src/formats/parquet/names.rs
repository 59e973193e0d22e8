//! Class names out of a parquet file's key-value metadata, as Python's `datasets` writes them.

use serde_json::Value;

/// Class names of a label column, in label order: from the JSON under the key `huggingface`
/// (`info.features.<label>.names`), or from the forms of a repository's front matter (`dataset_info`, features as a
/// list, names by number). `None` when the column has no names there.
///
/// # Errors
/// When there are names, but not one for each label from 0.
pub(crate) fn class_names(json: &str, label: &str) -> Result<Option<Vec<String>>, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("its metadata `huggingface` is no JSON: {e}"))?;
    let feature = [value.get("info"), value.get("dataset_info"), Some(&value)]
        .into_iter()
        .flatten()
        .find_map(|info| feature(info.get("features")?, label));
    let names = feature.and_then(|feature| {
        [
            Some(feature),
            feature.get("class_label"),
            feature.get("dtype").and_then(|t| t.get("class_label")),
        ]
        .into_iter()
        .flatten()
        .find_map(|holder| holder.get("names"))
    });
    match names {
        None | Some(Value::Null) => Ok(None),
        Some(names) => ordered(names)
            .ok_or_else(|| format!("the names of `{label}` in its metadata are no list of texts"))
            .map(Some),
    }
}

/// The mode that a column's `datasets.Image` asks for (`info.features.<image>.mode`, or the forms of front matter).
pub(crate) fn image_mode(json: &str, image: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    let feature = [value.get("info"), value.get("dataset_info"), Some(&value)]
        .into_iter()
        .flatten()
        .find_map(|info| feature(info.get("features")?, image))?;
    let dtype = feature.get("dtype");
    let holders = [
        Some(feature),
        feature.get("image"),
        dtype.and_then(|dtype| dtype.get("image")),
    ];
    let mode = holders.into_iter().flatten().find_map(|holder| holder.get("mode"))?;
    // Anything but a name is no mode of Pillow's, and is refused as one.
    (!mode.is_null()).then(|| mode.as_str().map_or_else(|| mode.to_string(), str::to_owned))
}

/// A column's description: features are an object by name, or a list of objects with a name.
fn feature<'a>(features: &'a Value, label: &str) -> Option<&'a Value> {
    match features {
        Value::Object(by_name) => by_name.get(label),
        Value::Array(list) => list
            .iter()
            .find(|f| f.get("name").and_then(Value::as_str) == Some(label)),
        _ => None,
    }
}

/// `["a", "b"]`, or `{"0": "a", "1": "b"}`.
fn ordered(names: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let names: Vec<String> = match names {
        Value::Array(list) => list.iter().map(text).collect::<Option<_>>()?,
        Value::Object(by_number) => (0..by_number.len())
            .map(|i| by_number.get(&i.to_string()).and_then(text))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_form() {
        let cases = [
            r#"{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}}}"#,
            r#"{"dataset_info": {"features": [{"name": "image", "dtype": "image"},
                {"name": "label", "dtype": {"class_label": {"names": {"1": "a", "0": "b"}}}}]}}"#,
            r#"{"features": {"label": {"class_label": {"names": ["b", "a"]}}}}"#,
        ];
        for json in cases {
            assert_eq!(class_names(json, "label").unwrap().unwrap(), ["b", "a"], "{json}");
            assert_eq!(class_names(json, "other").unwrap(), None);
        }
    }

    #[test]
    fn the_mode_of_an_image_column_is_found_in_every_form() {
        let cases = [
            r#"{"info": {"features": {"image": {"mode": "L", "_type": "Image"}, "label": {"_type": "ClassLabel"}}}}"#,
            r#"{"dataset_info": {"features": [{"name": "image", "dtype": {"image": {"mode": "L"}}}]}}"#,
        ];
        for json in cases {
            assert_eq!(image_mode(json, "image").as_deref(), Some("L"), "{json}");
            assert_eq!(image_mode(json, "label"), None);
        }
        for none in [
            r#"{"info": {"features": {"image": {"_type": "Image"}}}}"#,
            r#"{"info": {"features": {"image": {"mode": null}}}}"#,
        ] {
            assert_eq!(image_mode(none, "image"), None);
        }
        assert_eq!(
            image_mode(r#"{"features": {"image": {"mode": 3}}}"#, "image").as_deref(),
            Some("3")
        );
    }

    #[test]
    fn names_with_a_gap_are_refused() {
        let json = r#"{"info": {"features": {"label": {"names": {"0": "a", "2": "b"}}}}}"#;
        assert!(class_names(json, "label").is_err());
        assert!(class_names(r#"{"info": {"features": {"label": {"names": []}}}}"#, "label").is_err());
        assert!(class_names("{", "label").is_err());
    }
}
