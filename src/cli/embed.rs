//! `kshot embed`: features of images, one or a million.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use clap::Args;
use serde_json::json;

use super::images::{DecodedImage, Images, batches, decode_ahead};
use super::output;
use crate::checkpoint::repository;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::experiment::plan::Places;
use crate::learner::View;
use crate::learner::features::Frozen;
use crate::nn::DeviceSpec;
use crate::process::temporary;

/// DINOv2 features of images: the CLS token and the mean patch token after the final layer norm.
///
/// Images stream through: memory does not grow with their number. One that cannot be read ends it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot embed --model datasets/mini/models/micro-dinov2 photo.jpg
  kshot embed --model datasets/mini/models/micro-dinov2 --npy features.npy photos/")]
pub(super) struct Arguments {
    /// DINOv2: a hub-layout folder, or owner/name of one that `kshot model fetch` got.
    #[arg(long, value_name = "DIR|ID")]
    model: PathBuf,
    /// Write one array, (images, 2 D) f32, each row CLS then mean patch, instead of JSON lines on stdout.
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Turn photographs as their EXIF orientation says; `false` is for parity with torchvision's loaders.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    exif: bool,
    #[command(flatten)]
    images: Images,
}

/// Images embedded at once.
const BATCH: usize = 64;

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let frozen = Arc::new(Frozen::load(
        &repository::locate(&arguments.model, &Places::from_env().home)?,
        &DeviceSpec::best()?,
    )?);
    let mut array = arguments.npy.as_deref().map(Array::create).transpose()?;
    thread::scope(|scope| {
        let batches = batches(arguments.images.paths(), BATCH);
        for batch in decode_ahead(scope, batches, frozen.clone(), arguments.exif) {
            let seen = batch?.into_iter().map(|DecodedImage { seen, .. }| seen);
            let (images, views): (Vec<LabelledImage>, Vec<View>) =
                seen.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let rows = frozen.features_seen(&views)?;
            match &mut array {
                Some(array) => array.append(&rows)?,
                None => output(&lines(&images, &rows))?,
            }
        }
        Ok::<(), Error>(())
    })?;
    array.map_or(Ok(()), Array::finish)
}

fn lines(images: &[LabelledImage], rows: &[Vec<f32>]) -> String {
    let line = |(image, row): (&LabelledImage, &Vec<f32>)| {
        let (cls, mean) = row.split_at(row.len() / 2);
        let object = json!({"image": image.id, "sha256": image.sha256, "cls": cls, "mean_patch": mean});
        format!("{object}\n")
    };
    images.iter().zip(rows).map(line).collect()
}

/// Bytes of the header of an array, whatever its shape.
const HEADER: usize = 128;

/// An array of f32 that is written row by row: NPY 1.0 (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>),
/// whose header, which holds the number of rows, comes last. Under its name it is there when it is whole.
struct Array {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    rows: usize,
    width: usize,
}

impl Array {
    fn create(path: &Path) -> Result<Self> {
        let partial = temporary(path, "partial");
        let file = File::create(&partial).map_err(Error::io("write", path))?;
        let mut array = Self {
            path: path.to_path_buf(),
            partial,
            file: BufWriter::new(file),
            rows: 0,
            width: 0,
        };
        array.write(&[0; HEADER])?;
        Ok(array)
    }

    fn append(&mut self, rows: &[Vec<f32>]) -> Result<()> {
        for row in rows {
            (self.rows, self.width) = (self.rows + 1, row.len());
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.write(&bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    fn finish(mut self) -> Result<()> {
        let header = header(self.rows, self.width);
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(Error::io("write", &self.path))?;
        self.write(&header)?;
        self.file.flush().map_err(Error::io("write", &self.path))?;
        std::fs::rename(&self.partial, &self.path).map_err(Error::io("write", &self.path))
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // What was not finished is of no use; what was has another name by now.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn header(rows: usize, width: usize) -> Vec<u8> {
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic, version and length of the rest, which ends with a line break.
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((HEADER - 10) as u16).to_le_bytes());
    header.extend(shape.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_length_for_any_shape() {
        for (rows, width) in [(0, 0), (3, 2048), (usize::MAX, 16384)] {
            let header = header(rows, width);
            assert_eq!((header.len(), header.last()), (HEADER, Some(&b'\n')));
            assert!(String::from_utf8_lossy(&header).contains(&format!("({rows}, {width}), }}  ")));
        }
    }
}
