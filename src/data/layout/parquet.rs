//! Parquet files, of a repository or of one's own: unpacked into image files and a list of their labels. Splits go by the
//! files' names, class names by their metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::image::ImageFormat;
use serde::{Deserialize, Serialize};

use super::{Description, Item, Listing, Unpacked, names};
use crate::config::Protocol;
use crate::data::files::{LocalFile, ParquetForm};
use crate::error::{Error, Result};
use crate::formats::archive::plain_parts;
use crate::formats::parquet::{Columns, SkippedRow, about, read as read_rows, wrong};
use crate::fs::file;

pub(crate) const LAYOUT: Description = Description {
    coop: None,
    ..Description::new(read)
};

/// Share of each class that is kept for the test where the rows of the test split turn out to be unlabelled.
const HOLDOUT: f64 = 0.3;

/// `clean`: pool = training and validation rows; `tinker`: pool = training rows alone. Ids are `<split>/<row>.<ext>`,
/// so that their order is the order of the rows. Without a test split, or with one that has no labels, the manifest's
/// `holdout` makes one.
pub(super) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let manifest = unpacked.manifest();
    let parquet = unpacked.source.parquet();
    let ParquetForm { train, val, test, .. } =
        parquet.ok_or_else(|| unpacked.fail("its layout is `parquet`, and its manifest has no `[parquet]`"))?;
    let mut labels = Labels::load(unpacked.root)?;
    let mut rows = |splits: &[String]| -> Vec<Item> {
        let mut items = Vec::new();
        for split in splits {
            let rows = labels.splits.remove(split).unwrap_or_default();
            let item = |(file, class)| Item::new(format!("{split}/{file}"), class);
            items.extend(rows.into_iter().map(item));
        }
        items
    };
    let mut pool = rows(train);
    if unpacked.source.protocol != Protocol::Tinker {
        pool.extend(rows(val));
    }
    let mut test_items = rows(test);
    let unlabelled = test
        .iter()
        .filter_map(|split| labels.left_out.get(split))
        .map(|[rows, _]| rows)
        .sum::<u64>();
    let share = match (manifest.holdout, unlabelled) {
        (None, 1..) if unpacked.source.is_lenient() && test_items.is_empty() => {
            tracing::warn!(
                "dataset `{}`: the {unlabelled} rows of its test split have no labels; {} % of each class are kept for \
                 the test instead",
                manifest.name,
                HOLDOUT * 100.0
            );
            Some(HOLDOUT)
        }
        (share, _) => share,
    };
    if manifest.clean_names {
        same_words(&mut labels.classes, [&mut pool, &mut test_items]);
    }
    if let (true, Some(share)) = (test_items.is_empty(), share) {
        (pool, test_items) = names::split(pool, share, &manifest.skip);
    }
    let mut classes = labels.classes;
    if manifest.clean_names
        && let Ok(renamed) = names::cleaned(&classes)
    {
        let clean = |name: String| renamed.get(&name).cloned().unwrap_or(name);
        classes = classes.into_iter().map(clean).collect();
    }
    Ok(Listing::new(classes, pool, test_items))
}

/// Makes one class of labels that differ in spelling only; the first in order stands for all.
fn same_words(classes: &mut Vec<String>, sides: [&mut Vec<Item>; 2]) {
    let mut kept: Vec<String> = Vec::new();
    let mut by_key: BTreeMap<String, u32> = BTreeMap::new();
    let mut number = Vec::new();
    for name in classes.drain(..) {
        let class = *by_key.entry(names::key(&name)).or_insert(kept.len() as u32);
        match kept.get(class as usize) {
            Some(same) => tracing::warn!("the labels `{same}` and `{name}` are taken for one class"),
            None => kept.push(name),
        }
        number.push(class);
    }
    for item in sides.into_iter().flatten() {
        item.class = number.get(item.class as usize).copied().unwrap_or(u32::MAX);
    }
    *classes = kept;
}

/// The list of labels, in messages.
const KIND: &str = "list of labels";
/// Name of the list of labels, beside the folders of the splits.
const LABELS: &str = "labels.json";

/// Which image has which label.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
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
    fn load(root: &Path) -> Result<Self> {
        let path = root.join(LABELS);
        let json = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&json).map_err(|e| Error::Malformed {
            kind: KIND,
            path,
            reason: e.to_string(),
        })
    }
}

/// Writes each image to `<root>/<split>/<row>.<ext>` and the labels beside them. Rows are counted through the files of
/// a split in their order, with zeros in front so that names sort as rows do; the extension says what the bytes are.
///
/// # Errors
/// [`Error::Parquet`] naming the file and the row, or that two files name their classes differently.
pub(crate) fn unpack(shards: &[LocalFile], columns: Columns<'_>, root: &Path) -> Result<()> {
    let mut classes: Option<&Option<Vec<String>>> = None;
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    let said: Vec<_> = shards
        .iter()
        .map(|shard| about(&shard.path, columns))
        .collect::<Result<_>>()?;
    for (shard, about) in shards.iter().zip(&said) {
        let total = totals.entry(&shard.role).or_default();
        *total = total.saturating_add(about.rows);
        if *classes.get_or_insert(&about.classes) != &about.classes {
            let first = shards.first().map_or("", |s| &s.name);
            return Err(wrong(&shard.path)(format!(
                "its class names differ from those of {first}"
            )));
        }
    }
    let mut named: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut left_out: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut started: BTreeMap<&str, u64> = BTreeMap::new();
    for shard in shards {
        let folder = folder_of(&shard.role, root, &shard.path)?;
        let total = totals.get(shard.role.as_str()).copied().unwrap_or(0);
        let width = total.saturating_sub(1).to_string().len().max(5);
        let labels = named.entry(shard.role.clone()).or_default();
        let started = started.entry(&shard.role).or_default();
        let first: u64 = *started;
        let about = read_rows(&shard.path, columns, &mut |row| {
            let name = format!("{:0width$}.{}", first.saturating_add(row.number), extension(row.image));
            let path = folder.join(&name);
            std::fs::write(&path, row.image).map_err(Error::io("write", &path))?;
            labels.push((name, row.class.to_owned()));
            Ok(())
        })?;
        *started = first.saturating_add(about.rows);
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
    let splits = named.into_iter();
    let labels = Labels {
        splits: splits
            .map(|(split, rows)| (split, rows.into_iter().map(numbered).collect()))
            .collect(),
        classes: classes.clone(),
        left_out,
    };
    file::replace_json_in_cache(&root.join(LABELS), KIND, serde_json::to_vec(&labels))
}

/// Says which rows of a file are not taken.
fn tell(name: &str, left_out: &SkippedRow) {
    if left_out.rows() == 0 {
        return;
    }
    let named = left_out.named.iter();
    let rows = named.map(|(row, reason)| format!("row {row}: {reason}"));
    let rows = rows.collect::<Vec<_>>().join("; ");
    let more = match left_out.rows() - left_out.named.len() as u64 {
        0 => String::new(),
        more => format!("; and {more} more"),
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
        _ => Err(wrong(shard)(format!("`{split}` cannot be the name of a split"))),
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
