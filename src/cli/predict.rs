//! `kshot predict`: what is in these images?

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::subject::Subject;
use super::{output, places::places};
use crate::data::{self, LabelledImage};
use crate::error::{Error, Result};
use crate::prediction::Prediction;

/// Classify images: one line an image, or with --json one JSON object a line with the answer by every reading
/// and ln p(class name and end token | image) of every class.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kshot predict --model datasets/mini/models/micro-qwen3-vl --labels names.txt photo.jpg --json")]
pub(super) struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// Class names, one a line [default: those the adapter was trained on].
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// JPEG or PNG files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let classes = match (&arguments.labels, arguments.subject.classes()?) {
        (Some(file), _) => names(file)?,
        (None, Some(classes)) => classes,
        (None, None) => {
            return Err(Error::Config {
                origin: "--labels".into(),
                reason: "is needed: no adapter of kshot's tells the class names".into(),
            });
        }
    };
    let images = arguments.images.iter().map(|path| unlabelled(path));
    let images = images.collect::<Result<Vec<_>>>()?;
    let mut ready = arguments.subject.ready(&places().home, &classes)?;
    let reading = ready.learner.reading();
    ready.classifier.predict(&images, &mut |rows| {
        let line = |row: &Prediction| {
            let answer = row.answer(reading);
            if arguments.json {
                described(row, answer, &classes)
            } else {
                let class = named(answer, &classes).unwrap_or("?");
                format!("{}\t{class}\n", row.id)
            }
        };
        output(&rows.iter().map(line).collect::<String>())
    })
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

/// An image of which nothing is known; its class is a place holder that no answer depends on.
pub(super) fn unlabelled(path: &Path) -> Result<LabelledImage> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    Ok(LabelledImage {
        id: path.display().to_string(),
        class: 0,
        sha256: data::hex(&Sha256::digest(&bytes)),
        group: None,
        dhash: 0,
        path: path.to_path_buf(),
    })
}

fn names(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    let names: Vec<String> = text
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    if names.is_empty() {
        return Err(Error::Config {
            origin: file.display().to_string(),
            reason: "holds no class name; it has one a line".into(),
        });
    }
    Ok(names)
}
