//! Encoded images to the pixels that a vision-language model is given: decode, then Lanczos to 480 pixels at most.
//!
//! `cargo bench --bench images -- SECONDS FILE…` prints for each file the CPU milliseconds of one image on one thread;
//! `… -- pixels OUT FILE…` writes the pixels instead, to `OUT/<name>.rgb`, behind width and height as two little-endian
//! `u32`. `benches/images_pillow.py` does both, beside Pillow in the same run.

#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::path::Path;

use image::RgbImage;
use kshot::data::image::decode;
use kshot::error::{Error, Result};
use kshot::example::resize::shrink;

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
        [seconds, files @ ..] => {
            let seconds = seconds.parse().unwrap_or(1.0);
            files.iter().try_for_each(|file| measure(Path::new(file), seconds))
        }
        [] => {
            println!("no images named: see benches/images_pillow.py");
            Ok(())
        }
    }
}

fn seen(bytes: &[u8], name: &str) -> Result<RgbImage> {
    Ok(shrink(&decode(bytes, name)?, LONGEST))
}

fn write(file: &Path, folder: &Path) -> Result<()> {
    let image = seen(&read(file)?, &file.display().to_string())?;
    let size = [image.width().to_le_bytes(), image.height().to_le_bytes()].concat();
    let out = folder.join(file.with_extension("rgb").file_name().unwrap_or_default());
    std::fs::write(&out, [&size, image.as_raw().as_slice()].concat()).map_err(Error::io("write", &out))
}

fn measure(file: &Path, seconds: f64) -> Result<()> {
    let (bytes, name) = (read(file)?, file.display().to_string());
    seen(&bytes, &name)?;
    let (start, mut rounds) = (cpu_seconds()?, 0);
    loop {
        std::hint::black_box(seen(&bytes, &name)?);
        rounds += 1;
        let spent = cpu_seconds()? - start;
        if spent >= seconds {
            println!("{name}\t{:.5}", 1e3 * spent / f64::from(rounds));
            return Ok(());
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
