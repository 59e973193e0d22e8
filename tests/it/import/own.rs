//! A user's images, and a place to import them to.

use std::fs;
use std::path::{Path, PathBuf};

use kshot::error::Result;
use kshot::import;
use kshot::import::Imported;

/// A folder of images, a datasets folder and a cache.
pub struct Own {
    pub folder: tempfile::TempDir,
}

impl Own {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("datasets")).unwrap();
        fs::create_dir(folder.path().join("own")).unwrap();
        Self { folder }
    }

    pub fn datasets(&self) -> PathBuf {
        self.folder.path().join("datasets")
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// A path among the images.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join("own").join(inside)
    }

    pub fn write(self, inside: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// So many images `<below>/<i>.png`.
    pub fn images(self, below: &str, count: u8) -> Self {
        (0..count).fold(self, |own, i| own.write(&format!("{below}/{i}.png"), png(below, i)))
    }

    pub fn import(&self, inside: &str) -> Result<Imported> {
        let found = import::discover(
            &self.path(inside),
            "birds",
            &self.datasets(),
            &import::ImportOptions::default(),
        )?;
        found.adopt(&self.datasets(), &self.cache())
    }

    pub fn manifest(&self) -> PathBuf {
        self.datasets().join("birds.toml")
    }

    /// The refusal, with the temporary folder's name taken out; no manifest is left.
    #[track_caller]
    pub fn refused(&self, inside: &str) -> String {
        let error = self.import(inside).unwrap_err();
        assert!(!self.manifest().exists(), "a manifest was left after: {error}");
        let text = format!("{error}\n  hint: {}", error.hint().unwrap());
        text.replace(self.folder.path().to_str().unwrap(), "[TMP]")
    }
}

/// A picture whose colours and stripes follow from the name of its class, with a little of its own.
pub fn png(class: &str, number: u8) -> Vec<u8> {
    let of_class = class
        .bytes()
        .fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let picture = image::RgbImage::from_fn(32, 32, |x, y| {
        let stripe = (x * (1 + of_class % 5) + y * (of_class / 5 % 5)) / 8 % 2;
        let channel = |shift: u32| (of_class >> shift) as u8 / 2 + (stripe as u8) * 90 + number.wrapping_mul(37) % 32;
        image::Rgb([channel(0), channel(8), channel(16)])
    });
    let mut bytes = Vec::new();
    picture
        .write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

/// Ids of a side, one a line.
pub fn ids(images: &[kshot::data::LabelledImage]) -> String {
    images
        .iter()
        .map(|image| image.id.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a folder holds anything.
pub fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}
