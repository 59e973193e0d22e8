//! Encoded images to the pixels that a vision-language model is given: decode, then Lanczos to 480 pixels at most.
//!
//! `cargo bench --bench images -- time SECONDS FILE…` prints for each file the CPU milliseconds of one image on one thread, and
//! those of taking it from the cache of shrunk images, if it is kept there, and of its SHA-256; `… -- pixels OUT FILE…` writes the pixels instead, to
//! `OUT/<name>.rgb`, behind width and height as two little-endian `u32`. `benches/images_pillow.py` does both, beside Pillow in
//! the same run.

#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::path::{Path, PathBuf};

use image::RgbImage;
use kshot::data::LabelledImage;
use kshot::error::{Error, Result};
use kshot::example::resize::shrink;
use kshot::example::{ImageCache, cached};
use kshot::formats::image::decode;
use kshot::fs::hash::Stamp;
use sha2::{Digest as _, Sha256};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The default of a writing learner.
const LONGEST: u32 = 480;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match arguments.as_slice() {
        [what, folder, files @ ..] if what == "pixels" => files
            .iter()
            .try_for_each(|file| write(Path::new(file), Path::new(folder))),
        [what, seconds, files @ ..] if what == "time" => {
            let seconds = seconds.parse().unwrap_or(1.0);
            files.iter().try_for_each(|file| measure(file.into(), seconds))
        }
        _ => {
            println!("no images named: see benches/images_pillow.py");
            Ok(())
        }
    }
}

fn made(bytes: &[u8], name: &str) -> Result<RgbImage> {
    let whole = decode(bytes, name)?;
    let is_small = whole.width().max(whole.height()) <= LONGEST;
    Ok(if is_small { whole } else { shrink(&whole, LONGEST) })
}

fn write(file: &Path, folder: &Path) -> Result<()> {
    let image = made(&read(file)?, &file.display().to_string())?;
    let size = [image.width().to_le_bytes(), image.height().to_le_bytes()].concat();
    let out = folder.join(file.with_extension("rgb").file_name().unwrap_or_default());
    std::fs::write(&out, [&size, image.as_raw().as_slice()].concat()).map_err(Error::io("write", &out))
}

fn measure(path: PathBuf, seconds: f64) -> Result<()> {
    let (bytes, name) = (read(&path)?, path.display().to_string());
    let plain = milliseconds(seconds, || made(&bytes, &name))?;
    let folder = path.with_extension("cache");
    let cache = ImageCache::new(&folder, Some(1.0));
    let image = LabelledImage {
        id: name.clone(),
        class: 0,
        sha256: Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        // What is cached serves for a file that is known to be untouched.
        stamp: Stamp::of(&path).ok(),
        path,
        ..LabelledImage::default()
    };
    let shrunk = |whole: RgbImage| shrink(&whole, LONGEST);
    let kept = milliseconds(seconds / 2.0, || cached(cache.as_ref(), &image, "bench", shrunk))?;
    let hashed = milliseconds(seconds / 2.0, || Ok(Sha256::digest(&bytes)))?;
    println!("{name}\t{plain:.5}\t{}\t{kept:.5}\t{hashed:.5}", folder.exists());
    Ok(())
}

/// CPU milliseconds of one call, after one that does not count.
fn milliseconds<T>(seconds: f64, mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    work()?;
    let (start, mut rounds) = (cpu_seconds()?, 0);
    loop {
        std::hint::black_box(work()?);
        rounds += 1;
        let spent = cpu_seconds()? - start;
        if spent >= seconds {
            return Ok(1e3 * spent / f64::from(rounds));
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(Error::io("read", file))
}

/// Seconds that this thread has run, whatever else the machine does.
fn cpu_seconds() -> Result<f64> {
    let path = Path::new("/proc/thread-self/schedstat");
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse::<f64>().ok());
    Ok(nanoseconds.unwrap_or_default() / 1e9)
}
