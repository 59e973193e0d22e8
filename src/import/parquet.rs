//! Parquet files with the images in them, one's own or those of a repository of the Hugging Face hub, whose images come with
//! `kshot data fetch`; their columns of images and labels are told by the footer alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::parquet::basic::{Compression, ConvertedType, Type};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::reader::FileReader as _;
use ::parquet::file::statistics::Statistics;
use bytes::Bytes;
use rayon::prelude::*;

use crate::data::layout::names::Side;
use crate::data::layout::table::usual_label;
use crate::error::{Error, Result};
use crate::fetch::repository::{number_of_shards, split_of};
use crate::fetch::{HubListing, HubSettings, HubShard, Policy, hub_listing, hub_tail};
use crate::formats::parquet::{ParquetInput, class_names, footer, guarded, huggingface, message, opened, wrong};
use crate::formats::quoted;
use crate::fs::hash::hash;
use crate::import::written::{self, to_toml};
use crate::import::{Discovered, HOLDOUT, ImportOptions, free_name, refused, write_new};
use crate::manifest::{Form, Hub, Layout, Manifest, ManifestFolders, OwnParquet, OwnShard, Shard};

/// Name of the split of files whose names say none.
const ALL: &str = "all";

/// True if a file has a column of images.
pub(super) fn has_images(path: &Path) -> Result<bool> {
    Ok(!of_file(path)?.images.is_empty())
}

/// `files`: in the order of their rows.
pub(super) fn discover(files: &[PathBuf], origin: &str, asked: &ImportOptions) -> Result<Discovered> {
    let fail = |reason: String, remedy: &str| refused(origin, reason, remedy);
    let described: Vec<Candidates> = files.par_iter().map(|path| of_file(path)).collect::<Result<_>>()?;
    // A file of the split to learn from says what there is: the test may have no labels.
    let is_learned = |path: &PathBuf| Side::of_word(&split_name(path)) == Some(Side::Train);
    let at = files.iter().position(is_learned).unwrap_or(0);
    let (Some(first), Some(first_path)) = (described.get(at), files.get(at)) else {
        return Err(fail("it holds no parquet files".into(), "name another folder"));
    };
    let (image, label) = choose(first, asked, origin)?;
    let mut notes = taken(first, &image, &label);
    let mut splits: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    let mut shards = Vec::new();
    for (path, found) in files.iter().zip(&described) {
        let split = split_name(path);
        let (rows, unlabelled) = splits.entry(split.clone()).or_insert((0, true));
        *rows += found.rows;
        *unlabelled &= found.is_unlabelled(&label);
        shards.push(OwnShard {
            split,
            size: std::fs::metadata(path).map_err(Error::io("read", path))?.len(),
            sha256: hash(path, "sha256")?,
            path: path.clone(),
        });
        if !found.is_unlabelled(&label) && found.names.get(&label) != first.names.get(&label) {
            let names = [first_path, path].map(|path| path.display().to_string());
            return Err(fail(
                format!("`{}` and `{}` name their classes differently", names[0], names[1]),
                "import them one by one, or write them with the same features",
            ));
        }
    }
    if let ([only], Some(path)) = (shards.as_slice(), files.first())
        && let Some(parts) = path.to_str().and_then(number_of_shards).filter(|parts| *parts > 1)
    {
        notes.push(format!(
            "`{}` is one of {parts} files: name the folder to take them all",
            only.path.file_name().unwrap_or_default().display()
        ));
    }
    let [train, val, test] = sides(&splits, &mut notes).map_err(|reason| {
        fail(
            reason,
            "name the files by their splits, as `train-00000-of-00001.parquet`",
        )
    })?;
    let taken = |split: &String| [&train, &val, &test].iter().any(|side| side.contains(split));
    shards.retain(|shard| taken(&shard.split));
    let rows = splits.iter().filter(|(split, _)| taken(split));
    let rows = rows.map(|(_, (rows, _))| rows).sum();
    let labels = first.names.get(&label).cloned().unwrap_or_default();
    Ok(Discovered {
        layout: Layout::Parquet,
        rows,
        numbered: first.numbers.contains(&label),
        labels,
        parquet: Some(OwnParquet {
            image,
            label,
            train,
            val,
            test,
            shards,
        }),
        notes,
        ..Discovered::default()
    })
}

/// The columns of images and of labels.
fn choose(found: &Candidates, asked: &ImportOptions, origin: &str) -> Result<(String, String)> {
    const ONLY: &str = "only parquet files with images and class names are read";
    let several = |reason: &str, columns: &[String], option: &str| {
        refused(
            origin,
            format!("{reason} {}", quoted(columns)),
            format!("`{option}` says which"),
        )
    };
    let image = found.image(asked.path_column.as_deref());
    let image = image.ok_or_else(|| match found.images.as_slice() {
        [] => refused(origin, "it has no column of images", ONLY),
        images => several("it has several columns of images:", images, "--path-column"),
    })?;
    let label = found.label(asked.label_column.as_deref());
    let label = label.ok_or_else(|| match found.labels().cloned().collect::<Vec<_>>().as_slice() {
        [] => refused(origin, "it has no column of class names, or of integers", ONLY),
        labels => several("which column holds the class names? it has", labels, "--label-column"),
    })?;
    match found.unread.iter().find(|unread| [image, label].contains(unread)) {
        Some(unread) => Err(refused(
            origin,
            format!("its column `{unread}` is compressed by LZO, which is not read"),
            "write it with another codec, e.g. zstd: `pyarrow.parquet.write_table(table, path, compression=\"zstd\")`",
        )),
        None => Ok((image.clone(), label.clone())),
    }
}

/// Says which columns were taken, and which not.
fn taken(found: &Candidates, image: &str, label: &str) -> Vec<String> {
    let others = |columns: &[String], taken: &str| quoted(columns.iter().filter(|name| *name != taken));
    let mut notes = vec![format!("columns: images `{image}`, class names `{label}`")];
    let labels = others(&found.named, label);
    if !labels.is_empty() {
        notes.push(format!(
            "not taken, other columns of class names: {labels} (`--label-column`)"
        ));
    }
    let images = others(&found.images, image);
    if !images.is_empty() {
        notes.push(format!(
            "not taken, other columns of images: {images} (`--path-column`)"
        ));
    }
    notes
}

/// The split that a file's name or its folder says.
fn split_name(path: &Path) -> String {
    let split = path.to_str().and_then(split_of).unwrap_or(ALL);
    // A name without a number is the name of a split only if it is one of the usual ones.
    let name = Path::new(split).file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or(ALL);
    let is_numbered = path.to_str().and_then(number_of_shards).is_some();
    if Side::of_word(name).is_some() || is_numbered {
        name.to_owned()
    } else {
        ALL.to_owned()
    }
}

/// Splits to learn from, of validation and of test.
///
/// # Errors
/// When none of several is one to learn from.
fn sides(splits: &BTreeMap<String, (u64, bool)>, notes: &mut Vec<String>) -> Result<[Vec<String>; 3], String> {
    let (unlabelled, labelled): (Vec<_>, Vec<_>) = splits.iter().partition(|(_, (_, unlabelled))| *unlabelled);
    for (split, (rows, _)) in unlabelled {
        let kept = kept_instead(Side::of_word(split));
        notes.push(format!("the {rows} rows of `{split}` have no labels: left out{kept}"));
    }
    let [mut train, mut val, mut test, mut others] = by_side(labelled.into_iter().map(|(split, _)| split));
    if train.is_empty() && val.is_empty() && test.is_empty() && others.len() == 1 {
        std::mem::swap(&mut train, &mut others);
    }
    if train.is_empty() && test.is_empty() && val.len() == 1 {
        std::mem::swap(&mut train, &mut val);
    }
    if train.is_empty() && val.is_empty() && test.len() == 1 {
        std::mem::swap(&mut train, &mut test);
    }
    if !others.is_empty() && !train.is_empty() {
        notes.push(format!("not taken, other splits: {}", others.join(", ")));
    }
    if train.is_empty() {
        let names: Vec<&str> = splits.keys().map(String::as_str).collect();
        return Err(format!("it has no labelled split `train`, only: {}", names.join(", ")));
    }
    Ok([train, val, test])
}

/// Splits to learn from, of validation, of test, and others.
fn by_side<'a>(splits: impl Iterator<Item = &'a String>) -> [Vec<String>; 4] {
    let mut sides: [Vec<String>; 4] = Default::default();
    let [train, val, test, others] = &mut sides;
    for split in splits {
        let side = match Side::of_word(split) {
            Some(Side::Train) => &mut *train,
            Some(Side::Validation) => &mut *val,
            Some(Side::Test) => &mut *test,
            None => &mut *others,
        };
        side.push(split.clone());
    }
    sides
}

/// The end of a note on a split without labels, behind "left out".
fn kept_instead(side: Option<Side>) -> &'static str {
    match side {
        Some(Side::Test) => ", and a share of the others is kept for the test",
        _ => "",
    }
}

/// Columns in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Candidates {
    /// Structs with `bytes`.
    pub images: Vec<String>,
    /// Integers with names in the metadata.
    pub named: Vec<String>,
    /// Texts, and booleans.
    pub texts: Vec<String>,
    /// Integers without names.
    pub numbers: Vec<String>,
    /// Which of the columns of labels have no label in any row, as far as the footer says so: nulls, or −1.
    pub unlabelled: Vec<String>,
    /// Class names by column, where the metadata has them.
    pub names: BTreeMap<String, Vec<String>>,
    /// Columns of images or labels that are compressed in a way that is not read: LZO.
    pub unread: Vec<String>,
    /// Number of rows.
    pub rows: u64,
}

impl Candidates {
    /// Every column that may be one of labels, the surest first.
    fn labels(&self) -> impl Iterator<Item = &String> {
        self.named.iter().chain(&self.texts).chain(&self.numbers)
    }

    /// True if no row has a label in a column, as far as the footer says so.
    fn is_unlabelled(&self, label: &str) -> bool {
        self.unlabelled.iter().any(|column| column == label) || !self.labels().any(|column| column == label)
    }

    /// The column of images by its usual name, or the only one.
    fn image(&self, asked: Option<&str>) -> Option<&String> {
        match asked {
            Some(name) => self.images.iter().find(|column| *column == name),
            None => ["image", "img", "picture", "photo"]
                .iter()
                .find_map(|name| self.images.iter().find(|column| column.eq_ignore_ascii_case(name)))
                .or(match self.images.as_slice() {
                    [only] => Some(only),
                    _ => None,
                }),
        }
    }

    /// The column of labels by its usual name, or the only one with class names.
    fn label(&self, asked: Option<&str>) -> Option<&String> {
        if let Some(name) = asked {
            return self.labels().find(|column| *column == name);
        }
        let usual = self.labels().filter_map(|column| Some((usual_label(column)?, column)));
        usual
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, column)| column)
            .or(match self.named.as_slice() {
                [only] => Some(only),
                _ => None,
            })
    }
}

/// Length of the footer that a file ends with, magic and length included; `tail` is at least the last eight bytes.
///
/// # Errors
/// When these are not the last bytes of a parquet file.
fn footer_length(tail: &[u8]) -> Result<u64, String> {
    match tail.last_chunk::<8>() {
        Some([a, b, c, d, b'P', b'A', b'R', b'1']) => Ok(u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 8),
        _ => Err("it is no parquet file".into()),
    }
}

/// The columns that a footer describes. `tail` is any end of a file that holds its whole footer.
///
/// # Errors
/// When the footer is torn or damaged.
fn candidates(tail: Vec<u8>) -> Result<Candidates, String> {
    let bytes = Bytes::from([b"PAR1", tail.as_slice()].concat());
    guarded(damaged, || {
        footer(&ParquetInput::Bytes(bytes.clone()))?;
        let start = bytes.len().saturating_sub(footer_length(&bytes)? as usize);
        let described = bytes.get(start..bytes.len().saturating_sub(8)).ok_or("it is torn")?;
        describe(&ParquetMetaDataReader::decode_metadata(described).map_err(message)?)
    })
}

fn damaged(_: String) -> String {
    "its footer is damaged".into()
}

fn describe(metadata: &ParquetMetaData) -> Result<Candidates, String> {
    let groups = metadata.row_groups();
    let metadata = metadata.file_metadata();
    let json = huggingface(metadata);
    let mut found = Candidates {
        rows: u64::try_from(metadata.num_rows()).unwrap_or(0),
        ..Candidates::default()
    };
    for (at, column) in metadata.schema_descr().columns().iter().enumerate() {
        let kind = column.physical_type();
        match column.path().parts() {
            [name, inner] if inner == "bytes" && kind == Type::BYTE_ARRAY => found.images.push(name.clone()),
            // Plain bytes that are marked as no text.
            [name]
                if kind == Type::BYTE_ARRAY
                    && column.logical_type_ref().is_none()
                    && column.converted_type() == ConvertedType::NONE =>
            {
                found.images.push(name.clone());
            }
            [name] if matches!(kind, Type::BYTE_ARRAY | Type::BOOLEAN) => found.texts.push(name.clone()),
            [name] if matches!(kind, Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE) => {
                match json.map(|json| class_names(json, name)).transpose()?.flatten() {
                    Some(names) => {
                        found.named.push(name.clone());
                        found.names.insert(name.clone(), names);
                    }
                    None => found.numbers.push(name.clone()),
                }
            }
            _ => continue,
        }
        let chunks = groups.iter().filter_map(|group| group.columns().get(at));
        if chunks.into_iter().any(|chunk| chunk.compression() == Compression::LZO) {
            found.unread.extend(column.path().parts().first().cloned());
        }
        if let [name] = column.path().parts()
            && !groups.is_empty()
            && groups
                .iter()
                .all(|group| group.columns().get(at).is_some_and(is_unlabelled))
        {
            found.unlabelled.push(name.clone());
        }
    }
    Ok(found)
}

/// True if a column has nothing but nulls or numbers below 0, as its statistics say.
fn is_unlabelled(column: &ColumnChunkMetaData) -> bool {
    let Some(statistics) = column.statistics() else {
        return false;
    };
    let values = u64::try_from(column.num_values()).unwrap_or(u64::MAX);
    let is_negative = match statistics {
        Statistics::Int32(range) => range.max_opt().is_some_and(|most| *most < 0),
        Statistics::Int64(range) => range.max_opt().is_some_and(|most| *most < 0),
        _ => false,
    };
    is_negative || statistics.null_count_opt().is_some_and(|nulls| nulls == values)
}

/// The columns of a file on this machine.
///
/// # Errors
/// [`Error::Parquet`] when it is none, or damaged; [`Error::Io`].
fn of_file(path: &Path) -> Result<Candidates> {
    let source = ParquetInput::file(path)?;
    guarded(damaged, || describe(opened(&source)?.metadata())).map_err(wrong(path))
}

/// Bytes of a footer: more is no description of a few columns.
const FOOTER: u64 = 64 << 20;

/// A manifest that was written for a repository.
#[derive(Debug)]
pub struct Named {
    /// The manifest.
    pub manifest: PathBuf,
    /// Its text.
    pub hub: Hub,
    /// Share of each class that is kept for the test, where there is no test split.
    pub holdout: Option<f64>,
    /// Bytes to be fetched.
    pub bytes: u64,
    /// Class names by label, where they were changed.
    pub rename: BTreeMap<String, String>,
    /// Notes, a line each: columns that were not taken, splits without labels.
    pub notes: Vec<String>,
    /// Splits that are neither train, validation nor test.
    pub other_splits: Vec<String>,
}

/// Writes the manifest of a repository, at the commit that it has now.
///
/// # Errors
/// [`Error::Import`] when it has no images with class names, no split to learn from, two class names become one, or it
/// has several configurations and none is asked for; [`Error::Exists`]; [`Error::Hub`] when the hub cannot be asked.
pub fn name_hub(
    repo: &str,
    name: &str,
    datasets: impl Into<ManifestFolders>,
    asked: &ImportOptions,
    settings: &HubSettings,
    policy: &Policy,
) -> Result<Named> {
    let manifest = free_name(repo, name, &datasets.into())?;
    let fail = |reason: String| {
        let remedy = "only repositories of parquet files with images and class names are read";
        refused(repo, reason, remedy)
    };
    let listing = hub_listing(repo, "main", asked.configuration.as_deref(), settings, policy)?;
    let [train, mut val, mut test, other_splits] = sides_of_listing(&listing).map_err(&fail)?;
    let first = train.first();
    let first = first.and_then(|split| listing.shards.iter().find(|shard| shard.split == *split));
    let first = first.ok_or_else(|| fail("it has no parquet files".into()))?;
    let found = columns(&listing, first, settings, policy, &fail)?;
    let (image, label) = choose(&found, asked, repo)?;
    let mut notes = taken(&found, &image, &label);
    // Of the other splits the first file tells whether there are labels at all.
    for (side, part) in [(&mut val, Side::Validation), (&mut test, Side::Test)] {
        let mut labelled = Vec::new();
        for split in side.drain(..) {
            let of_split: Vec<_> = listing.shards.iter().filter(|shard| shard.split == split).collect();
            let mut unlabelled = !of_split.is_empty();
            for shard in of_split {
                unlabelled &= columns(&listing, shard, settings, policy, &fail)?.is_unlabelled(&label);
                if !unlabelled {
                    break;
                }
            }
            if unlabelled {
                let kept = kept_instead(Some(part));
                notes.push(format!("the rows of `{split}` have no labels: left out{kept}"));
            } else {
                labelled.push(split);
            }
        }
        *side = labelled;
    }
    let class_names = found.names.get(&label).cloned().unwrap_or_default();
    let given = asked.names.as_deref().map(written::read).transpose()?;
    let renamed = written::renamed(&class_names, given.as_ref(), false);
    let (rename, _) =
        renamed.map_err(|reason| refused(repo, reason, "`--names FILE` gives the classes other names"))?;
    if found.numbers.contains(&label) && given.is_none() {
        notes.push(format!(
            "the integers of `{label}` have no names, so they are the class names, of which no model knows what they \
             stand for: `--names FILE` gives names"
        ));
    }
    let is_taken = |split: &String| [&train, &val, &test].into_iter().any(|side| side.contains(split));
    let taken: Vec<_> = listing.shards.iter().filter(|shard| is_taken(&shard.split)).collect();
    let bytes = taken.iter().map(|shard| shard.file.size).sum();
    let shard = |HubShard { file, .. }: &&HubShard| Shard {
        path: file.path.clone(),
        size: Some(file.size),
        sha256: file.sha256.clone(),
    };
    let hub = Hub {
        repo: repo.into(),
        revision: listing.commit.clone(),
        shards: taken.iter().map(shard).collect(),
        image,
        label,
        train,
        val,
        test,
        expect: None,
    };
    let holdout = hub.test.is_empty().then_some(HOLDOUT);
    let written = Manifest {
        name: name.into(),
        title: format!("{repo} on the Hugging Face hub"),
        licence: "see its page on the hub".into(),
        citation: "none".into(),
        layout: Layout::Folders,
        prefer: Form::Hub,
        holdout,
        clean_names: true,
        rename: rename.clone(),
        hub: Some(hub.clone()),
        ..Manifest::default()
    };
    write_new(&manifest, &to_toml(&written, &[], &[]))?;
    Ok(Named {
        manifest,
        hub,
        holdout,
        bytes,
        rename,
        notes,
        other_splits,
    })
}

/// The columns that a file's footer describes.
fn columns(
    listing: &HubListing,
    shard: &HubShard,
    settings: &HubSettings,
    policy: &Policy,
    fail: &dyn Fn(String) -> Error,
) -> Result<Candidates> {
    let of_file = |reason: String| fail(format!("its `{}`: {reason}", shard.file.path));
    let length = footer_length(&hub_tail(listing, shard, 8, settings, policy)?).map_err(of_file)?;
    if length > FOOTER.min(shard.file.size) {
        return Err(of_file(format!("its footer claims {length} bytes")));
    }
    candidates(hub_tail(listing, shard, length, settings, policy)?).map_err(of_file)
}

/// Splits to learn from, of validation, of test, and others, of a repository.
fn sides_of_listing(listing: &HubListing) -> Result<[Vec<String>; 4], String> {
    let splits: BTreeSet<&String> = listing.shards.iter().map(|shard| &shard.split).collect();
    let mut sides = by_side(splits.iter().copied());
    let [train, val, test, others] = &mut sides;
    if train.is_empty() && val.is_empty() && test.is_empty() && others.len() == 1 {
        std::mem::swap(train, others);
    }
    if train.is_empty() {
        let splits: Vec<&str> = splits.into_iter().map(String::as_str).collect();
        return Err(format!("it has no split `train`, only: {}", splits.join(", ")));
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::file::metadata::{FileMetaData, RowGroupMetaData};
    use ::parquet::schema::parser::parse_message_type;
    use ::parquet::schema::types::SchemaDescriptor;
    use std::sync::Arc;

    #[test]
    fn a_codec_that_is_not_read_is_seen_in_the_footer() {
        let schema = "message rows { required group image { optional binary bytes; } required int64 label; }";
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(schema).unwrap())));
        let with = |codecs: [Compression; 2]| {
            let chunks = schema.columns().iter().zip(codecs).map(|(column, codec)| {
                ColumnChunkMetaData::builder(Arc::clone(column))
                    .set_compression(codec)
                    .build()
                    .unwrap()
            });
            let group = RowGroupMetaData::builder(Arc::clone(&schema))
                .set_column_metadata(chunks.collect())
                .build()
                .unwrap();
            let file = FileMetaData::new(1, 0, None, None, Arc::clone(&schema), None);
            describe(&ParquetMetaData::new(file, vec![group])).unwrap().unread
        };
        assert!(with([Compression::SNAPPY; 2]).is_empty());
        assert_eq!(with([Compression::LZO, Compression::SNAPPY]), ["image"]);
        assert_eq!(with([Compression::SNAPPY, Compression::LZO]), ["label"]);
    }
}
