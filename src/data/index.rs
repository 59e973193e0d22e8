//! The index of an unpacked dataset: hashes, sizes and classes of every image, found by reading each once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::Protocol;
use crate::data::files::DatasetFiles;
use crate::data::layout::{Item, Listing, wrong};
use crate::data::split::CoopList;
use crate::data::{Dataset, LabelledImage, overlap};
use crate::error::{Error, Result};
use crate::formats::archive::plain_parts;
use crate::formats::image::{Decoding, Mode, orientation};
use crate::formats::quoted;
use crate::fs::file::{self, read_if_present};
use crate::fs::hash::{self, Stamp, hex};
use crate::manifest::{CoopPaths, Expect, Form, Manifest};

/// 3: sizes and difference hashes are those of the upright picture; orientation and stamp of each file are kept.
const SCHEMA: u32 = 3;

/// The content of `index.json`: what is known of each image, and which of them each protocol has.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    schema: u32,
    /// The mode that a `datasets.Image(mode=…)` in the dataset asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    /// By path below the root.
    images: BTreeMap<String, Facts>,
    protocols: Vec<ProtocolImages>,
}

/// Facts about each image: its id, then its path below the root and the facts.
pub(super) type Survey = Vec<(String, Result<(String, Facts)>)>;

/// Classes and sides under one protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProtocolImages {
    protocol: Protocol,
    /// Hash of all that this follows from besides the images.
    key: String,
    classes: Vec<String>,
    /// Images that the manifest's `skip` left out.
    left_out: usize,
    /// CoOp's lists as its file has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<CoopList>,
    /// Pool before validation before test, each sorted by id.
    images: Vec<Labelled>,
}

/// One image of a protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    id: String,
    side: Side,
    class: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Its path below the root, if not `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

impl Labelled {
    fn file(&self) -> &str {
        self.file.as_deref().unwrap_or(&self.id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Pool,
    Val,
    Test,
}

impl Index {
    /// An index of this schema; `None` has it made again.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        file::read_json(path).filter(|index: &Self| index.schema == SCHEMA)
    }

    /// The images of a protocol, if they were looked up before.
    pub(crate) fn listed(&self, key: &str) -> Option<&ProtocolImages> {
        self.protocols.iter().find(|listed| listed.key == key)
    }

    /// An index of nothing yet, of images in this mode.
    pub(crate) fn new(mode: Option<Mode>) -> Self {
        Self {
            schema: SCHEMA,
            mode,
            ..Self::default()
        }
    }

    /// The rules by which its images are decoded.
    pub(crate) fn decoding(&self) -> Decoding {
        Decoding {
            mode: self.mode,
            ..Decoding::default()
        }
    }

    /// Images of a protocol, or all of them, whose files were touched since they were looked at: by their stamps, which a
    /// glance at each file tells.
    pub(crate) fn touched(&self, listed: Option<&ProtocolImages>, root: &Path) -> Vec<String> {
        let touched = |file: &&str| {
            let stamp = self.images.get(*file).map(|facts| &facts.stamp);
            stamp.is_none() || Stamp::of(&root.join(file)).ok().as_ref() != stamp
        };
        let files: Vec<&str> = match listed {
            None => self.images.keys().map(String::as_str).collect(),
            Some(listed) => listed.images.iter().map(Labelled::file).collect(),
        };
        files.into_par_iter().filter(touched).map(str::to_owned).collect()
    }

    /// Hashes files that were touched; those that hold the bytes they did are marked as looked at now, the others are given
    /// back: changed, gone or never seen.
    pub(crate) fn recheck(&mut self, touched: &[String], root: &Path) -> Vec<String> {
        let again = |file: &String| {
            let known = self.images.get(file)?;
            let path = root.join(file);
            let stamp = Stamp::of(&path).ok()?;
            let sha256 = hash::hash(&path, "sha256").ok()?;
            (sha256 == known.sha256).then_some(stamp)
        };
        let stamps: Vec<Option<Stamp>> = touched.par_iter().map(again).collect();
        let mut changed = Vec::new();
        for (file, stamp) in touched.iter().zip(stamps) {
            match (self.images.get_mut(file), stamp) {
                (Some(facts), Some(stamp)) => facts.stamp = stamp,
                _ => changed.push(file.clone()),
            }
        }
        changed
    }

    /// Has images looked at anew when they are listed next.
    pub(crate) fn forget(&mut self, files: &[String]) {
        for file in files {
            self.images.remove(file);
        }
    }

    /// Facts about an image of the dataset.
    pub(crate) fn facts(&self, file: &str) -> Option<&Facts> {
        self.images.get(file)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        file::replace_json_in_cache(path, "dataset index", serde_json::to_vec(self))
    }

    pub(crate) fn dataset(&self, listed: ProtocolImages, source: &DatasetFiles, root: &Path) -> Dataset {
        let manifest = source.manifest;
        let coop = manifest.coop.clone();
        let (mut pool, mut val, mut test) = (Vec::new(), Vec::new(), Vec::new());
        for image in listed.images {
            let facts = self.images.get(image.file());
            let side = match image.side {
                Side::Pool => &mut pool,
                Side::Val => &mut val,
                Side::Test => &mut test,
            };
            side.push(LabelledImage {
                path: root.join(image.file()),
                id: image.id,
                class: image.class,
                sha256: facts.map(|facts| facts.sha256.clone()).unwrap_or_default(),
                group: image.group,
                dhash: facts.map_or(0, |facts| facts.dhash),
                size: facts.map(|facts| (facts.width, facts.height)),
                decoding: self.decoding(),
                stamp: facts.map(|facts| facts.stamp.clone()),
            });
        }
        Dataset {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            classes: listed.classes,
            pool,
            val,
            test,
            origin: source.origin(),
            layout: manifest.layout,
            micro: manifest.micro,
            regime: manifest.regime,
            left_out: listed.left_out,
            refused: Vec::new(),
            coop: listed.order.zip(coop).map(|(list, paths)| CoopList { paths, ..list }),
        }
    }

    /// Checks that labels and images fit together; reads, hashes and decodes every image that is not known yet.
    pub(crate) fn add(
        &mut self,
        source: &DatasetFiles,
        key: &str,
        listing: Listing,
        root: &Path,
    ) -> Result<ProtocolImages> {
        let (mut listed, mut found) = self.survey(source, key, listing, root)?;
        if source.is_lenient() {
            found = without_unreadable(source, &mut listed, found)?;
        }
        let images = all_or_first_error(found.into_iter().map(|(_, facts)| facts).collect())?;
        self.schema = SCHEMA;
        self.images.extend(images);
        self.protocols.retain(|other| other.protocol != listed.protocol);
        self.protocols.push(listed.clone());
        Ok(listed)
    }

    /// As [`Index::add`], keeping nothing: what each image not known yet turned out to be, by its path below the root.
    pub(crate) fn survey(
        &self,
        source: &DatasetFiles,
        key: &str,
        mut listing: Listing,
        root: &Path,
    ) -> Result<(ProtocolImages, Survey)> {
        let (manifest, protocol) = (source.manifest, source.protocol);
        let fail = |reason: String| manifest.fail(reason);
        // An id that only the other form or another protocol has is no mistake.
        let all_ids = protocol == Protocol::Clean && manifest.forms(protocol).is_ok_and(|forms| forms.len() == 1);
        // Index files give places in CoOp's lists, skipped images counted.
        let ids = |items: &[Item]| items.iter().map(|item| item.id.clone()).collect();
        let order = (protocol == Protocol::Coop).then(|| CoopList {
            paths: CoopPaths::default(),
            train: ids(&listing.pool),
            val: ids(&listing.val),
            test: ids(&listing.test),
        });
        let left_out = leave_out(&mut listing, &manifest.skip, all_ids).map_err(fail)?;
        check_classes(&listing).map_err(fail)?;
        let groups = groups(manifest, &listing)?;
        let mut images = Vec::new();
        let mut ids = BTreeSet::new();
        for (side, items) in [
            (Side::Pool, listing.pool),
            (Side::Val, listing.val),
            (Side::Test, listing.test),
        ] {
            let start = images.len();
            for Item { id, file, class } in items {
                for path in [Some(&id), file.as_ref()].into_iter().flatten() {
                    plain_parts(path).map_err(|why| fail(format!("image `{path}` {why}")))?;
                }
                if !ids.insert(id.clone()) {
                    return Err(fail(format!("image `{id}` is listed twice")));
                }
                if class as usize >= listing.classes.len() {
                    return Err(fail(format!("image `{id}` has a class that has no name")));
                }
                images.push(Labelled {
                    group: groups.get(&id).cloned(),
                    id,
                    side,
                    class,
                    file,
                });
            }
            if let Some(of_side) = images.get_mut(start..) {
                of_side.sort_by(|a, b| a.id.cmp(&b.id));
            }
        }
        let inspected = |Labelled { id, .. }: &Labelled, class: &str, file: &str| {
            let facts = inspect(&root.join(file), id, self.decoding())?;
            let facts =
                facts.ok_or_else(|| fail(format!("`{id}` is labelled `{class}`, but there is no such image")))?;
            Ok((file.to_owned(), facts))
        };
        let found = |image: &Labelled| {
            let class = listing.classes.get(image.class as usize).map_or("", String::as_str);
            (image.id.clone(), inspected(image, class, image.file()))
        };
        let is_unknown = |image: &&Labelled| !self.images.contains_key(image.file());
        let unknown: Vec<_> = images.iter().filter(is_unknown).collect();
        let found = unknown.into_par_iter().map(found).collect();
        let listed = ProtocolImages {
            protocol,
            key: key.to_owned(),
            classes: listing.classes,
            left_out,
            order,
            images,
        };
        Ok((listed, found))
    }
}

/// Leaves out images that cannot be decoded, and names them; each class keeps an image on each side.
fn without_unreadable(source: &DatasetFiles, listed: &mut ProtocolImages, found: Survey) -> Result<Survey> {
    let is_read = |(_, facts): &(_, Result<_>)| !matches!(facts, Err(Error::Image { .. }));
    let (read, unreadable): (Survey, Survey) = found.into_iter().partition(is_read);
    if unreadable.is_empty() {
        return Ok(read);
    }
    let name = &source.manifest.name;
    for (_, facts) in unreadable.iter().take(20) {
        if let Err(error) = facts {
            tracing::warn!("dataset `{name}`: {error}; it is left out");
        }
    }
    if unreadable.len() > 20 {
        tracing::warn!("dataset `{name}`: {} images are left out in all", unreadable.len());
    }
    let ids: BTreeSet<String> = unreadable.into_iter().map(|(id, _)| id).collect();
    listed.left_out += ids.len();
    listed.images.retain(|image| !ids.contains(&image.id));
    for (class, label) in (0..).zip(&listed.classes) {
        for (what, is_test) in [("training", false), ("test", true)] {
            let is_one = |image: &Labelled| image.class == class && (image.side == Side::Test) == is_test;
            if !listed.images.iter().any(is_one) {
                return Err(source.manifest.fail(format!(
                    "class `{label}` has no {what} image that can be read; `skip_classes = [\"{label}\"]` in its \
                     manifest does without it"
                )));
            }
        }
    }
    Ok(read)
}

impl ProtocolImages {
    /// Compares the counts with those that the manifest promises for this form and protocol.
    pub(crate) fn check_counts(&self, source: &DatasetFiles) -> Result<()> {
        let (Some(expect), pool_is_known) = promised(source) else {
            return Ok(());
        };
        let [classes, pool, _, test, _] = self.counts();
        let counts = [
            ("classes", classes, expect.classes, true),
            ("pool images", pool, expect.pool, pool_is_known),
            ("test images", test, expect.test, true),
        ];
        for (what, found, expected, is_known) in counts {
            if is_known && found != expected {
                let reason = format!("found {found} {what}, the manifest expects {expected}");
                if expect.unverified && what != "classes" {
                    tracing::warn!("dataset `{}`: {reason}, which nobody has checked", source.manifest.name);
                    continue;
                }
                return Err(source.manifest.fail(reason));
            }
        }
        Ok(())
    }

    /// Numbers of classes, pool, validation and test images, and of those that `skip` left out.
    pub(crate) fn counts(&self) -> [usize; 5] {
        let count = |side| self.images.iter().filter(|image| image.side == side).count();
        [
            self.classes.len(),
            count(Side::Pool),
            count(Side::Val),
            count(Side::Test),
            self.left_out,
        ]
    }

    /// Id of each image and its path below the root.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.images.iter().map(|image| (image.id.as_str(), image.file()))
    }
}

/// Numbers that must be found, and true if they hold for the pool: under `tinker` it is without the validation rows.
fn promised(source: &DatasetFiles) -> (Option<Expect>, bool) {
    let manifest = source.manifest;
    match (source.form, source.protocol, &manifest.hub) {
        (Form::Hub, Protocol::Tinker, Some(hub)) => (hub.expect, hub.val.is_empty()),
        (Form::Hub, _, Some(hub)) => (hub.expect, true),
        (Form::Archive, Protocol::Clean, _) => (manifest.expect, true),
        _ => (None, false),
    }
}

/// Takes the skipped images out of a listing and counts them; with `all_ids`, each one skipped must be there.
fn leave_out(listing: &mut Listing, skip: &[String], all_ids: bool) -> Result<usize, String> {
    let mut unused: BTreeSet<&str> = skip.iter().map(String::as_str).collect();
    let skip = unused.clone();
    let before = listing.items().count();
    for side in [&mut listing.pool, &mut listing.val, &mut listing.test] {
        side.retain(|item| {
            unused.remove(item.id.as_str());
            !skip.contains(item.id.as_str())
        });
    }
    match unused.first() {
        Some(id) if all_ids => Err(format!("`skip` names `{id}`, which no label file lists")),
        _ => Ok(before - listing.items().count()),
    }
}

fn check_classes(listing: &Listing) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for name in &listing.classes {
        if name.is_empty() || !names.insert(name) {
            return Err(format!("class name `{name}` is empty or stands twice"));
        }
    }
    for (what, side) in [("training", &listing.pool), ("test", &listing.test)] {
        let with_images: BTreeSet<u32> = side.iter().map(|item| item.class).collect();
        for (class, name) in (0..).zip(&listing.classes) {
            if !with_images.contains(&class) {
                return Err(format!("class `{name}` has no {what} image"));
            }
        }
    }
    Ok(())
}

/// The drawing of each image, if the manifest says where images come from.
fn groups(manifest: &Manifest, listing: &Listing) -> Result<BTreeMap<String, String>> {
    let Some(path) = &manifest.provenance else {
        return Ok(BTreeMap::new());
    };
    let path = manifest.resolve(path);
    let wrong = |reason: String| wrong(&path, reason);
    let rows: BTreeMap<_, _> = read(&path)?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut groups = BTreeMap::new();
    for item in listing.items() {
        let row = rows.get(&item.id);
        let row = row.ok_or_else(|| wrong(format!("no row for image `{}`", item.id)))?;
        let class = listing.classes.get(item.class as usize).map_or("", String::as_str);
        // Label files spell names in their own way: Pets, for one, marks cats by an upper-case initial.
        let plain = |name: &str| name.to_lowercase().replace('_', " ");
        if plain(&row.class) != plain(class) {
            return Err(wrong(format!(
                "image `{}` is `{}`, but its label is `{class}`",
                item.id, row.class
            )));
        }
        groups.insert(item.id.clone(), row.drawing.clone());
    }
    Ok(groups)
}

/// One row of a provenance file: CSV with a header, one row an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Path inside the dataset.
    pub id: String,
    /// Class name.
    pub class: String,
    /// The concept drawn.
    pub concept: String,
    /// Its designer: a family of drawings by one hand.
    pub family: String,
    /// The drawing: images of one drawing are not independent.
    pub drawing: String,
    /// Which side of the split it is for.
    pub role: String,
}

/// Reads a provenance file.
///
/// # Errors
/// [`Error::Labels`] naming the line.
pub fn read(path: &Path) -> Result<Vec<Provenance>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let rows = csv::Reader::from_reader(bytes.as_slice()).into_deserialize();
    rows.collect::<Result<_, _>>().map_err(|e| wrong(path, e.to_string()))
}

/// Facts about an image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Facts {
    /// Lower-case hex SHA-256 of the encoded file.
    pub sha256: String,
    /// Size of the encoded file.
    pub bytes: u64,
    pub width: u32,
    pub height: u32,
    /// Kind of pixels in the file: `L` is grey, `P` a palette, the others are named by their channels.
    pub mode: String,
    /// See [`overlap::dhash`].
    pub dhash: u64,
    /// The orientation that EXIF or XMP states, 2 to 8, where that is not upright.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<u8>,
    /// The file's state when it was looked at.
    pub stamp: Stamp,
}

impl Facts {
    /// True if both are of the same image, whatever was done to its file.
    pub(crate) fn same_image(&self, other: &Self) -> bool {
        let stamp = self.stamp.clone();
        *self == Self { stamp, ..other.clone() }
    }
}

/// Reads an image, which is decoded by these rules; `None` when there is none. Width and height are those of the upright
/// picture.
///
/// # Errors
/// [`Error::Image`] when it cannot be decoded, [`Error::Io`] when it cannot be read.
pub(crate) fn inspect(path: &Path, id: &str, decoding: Decoding) -> Result<Option<Facts>> {
    // Before the bytes are read: a change meanwhile is seen the next time.
    let stamp = match Stamp::of(path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let Some(bytes) = read_if_present(path)? else {
        return Ok(None);
    };
    let pixels = decoding.decode(&bytes, id)?;
    let turn = ::image::guess_format(&bytes)
        .ok()
        .and_then(|format| orientation(&bytes, format));
    Ok(Some(Facts {
        sha256: hex(&Sha256::digest(&bytes)),
        bytes: bytes.len() as u64,
        width: pixels.width(),
        height: pixels.height(),
        mode: mode_of(&bytes),
        dhash: overlap::dhash(&pixels),
        orientation: turn.map(|turn| turn.to_exif()),
        stamp,
    }))
}

/// Kind of pixels as Pillow names it, from the header of a file that was decoded.
fn mode_of(bytes: &[u8]) -> String {
    let at = |i: usize| bytes.get(i).copied().unwrap_or_default();
    let named = match bytes {
        [0x89, b'P', b'N', b'G', ..] => {
            let kind = match at(25) {
                0 => "L",
                3 => "P",
                4 => "LA",
                6 => "RGBA",
                _ => "RGB",
            };
            // Bits per channel, where they are more than usual.
            let bits = if at(24) == 16 { ";16" } else { "" };
            return format!("{kind}{bits}");
        }
        [0xff, 0xd8, ..] => match jpeg_components(bytes) {
            Some(1) => "L",
            Some(4) => "CMYK",
            _ => "RGB",
        },
        [b'G', b'I', b'F', ..] => "P",
        [b'B', b'M', ..] => match u16::from_le_bytes([at(28), at(29)]) {
            1..=8 => "P",
            32 => "RGBA",
            _ => "RGB",
        },
        // A lossless file has a bit for alpha after its signature and sizes, an extended one in its flags.
        [b'R', b'I', b'F', b'F', ..] => match bytes.get(12..16) {
            Some(b"VP8L") if at(24) & 0x10 != 0 => "RGBA",
            Some(b"VP8X") if at(20) & 0x10 != 0 => "RGBA",
            _ => "RGB",
        },
        [b'q', b'o', b'i', b'f', ..] if at(12) == 4 => "RGBA",
        _ => "RGB",
    };
    named.to_owned()
}

/// Number of components in a JPEG's frame header (ITU-T T.81, B.2.2).
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    let mut at = 2;
    loop {
        match bytes.get(at..at + 2)? {
            [0xff, 0xff] => at += 1,
            [0xff, 0x01 | 0xd0..=0xd8] => at += 2,
            // Every frame header but the tables that share its range of markers.
            [0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf] => return bytes.get(at + 9).copied(),
            [0xff, _] => {
                let length = [*bytes.get(at + 2)?, *bytes.get(at + 3)?];
                at += 2 + usize::from(u16::from_be_bytes(length)).max(2);
            }
            _ => return None,
        }
    }
}

/// All images, or the first failure, which then also names the other images that cannot be decoded.
fn all_or_first_error<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut images = Vec::with_capacity(results.len());
    let mut first = None;
    let mut others = Vec::new();
    for result in results {
        match (result, &first) {
            (Ok(image), _) => images.push(image),
            (Err(error), None) => first = Some(error),
            (Err(Error::Image { image, .. }), Some(_)) => others.push(image),
            (Err(_), Some(_)) => {}
        }
    }
    match first {
        None => Ok(images),
        Some(Error::Image { image, reason }) if !others.is_empty() => Err(Error::Image {
            image,
            reason: format!("{reason} (nor can {})", quoted(others)),
        }),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use ::image::{ExtendedColorType as Color, ImageEncoder as _, codecs};

    use super::*;

    #[test]
    fn modes_are_those_of_the_file_not_of_its_pixels() {
        let png = |pixels: &[u8], color| {
            let mut bytes = Vec::new();
            codecs::png::PngEncoder::new(&mut bytes)
                .write_image(pixels, 1, 1, color)
                .unwrap();
            mode_of(&bytes)
        };
        assert_eq!(png(&[1], Color::L8), "L");
        assert_eq!(png(&[1, 2], Color::La8), "LA");
        assert_eq!(png(&[1, 2, 3, 4], Color::Rgba8), "RGBA");
        assert_eq!(png(&[1, 2, 3, 4, 5, 6], Color::Rgb16), "RGB;16");
        let jpeg = |pixels: &[u8], color| {
            let mut bytes = Vec::new();
            codecs::jpeg::JpegEncoder::new(&mut bytes)
                .write_image(pixels, 1, 1, color)
                .unwrap();
            mode_of(&bytes)
        };
        assert_eq!(jpeg(&[1], Color::L8), "L");
        assert_eq!(jpeg(&[1, 2, 3], Color::Rgb8), "RGB");
        assert_eq!(mode_of(include_bytes!("../../tests/fixtures/images/cmyk.jpg")), "CMYK");
        let mut webp = Vec::new();
        codecs::webp::WebPEncoder::new_lossless(&mut webp)
            .write_image(&[1, 2, 3, 4], 1, 1, Color::Rgba8)
            .unwrap();
        assert_eq!(mode_of(&webp), "RGBA");
        assert_eq!(mode_of(b"GIF89a"), "P");
        assert_eq!(mode_of(b"\xff\xd8\xff"), "RGB");
    }
}
