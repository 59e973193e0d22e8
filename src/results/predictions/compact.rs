//! Predictions of many cells in one Parquet file: small enough to be committed.
//!
//! The columns of a single cell's file, then `run_id`; rows in order of `run_id`, those of one cell as they
//! were made. The metadata holds each distinct class list once (`class_lists`), and which of them each cell
//! uses (`cells`: `run_id` → index). Text repeats from cell to cell and is stored in dictionaries;
//! log-probabilities hardly repeat, but their high bytes do, so each byte of the `f32` goes into a stream
//! of its own. The same cells give the same bytes, whose SHA-256 stands beside them as `sha256sum` writes it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::FileReader as _;
use parquet::schema::types::ColumnPath;
use sha2::{Digest as _, Sha256};

use super::decode::{general, malformed, metadata, open, read_names, read_rows};
use super::{COLUMNS, json, write_column, write_file, write_rows};
use crate::data::hex;
use crate::error::{Error, Result};
use crate::prediction::Prediction;
use crate::results::file;

/// Class names and rows of each cell, by `run_id`.
pub type Cells = BTreeMap<String, (Vec<String>, Vec<Prediction>)>;

const GZIP_LEVEL: u32 = 9;
/// Bytes of a dictionary page: every image id and hash of a sweep has to fit.
const DICTIONARY_BYTES: usize = 64 << 20;
/// Place of `run_id` behind the columns of a single cell's file.
const RUN_ID: usize = 9;

/// The bytes of a compact prediction file.
///
/// # Errors
/// [`Error::Predictions`] when a class index does not fit or the encoder fails.
pub fn encode(cells: Cells) -> Result<Vec<u8>> {
    encode_cells(cells).map_err(|e| Error::Predictions {
        run_id: "(all of a compact file)".into(),
        reason: e.to_string(),
    })
}

fn encode_cells(cells: Cells) -> ParquetResult<Vec<u8>> {
    let mut class_lists: Vec<Vec<String>> = Vec::new();
    let mut known: HashMap<Vec<String>, usize> = HashMap::new();
    let mut list_of: BTreeMap<String, usize> = BTreeMap::new();
    let (mut run_ids, mut rows) = (Vec::new(), Vec::new());
    for (run_id, (classes, cell_rows)) in cells {
        let list = *known.entry(classes).or_insert_with_key(|classes| {
            class_lists.push(classes.clone());
            class_lists.len() - 1
        });
        run_ids.extend(cell_rows.iter().map(|_| ByteArray::from(run_id.as_str())));
        rows.extend(cell_rows);
        list_of.insert(run_id, list);
    }
    let log_probs = ColumnPath::new(vec!["log_probs".into(), "list".into(), "element".into()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::GZIP(GzipLevel::try_new(GZIP_LEVEL)?))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_column_dictionary_enabled(log_probs.clone(), false)
        .set_column_encoding(log_probs, Encoding::BYTE_STREAM_SPLIT)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(None);
    let entries = vec![
        KeyValue::new("class_lists".into(), json(&class_lists)?),
        KeyValue::new("cells".into(), json(&list_of)?),
    ];
    let columns = format!("{COLUMNS} required binary run_id (STRING);");
    write_file(&columns, properties, entries, |group| {
        write_rows(group, &rows)?;
        write_column::<_, ByteArrayType>(group, &run_ids, false, |run_id| Ok(Some(run_id.clone())))
    })
}

/// All cells of a compact prediction file. What [`super::decode()`] says of its bytes holds here, too.
///
/// # Errors
/// [`Error::Malformed`] naming `path` when the bytes are torn, or are no such file.
pub fn decode(path: &Path, bytes: Vec<u8>) -> Result<Cells> {
    decode_cells(bytes).map_err(|e| malformed(path, e.to_string()))
}

fn decode_cells(bytes: Vec<u8>) -> ParquetResult<Cells> {
    let file = open(bytes)?;
    let class_lists: Vec<Vec<String>> = metadata(&file, "class_lists")?;
    let list_of: BTreeMap<String, usize> = metadata(&file, "cells")?;
    let mut cells = Cells::new();
    for (run_id, list) in list_of {
        let classes = class_lists
            .get(list)
            .ok_or_else(|| general(format!("cell {run_id} uses class list {list}, which is not there")))?;
        cells.insert(run_id, (classes.clone(), Vec::new()));
    }
    for index in 0..file.num_row_groups() {
        let group = file.get_row_group(index)?;
        let run_ids = read_names(group.as_ref(), RUN_ID)?;
        for (run_id, row) in run_ids.iter().zip(read_rows(group.as_ref())?) {
            let (_, rows) = cells
                .get_mut(run_id)
                .ok_or_else(|| general(format!("cell {run_id} has rows, but no class list")))?;
            rows.push(row);
        }
    }
    Ok(cells)
}

fn predictions_path(folder: &Path) -> PathBuf {
    folder.join("predictions.parquet")
}

fn hash_path(folder: &Path) -> PathBuf {
    folder.join("predictions.parquet.sha256")
}

fn hash_line(bytes: &[u8]) -> String {
    format!("{}  predictions.parquet\n", hex(&Sha256::digest(bytes)))
}

/// Stores `cells` in `folder`, the hash of the file beside it.
///
/// # Errors
/// As [`encode`]; [`Error::Io`] when a file cannot be written.
pub fn write(folder: &Path, cells: Cells) -> Result<()> {
    let bytes = encode(cells)?;
    file::replace_if_changed(&predictions_path(folder), &bytes)?;
    file::replace_if_changed(&hash_path(folder), hash_line(&bytes).as_bytes())?;
    Ok(())
}

/// The predictions of a compact folder; of any other, none.
///
/// # Errors
/// [`Error::Malformed`] when the file is torn or not the one that its hash was written for;
/// [`Error::Io`] when it is there, but cannot be read.
pub fn read(folder: &Path) -> Result<Cells> {
    let path = predictions_path(folder);
    let Some(bytes) = file::read_if_present(&path)? else {
        return Ok(Cells::new());
    };
    // The parser needs bytes that were once written: see `super::decode`.
    if file::read_if_present(&hash_path(folder))?.as_deref() != Some(hash_line(&bytes).as_bytes()) {
        let reason = format!("its SHA-256 is not the one in `{}`", hash_path(folder).display());
        return Err(malformed(&path, reason));
    }
    decode(&path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(i: u32, salt: u32) -> Prediction {
        Prediction {
            id: format!("test/{i}.png"),
            sha256: format!("{i:064x}"),
            group: (!i.is_multiple_of(3)).then(|| format!("drawing {}", i / 2)),
            truth: i % 2,
            free_text: i.is_multiple_of(5).then(|| format!("a yak, {salt}")),
            free_class: None,
            trie_class: i.is_multiple_of(4).then_some(1),
            likelihood_class: Some((i + salt) % 2),
            log_probs: match i % 4 {
                0 => None,
                1 => Some(Vec::new()),
                _ => Some(vec![-0.1 * (i + salt) as f32, f32::NEG_INFINITY]),
            },
        }
    }

    fn cells() -> Cells {
        let animals = || vec!["cat".to_owned(), "dog".to_owned()];
        let things = vec!["cup".to_owned(), "jar".to_owned()];
        let rows = |n: u32, salt| (0..n).rev().map(|i| row(i, salt)).collect();
        Cells::from([
            ("0b".into(), (animals(), rows(3000, 1))),
            ("0a".into(), (things, rows(7, 2))),
            ("ff".into(), (animals(), rows(12, 3))),
        ])
    }

    #[test]
    fn what_is_written_is_read_back_with_the_same_bytes_each_time() {
        let bytes = encode(cells()).unwrap();
        assert_eq!(bytes, encode(cells()).unwrap());
        assert_eq!(decode(Path::new("p"), bytes).unwrap(), cells());
    }

    #[test]
    fn each_class_list_is_stored_once() {
        let file = open(encode(cells()).unwrap()).unwrap();
        let lists: Vec<Vec<String>> = metadata(&file, "class_lists").unwrap();
        assert_eq!(lists, [["cup", "jar"], ["cat", "dog"]]);
    }

    #[test]
    fn many_cells_take_less_space_together() {
        let cells: Cells = (0..40)
            .map(|i| (format!("{i:016x}"), cells().remove("ff").unwrap()))
            .collect();
        let apart: usize = cells
            .iter()
            .map(|(run_id, (classes, rows))| super::super::encode(run_id, classes, rows).unwrap().len())
            .sum();
        let together = encode(cells).unwrap().len();
        assert!(together * 10 < apart, "{together} bytes together, {apart} apart");
    }

    /// A committed reference must stay small: the hardly compressible part is ten log-probabilities an image.
    #[test]
    fn a_row_of_a_writing_learner_takes_less_than_forty_bytes() {
        use rand::Rng as _;
        let mut random = crate::seed::rng(1, "sizes");
        let mut log_prob = || -30.0 * random.random_range(0.0..1.0_f32);
        let cells: Cells = (0..20)
            .map(|cell| {
                let mut rows: Vec<_> = (0..200).map(|i| row(i, cell)).collect();
                for row in &mut rows {
                    row.log_probs = Some((0..10).map(|_| log_prob()).collect());
                }
                (format!("{cell:016x}"), (vec!["cat".into(), "dog".into()], rows))
            })
            .collect();
        let bytes = encode(cells).unwrap().len();
        assert!(bytes < 40 * 20 * 200, "{bytes} bytes for 4,000 rows");
    }

    #[test]
    fn a_torn_file_is_an_error_that_names_it() {
        let bytes = encode(cells()).unwrap();
        for tenths in 0..10 {
            let torn = bytes[..bytes.len() * tenths / 10].to_vec();
            let error = decode(Path::new("torn.parquet"), torn).unwrap_err();
            assert!(error.to_string().contains("torn.parquet"), "{error}");
        }
        // A single cell's file is whole, but has no `cells`.
        let (classes, rows) = cells().remove("ff").unwrap();
        let single = super::super::encode("ff", &classes, &rows).unwrap();
        assert!(decode(Path::new("p"), single).is_err());
    }
}
