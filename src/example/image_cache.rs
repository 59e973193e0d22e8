//! Images as a model is given them, kept on disk: a photograph is decoded and shrunk once, not once an epoch and sweep.
//!
//! `<folder>/<first two hex digits>/<sha256 of the file><rules of decoding>-<settings>-v<version>.qoi`: QOI (<https://qoiformat.org>), which is lossless, with
//! the CRC-32 of its bytes behind it. Entries are written to a temporary name and renamed, so that any number of processes may
//! share a folder; one that is damaged is removed and made again. A full or read-only disk ends keeping, not the run.

use std::fs::{self, File};
use std::io::{self, Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use image::{ImageFormat, RgbImage};

use crate::data::LabelledImage;
use crate::error::Result;
use crate::process::temporary;

/// Raised when the same file with the same settings would give other pixels.
/// 2: photographs are upright.
const VERSION: u32 = 2;
/// Default bound, and the share of the device that it may be at most.
const BOUND: u64 = 20_000_000_000;
const SHARE: u64 = 10;
/// An entry counts as used when it is read, but its time is not set anew more often than this.
const FRESH: Duration = Duration::from_secs(3600);
/// So often within the bound's worth of bytes a process looks whether the folder is too large.
const LOOKS: u64 = 32;
/// Pixels in bytes from which on an image is worth keeping: a small one is decoded as fast as an entry is read.
const WORTH: usize = 3 * 320 * 240;
/// Bytes of the checksum behind the image.
const TRAILER: usize = 4;

/// Shrunk images on disk.
#[derive(Debug)]
pub struct ImageCache {
    folder: PathBuf,
    /// Bytes that it may hold.
    bound: u64,
    /// Written since this process last looked at the whole folder; from the start as if it were time to look.
    written: AtomicU64,
    ended: AtomicBool,
}

impl ImageCache {
    /// A cache in `folder`, made at the first write, of at most `gigabytes` (10⁹ bytes); by default 20, and no more than a
    /// tenth of the device. With 0 there is none.
    #[must_use]
    pub fn new(folder: &Path, gigabytes: Option<f64>) -> Option<Self> {
        let bound = match gigabytes {
            Some(gigabytes) => (gigabytes * 1e9) as u64,
            None => BOUND.min(device_bytes(folder).map_or(BOUND, |bytes| bytes / SHARE)),
        };
        (bound > 0).then(|| Self {
            folder: folder.to_path_buf(),
            bound,
            written: AtomicU64::new(u64::MAX / 2),
            ended: AtomicBool::new(false),
        })
    }

    /// The entry of the file with this hash, preprocessed with these settings.
    fn get(&self, sha256: &str, settings: &str) -> Option<RgbImage> {
        let path = self.path(sha256, settings)?;
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let Some(image) = unpacked(&bytes) else {
            tracing::warn!("`{}` is damaged: it is removed and made again", path.display());
            drop(fs::remove_file(&path));
            return None;
        };
        // Only where it does not cost a write each time; a folder that is not ours may refuse.
        let used = file.metadata().and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > FRESH)) {
            drop(file.set_modified(SystemTime::now()));
        }
        Some(image)
    }

    /// Keeps an image, if that is possible.
    fn put(&self, sha256: &str, settings: &str, image: &RgbImage) {
        let Some(path) = self
            .path(sha256, settings)
            .filter(|_| !self.ended.load(Ordering::Relaxed))
        else {
            return;
        };
        if let Err(error) = self.write(&path, image)
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            let folder = self.folder.display();
            tracing::warn!("no more images are kept in `{folder}`: {error}");
        }
    }

    fn write(&self, path: &Path, image: &RgbImage) -> io::Result<()> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Qoi).map_err(io::Error::other)?;
        let mut bytes = bytes.into_inner();
        bytes.extend(checksum(&bytes));
        let size = bytes.len() as u64;
        if self.written.fetch_add(size, Ordering::Relaxed) >= self.bound / LOOKS {
            self.written.store(0, Ordering::Relaxed);
            self.evict()?;
        }
        let partial = temporary(path, "partial");
        let written = fs::create_dir_all(partial.parent().unwrap_or(&self.folder))
            .and_then(|()| File::create(&partial))
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            drop(fs::remove_file(&partial));
        }
        written
    }

    /// Removes what was not used for longest until nine tenths of the bound are left. One process at a time does so.
    fn evict(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join("lock"))?;
        if matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for folder in fs::read_dir(&self.folder)?
            .flatten()
            .filter(|entry| entry.path().is_dir())
        {
            for entry in fs::read_dir(folder.path())?.flatten() {
                // Another process may have removed or renamed it just now.
                let Ok(metadata) = entry.metadata() else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let left_over = entry.path().extension().is_some_and(|end| end == "partial");
                // One that another process writes just now is left to it.
                if !left_over {
                    entries.push((used, metadata.len(), entry.path()));
                } else if used.elapsed().is_ok_and(|age| age > FRESH) {
                    drop(fs::remove_file(entry.path()));
                }
            }
        }
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        if total <= self.bound - self.bound / LOOKS {
            return Ok(());
        }
        entries.sort();
        for (_, bytes, path) in entries {
            if total <= self.bound / 10 * 9 {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
        Ok(())
    }

    /// Path of an entry; `None` for an image without a hash.
    fn path(&self, sha256: &str, settings: &str) -> Option<PathBuf> {
        let hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let folder = hash.then(|| sha256.get(..2)).flatten()?;
        Some(
            self.folder
                .join(folder)
                .join(format!("{sha256}-{settings}-v{VERSION}.qoi")),
        )
    }
}

/// An image as `view` makes it of the decoded pixels; `settings` are all that `view` depends on. With a cache, what is smaller
/// than the image itself is kept, if that is of some size, so that neither decoding nor `view` is needed the next time.
///
/// # Errors
/// As [`LabelledImage::pixels`].
pub fn cached(
    cache: Option<&ImageCache>,
    image: &LabelledImage,
    settings: &str,
    view: impl FnOnce(RgbImage) -> RgbImage,
) -> Result<RgbImage> {
    let settings = &format!("{settings}{}", image.decoding.mark());
    // What is kept is of the bytes with this hash: it stands for the file as long as that is the one that was hashed.
    if let Some(cache) = cache
        && image.is_untouched()
        && let Some(kept) = cache.get(&image.sha256, settings)
    {
        return Ok(kept);
    }
    let whole = image.pixels()?;
    let size = whole.as_raw().len();
    let small = view(whole);
    if let Some(cache) = cache.filter(|_| size >= WORTH && small.as_raw().len() < size) {
        cache.put(&image.sha256, settings, &small);
    }
    Ok(small)
}

fn checksum(bytes: &[u8]) -> [u8; TRAILER] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn unpacked(bytes: &[u8]) -> Option<RgbImage> {
    let (image, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER)?)?;
    if checksum(image) != *trailer {
        return None;
    }
    let image = image::load_from_memory_with_format(image, ImageFormat::Qoi).ok()?;
    Some(image.into_rgb8())
}

/// Size of the device of a folder that may not be there yet.
fn device_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let device = rustix::fs::statvfs(there).ok()?;
    device.f_blocks.checked_mul(device.f_frsize)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::error::Error;
    use crate::formats::image::Decoding;
    use crate::fs::hash::Stamp;
    use crate::fs::hash::hex;

    fn hash(bytes: &[u8]) -> String {
        hex(&Sha256::digest(bytes))
    }

    fn labelled(folder: &Path, number: u8) -> LabelledImage {
        let path = folder.join(format!("{number}.png"));
        let noise = |x: u32, y: u32| image::Rgb([number, ((x * 37) ^ (y * 11)) as u8, (x * y) as u8]);
        RgbImage::from_fn(320, 240, noise).save(&path).unwrap();
        LabelledImage {
            id: number.to_string(),
            class: 0,
            sha256: hash(&fs::read(&path).unwrap()),
            stamp: Stamp::of(&path).ok(),
            path,
            ..LabelledImage::default()
        }
    }

    fn half(image: RgbImage) -> RgbImage {
        crate::example::resize::shrink(&image, 20)
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let folders = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let files = folders
            .filter(|path| path.is_dir())
            .flat_map(|path| fs::read_dir(path).unwrap().flatten());
        files.map(|entry| entry.path()).collect()
    }

    #[test]
    fn what_is_kept_is_what_was_made_as_long_as_the_file_is_the_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(&folder.path().join("images"), None).unwrap();
        let image = labelled(folder.path(), 1);
        let plain = cached(None, &image, "a", half).unwrap();
        assert_eq!(cached(Some(&cache), &image, "a", half).unwrap(), plain);
        let never = |_| panic!("decoded again");
        assert_eq!(cached(Some(&cache), &image, "a", never).unwrap(), plain);
        let as_stored = LabelledImage {
            decoding: Decoding {
                exif: false,
                mode: None,
            },
            ..image.clone()
        };
        for (other, settings) in [(&image, "b"), (&as_stored, "a")] {
            let mut decoded = false;
            let view = |whole| {
                decoded = true;
                half(whole)
            };
            cached(Some(&cache), other, settings, view).unwrap();
            assert!(decoded, "another entry");
        }
        // Other bytes of the same size, with the time of change that the file had.
        let (bytes, changed) = (
            fs::read(&image.path).unwrap(),
            fs::metadata(&image.path).unwrap().modified().unwrap(),
        );
        let mut others = bytes.clone();
        *others.last_mut().unwrap() ^= 1;
        fs::write(&image.path, others).unwrap();
        File::options()
            .write(true)
            .open(&image.path)
            .unwrap()
            .set_modified(changed)
            .unwrap();
        let refused = cached(Some(&cache), &image, "a", half).unwrap_err();
        assert!(
            matches!(&refused, Error::ChangedImage { id, .. } if id == "1"),
            "{refused}"
        );
        assert!(refused.to_string().contains("1.png"), "{refused}");
        // The same bytes put back serve, whatever became of the file; a file that is gone does not.
        fs::write(&image.path, bytes).unwrap();
        assert_eq!(cached(Some(&cache), &image, "a", half).unwrap(), plain);
        fs::remove_file(&image.path).unwrap();
        assert!(matches!(cached(Some(&cache), &image, "a", half), Err(Error::Io { .. })));
    }

    #[test]
    fn images_that_do_not_shrink_small_ones_and_those_without_hash_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("images");
        let cache = ImageCache::new(&kept, None).unwrap();
        cached(Some(&cache), &labelled(folder.path(), 1), "a", |image| image).unwrap();
        let small = LabelledImage {
            sha256: String::new(),
            ..labelled(folder.path(), 3)
        };
        RgbImage::new(319, 240).save(&small.path).unwrap();
        cached(Some(&cache), &small, "a", half).unwrap();
        let without = LabelledImage {
            sha256: String::new(),
            ..labelled(folder.path(), 2)
        };
        cached(Some(&cache), &without, "a", half).unwrap();
        assert!(cache.path(&("../".repeat(21) + "x"), "a").is_none());
        assert!(!kept.exists());
        assert!(ImageCache::new(&kept, Some(0.0)).is_none());
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("images");
        let cache = ImageCache::new(&kept, None).unwrap();
        let image = labelled(folder.path(), 1);
        let plain = cached(Some(&cache), &image, "a", half).unwrap();
        let entry = entries(&kept).remove(0);
        let whole = fs::read(&entry).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        for damaged in [flipped(40), flipped(whole.len() - 1), whole[..60].to_vec(), Vec::new()] {
            fs::write(&entry, damaged).unwrap();
            assert_eq!(cached(Some(&cache), &image, "a", half).unwrap(), plain);
            assert_eq!(fs::read(&entry).unwrap(), whole);
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("images");
        let one = {
            let cache = ImageCache::new(&kept, None).unwrap();
            cached(Some(&cache), &labelled(folder.path(), 0), "a", half).unwrap();
            fs::metadata(entries(&kept).remove(0)).unwrap().len()
        };
        let for_ten = one as f64 * 10.0 / 1e9;
        let cache = ImageCache::new(&kept, Some(for_ten)).unwrap();
        let of = |number: u8| labelled(folder.path(), number).sha256;
        let age = |number: u8, hours: u64| {
            let path = cache.path(&of(number), "a").unwrap();
            let then = SystemTime::now() - Duration::from_secs(3600 * hours);
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(then)
                .unwrap();
        };
        for number in 0..40 {
            cached(Some(&cache), &labelled(folder.path(), number), "a", half).unwrap();
            age(number, 100 - u64::from(number));
            // Used again and again: it is never the oldest.
            assert!(cache.get(&of(0), "a").is_some(), "after {number}");
            let total: u64 = entries(&kept)
                .iter()
                .map(|path| fs::metadata(path).unwrap().len())
                .sum();
            assert!(total <= 11 * one, "{total} bytes after {number}, one has {one}");
        }
        assert!(cache.get(&of(1), "a").is_none());
        assert!(cache.get(&of(39), "a").is_some());
    }

    #[test]
    fn many_threads_and_caches_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("images");
        let images: Vec<LabelledImage> = (0..6).map(|number| labelled(folder.path(), number)).collect();
        let plain: Vec<RgbImage> = images
            .iter()
            .map(|image| cached(None, image, "a", half).unwrap())
            .collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // Room for about three: entries vanish while others look for them.
                    let cache = ImageCache::new(&kept, Some(3e-6)).unwrap();
                    for round in 0..20 {
                        let at = round % images.len();
                        assert_eq!(cached(Some(&cache), &images[at], "a", half).unwrap(), plain[at]);
                    }
                });
            }
        });
        assert!(
            entries(&kept)
                .iter()
                .all(|path| path.extension().is_some_and(|end| end == "qoi"))
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_ends_keeping_only() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("images");
        fs::write(&blocked, "a file").unwrap();
        let cache = ImageCache::new(&blocked, Some(1.0)).unwrap();
        let image = labelled(folder.path(), 1);
        for _ in 0..2 {
            assert_eq!(cached(Some(&cache), &image, "a", half).unwrap().dimensions(), (20, 15));
        }
        assert!(cache.ended.load(Ordering::Relaxed));
    }
}
