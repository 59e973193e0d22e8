//! Small datasets in the official forms, with images of one colour each.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use image::{ExtendedColorType, ImageEncoder as _, codecs};
use kshot::data;
use kshot::data::Dataset;
use kshot::error::{Error, Result};
use sha2::{Digest as _, Sha256};

/// A datasets folder with one manifest, and a cache beside it.
pub(crate) struct Fixture {
    pub folder: tempfile::TempDir,
    pub manifest: String,
}

impl Fixture {
    /// `extra`: further lines before the `[[file]]` tables.
    pub(crate) fn new(layout: &str, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("datasets")).unwrap();
        let manifest = format!(
            "name = \"toy\"\ntitle = \"Toy\"\nlayout = \"{layout}\"\nlicence = \"none\"\ncitation = \"nobody\"\n{extra}\n"
        );
        Self { folder, manifest }
    }

    /// Adds a file with its true size and hash.
    pub(crate) fn file(self, role: &str, name: &str, bytes: &[u8]) -> Self {
        let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        self.file_said_to_be(role, name, bytes, bytes.len(), &hash)
    }

    pub(super) fn file_said_to_be(mut self, role: &str, name: &str, bytes: &[u8], size: usize, sha256: &str) -> Self {
        std::fs::write(self.datasets().join(name), bytes).unwrap();
        write!(
            self.manifest,
            "[[file]]\nrole = \"{role}\"\nname = \"{name}\"\npath = \"{name}\"\nsize = {size}\nsha256 = \"{sha256}\"\n"
        )
        .unwrap();
        self
    }

    pub(super) fn expecting(mut self, classes: usize, pool: usize, test: usize) -> Self {
        write!(
            self.manifest,
            "[expect]\nclasses = {classes}\npool = {pool}\ntest = {test}\n"
        )
        .unwrap();
        self
    }

    pub(crate) fn datasets(&self) -> PathBuf {
        self.folder.path().join("datasets")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(super) fn write_manifest(&self) {
        std::fs::write(self.datasets().join("toy.toml"), &self.manifest).unwrap();
    }

    pub(crate) fn open(&self) -> Result<Dataset> {
        self.write_manifest();
        data::open("toy", &self.datasets(), &self.cache())
    }

    /// Opens a dataset that must not open, and checks that nothing of it stays in the cache.
    #[track_caller]
    pub(super) fn error(&self) -> Error {
        let error = self.open().unwrap_err();
        assert_eq!(self.kept(), [] as [&str; 0], "left in the cache after: {error}");
        assert!(error.hint().is_some(), "no remedy for: {error}");
        error
    }

    /// The error's message with the temporary folder's name taken out.
    #[track_caller]
    pub(super) fn message(&self) -> String {
        self.error()
            .to_string()
            .replace(self.folder.path().canonicalize().unwrap().to_str().unwrap(), "[TMP]")
    }

    /// What the cache holds of this dataset, without the lock and the list of verified files.
    pub(super) fn kept(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.cache().join("datasets/toy")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock" && name != "verified.json");
        names.sort();
        names
    }
}

/// `id class` of each image, for comparison.
pub(crate) fn labels(images: &[data::LabelledImage]) -> Vec<String> {
    images
        .iter()
        .map(|image| format!("{} {}", image.id, image.class))
        .collect()
}

/// An 8×8 PNG of one colour.
pub(super) fn png(colour: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = codecs::png::PngEncoder::new(&mut bytes);
    encoder
        .write_image(&[colour; 192], 8, 8, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// An 8×8 JPEG of one colour.
pub(crate) fn jpeg(colour: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    encoder
        .write_image(&[colour; 192], 8, 8, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar of plain files; names are taken as they are, whatever they hold.
pub(crate) fn tar<N: AsRef<str>, B: AsRef<[u8]>>(files: impl IntoIterator<Item = (N, B)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let header = tar_header(name.as_ref(), tar::EntryType::Regular, bytes.as_ref().len());
        builder.append(&header, bytes.as_ref()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn tar_header(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_cksum();
    header
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Writes files below a folder.
pub(super) fn write_tree(root: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// MATLAB 5 files as the real label files are written: numbers in the narrowest integer type, small
/// elements, one unpadded zlib element per variable.
pub(super) mod mat5 {
    use super::*;

    pub(crate) fn element(kind: u16, data: &[u8]) -> Vec<u8> {
        if (1..=4).contains(&data.len()) {
            let mut bytes = [kind.to_le_bytes(), (data.len() as u16).to_le_bytes()].concat();
            bytes.extend(data);
            bytes.resize(8, 0);
            bytes
        } else {
            full_element(kind, data)
        }
    }

    pub(crate) fn full_element(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = [u32::from(kind).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// A `miMATRIX` of a class: flags, dimensions, name, content.
    pub(crate) fn matrix(class: u32, dims: &[i32], name: &str, content: &[u8]) -> Vec<u8> {
        let flags: Vec<u8> = [class, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims: Vec<u8> = dims.iter().flat_map(|v| v.to_le_bytes()).collect();
        let body = [
            element(6, &flags),
            element(5, &dims),
            element(1, name.as_bytes()),
            content.to_vec(),
        ]
        .concat();
        let mut bytes = [14_u32.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
        bytes.extend(body);
        bytes
    }

    pub(crate) fn numbers(name: &str, values: &[u32]) -> Vec<u8> {
        let most = values.iter().max().copied().unwrap_or(0);
        let (kind, width) = if most < 256 {
            (2, 1)
        } else if most < 65536 {
            (4, 2)
        } else {
            (6, 4)
        };
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect();
        matrix(6, &[1, values.len() as i32], name, &element(kind, &data))
    }

    pub(crate) fn text(value: &str) -> Vec<u8> {
        matrix(4, &[1, value.len() as i32], "", &element(16, value.as_bytes()))
    }

    pub(crate) fn cells(name: &str, items: &[Vec<u8>]) -> Vec<u8> {
        matrix(1, &[1, items.len() as i32], name, &items.concat())
    }

    pub(crate) fn structs(name: &str, fields: &[&str], rows: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let slot = |field: &&str| {
            let mut slot = field.as_bytes().to_vec();
            slot.resize(8, 0);
            slot
        };
        let names: Vec<u8> = fields.iter().flat_map(slot).collect();
        let content = [
            element(5, &8_i32.to_le_bytes()),
            full_element(1, &names),
            rows.concat().concat(),
        ]
        .concat();
        matrix(2, &[1, rows.len() as i32], name, &content)
    }

    pub(crate) fn header() -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".to_vec();
        bytes.resize(116, b' ');
        bytes.extend([0; 8]);
        bytes.extend(b"\x00\x01IM");
        bytes
    }

    pub(crate) fn file(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = header();
        for variable in variables {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(variable).unwrap();
            let data = encoder.finish().unwrap();
            bytes.extend([15_u32.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat());
            bytes.extend(data);
        }
        bytes
    }
}
