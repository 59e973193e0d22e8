//! Parquet files that pyarrow 26, polars 2.1 and datasets 5.2 wrote, in every codec and encoding that they have: each is
//! read as pyarrow reads it. tests/fixtures/parquet/make.py writes the files and what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kshot::data::layout::table::read_table;
use kshot::formats::parquet::{Columns, ParquetInfo};
use kshot::manifest::TableForm;
use serde_json::Value;

use super::parquet::read_bytes;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet")
}

/// Every file but the README and the script.
pub(crate) fn files(start: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.starts_with(start) && name.ends_with(".parquet"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Columns of each file as pyarrow 26.0.1 has them.
fn expected() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(folder().join("expected.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json["versions"],
        serde_json::json!({"pyarrow": "26.0.1", "polars": "2.1.0", "datasets": "5.2.0"})
    );
    serde_json::from_value(json["files"].clone()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Image in hex, path, class.
type Told = (String, Option<String>, String);

fn read(bytes: &[u8], label: &str) -> (Vec<Told>, ParquetInfo) {
    let mut rows = Vec::new();
    let columns = Columns { image: "image", label };
    let about = read_bytes(bytes, columns, &mut |row| {
        rows.push((hex(row.image), row.path.map(str::to_owned), row.class.to_owned()));
        Ok(())
    });
    (rows, about.unwrap())
}

/// The rows of pyarrow that have an image and a label among the names.
fn of_pyarrow(columns: &Value, label: &str, names: Option<&[&str]>) -> Vec<Told> {
    let images = columns["image"].as_array().unwrap();
    let labels = columns[label].as_array().unwrap();
    let row = |(image, label): (&Value, &Value)| {
        let bytes = image.as_str().or_else(|| image["bytes"].as_str())?.to_owned();
        let class = match (label, names) {
            (Value::Number(number), Some(names)) => (*names.get(usize::try_from(number.as_i64()?).ok()?)?).to_owned(),
            (Value::Number(number), None) => number.to_string(),
            (Value::Bool(true), _) => "True".into(),
            (Value::Bool(false), _) => "False".into(),
            (other, _) => other.as_str()?.to_owned(),
        };
        Some((bytes, image["path"].as_str().map(str::to_owned), class))
    };
    images.iter().zip(labels).filter_map(row).collect()
}

#[test]
fn images_come_out_as_pyarrow_has_them() {
    let expected = expected();
    let mut compared = 0;
    for (name, bytes) in files("images-") {
        let label = if name == "images-boolean.parquet" {
            "is_dog"
        } else {
            "label"
        };
        let names = (!matches!(name.as_str(), "images-numbers.parquet")).then_some(["cat", "dog"].as_slice());
        let (rows, about) = read(&bytes, label);
        if name == "images-repeated.parquet" {
            assert_eq!(rows.len() as u64, expected[&name]["rows"]);
            continue;
        }
        assert_eq!(rows, of_pyarrow(&expected[&name], label, names), "{name}");
        assert_eq!(rows.len() as u64 + about.left_out.rows(), about.rows, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 14);
}

#[test]
fn rows_with_holes_are_counted_and_named() {
    let (_, bytes) = files("images-holes").remove(0);
    let (rows, about) = read(&bytes, "label");
    assert_eq!(rows.len(), 3);
    assert_eq!((about.left_out.unlabelled, about.left_out.unusable), (2, 2));
    let named: Vec<String> = about
        .left_out
        .named
        .iter()
        .map(|(row, reason)| format!("{row}: {reason}"))
        .collect();
    insta::assert_snapshot!(named.join("\n"), @r"
    1: the image has no bytes
    2: it has no label
    4: label -1, which stands for none
    6: label 9; the metadata names 2 classes
    ");
}

#[test]
fn tables_come_out_as_pyarrow_has_them() {
    let expected = expected();
    let mut compared = 0;
    for (name, bytes) in files("table-") {
        let place = tempfile::NamedTempFile::new().unwrap();
        fs::write(place.path(), bytes).unwrap();
        let rows = read_table(place.path(), &TableForm::default()).unwrap().rows;
        let columns = &expected[&name];
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::Number(number) => Some(format!("{}", number.as_f64().unwrap())),
            other => other.as_str().map(str::to_owned),
        };
        let right: Vec<_> = columns["path"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap().to_owned())
            .collect();
        let labels: Vec<_> = columns["label"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(
            rows.iter().map(|row| row.path.clone()).collect::<Vec<_>>(),
            right,
            "{name}"
        );
        assert_eq!(
            rows.iter().map(|row| row.label.clone()).collect::<Vec<_>>(),
            labels,
            "{name}"
        );
        compared += 1;
    }
    assert_eq!(compared, 5);
}

/// A page that unpacks to more than its header says, by a factor that a few bytes of zeros reach in every codec.
#[test]
fn pages_unpack_to_what_they_announce_and_no_further() {
    for (name, bytes) in files("images-") {
        if matches!(name.as_str(), "images-none.parquet") {
            continue;
        }
        // Every varint in a page header that may be the unpacked size, doubled: refused or read, never more memory.
        for at in 4..bytes.len().min(200) {
            let mut wrong = bytes.clone();
            wrong[at] = wrong[at].wrapping_add(2);
            let columns = Columns {
                image: "image",
                label: "label",
            };
            drop(read_bytes(&wrong, columns, &mut |_| Ok(())));
        }
    }
}
