//! Parquet files as Python's `datasets` writes them: images come out as they went in, labels by their names.

use std::path::PathBuf;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use kshot::config::Protocol;
use kshot::data;
use kshot::data::Dataset;
use kshot::error::Result;
use kshot::fetch::HubSettings;

use super::fixture::{jpeg, labels, png};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One row: image bytes (or null), path, label (or null).
pub(crate) type Row = (Option<Vec<u8>>, String, Option<i64>);

/// A shard with row groups of two rows, class names in its metadata.
pub(crate) fn shard(rows: &[Row], names: &[&str]) -> Vec<u8> {
    let features = serde_json::json!({"info": {"features": {
        "image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}});
    shard_with(
        rows,
        Some(features.to_string()),
        ["image", "label"],
        Compression::SNAPPY,
    )
}

pub(crate) fn shard_with(
    rows: &[Row],
    metadata: Option<String>,
    columns: [&str; 2],
    compression: Compression,
) -> Vec<u8> {
    let [image, label] = columns;
    let schema = format!(
        "message schema {{ optional group {image} {{ optional binary bytes; optional binary path (STRING); }} \
         optional int64 {label}; }}"
    );
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_key_value_metadata(metadata.map(|json| vec![KeyValue::new("huggingface".into(), json)]))
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(
        &mut bytes,
        Arc::new(parse_message_type(&schema).unwrap()),
        Arc::new(properties),
    )
    .unwrap();
    for rows in rows.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<_> = rows
            .iter()
            .filter_map(|(image, ..)| image.clone().map(ByteArray::from))
            .collect();
        let levels: Vec<i16> = rows
            .iter()
            .map(|(image, ..)| if image.is_some() { 2 } else { 1 })
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&images, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        let paths: Vec<_> = rows.iter().map(|(_, path, _)| ByteArray::from(path.as_str())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&paths, Some(&vec![2; rows.len()]), None)
            .unwrap();
        column.close().unwrap();
        let of_rows: Vec<i64> = rows.iter().filter_map(|(.., label)| *label).collect();
        let levels: Vec<i16> = rows.iter().map(|(.., label)| i16::from(label.is_some())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&of_rows, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// Labels as text, without metadata.
pub(crate) fn text_shard(rows: &[(Vec<u8>, &str)]) -> Vec<u8> {
    let schema = "message schema { required group image { required binary bytes; } required binary label (STRING); }";
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let images: Vec<_> = rows.iter().map(|(image, _)| ByteArray::from(image.clone())).collect();
    let names: Vec<_> = rows.iter().map(|(_, name)| ByteArray::from(*name)).collect();
    for values in [images, names] {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

/// A datasets folder with one manifest of a repository, its snapshot, and a cache.
pub(super) struct HubFixture {
    pub folder: tempfile::TempDir,
}

impl HubFixture {
    /// `extra`: lines before `[hub]`; `hub`: lines in it.
    pub(super) fn new(extra: &str, hub: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("datasets")).unwrap();
        let manifest = format!(
            "name = \"toy\"\ntitle = \"Toy\"\nlayout = \"folders\"\nlicence = \"none\"\ncitation = \"nobody\"\n{extra}\n\
             [hub]\nrepo = \"someone/toy\"\nrevision = \"{COMMIT}\"\n{hub}\n"
        );
        std::fs::write(folder.path().join("datasets/toy.toml"), manifest).unwrap();
        Self { folder }
    }

    pub(super) fn with(self, name: &str, bytes: &[u8]) -> Self {
        let path = self.snapshot().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn snapshot(&self) -> PathBuf {
        self.path("hub/datasets--someone--toy/snapshots").join(COMMIT)
    }

    pub(super) fn open(&self, protocol: Protocol) -> Result<Dataset> {
        let hub = HubSettings {
            endpoint: "https://hub.invalid".into(),
            cache: self.path("hub"),
            token: None,
            offline: true,
        };
        data::open_with("toy", protocol, &self.path("datasets"), &self.path("cache"), &hub)
    }

    #[track_caller]
    fn message(&self, protocol: Protocol) -> String {
        let error = self.open(protocol).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string().replace(self.folder.path().to_str().unwrap(), "[TMP]")
    }
}

/// Three classes; labels in no order.
const NAMES: [&str; 3] = ["b_ird", "Cat", "ant"];

pub(crate) fn row(colour: u8, label: i64) -> Row {
    (Some(jpeg(colour)), format!("{colour}.jpg"), Some(label))
}

fn three_splits() -> HubFixture {
    let mut train = [row(10, 2), row(11, 0), row(12, 1), row(13, 0), row(14, 1)];
    train[3].0 = Some(png(13)); // PNG bytes beside a path that ends in .jpg
    HubFixture::new("", "val = [\"validation\"]")
        .with("data/train-00000-of-00002.parquet", &shard(&train[..3], &NAMES))
        .with("data/train-00001-of-00002.parquet", &shard(&train[3..], &NAMES))
        .with("data/validation-00000-of-00001.parquet", &shard(&[row(20, 2)], &NAMES))
        .with(
            "data/test-00000-of-00001.parquet",
            &shard(&[row(30, 1), row(31, 0), row(32, 2)], &NAMES),
        )
        .with(
            "data/contrast-00000-of-00001.parquet",
            b"another split, which is not asked for",
        )
}

#[test]
fn rows_become_files_in_their_order_with_classes_by_name() {
    let set = three_splits();
    let tinker = set.open(Protocol::Tinker).unwrap();
    assert_eq!(tinker.classes, NAMES);
    assert_eq!(
        labels(&tinker.pool),
        [
            "train/00000.jpg 2",
            "train/00001.jpg 0",
            "train/00002.jpg 1",
            "train/00003.png 0",
            "train/00004.jpg 1"
        ]
    );
    assert_eq!(
        labels(&tinker.test),
        ["test/00000.jpg 1", "test/00001.jpg 0", "test/00002.jpg 2"]
    );
    assert!(tinker.val.is_empty());
    assert_eq!(std::fs::read(&tinker.pool[1].path).unwrap(), jpeg(11));
    assert_eq!(tinker.origin.source, "someone/toy");
    assert_eq!(tinker.origin.revision.as_deref(), Some(COMMIT));

    // Under `clean` the validation rows are there to draw from; nothing is unpacked again.
    let unpacked = std::fs::metadata(&tinker.pool[0].path).unwrap().modified().unwrap();
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(clean.pool.len(), 6);
    assert_eq!(clean.pool[5].id, "validation/00000.jpg");
    assert_eq!(clean.pool[0], tinker.pool[0]);
    assert_eq!(
        std::fs::metadata(&clean.pool[0].path).unwrap().modified().unwrap(),
        unpacked
    );
    assert_eq!(set.open(Protocol::Tinker).unwrap(), tinker);
    let message = set.message(Protocol::Coop);
    insta::assert_snapshot!(message, @"dataset `toy`: the protocol `coop` needs CoOp's split file, and its manifest has no file of role `coop-split`");
}

#[test]
fn clean_classes_stand_in_the_manifest_s_order_and_spelling() {
    let names = "class_names = [\"Ant\", \"B ird\", \"cat?\"]";
    let set = HubFixture::new(names, "expect = {classes = 3, pool = 3, test = 3}");
    let rows = [row(1, 0), row(2, 1), row(3, 2)];
    let set = set
        .with("data/train-00000-of-00001.parquet", &shard(&rows, &NAMES))
        .with("data/test-00000-of-00001.parquet", &shard(&rows, &NAMES));
    let clean = set.open(Protocol::Clean).unwrap();
    assert_eq!(clean.classes, ["Ant", "B ird", "cat?"]);
    assert_eq!(
        labels(&clean.pool),
        ["train/00000.jpg 1", "train/00001.jpg 2", "train/00002.jpg 0"]
    );
    // `tinker` takes names and order as the repository has them.
    assert_eq!(set.open(Protocol::Tinker).unwrap().classes, NAMES);
    let other = set.with(
        "data/train-00000-of-00001.parquet",
        &shard(&rows, &["bird", "cat", "ant"]),
    );
    let other = other.with(
        "data/test-00000-of-00001.parquet",
        &shard(&rows, &["bird", "cat", "ant"]),
    );
    insta::assert_snapshot!(other.message(Protocol::Clean), @"dataset `toy`: class `bird` is not in the manifest's `class_names`");
}

#[test]
fn what_is_not_there_is_named_with_its_place() {
    let set = HubFixture::new("", "").with("data/train-00000-of-00002.parquet", b"x");
    insta::assert_snapshot!(set.message(Protocol::Clean), @"dataset `toy` is not on this machine: `data/train-*-of-00002.parquet` should lie at `[TMP]/hub/datasets--someone--toy/snapshots/0123456789abcdef0123456789abcdef01234567/data/train-*-of-00002.parquet`, `data/test-*-of-*.parquet` should lie at `[TMP]/hub/datasets--someone--toy/snapshots/0123456789abcdef0123456789abcdef01234567/data/test-*-of-*.parquet`");
    assert!(
        set.open(Protocol::Clean)
            .unwrap_err()
            .hint()
            .unwrap()
            .contains("kshot data fetch toy")
    );
}

#[test]
fn files_that_disagree_or_have_other_hashes_are_refused() {
    let rows = [row(1, 0), row(2, 1), row(3, 2)];
    let test = shard(&rows, &["ant", "b_ird", "Cat"]);
    let set = HubFixture::new("", "")
        .with("data/train-00000-of-00001.parquet", &shard(&rows, &NAMES))
        .with("data/test-00000-of-00001.parquet", &test);
    insta::assert_snapshot!(set.message(Protocol::Tinker), @"parquet file `[TMP]/hub/datasets--someone--toy/snapshots/0123456789abcdef0123456789abcdef01234567/data/train-00000-of-00001.parquet`: its class names differ from those of data/test-00000-of-00001.parquet");
    let shards = "shard = [{path = \"data/train-00000-of-00001.parquet\"}, \
                  {path = \"data/test-00000-of-00001.parquet\", size = 3}]";
    let set = HubFixture::new("", shards)
        .with("data/train-00000-of-00001.parquet", &shard(&rows, &NAMES))
        .with("data/test-00000-of-00001.parquet", b"four");
    insta::assert_snapshot!(set.message(Protocol::Tinker), @"`[TMP]/hub/datasets--someone--toy/snapshots/0123456789abcdef0123456789abcdef01234567/data/test-00000-of-00001.parquet` has size 4, the manifest says 3");
}

#[test]
fn where_labels_are_names_classes_are_in_byte_order() {
    let text = text_shard(&[(png(1), "b"), (jpeg(2), "a")]);
    let set = HubFixture::new("", "")
        .with("train.parquet", &text)
        .with("test.parquet", &text);
    assert_eq!(set.open(Protocol::Clean).unwrap().classes, ["a", "b"]);
}
