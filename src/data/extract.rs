//! Parquet files of a repository → image files and a list of their labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::image::ImageFormat;
use serde::{Deserialize, Serialize};

use crate::data::files::LocalFile;
use crate::error::{Error, Result};
use crate::formats::archive::plain_parts;
use crate::formats::parquet::{Columns, SkippedRow, about, read};
use crate::fs::file;

/// Name of the list of labels, beside the folders of the splits.
const LABELS: &str = "labels.json";

/// Which image has which label.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Labels {
    /// Names in label order, as the files have them; where labels are names themselves, in byte order.
    pub classes: Vec<String>,
    /// Images of each split in the order of the rows: file name in the split's folder, class.
    pub splits: BTreeMap<String, Vec<(String, u32)>>,
    /// Rows of each split that could not be taken: without a label, without an image or with a label out of range.
    #[serde(default)]
    pub left_out: BTreeMap<String, [u64; 2]>,
}

impl Labels {
    /// The labels of what [`unpack`] wrote to `root`.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let path = root.join(LABELS);
        let json = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&json).map_err(|e| malformed(&path, &e))
    }
}

fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    Error::Malformed {
        kind: "list of labels",
        path: path.into(),
        reason: error.to_string(),
    }
}

/// Writes each image to `<root>/<split>/<row>.<ext>` and the labels beside them. Rows are counted through the files of
/// a split in their order, with zeros in front so that names sort as rows do; the extension says what the bytes are.
///
/// # Errors
/// [`Error::Parquet`] naming the file and the row, or that two files name their classes differently.
pub(crate) fn unpack(shards: &[LocalFile], columns: Columns<'_>, root: &Path) -> Result<()> {
    let mut classes: Option<&Option<Vec<String>>> = None;
    let mut rows: BTreeMap<&str, u64> = BTreeMap::new();
    let mut said = Vec::new();
    for shard in shards {
        said.push(about(&shard.path, columns)?);
    }
    for (shard, about) in shards.iter().zip(&said) {
        let of_split = rows.entry(&shard.role).or_default();
        *of_split = of_split.saturating_add(about.rows);
        if *classes.get_or_insert(&about.classes) != &about.classes {
            return Err(Error::Parquet {
                path: shard.path.clone(),
                reason: format!(
                    "its class names differ from those of {}",
                    shards.first().map_or("", |s| &s.name)
                ),
            });
        }
    }
    let mut named: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut left_out: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut started: BTreeMap<&str, u64> = BTreeMap::new();
    for shard in shards {
        let folder = folder_of(&shard.role, root, &shard.path)?;
        let total = rows.get(shard.role.as_str()).copied().unwrap_or(0);
        let width = total.saturating_sub(1).to_string().len().max(5);
        let labels = named.entry(shard.role.clone()).or_default();
        let first = started.get(shard.role.as_str()).copied().unwrap_or(0);
        let about = read(&shard.path, columns, &mut |row| {
            let name = format!("{:0width$}.{}", first.saturating_add(row.number), extension(row.image));
            let path = folder.join(&name);
            std::fs::write(&path, row.image).map_err(Error::io("write", &path))?;
            labels.push((name, row.class.to_owned()));
            Ok(())
        })?;
        started.insert(&shard.role, first.saturating_add(about.rows));
        tell(&shard.name, &about.left_out);
        let [unlabelled, unusable] = left_out.entry(shard.role.clone()).or_default();
        *unlabelled += about.left_out.unlabelled;
        *unusable += about.left_out.unusable;
    }
    let classes = match classes.cloned().flatten() {
        Some(classes) => classes,
        None => {
            let names: BTreeSet<&String> = named.values().flatten().map(|(_, class)| class).collect();
            let mut names: Vec<String> = names.into_iter().cloned().collect();
            if said.iter().all(|about| about.is_numbered) {
                names.sort_by_key(|name| name.parse::<i64>().unwrap_or(i64::MAX));
            }
            names
        }
    };
    let numbers: BTreeMap<&String, u32> = classes.iter().zip(0..).collect();
    let numbered = |(name, class): (String, String)| (name, numbers.get(&class).copied().unwrap_or(u32::MAX));
    let splits = named
        .into_iter()
        .map(|(split, rows)| (split, rows.into_iter().map(numbered).collect()))
        .collect();
    let path = root.join(LABELS);
    let json = serde_json::to_vec(&Labels {
        splits,
        classes: classes.clone(),
        left_out,
    })
    .map_err(|e| malformed(&path, &e))?;
    file::replace_in_cache(&path, &json)
}

/// Says which rows of a file are not taken.
fn tell(name: &str, left_out: &SkippedRow) {
    if left_out.rows() == 0 {
        return;
    }
    let rows = left_out
        .named
        .iter()
        .map(|(row, reason)| format!("row {row}: {reason}"));
    let rows = rows.collect::<Vec<_>>().join("; ");
    let more = left_out.rows() - left_out.named.len() as u64;
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    tracing::warn!("{} rows of `{name}` are left out: {rows}{more}", left_out.rows());
}

/// The folder of a split, made if need be.
fn folder_of(split: &str, root: &Path, shard: &Path) -> Result<PathBuf> {
    match plain_parts(split).as_deref() {
        Ok([one]) if *one == split && split != LABELS => {
            let folder = root.join(split);
            std::fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
            Ok(folder)
        }
        _ => Err(Error::Parquet {
            path: shard.into(),
            reason: format!("`{split}` cannot be the name of a split"),
        }),
    }
}

/// Format of the bytes, whatever the row's path claims.
fn extension(image: &[u8]) -> &'static str {
    match ::image::guess_format(image) {
        Ok(ImageFormat::Jpeg) => "jpg",
        Ok(ImageFormat::Png) => "png",
        Ok(ImageFormat::Gif) => "gif",
        Ok(ImageFormat::Bmp) => "bmp",
        Ok(ImageFormat::WebP) => "webp",
        Ok(ImageFormat::Qoi) => "qoi",
        _ => "bin",
    }
}
