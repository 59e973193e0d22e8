//! The readers of files from elsewhere, each with small valid files to damage.

use std::fs;
use std::path::Path;

use image::{ExtendedColorType, ImageEncoder as _, ImageFormat};
use kshot::data::index;
use kshot::data::layout::table::{Table, read_table};
use kshot::formats::mat::MatFile;
use kshot::formats::{archive, image as images, parquet};
use kshot::manifest::{Manifest, TableForm};

use super::{lists, models, results};
use crate::data::fixture::{gz, tar, zip};
use crate::hostile::made::{encoded, hex, mat, picture};

/// A way into kshot.
pub struct Reader {
    pub name: &'static str,
    /// Valid files.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Brings checksums in order, so that damage gets behind them; done to every other file.
    pub repair: fn(&mut Vec<u8>),
    /// Reads a file; whether it was accepted. The folder is empty, and has to be so afterwards.
    pub read: fn(&[u8], &Path) -> bool,
}

fn nothing(_: &mut Vec<u8>) {}

/// A label file that is read from disk.
pub fn from_disk<T, E>(bytes: &[u8], folder: &Path, name: &str, read: impl Fn(&Path) -> Result<T, E>) -> bool {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let accepted = read(&path).is_ok();
    fs::remove_file(path).unwrap();
    accepted
}

fn table(path: &Path) -> kshot::error::Result<Table> {
    read_table(path, &TableForm::default())
}

fn image(bytes: &[u8], _: &Path) -> bool {
    images::decode(bytes, "fuzzed").is_ok()
}

/// Unpacks, and looks for anything outside the target or other than files and folders in it.
fn unpack(bytes: &[u8], folder: &Path) -> bool {
    let (file, target) = (folder.join("archive"), folder.join("target"));
    fs::write(&file, bytes).unwrap();
    fs::create_dir(&target).unwrap();
    let accepted = archive::unpack(&file, &target).is_ok();
    plain(&target);
    fs::remove_dir_all(target).unwrap();
    fs::remove_file(file).unwrap();
    accepted
}

fn plain(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        assert!(
            kind.is_file() || kind.is_dir(),
            "`{}` is neither file nor folder",
            entry.path().display()
        );
        if kind.is_dir() {
            plain(&entry.path());
        }
    }
}

fn files() -> Vec<u8> {
    tar::<_, &[u8]>([
        ("train/a/1.jpg", b"first".as_slice()),
        ("train/b/2.jpg", b"second"),
        ("./._x", b""),
    ])
}

/// The sum of each header, taken as long as headers follow each other.
#[expect(clippy::ptr_arg, reason = "all repairs have one signature")]
fn tar_sums(bytes: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + 512) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        if sum == 8 * u32::from(b' ') {
            header[148..156].fill(0);
            return;
        }
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok();
        let size = size.and_then(|octal| usize::from_str_radix(octal.trim_matches(['\0', ' ']), 8).ok());
        at += 512 + size.unwrap_or(0).min(1 << 20).next_multiple_of(512);
    }
}

/// What was damaged is taken for a tar, repaired and compressed.
fn packed_tar(bytes: &mut Vec<u8>) {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return;
    }
    tar_sums(bytes);
    *bytes = gz(bytes);
}

fn packed_in_zip(bytes: &mut Vec<u8>) {
    if !bytes.starts_with(b"PK") {
        packed_tar(bytes);
        *bytes = zip(&[("toy/inner.tar.gz", bytes), ("toy/list.txt", b"a b")]);
    }
}

/// The checksum of every chunk.
#[expect(clippy::ptr_arg, reason = "all repairs have one signature")]
fn png_sums(bytes: &mut Vec<u8>) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(summed) = bytes.get(at + 4..(at + 8).saturating_add(length)) else {
            return;
        };
        let mut crc = flate2::Crc::new();
        crc.update(summed);
        let Some(sum) = bytes.get_mut(at + 8 + length..at + 12 + length) else {
            return;
        };
        sum.copy_from_slice(&crc.sum().to_be_bytes());
        at += 12 + length;
    }
}

/// What was damaged is taken for variables and compressed.
fn packed_variables(bytes: &mut Vec<u8>) {
    if let Some(variables) = bytes.get(128..) {
        *bytes = mat::compressed(&[variables.to_vec()]);
    }
}

fn mat_seeds() -> Vec<Vec<u8>> {
    let variables = [
        mat::numbers("labels", &[1, 2, 77]),
        mat::cells("class_names", &[mat::text("Ram C/V"), mat::text("")]),
        mat::structs("annotations"),
    ];
    let official = include_bytes!("../../../../datasets/mini/mini-flowers/setid.mat");
    vec![
        mat::file(&variables),
        mat::file(&variables[1..]),
        mat::compressed(&variables),
        official.to_vec(),
    ]
}

fn jpeg_seeds() -> Vec<Vec<u8>> {
    let mut progressive = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    progressive.set_size(9, 7);
    progressive.set_progressive_mode();
    let mut started = progressive.start_compress(Vec::new()).unwrap();
    started.write_scanlines(picture().as_raw()).unwrap();
    vec![
        encoded(ImageFormat::Jpeg),
        started.finish().unwrap(),
        include_bytes!("../../../fixtures/images/cmyk.jpg").to_vec(),
        include_bytes!("../../../fixtures/images/phone.jpg").to_vec(),
    ]
}

/// Whole, and a screen of nothing.
fn gif_seeds() -> Vec<Vec<u8>> {
    let whole = encoded(ImageFormat::Gif);
    let mut empty = whole.clone();
    empty[6..10].fill(0);
    vec![whole, empty]
}

fn png_seeds() -> Vec<Vec<u8>> {
    let written = |pixels: &[u8], colour| {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.write_image(pixels, 2, 2, colour).unwrap();
        bytes
    };
    vec![
        encoded(ImageFormat::Png),
        written(&[1, 2, 3, 4], ExtendedColorType::L8),
        written(&[9; 32], ExtendedColorType::Rgba16),
        include_bytes!("../../../fixtures/images/phone.png").to_vec(),
    ]
}

/// Made by Pillow: lossy, and lossy with alpha.
fn webp_seeds() -> Vec<Vec<u8>> {
    vec![
        encoded(ImageFormat::WebP),
        include_bytes!("../../../fixtures/images/phone.webp").to_vec(),
        hex(
            "52494646540000005745425056503820480000001002009d012a0900070004006825b00274ba0002732039b1\
             c000feece0a62a4ec063f7e59e5b500bad6a74e23acba24d64b78cda9d636409fea6feef9f94345c2228e6ab\
             bd000000",
        ),
        hex(
            "524946466400000057454250565038580a00000010000000080000060000414c50480a0000000107d0ce8808\
             4444ff035650382034000000d001009d012a0900070004006825b00274010ebb058e0000fee9fd2aed106fe1\
             9c24ce08fc6427f937953f6c0836236c83000000",
        ),
    ]
}

fn utf_16() -> Vec<u8> {
    let text = "path,label\na.jpg,caf\u{e9}\n";
    [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn text(bytes: &[&str]) -> Vec<Vec<u8>> {
    bytes.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const MANIFEST: &str = r#"name = "x"
title = "X"
layout = "oxford-flowers"
licence = "none"
citation = "nobody"
skip = ["jpg/image_00001.jpg"]
class_names = ["pink primrose", "globe thistle"]
holdout = 0.3
[[file]]
role = "images"
name = "102flowers.tgz"
urls = ["https://example.org/102flowers.tgz"]
size = 3
md5 = "5c4f3ee8e5d25df40f4fd59a7f44e54c"
[[file]]
role = "labels"
name = "imagelabels.mat"
path = "imagelabels.mat"
size = 502
sha256 = "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"
[[file]]
role = "splits"
name = "setid.mat"
size = 14989
md5 = "a5357ecc9cb78c4bef273ce3793fc85c"
[hub]
repo = "owner/name"
revision = "main"
[[hub.shard]]
path = "data/train-00000-of-00001.parquet"
size = 5
[rename]
"pink primrose" = "primrose"
[expect]
classes = 2
pool = 3
test = 4
"#;

pub const READERS: &[Reader] = &[
    Reader {
        name: "mat",
        seeds: mat_seeds,
        repair: packed_variables,
        read: |bytes, _| MatFile::parse(bytes).is_ok(),
    },
    Reader {
        name: "tar",
        seeds: || vec![files()],
        repair: tar_sums,
        read: unpack,
    },
    Reader {
        name: "tar_gz",
        seeds: || vec![files(), gz(&files())],
        repair: packed_tar,
        read: unpack,
    },
    Reader {
        name: "zip",
        seeds: || {
            vec![zip(&[
                ("train/a/1.jpg", b"first".as_slice()),
                ("train/b/", b""),
                ("test/a/2.jpg", &[7; 300]),
            ])]
        },
        repair: nothing,
        read: unpack,
    },
    Reader {
        name: "tar_gz_in_zip",
        seeds: || vec![files(), zip(&[("toy/inner.tgz", &gz(&files()))])],
        repair: packed_in_zip,
        read: unpack,
    },
    Reader {
        name: "jpeg",
        seeds: jpeg_seeds,
        repair: nothing,
        read: image,
    },
    Reader {
        name: "png",
        seeds: png_seeds,
        repair: png_sums,
        read: image,
    },
    Reader {
        name: "gif",
        seeds: gif_seeds,
        repair: nothing,
        read: image,
    },
    Reader {
        name: "bmp",
        seeds: || vec![encoded(ImageFormat::Bmp)],
        repair: nothing,
        read: image,
    },
    Reader {
        name: "webp",
        seeds: webp_seeds,
        repair: nothing,
        read: image,
    },
    Reader {
        name: "table_csv",
        seeds: || {
            text(&[
                "path,label,split\na.jpg,\"x, y\",train\nb/c.jpg,z,test\n",
                "label,path\n\u{e9},a.jpg\n",
                "file_name;class\na.jpg;x\nb.jpg;-1\n",
                "{\"file_name\": \"a.jpg\", \"label\": 1, \"split\": \"train\"}\n{\"file_name\": \"b.jpg\", \"label\": null, \"split\": \"test\"}\n",
            ])
            .into_iter()
            .chain([utf_16()])
            .collect()
        },
        repair: nothing,
        read: |bytes, folder| from_disk(bytes, folder, "t.csv", table),
    },
    Reader {
        name: "table_parquet",
        seeds: || {
            let paths = [Some("a/1.jpg"), Some("b/2.jpg"), Some("b/3.jpg")];
            let labels = [Some("cat"), Some("dog"), Some("cat")];
            let sides = [Some("train"), Some("test"), Some("val")];
            let made = [
                crate::import::parquet(&[("path", &paths), ("label", &labels)]),
                crate::import::parquet(&[("path", &paths), ("label", &labels), ("split", &sides)]),
            ];
            let written = crate::data::parquet_forms::files("table-")
                .into_iter()
                .map(|(_, bytes)| bytes);
            made.into_iter().chain(written).collect()
        },
        repair: nothing,
        read: |bytes, folder| from_disk(bytes, folder, "t.parquet", table),
    },
    Reader {
        name: "manifest",
        seeds: || text(&[MANIFEST]),
        repair: nothing,
        read: |bytes, folder| from_disk(bytes, folder, "x.toml", Manifest::read),
    },
    Reader {
        name: "provenance",
        seeds: || text(&["id,class,concept,family,drawing,role\na/1.jpg,a,cat,noto,noto:cat,pool\n"]),
        repair: nothing,
        read: |bytes, folder| from_disk(bytes, folder, "p.csv", index::read),
    },
    Reader {
        name: "hub_parquet",
        seeds: || {
            let row = |i: u8, label| (Some(encoded(ImageFormat::Gif)), format!("{i}.gif"), Some(label));
            let shard = |rows: &[_]| crate::data::hub::shard(rows, &["cat", "dog"]);
            let made = [shard(&[row(0, 1), row(1, 0), row(2, 1)]), shard(&[row(3, 0)])];
            // Every codec and encoding, but for the labels that are called otherwise.
            let written = crate::data::parquet_forms::files("images-").into_iter();
            let written = written
                .filter(|(name, _)| name != "images-boolean.parquet")
                .map(|(_, bytes)| bytes);
            made.into_iter().chain(written).collect()
        },
        repair: nothing,
        read: |bytes, folder| {
            let columns = parquet::Columns {
                image: "image",
                label: "label",
            };
            from_disk(bytes, folder, "fuzzed.parquet", |path| {
                parquet::read(path, columns, &mut |_| Ok(()))
            })
        },
    },
    Reader {
        name: "coop_split",
        seeds: lists::split_files,
        repair: nothing,
        read: lists::read_split_file,
    },
    Reader {
        name: "few_shot_index",
        seeds: lists::index_files,
        repair: nothing,
        read: lists::read_index_file,
    },
    Reader {
        name: "dataset_index",
        seeds: lists::indices,
        repair: nothing,
        read: lists::read_index,
    },
    Reader {
        name: "claim",
        seeds: results::claims,
        repair: nothing,
        read: results::read_claim,
    },
    Reader {
        name: "config",
        seeds: results::configs,
        repair: nothing,
        read: results::read_config,
    },
    Reader {
        name: "config_override",
        seeds: results::overrides,
        repair: nothing,
        read: results::read_override,
    },
    Reader {
        name: "ledger",
        seeds: results::ledgers,
        repair: nothing,
        read: results::read_ledger,
    },
    Reader {
        name: "curve_table",
        seeds: results::curves,
        repair: nothing,
        read: results::read_curve,
    },
    Reader {
        name: "noise",
        seeds: results::noises,
        repair: nothing,
        read: results::read_noise,
    },
    Reader {
        name: "model_config",
        seeds: models::configs,
        repair: nothing,
        read: models::read_config,
    },
    Reader {
        name: "tokenizer",
        seeds: models::tokenizers,
        repair: nothing,
        read: models::read_tokenizer,
    },
    Reader {
        name: "image_processor",
        seeds: models::processors,
        repair: nothing,
        read: models::read_processor,
    },
    Reader {
        name: "nested_processor",
        seeds: models::nested_processors,
        repair: nothing,
        read: models::read_nested_processor,
    },
    Reader {
        name: "adapter_config",
        seeds: models::adapter_configs,
        repair: nothing,
        read: models::read_adapter_config,
    },
    Reader {
        name: "adapter_weights",
        seeds: models::adapter_weights,
        repair: nothing,
        read: models::read_adapter_weights,
    },
];
