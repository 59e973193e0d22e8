//! `kshot predict`: what is in these images? One or a million: they stream through, and with `--out` a run that was cut short
//! goes on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, IsTerminal as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{io, thread};

use clap::Args;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::{Value, json};

use super::images::{DecodedImage, Images, batches, decode_ahead};
use super::terminal::{is_quiet, style};
use super::train::{Ready, Subject};
use super::{interrupt, output};
use crate::error::{Cause, Error, Result};
use crate::experiment::plan::Places;
use crate::fs::file;
use crate::learner::{Interleaved, View};
use crate::prediction::{Prediction, Reading};

/// Raised when a file of answers can no longer be gone on with. 2: photographs are upright.
const SCHEMA: u32 = 2;
/// So many images that cannot be read are named on stderr; all are in the answers.
const NAMED: usize = 10;

/// Classify images: one line an image, or with --json one JSON object a line with the answer by every reading
/// and ln p(class name and end token | image) of every class.
///
/// Images stream through: memory does not grow with their number. One that cannot be read does not stop the others: its line
/// says `!` in place of the class, as JSON it has `error` with the reason. The exit code is 0 if any could be read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot predict --model datasets/mini/models/micro-qwen3-vl --labels names.txt photo.jpg --json
  kshot predict --model datasets/mini/models/micro-dinov2 --adapter pets --out answers.jsonl photos/
                                    a folder of any size; the same command again goes on where it was
  find /data -name '*.jpg' | kshot predict --model DIR --adapter pets --out answers.jsonl -")]
pub(super) struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// Class names, one a line [default: those the adapter was trained on].
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Append to this file instead, as JSON, each batch flushed to the disk; answers of the same images by the same model that it
    /// has already are kept. `FILE.settings` beside it says what they were made with.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    images: Images,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let classes = match (&arguments.labels, arguments.subject.classes()?) {
        (Some(file), _) => names(file)?,
        (None, Some(classes)) => classes,
        (None, None) => {
            let reason = "is needed: no adapter of kshot's tells the class names";
            return Err(Error::config("--labels", reason).because(Cause::ClassNames));
        }
    };
    let mut ready = arguments.subject.ready(&Places::from_env().home, &classes)?;
    let exif = arguments.subject.exif()?;
    let settings = settings(&ready, &classes, exif);
    let classifier = ready.classifier.interleaved().ok_or_else(|| {
        let method = ready.learner.method();
        let reason = format!("`{method}` answers about test sets, not about single images");
        Error::model(ready.learner.model().unwrap_or(Path::new("")), reason)
    })?;
    let mut batches = batches(arguments.images.paths(), classifier.batch());
    let (mut out, mut kept) = (None, ResumeState::default());
    if let Some(path) = &arguments.out {
        interrupt::promise(interrupt::GOES_ON);
        let mut answers = Answers::open(path, &settings)?;
        kept = answers.keep(&mut batches)?;
        if kept.answers > 0 {
            tracing::info!("{} answers are in `{}` already", kept.answers, path.display());
        }
        out = Some(answers);
    }
    let bar = bar(&arguments.images, arguments.out.is_some(), kept.answers)?;
    let mut run = Run {
        single: arguments.images.single(),
        json: arguments.json || out.is_some(),
        reading: ready.learner.reading(),
        classes: &classes,
        out,
        done: kept.answers,
        failed: kept.failed,
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let batches = kept.next.take().map(Ok).into_iter().chain(batches);
        let decoded = decode_ahead(scope, batches, classifier.preprocessor(), exif);
        for batch in decoded {
            run.batch(batch?, &mut *classifier)?;
            bar.set_position(run.done as u64);
        }
        Ok::<(), Error>(())
    })?;
    bar.finish_and_clear();
    let new = run.done - kept.answers;
    let rate = new as f64 / start.elapsed().as_secs_f64();
    tracing::info!("{new} images, {rate:.1} a second");
    if run.failed > 0 {
        tracing::warn!("{} of {} images could not be read", run.failed, run.done);
    }
    if run.failed > 0 && run.failed == run.done {
        return Err(Error::NoImage { images: run.done });
    }
    Ok(())
}

/// A run and how far it has come.
struct Run<'a> {
    /// The only image, whose error is the run's.
    single: Option<&'a Path>,
    json: bool,
    reading: Reading,
    classes: &'a [String],
    /// Where answers go, if not to stdout.
    out: Option<Answers>,
    /// Images that are answered, kept ones too.
    done: usize,
    /// Of them, those that could not be read.
    failed: usize,
}

impl Run<'_> {
    /// Answers one batch. Only what can be seen goes to the model; lines come in the order of the images.
    fn batch(&mut self, batch: Vec<DecodedImage>, classifier: &mut dyn Interleaved) -> Result<()> {
        let count = batch.len();
        let (mut images, mut views, mut places) = (Vec::new(), Vec::<View>::new(), Vec::with_capacity(count));
        for DecodedImage { name, seen } in batch {
            match seen {
                Ok((image, view)) => {
                    images.push(image);
                    views.push(view);
                    places.push(None);
                }
                Err(error) if self.single.is_some() => return Err(error),
                Err(error) => {
                    self.failed += 1;
                    if self.failed <= NAMED {
                        tracing::warn!("{}", chain(&error));
                    }
                    places.push(Some((name, error)));
                }
            }
        }
        let rows = match &images[..] {
            [] => Vec::new(),
            images => classifier.predict_views(images, &views)?,
        };
        tracing::debug!("answered {} to {}", self.done, self.done + count);
        let mut rows = rows.into_iter();
        let mut text = String::new();
        for place in places {
            text += &match place {
                Some((name, error)) if self.json => format!("{}\n", json!({"image": name, "error": chain(&error)})),
                Some((name, _)) => format!("{name}\t!\n"),
                None => rows.next().map_or_else(String::new, |row| self.line(&row)),
            };
        }
        match &mut self.out {
            Some(answers) => answers.append(&text)?,
            None => output(&text)?,
        }
        self.done += count;
        Ok(())
    }

    fn line(&self, row: &Prediction) -> String {
        let answer = row.answer(self.reading);
        if self.json {
            return described(row, answer, self.classes);
        }
        format!("{}\t{}\n", row.id, named(answer, self.classes).unwrap_or("?"))
    }
}

/// The settings that answers depend on besides the images.
fn settings(ready: &Ready, classes: &[String], exif: bool) -> Value {
    let learner = ready.learner.identity(1.into());
    json!({
        "schema": SCHEMA, "base model": ready.base, "adapter": ready.adapter, "learner": learner, "list of labels": classes,
        "EXIF orientation": exif,
    })
}

/// Drawn to stderr if somebody looks, and not among answers on the same terminal.
fn bar(images: &Images, to_file: bool, done: usize) -> Result<ProgressBar> {
    if is_quiet() || !io::stderr().is_terminal() || (!to_file && io::stdout().is_terminal()) {
        return Ok(ProgressBar::hidden());
    }
    let (bar, template) = match images.count()? {
        Some(count) => (
            ProgressBar::new(count),
            "{bar:30} {human_pos}/{human_len} images · {rate} · ETA {eta}",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {human_pos} images · {rate} · {elapsed}",
        ),
    };
    Ok(bar.with_style(style(template)).with_position(done as u64))
}

/// An error with its causes, on one line.
fn chain(error: &Error) -> String {
    let causes = error.causes().map(|cause| format!(": {cause}"));
    error.to_string() + &causes.collect::<String>()
}

fn described(row: &Prediction, answer: Option<u32>, classes: &[String]) -> String {
    let log_probs: Option<serde_json::Map<_, _>> = row
        .log_probs
        .as_ref()
        .map(|all| classes.iter().cloned().zip(all.iter().map(|&x| json!(x))).collect());
    let object = json!({
        "image": row.id, "sha256": row.sha256, "class": named(answer, classes), "text": row.free_text,
        "free": named(row.free_class, classes), "trie": named(row.trie_class, classes),
        "likelihood": named(row.likelihood_class, classes), "log_probs": log_probs,
    });
    format!("{object}\n")
}

fn named(class: Option<u32>, classes: &[String]) -> Option<&str> {
    classes.get(class? as usize).map(String::as_str)
}

fn names(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    let names: Vec<String> = text
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if names.is_empty() {
        let reason = "holds no class name; it has one a line";
        return Err(Error::config(file.display().to_string(), reason).because(Cause::ClassNames));
    }
    Ok(names)
}

/// The answers so far.
struct Answers {
    path: PathBuf,
    file: File,
}

/// Answers that were there already.
#[derive(Debug, Default, PartialEq, Eq)]
struct ResumeState {
    answers: usize,
    /// Of them, those that say why there is none.
    failed: usize,
    /// The images of the batch that comes next, taken from those that were given.
    next: Option<Vec<PathBuf>>,
}

/// The image of an answer.
#[derive(Deserialize)]
struct AnswerLine {
    image: String,
    error: Option<String>,
}

impl Answers {
    /// Opens a file to append to; it is locked as long as it is open.
    ///
    /// # Errors
    /// [`Error::Continue`] when it has answers made with other settings, or another process is writing it; [`Error::Io`].
    fn open(path: &Path, settings: &Value) -> Result<Self> {
        let fail = |reason: String| Error::Continue {
            path: path.to_path_buf(),
            reason,
        };
        if path.exists() && !path.is_file() {
            return Err(fail("it is no file".into()));
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = opened.map_err(Error::io("write", path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(fail("another process is writing it".into())),
            // Not every file system has locks; without them nobody can tell.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let beside = beside(path);
        let has_answers = file.metadata().is_ok_and(|file| file.len() > 0);
        match file::read_if_present(&beside)? {
            None if has_answers => return Err(fail(format!("`{}` is not there", beside.display()))),
            Some(bytes) if has_answers => {
                let old: Value = serde_json::from_slice(&bytes)
                    .map_err(|e| fail(format!("`{}` is damaged: {e}", beside.display())))?;
                let others = differing(&old, settings);
                if !others.is_empty() {
                    return Err(fail(format!(
                        "its answers were made with another {}",
                        others.join(", another ")
                    )));
                }
            }
            _ => {
                let text = serde_json::to_string_pretty(settings).unwrap_or_default() + "\n";
                file::replace(&beside, text.as_bytes())?;
            }
        }
        tracing::debug!("`{}` is open", path.display());
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Takes from `batches` those whose answers are whole, and cuts off what comes after them.
    ///
    /// # Errors
    /// [`Error::Continue`] when the answers are about other images, or there are more of them; as the batches.
    fn keep(&mut self, batches: &mut impl Iterator<Item = Result<Vec<PathBuf>>>) -> Result<ResumeState> {
        let fail = |reason: String| Error::Continue {
            path: self.path.clone(),
            reason,
        };
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        // The end, or the line that a killed process was writing, is none.
        let mut next = || -> Result<Option<Vec<u8>>> {
            let mut line = Vec::new();
            reader
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", &self.path))?;
            Ok(line.ends_with(b"\n").then_some(line))
        };
        let (mut kept, mut length) = (ResumeState::default(), 0);
        for batch in batches {
            let batch = batch?;
            let (mut whole, mut failed, mut bytes) = (0, 0, 0);
            for path in &batch {
                let Some(line) = next()? else { break };
                let number = kept.answers + whole + 1;
                let about: AnswerLine =
                    serde_json::from_slice(&line).map_err(|e| fail(format!("line {number} is no answer: {e}")))?;
                if about.image != path.display().to_string() {
                    let (found, asked) = (about.image, path.display());
                    return Err(fail(format!(
                        "line {number} is about `{found}` where the images that are given have `{asked}`"
                    )));
                }
                whole += 1;
                failed += usize::from(about.error.is_some());
                bytes += line.len() as u64;
            }
            if whole < batch.len() {
                kept.next = Some(batch);
                break;
            }
            kept.answers += whole;
            kept.failed += failed;
            length += bytes;
        }
        if kept.next.is_none() && next()?.is_some() {
            let images = kept.answers;
            return Err(fail(format!(
                "it has more answers than the {images} images that are given"
            )));
        }
        let cut = self
            .file
            .set_len(length)
            .and_then(|()| self.file.seek(SeekFrom::End(0)));
        cut.map_err(Error::io("write", &self.path))?;
        Ok(kept)
    }

    /// Appends the lines of a batch and returns when they are on the disk.
    fn append(&mut self, lines: &str) -> Result<()> {
        let written = self
            .file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(Error::io("write", &self.path))
    }
}

/// `FILE.settings`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or(OsStr::new("answers")).to_owned();
    name.push(".settings");
    path.with_file_name(name)
}

/// Names of what differs.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let fields = [old, new].into_iter().filter_map(Value::as_object);
    let names: BTreeSet<&String> = fields.flat_map(|fields| fields.keys()).collect();
    let differing = names.into_iter().filter(|name| old.get(name) != new.get(name));
    differing.cloned().collect()
}
