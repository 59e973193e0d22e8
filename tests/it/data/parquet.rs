//! The reader of parquet files, right and wrong ones.

use std::fs;

use ::parquet::basic::Compression;
use kshot::error::{Error, Result};
use kshot::formats::parquet;
use kshot::formats::parquet::{Columns, ParquetInfo};

use super::fixture::{jpeg, png};
use super::hub::{Row, row, shard, shard_with, text_shard};

const COLUMNS: Columns<'static> = Columns {
    image: "image",
    label: "label",
};

/// Image, path and class.
type Told = (Vec<u8>, Option<String>, String);

/// Reads a file of these bytes, which is called `x.parquet` in errors.
pub fn read_bytes(
    bytes: &[u8],
    columns: Columns<'_>,
    tell: &mut dyn FnMut(parquet::Row<'_>) -> Result<()>,
) -> Result<ParquetInfo> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    parquet::read(file.path(), columns, tell).map_err(|error| match error {
        Error::Parquet { reason, .. } => Error::Parquet {
            path: "x.parquet".into(),
            reason,
        },
        other => other,
    })
}

fn read(bytes: Vec<u8>) -> Result<Vec<Told>> {
    let mut rows = Vec::new();
    read_bytes(&bytes, COLUMNS, &mut |row| {
        assert!(row.number as usize >= rows.len(), "rows that are left out count");
        rows.push((row.image.to_vec(), row.path.map(str::to_owned), row.class.to_owned()));
        Ok(())
    })?;
    Ok(rows)
}

#[test]
fn labels_may_be_names_and_files_uncompressed() {
    let rows = read(text_shard(&[(png(1), "b"), (jpeg(2), "a")])).unwrap();
    assert_eq!(rows, [(png(1), None, "b".into()), (jpeg(2), None, "a".into())]);
    let names =
        r#"{"dataset_info": {"features": [{"name": "label", "dtype": {"class_label": {"names": {"0": "x"}}}}]}}"#;
    let bytes = shard_with(
        &[row(3, 0)],
        Some(names.into()),
        ["image", "label"],
        Compression::UNCOMPRESSED,
    );
    assert_eq!(read(bytes).unwrap(), [(jpeg(3), Some("3.jpg".into()), "x".into())]);
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let ok = || Some(r#"{"info": {"features": {"label": {"names": ["a"]}}}}"#.to_owned());
    let rows = [row(1, 0)];
    let cases = [
        shard_with(&rows, ok(), ["img", "fine_label"], Compression::SNAPPY),
        shard_with(&rows, ok(), ["image", "fine_label"], Compression::SNAPPY),
        b"PAR1".to_vec(),
        shard(&rows, &["a"])[8..].to_vec(),
    ];
    let message = |bytes: Vec<u8>| {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, Error::Parquet { .. }) && error.hint().is_some());
        error.to_string()
    };
    insta::assert_snapshot!(cases.map(message).join("\n"), @r#"
    parquet file `x.parquet`: no column `image` of images (a struct with `bytes`); it has `img`, `fine_label`
    parquet file `x.parquet`: no column `label` of labels (integers or names); it has `image`, `fine_label`
    parquet file `x.parquet`: it is no parquet file, or torn
    parquet file `x.parquet`: invalid level encoding: PLAIN
    "#);
}

/// Rows without an image or a label are left out and named, and integers without names are their own.
#[test]
fn rows_that_cannot_be_taken_are_left_out() {
    let no_image: Row = (None, "lost.jpg".into(), Some(0));
    let no_label: Row = (Some(jpeg(1)), "1.jpg".into(), None);
    let rows = [row(1, 0), no_image, row(2, 1), no_label, row(3, -1), row(4, 0)];
    let mut taken = Vec::new();
    let about = read_bytes(&shard(&rows, &["a"]), COLUMNS, &mut |row| {
        taken.push(row.number);
        Ok(())
    });
    let left_out = about.unwrap().left_out;
    assert_eq!(
        (taken.as_slice(), left_out.unlabelled, left_out.unusable),
        ([0, 5].as_slice(), 2, 2)
    );
    let named: Vec<String> = left_out
        .named
        .iter()
        .map(|(row, reason)| format!("{row}: {reason}"))
        .collect();
    insta::assert_snapshot!(named.join("\n"), @r#"
    1: the image has no bytes beside the path "lost.jpg"
    2: label 1; the metadata names 1 classes
    3: it has no label
    4: label -1, which stands for none
    "#);
    for metadata in [None, Some("{}".to_owned())] {
        let bytes = shard_with(
            &[row(1, 7)],
            metadata,
            ["image", "label"],
            Compression::GZIP(Default::default()),
        );
        assert_eq!(read(bytes).unwrap(), [(jpeg(1), Some("1.jpg".into()), "7".into())]);
    }
}

/// A page that says it unpacks to more than its bytes can, a dictionary of more values than it has bytes for: found
/// before memory is set aside for them.
#[test]
fn sizes_that_lie_are_found_in_the_headers() {
    let row: Row = (Some(vec![0; 100]), "zeros".into(), Some(0));
    let whole = shard(&[row], &["a"]);
    assert!(read(whole.clone()).is_ok());
    // The first page's header, of a dictionary: 1 type, 2 uncompressed size (here a varint of two bytes), …
    assert_eq!(
        (&whole[4..7], whole[7] & 0x80, whole[8] & 0x80),
        (&[0x15, 4, 0x15][..], 0x80, 0)
    );
    let mut page = whole.clone();
    page[7..9].copy_from_slice(&[0xfe, 0x7f]);
    // … 7 dictionary header { 1 number of values.
    let at = whole.windows(3).position(|bytes| bytes == [0x4c, 0x15, 2]).unwrap();
    let mut dictionary = whole.clone();
    dictionary[at + 2] = 0x7e;
    let torn = whole[..whole.len() - 9].to_vec();
    let mut footer = whole;
    let length = footer.len() - 8;
    footer[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let message = |bytes| read(bytes).unwrap_err().to_string();
    insta::assert_snapshot!([page, dictionary, torn, footer].map(message).join("\n"), @r"
    parquet file `x.parquet`: a page of column `image.bytes` claims to unpack from 10 to 8191 bytes
    parquet file `x.parquet`: a dictionary of column `image.bytes` claims 63 values
    parquet file `x.parquet`: it is no parquet file, or torn
    parquet file `x.parquet`: it is no parquet file, or torn
    ");
}

#[test]
fn damaged_files_never_panic() {
    let whole = shard(&[row(1, 0), row(2, 1), row(3, 0)], &["a", "b"]);
    let mut state = 1_u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..2_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        if next(8) == 0 {
            bytes.truncate(next(bytes.len()));
        }
        drop(read(bytes));
    }
}
