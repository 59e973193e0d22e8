//! Predictions of many cells in one Parquet file: small enough to be committed.
//!
//! The columns of a single cell's file, then `run_id`; rows in order of `run_id`, those of one cell as they
//! were made. The metadata holds each distinct class list once (`class_lists`), and which of them each cell
//! uses (`cells`: `run_id` → index). Text repeats from cell to cell and is stored in dictionaries;
//! log-probabilities hardly repeat, but their high bytes do, so each byte of the `f32` goes into a stream
//! of its own. The same cells give the same bytes, whose SHA-256 stands beside them as `sha256sum` writes it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, Encoding, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, FileReader as _};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::Prediction;
use crate::store::predictions::{
    COLUMNS, Rows, general, guarded, json, malformed, metadata, open, open_file, write_column, write_rows,
};

/// Class names and rows of each cell, by `run_id`.
pub type Cells = BTreeMap<String, (Vec<String>, Vec<Prediction>)>;

const GZIP_LEVEL: u32 = 9;
/// Bytes of a dictionary page: every image id and hash of a sweep has to fit.
const DICTIONARY_BYTES: usize = 64 << 20;
/// Bytes of rows after which a row group ends: what a writer holds.
const GROUP_BYTES: usize = 32 << 20;

/// Writes cells one after the other, in order of their `run_id`.
struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    class_lists: Vec<Vec<String>>,
    known: HashMap<Vec<String>, usize>,
    list_of: BTreeMap<String, usize>,
    run_ids: Vec<ByteArray>,
    rows: Vec<Prediction>,
    /// Of `rows`, roughly.
    bytes: usize,
}

impl<W: Write + Send> Writer<W> {
    fn new(into: W) -> ParquetResult<Self> {
        let log_probs = ColumnPath::new(vec!["log_probs".into(), "list".into(), "element".into()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::GZIP(GzipLevel::try_new(GZIP_LEVEL)?))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_column_dictionary_enabled(log_probs.clone(), false)
            .set_column_encoding(log_probs, Encoding::BYTE_STREAM_SPLIT)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(None);
        let columns = format!("{COLUMNS} required binary run_id (STRING);");
        Ok(Self {
            file: open_file(into, &columns, properties, Vec::new())?,
            class_lists: Vec::new(),
            known: HashMap::new(),
            list_of: BTreeMap::new(),
            run_ids: Vec::new(),
            rows: Vec::new(),
            bytes: 0,
        })
    }

    fn push(&mut self, run_id: &str, classes: Vec<String>, rows: Vec<Prediction>) -> ParquetResult<()> {
        let last = self.list_of.last_key_value();
        if last.is_some_and(|(last, _)| run_id <= last.as_str()) {
            return Err(general(format!("cell {run_id} is out of order")));
        }
        let class_lists = &mut self.class_lists;
        let list = *self.known.entry(classes).or_insert_with_key(|classes| {
            class_lists.push(classes.clone());
            class_lists.len() - 1
        });
        self.list_of.insert(run_id.into(), list);
        let run_id = ByteArray::from(run_id);
        self.run_ids.extend(rows.iter().map(|_| run_id.clone()));
        self.bytes += rows.iter().map(size).sum::<usize>();
        self.rows.extend(rows);
        if self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> ParquetResult<()> {
        let mut group = self.file.next_row_group()?;
        write_rows(&mut group, &self.rows)?;
        let run_id = |run_id: &ByteArray| Ok(Some(run_id.clone()));
        write_column::<_, ByteArrayType, _>(&mut group, &self.run_ids, false, run_id)?;
        group.close()?;
        self.rows.clear();
        self.run_ids.clear();
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> ParquetResult<W> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        for (key, json) in [
            ("class_lists", json(&self.class_lists)?),
            ("cells", json(&self.list_of)?),
        ] {
            self.file.append_key_value_metadata(KeyValue::new(key.into(), json));
        }
        self.file.into_inner()
    }
}

/// Memory of a row, roughly.
fn size(row: &Prediction) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    size_of::<Prediction>()
        + row.id.len()
        + row.sha256.len()
        + text(&row.group)
        + text(&row.free_text)
        + 4 * row.log_probs.as_ref().map_or(0, Vec::len)
}

/// Hands on what it is given, and hashes it.
struct Hashed<W>(W, Sha256);

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn predictions_path(folder: &Path) -> PathBuf {
    folder.join("predictions.parquet")
}

fn hash_path(folder: &Path) -> PathBuf {
    folder.join("predictions.parquet.sha256")
}

fn hash_line(hash: Sha256) -> String {
    format!("{}  predictions.parquet\n", hex(&hash.finalize()))
}

/// Stores cells in a new `folder`, the hash of the file beside it. `cells` gives `run_id`, class names and rows in order
/// of the `run_id`; no more than `GROUP_BYTES` of them are held at a time.
///
/// # Errors
/// Those of `cells`; [`Error::Predictions`] when a class index does not fit or the encoder fails; [`Error::Io`] when a
/// file cannot be written.
pub fn write(
    folder: &Path,
    cells: impl IntoIterator<Item = Result<(String, Vec<String>, Vec<Prediction>)>>,
) -> Result<()> {
    let path = predictions_path(folder);
    let failed = |e: ParquetError| match e {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => Error::io("write", &path)(*source),
            Err(source) => unwritable(&source),
        },
        other => unwritable(&other),
    };
    let file = File::create(&path).map_err(Error::io("write", &path))?;
    let mut writer = Writer::new(Hashed(BufWriter::new(file), Sha256::new())).map_err(failed)?;
    for cell in cells {
        let (run_id, classes, rows) = cell?;
        writer.push(&run_id, classes, rows).map_err(failed)?;
    }
    let Hashed(mut file, hash) = writer.finish().map_err(failed)?;
    file.flush().map_err(Error::io("write", &path))?;
    let hash_path = hash_path(folder);
    fs::write(&hash_path, hash_line(hash)).map_err(Error::io("write", &hash_path))
}

fn unwritable(reason: &dyn std::fmt::Display) -> Error {
    Error::Predictions {
        run_id: "(all of a compact file)".into(),
        reason: reason.to_string(),
    }
}

/// Reads the cells of a compact file one after the other.
pub struct Reader<R: ChunkReader> {
    path: PathBuf,
    file: SerializedFileReader<R>,
    class_lists: Vec<Vec<String>>,
    list_of: BTreeMap<String, usize>,
    /// Row groups opened so far.
    groups: usize,
    group: Option<Rows>,
    /// Rows of the cells that come next.
    ahead: VecDeque<(String, Prediction)>,
    /// The cell that was read last: those before it are past.
    last: Option<String>,
}

impl Reader<File> {
    /// Opens the predictions of a compact folder; those of any other are `None`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file is torn or not the one that its hash was written for; [`Error::Io`] when it is
    /// there, but cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = predictions_path(folder);
        let read = Error::io("read", &path);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(read(e)),
        };
        let mut hash = Hashed(std::io::sink(), Sha256::new());
        std::io::copy(&mut file, &mut hash).map_err(read)?;
        if file::read_if_present(&hash_path(folder))?.as_deref() != Some(hash_line(hash.1).as_bytes()) {
            let reason = format!("its SHA-256 is not the one in `{}`", hash_path(folder).display());
            return Err(malformed(&path, reason));
        }
        Self::new(&path, file).map(Some)
    }
}

impl<R: ChunkReader + 'static> Reader<R> {
    fn new(path: &Path, from: R) -> Result<Self> {
        let opened = || -> ParquetResult<_> {
            let file = open(from)?;
            let class_lists: Vec<Vec<String>> = metadata(&file, "class_lists")?;
            let list_of: BTreeMap<String, usize> = metadata(&file, "cells")?;
            if let Some((run_id, list)) = list_of.iter().find(|(_, list)| **list >= class_lists.len()) {
                let reason = format!("cell {run_id} uses class list {list}, which is not there");
                return Err(general(reason));
            }
            Ok((file, class_lists, list_of))
        };
        let (file, class_lists, list_of) = guarded(opened).map_err(|e| malformed(path, e.to_string()))?;
        Ok(Self {
            path: path.into(),
            file,
            class_lists,
            list_of,
            groups: 0,
            group: None,
            ahead: VecDeque::new(),
            last: None,
        })
    }

    /// True if a cell can still be read: cells come in order of their `run_id`.
    #[must_use]
    pub fn is_ahead(&self, run_id: &str) -> bool {
        self.last.as_deref().is_none_or(|last| last < run_id)
    }

    /// Class names and rows of a cell, passing over those before it; `None` when the file does not have it.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file is no such file.
    pub fn read(&mut self, run_id: &str) -> Result<Option<(Vec<String>, Vec<Prediction>)>> {
        let Some(&list) = self.list_of.get(run_id) else {
            return Ok(None);
        };
        let classes = self.class_lists[list].clone();
        self.last = Some(run_id.into());
        let rows = guarded(|| self.rows(run_id)).map_err(|e| malformed(&self.path, e.to_string()))?;
        Ok(Some((classes, rows)))
    }

    fn rows(&mut self, run_id: &str) -> ParquetResult<Vec<Prediction>> {
        let mut rows = Vec::new();
        let mut before: Option<String> = None;
        while self.look_ahead()? {
            let Some((found, row)) = self.ahead.pop_front_if(|(found, _)| found.as_str() <= run_id) else {
                break;
            };
            if before.is_some_and(|before| found < before) {
                return Err(general(format!("the rows of cell {found} are out of order")));
            }
            if found == run_id {
                rows.push(row);
            }
            before = Some(found);
        }
        Ok(rows)
    }

    /// Sees to it that there is a row ahead; `false` at the end.
    fn look_ahead(&mut self) -> ParquetResult<bool> {
        while self.ahead.is_empty() {
            let Some(group) = &mut self.group else {
                if self.groups == self.file.num_row_groups() {
                    return Ok(false);
                }
                self.group = Some(Rows::open(self.file.get_row_group(self.groups)?.as_ref(), true)?);
                self.groups += 1;
                continue;
            };
            let batch = group.batch()?;
            if batch.is_empty() {
                self.group = None;
            }
            for (run_id, row) in batch {
                let run_id = run_id.ok_or_else(|| general("a row of no cell".into()))?;
                if !self.list_of.contains_key(&run_id) {
                    return Err(general(format!("cell {run_id} has rows, but no class list")));
                }
                self.ahead.push_back((run_id, row));
            }
        }
        Ok(true)
    }
}

/// All predictions of a compact folder; of any other, none.
///
/// # Errors
/// As [`Reader::open`] and [`Reader::read`].
pub fn read(folder: &Path) -> Result<Cells> {
    Reader::open(folder)?.map_or_else(|| Ok(Cells::new()), all)
}

fn all<R: ChunkReader + 'static>(mut reader: Reader<R>) -> Result<Cells> {
    let run_ids: Vec<String> = reader.list_of.keys().cloned().collect();
    let mut cells = Cells::new();
    for run_id in run_ids {
        if let Some(cell) = reader.read(&run_id)? {
            cells.insert(run_id, cell);
        }
    }
    if guarded(|| reader.look_ahead()).map_err(|e| malformed(&reader.path, e.to_string()))? {
        return Err(malformed(&reader.path, "its rows are out of order".into()));
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn encode(cells: Cells) -> ParquetResult<Vec<u8>> {
        let mut writer = Writer::new(Vec::new())?;
        for (run_id, (classes, rows)) in cells {
            writer.push(&run_id, classes, rows)?;
        }
        writer.finish()
    }

    fn decode(path: &Path, bytes: Vec<u8>) -> Result<Cells> {
        all(Reader::new(path, Bytes::from(bytes))?)
    }

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
        let file = open(Bytes::from(encode(cells()).unwrap())).unwrap();
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
            .map(|(run_id, (classes, rows))| crate::store::predictions::encode(run_id, classes, rows).unwrap().len())
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
        let single = crate::store::predictions::encode("ff", &classes, &rows).unwrap();
        assert!(decode(Path::new("p"), single).is_err());
    }
}
