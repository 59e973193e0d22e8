//! Predictions of a running cell, on the disk batch by batch, so that a cell goes on where it was cut short.
//!
//! ```text
//! {"schema":1,"run_id":"…"}                     first
//! {"session":1}                                 each time a process starts to work on the cell
//! {"id":"…",…}                                  an answer; a log-probability of −∞ is null
//! {"rows":64,"eval_seconds":1.5,"sha256":"…"}   closes a batch, and is on the disk before the next one begins
//! ```
//!
//! A batch counts when it is closed: `sha256` is of all bytes before its line and of the two numbers in it. What a kill
//! leaves behind the last closed batch is cut off; anything else that does not fit is named in a warning and dropped
//! with all that follows.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::fs::file;
use crate::fs::hash::hex;
use crate::prediction::Prediction;

const SCHEMA: u32 = 1;

/// First line of a file.
#[derive(Serialize)]
struct Header<'a> {
    schema: u32,
    run_id: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    rows: usize,
    eval_seconds: f64,
    sha256: String,
}

/// The predictions of a cell so far, in the order of its test images.
#[derive(Debug)]
pub struct PartialPredictions<'a> {
    path: PathBuf,
    file: File,
    run_id: String,
    test: &'a [LabelledImage],
    known: Known,
}

/// The part of a file that counts.
#[derive(Debug, Default)]
struct Known {
    rows: Vec<Prediction>,
    sessions: usize,
    seconds: f64,
    /// Bytes up to the last line that counts.
    length: usize,
    /// Of these bytes.
    hash: Sha256,
}

impl<'a> PartialPredictions<'a> {
    /// Opens the file of a cell, of which these are the test images, with what earlier processes predicted.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or written.
    pub(super) fn open(path: &Path, run_id: &str, test: &'a [LabelledImage]) -> Result<Self> {
        let bytes = file::read_if_present(path)?.unwrap_or_default();
        let (known, trouble) = Known::read(&bytes, run_id, test);
        if let Some(reason) = trouble {
            tracing::warn!(
                "predictions `{}` are not trusted from byte {} on, {} of {} images are kept: {reason}",
                path.display(),
                known.length,
                known.rows.len(),
                test.len()
            );
        }
        let fail = |source| Error::io("write", path)(source);
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let mut partial = Self {
            path: path.into(),
            file: options.map_err(fail)?,
            run_id: run_id.into(),
            test,
            known,
        };
        partial.file.set_len(partial.known.length as u64).map_err(fail)?;
        partial.file.seek(SeekFrom::End(0)).map_err(fail)?;
        let mut lines = if partial.known.length == 0 {
            header(run_id)
        } else {
            Vec::new()
        };
        partial.known.sessions += 1;
        lines.extend(session(partial.known.sessions));
        partial.write(&lines)?;
        file::flush_folder(path)?;
        Ok(partial)
    }

    /// Predictions so far.
    #[must_use]
    pub fn rows(&self) -> &[Prediction] {
        &self.known.rows
    }

    /// The test images that are still to be predicted.
    #[must_use]
    pub fn missing(&self) -> &'a [LabelledImage] {
        self.test.get(self.known.rows.len()..).unwrap_or_default()
    }

    /// Processes that have worked on the cell, with this one.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.known.sessions
    }

    /// Seconds that predicting [`PartialPredictions::rows`] took.
    #[must_use]
    pub fn eval_seconds(&self) -> f64 {
        self.known.seconds
    }

    /// Appends a batch, which took so many seconds, and returns when it is on the disk.
    ///
    /// # Errors
    /// [`Error::Predictions`] when it is not about the next images, or a log-probability is neither a number nor −∞;
    /// [`Error::Io`] when it cannot be written.
    pub fn append(&mut self, batch: &[Prediction], seconds: f64) -> Result<()> {
        let missing = self.missing();
        let mut lines = Vec::new();
        for (i, row) in batch.iter().enumerate() {
            check(row, missing.get(i)).map_err(|reason| self.refused(reason))?;
            let unwritable = |p: &&f32| p.is_nan() || **p == f32::INFINITY;
            if let Some(p) = row.log_probs.iter().flatten().find(unwritable) {
                return Err(self.refused(format!("image `{}` has a log-probability of {p}", row.id)));
            }
            lines.extend(line(row));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let hash = self.known.hash.clone().chain_update(&lines);
        let seconds = self.known.seconds + seconds.max(0.0);
        lines.extend(close(self.known.rows.len() + batch.len(), seconds, hash));
        self.write(&lines)?;
        self.known.seconds = seconds;
        self.known.rows.extend_from_slice(batch);
        Ok(())
    }

    /// All predictions.
    ///
    /// # Errors
    /// [`Error::Predictions`] when some are missing.
    pub fn complete(&self) -> Result<&[Prediction]> {
        match self.missing().len() {
            0 => Ok(self.rows()),
            missing => Err(self.refused(format!("{missing} of {} images have none", self.test.len()))),
        }
    }

    fn refused(&self, reason: String) -> Error {
        let run_id = self.run_id.clone();
        Error::Predictions { run_id, reason }
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        written.map_err(Error::io("write", &self.path))?;
        self.known.length += lines.len();
        self.known.hash.update(lines);
        Ok(())
    }
}

impl Known {
    /// The part of a file that can be trusted, and the fault of the rest unless it is but unfinished.
    fn read(bytes: &[u8], run_id: &str, test: &[LabelledImage]) -> (Self, Option<String>) {
        let mut known = Self::default();
        // Up to the present line, which need not count: the open batch, and the file's bytes.
        let (mut batch, mut hash, mut length) = (Vec::new(), Sha256::new(), 0);
        for (number, text) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            if !text.ends_with(b"\n") && (number > 0 || header(run_id).starts_with(text)) {
                break; // the last line that a killed process wrote
            }
            let counts = match known.take(number, text, (&mut batch, &hash), (run_id, test)) {
                Ok(counts) => counts,
                Err(reason) => return (known, Some(format!("line {} {reason}", number + 1))),
            };
            hash.update(text);
            length += text.len();
            if counts {
                (known.length, known.hash) = (length, hash.clone());
            }
        }
        (known, None)
    }

    /// Takes in a line, if it is the line that would have been written there: true if all up to it counts then.
    fn take(
        &mut self,
        number: usize,
        text: &[u8],
        (batch, hash): (&mut Vec<Prediction>, &Sha256),
        (run_id, test): (&str, &[LabelledImage]),
    ) -> Result<bool, String> {
        if number == 0 {
            let same = (text == header(run_id)).then_some(true);
            return same.ok_or_else(|| format!("is not that of cell {run_id}"));
        }
        if text.starts_with(b"{\"session\"") {
            if !batch.is_empty() || text != session(self.sessions + 1) {
                return Err("is out of place".into());
            }
            self.sessions += 1;
            return Ok(true);
        }
        let rows = self.rows.len() + batch.len();
        if text.starts_with(b"{\"rows\"") {
            let Close { eval_seconds, .. } = serde_json::from_slice(text).map_err(|e| format!("is damaged: {e}"))?;
            if batch.is_empty() || text != close(rows, eval_seconds, hash.clone()) {
                return Err("closes a batch that has other bytes".into());
            }
            self.rows.append(batch);
            self.seconds = eval_seconds;
            return Ok(true);
        }
        let row: Prediction = serde_json::from_slice(text).map_err(|e| format!("is damaged: {e}"))?;
        check(&row, test.get(rows))?;
        batch.push(row);
        Ok(false)
    }
}

/// True if a row is about this image.
fn check(row: &Prediction, image: Option<&LabelledImage>) -> Result<(), String> {
    let Some(image) = image else {
        return Err(format!("image `{}` is one too many", row.id));
    };
    let same = (&row.id, &row.sha256, row.truth, &row.group) == (&image.id, &image.sha256, image.class, &image.group);
    if same {
        return Ok(());
    }
    Err(format!("is about image `{}` in the place of `{}`", row.id, image.id))
}

fn header(run_id: &str) -> Vec<u8> {
    line(&Header { schema: SCHEMA, run_id })
}

fn session(number: usize) -> Vec<u8> {
    line(&serde_json::json!({ "session": number }))
}

/// The line that closes a batch; `before` is of all bytes before it.
fn close(rows: usize, eval_seconds: f64, before: Sha256) -> Vec<u8> {
    let numbers = serde_json::json!([rows, eval_seconds]).to_string();
    let sha256 = hex(&before.chain_update(numbers).finalize());
    line(&Close {
        rows,
        eval_seconds,
        sha256,
    })
}

/// One line of JSON. Words and numbers always have a form in it.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = "0123456789abcdef";

    fn images(n: u32) -> Vec<LabelledImage> {
        let image = |i: u32| LabelledImage {
            id: format!("t/{i:03}.png"),
            class: i % 3,
            sha256: format!("{i:064x}"),
            group: i.is_multiple_of(2).then(|| format!("drawing \"{i}\"")),
            path: PathBuf::new(),
            ..LabelledImage::default()
        };
        (0..n).map(image).collect()
    }

    fn answer(image: &LabelledImage, log_probs: Option<Vec<f32>>) -> Prediction {
        Prediction {
            id: image.id.clone(),
            sha256: image.sha256.clone(),
            group: image.group.clone(),
            truth: image.class,
            free_text: Some("a line\nand \"another\" é".into()),
            free_class: None,
            trie_class: Some(1),
            likelihood_class: Some(2),
            log_probs,
        }
    }

    fn answers(images: &[LabelledImage]) -> Vec<Prediction> {
        let probs = |i: usize| vec![-0.1 * i as f32, f32::NEG_INFINITY, -1e-45];
        images
            .iter()
            .enumerate()
            .map(|(i, image)| answer(image, Some(probs(i))))
            .collect()
    }

    /// A file of two processes: batches of 4, 4, then 3 of 11 images.
    fn written(folder: &Path) -> (Vec<LabelledImage>, Vec<u8>) {
        let (test, path) = (images(11), folder.join("a.partial.jsonl"));
        let rows = answers(&test);
        let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
        partial.append(&rows[..4], 1.5).unwrap();
        let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
        partial.append(&rows[4..8], 0.5).unwrap();
        partial.append(&rows[8..], 0.25).unwrap();
        (test, std::fs::read(path).unwrap())
    }

    fn bits(rows: &[Prediction]) -> Vec<u32> {
        let all = rows.iter().flat_map(|row| row.log_probs.iter().flatten());
        all.map(|p| p.to_bits()).collect()
    }

    #[test]
    fn what_was_closed_comes_back_with_sessions_and_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let (test, bytes) = written(folder.path());
        let path = folder.path().join("b");
        std::fs::write(&path, &bytes).unwrap();
        let partial = PartialPredictions::open(&path, RUN, &test).unwrap();
        assert_eq!(partial.complete().unwrap(), answers(&test));
        assert_eq!(bits(partial.rows()), bits(&answers(&test)));
        assert_eq!((partial.sessions(), partial.eval_seconds()), (3, 2.25));
        assert!(std::fs::read(&path).unwrap().starts_with(&bytes));
    }

    /// Wherever a kill cuts the file, whole batches remain, and what is written then is what would have been.
    #[test]
    fn every_beginning_of_a_file_gives_whole_batches_and_can_be_continued() {
        let folder = tempfile::tempdir().unwrap();
        let (test, bytes) = written(folder.path());
        let rows = answers(&test);
        let mut counts = std::collections::BTreeMap::new();
        for cut in 0..=bytes.len() {
            let (known, trouble) = Known::read(&bytes[..cut], RUN, &test);
            assert_eq!(trouble, None, "cut at {cut}");
            assert!(known.length <= cut && [0, 4, 8, 11].contains(&known.rows.len()));
            assert_eq!(known.rows, rows[..known.rows.len()]);
            *counts.entry(known.rows.len()).or_insert(0) += 1;
            if cut.is_multiple_of(97) {
                let path = folder.path().join("cut");
                std::fs::write(&path, &bytes[..cut]).unwrap();
                let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
                let done = partial.rows().len();
                for batch in rows[done..].chunks(4) {
                    partial.append(batch, 1.0).unwrap();
                }
                let again = PartialPredictions::open(&path, RUN, &test).unwrap();
                assert_eq!(again.complete().unwrap(), rows);
            }
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 4, 8, 11], "{counts:?}");
        assert_eq!(counts[&11], 1, "the last batch counts with its last byte");
    }

    /// No changed byte is ever trusted: what is kept are whole batches before it.
    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (test, bytes) = written(folder.path());
        let rows = answers(&test);
        for at in 0..bytes.len() {
            for flip in [1u8, 0x20] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let (known, trouble) = Known::read(&damaged, RUN, &test);
                // The very last byte is as if it had never been written.
                assert!(
                    trouble.is_some() || at + 1 == bytes.len(),
                    "byte {at} of {}",
                    bytes.len()
                );
                assert!(known.length <= at, "byte {at}");
                assert_eq!(known.rows, rows[..known.rows.len()]);
            }
        }
    }

    #[test]
    fn another_cell_other_images_and_moved_batches_are_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let (test, bytes) = written(folder.path());
        let trouble = |bytes: &[u8], run: &str, test: &[LabelledImage]| {
            let (known, trouble) = Known::read(bytes, run, test);
            (known.rows.len(), trouble.unwrap())
        };
        assert_eq!(trouble(&bytes, "f123456789abcdef", &test).0, 0);
        assert_eq!(trouble(b"no newline", RUN, &test).0, 0);
        let mut swapped = test.clone();
        swapped.swap(5, 6);
        let (kept, reason) = trouble(&bytes, RUN, &swapped);
        assert!(
            kept == 4 && reason.contains("t/005.png") && reason.contains("t/006.png"),
            "{reason}"
        );
        assert!(trouble(&bytes, RUN, &test[..9]).1.contains("too many"));
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        // Header, session, four rows and their end, session, four rows and their end, …
        let without_second = [&lines[..8], &lines[13..]].concat().concat();
        assert_eq!(trouble(&without_second, RUN, &test).0, 4);
        let without_session = [&lines[..7], &lines[8..]].concat().concat();
        assert_eq!(trouble(&without_session, RUN, &test).0, 4);
        // The damage is cut off when the file is opened, and what is missing is told.
        let path = folder.path().join("c");
        std::fs::write(&path, without_second).unwrap();
        let partial = PartialPredictions::open(&path, RUN, &test).unwrap();
        assert_eq!((partial.missing().len(), partial.sessions()), (7, 3));
        assert!(partial.complete().unwrap_err().to_string().contains("7 of 11"));
    }

    #[test]
    fn an_answer_about_another_image_or_without_a_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let test = images(3);
        let mut partial = PartialPredictions::open(&folder.path().join("a"), RUN, &test).unwrap();
        let rows = answers(&test);
        assert!(partial.append(&rows[1..], 1.0).is_err());
        for p in [f32::NAN, f32::INFINITY] {
            assert!(partial.append(&[answer(&test[0], Some(vec![p]))], 1.0).is_err());
        }
        partial.append(&rows, 1.0).unwrap();
        assert!(partial.append(&rows[..1], 1.0).is_err());
        assert_eq!(partial.complete().unwrap(), rows);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn log_probabilities_come_back_to_the_bit(numbers in prop::collection::vec(any::<u32>(), 1..60)) {
            let log_probs: Vec<f32> = numbers.into_iter().map(f32::from_bits).collect();
            let log_probs: Vec<f32> = log_probs.into_iter().filter(|p| !p.is_nan() && *p != f32::INFINITY).collect();
            let rows = [answer(&images(1)[0], Some([log_probs, vec![f32::NEG_INFINITY, -0.0]].concat()))];
            let folder = tempfile::tempdir().unwrap();
            let (path, test) = (folder.path().join("a"), images(1));
            PartialPredictions::open(&path, RUN, &test).unwrap().append(&rows, 1.0).unwrap();
            let again = PartialPredictions::open(&path, RUN, &test).unwrap();
            prop_assert_eq!(bits(again.rows()), bits(&rows));
        }
    }
}
