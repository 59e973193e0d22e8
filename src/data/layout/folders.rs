//! A folder of folders: `train/<class>/*` and `test/<class>/*`, or `<class>/*` of which a share is held out; in an
//! archive or in place.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::{Item, Listing, Unpacked, holdout};
use crate::error::{Error, Result};

/// Folders whose images belong to those that shots may be drawn from.
const LEARNED: [&str; 4] = ["train", "val", "valid", "validation"];
const TEST: &str = "test";

/// Pool = `train` and a validation folder, test = `test`; without a test folder the manifest's `holdout` is taken of
/// each class. Classes are the folders' names in byte order.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let manifest = unpacked.manifest;
    let tree = Tree::read(unpacked.root, &|reason| unpacked.fail(reason))?;
    let (pool, test) = match (tree.test, manifest.holdout) {
        (Some(test), _) => (tree.learned, test),
        (None, Some(share)) => holdout::split(tree.learned, share, &manifest.skip),
        (None, None) => {
            let reason = "no folders `train` and `test`, and the manifest gives no `holdout` to split by";
            return Err(unpacked.fail(reason.into()));
        }
    };
    let classes = tree.classes;
    Ok(Listing {
        classes,
        pool,
        val: Vec::new(),
        test,
    })
}

/// What lies in a folder of folders.
pub(crate) struct Tree {
    /// Names of the class folders, in byte order.
    pub classes: Vec<String>,
    /// Images of `train` and of validation, or of everything where there is no split.
    pub learned: Vec<Item>,
    /// Images of `test`; `None` where there is no such folder.
    pub test: Option<Vec<Item>>,
    /// Files and folders that hold no image of a class.
    pub ignored: Vec<String>,
}

impl Tree {
    /// Hidden files, and files that are images neither by name nor by their first bytes, are left out. Links are
    /// followed.
    ///
    /// # Errors
    /// [`Error::Io`], or what `fail` makes of the reason when the folders are in another form.
    pub(crate) fn read(folder: &Path, fail: &dyn Fn(String) -> Error) -> Result<Self> {
        let (root, prefix) = root(folder)?;
        let top = Entries::of(&root)?;
        let is_split = is_split(&root, &top)?;
        let sides: Vec<&str> = if is_split {
            let is_there = |side: &&str| top.folders.iter().any(|folder| folder == side);
            LEARNED.into_iter().chain([TEST]).filter(is_there).collect()
        } else {
            vec![""]
        };
        let classes = match sides.first() {
            Some(&"") => top.folders.clone(),
            Some(first) => Entries::of(&root.join(first))?.folders,
            None => Vec::new(),
        };
        if classes.is_empty() {
            return Err(fail("no folder of images: each class needs a folder of its own".into()));
        }
        let mut tree = Self {
            classes,
            learned: Vec::new(),
            test: sides.contains(&TEST).then(Vec::new),
            ignored: top.files,
        };
        if is_split {
            let others = top.folders.into_iter().filter(|name| !sides.contains(&name.as_str()));
            tree.ignored.extend(others.map(|name| name + "/"));
        }
        for side in sides {
            let path = root.join(side);
            let entries = Entries::of(&path)?;
            if let Some(odd) = entries.folders.iter().find(|name| !tree.classes.contains(name)) {
                return Err(fail(format!("class `{odd}` is in `{side}` but not in `train`")));
            }
            // Validation may lack a class; what is to be tested may not.
            if let Some(odd) = tree.classes.iter().find(|name| !entries.folders.contains(name))
                && side == TEST
            {
                return Err(fail(format!("class `{odd}` is in `train` but not in `test`")));
            }
            let below = if side.is_empty() {
                String::new()
            } else {
                format!("{side}/")
            };
            if !side.is_empty() {
                tree.ignored
                    .extend(entries.files.iter().map(|file| format!("{below}{file}")));
            }
            for class in &entries.folders {
                let label = tree.classes.iter().position(|name| name == class).unwrap_or_default();
                let images = Entries::of(&path.join(class))?;
                if let Some(inner) = images.folders.first() {
                    return Err(fail(format!(
                        "class folder `{below}{class}` holds the folder `{inner}`: class folders hold images only"
                    )));
                }
                for image in images.files {
                    let id = format!("{below}{class}/{image}");
                    if !is_image(&root.join(&id))? {
                        tree.ignored.push(id);
                        continue;
                    }
                    let items = match &mut tree.test {
                        Some(test) if side == TEST => test,
                        _ => &mut tree.learned,
                    };
                    items.push(Item {
                        file: Some(format!("{prefix}{id}")),
                        ..Item::new(id, label as u32)
                    });
                }
            }
        }
        Ok(tree)
    }
}

/// Whether folders of folders stand under names of sides. A class may be called `train`: it holds images.
fn is_split(root: &Path, top: &Entries) -> Result<bool> {
    Ok(top.folders.iter().any(|name| name == "train") && !Entries::of(&root.join("train"))?.folders.is_empty())
}

/// Where the class folders or the sides stand: at the top, or in the one folder that there is.
fn root(folder: &Path) -> Result<(PathBuf, String)> {
    let top = Entries::of(folder)?;
    if let [only] = top.folders.as_slice()
        && !is_split(folder, &top)?
        && !Entries::of(&folder.join(only))?.folders.is_empty()
    {
        return Ok((folder.join(only), format!("{only}/")));
    }
    Ok((folder.into(), String::new()))
}

/// Names in a folder, sorted; hidden ones are left out, and what macOS puts beside archives.
struct Entries {
    folders: Vec<String>,
    files: Vec<String>,
}

impl Entries {
    fn of(folder: &Path) -> Result<Self> {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
            let entry = entry.map_err(Error::io("list", folder))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(Error::io("read", entry.path())(std::io::Error::other(
                    "its name is not UTF-8",
                )));
            };
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            // `metadata` follows links: a user's own folder may well hold some.
            let metadata = std::fs::metadata(entry.path()).map_err(Error::io("read", entry.path()))?;
            let names = if metadata.is_dir() { &mut folders } else { &mut files };
            names.push(name.to_owned());
        }
        folders.sort();
        files.sort();
        Ok(Self { folders, files })
    }
}

/// Whether a file is an image by its name, or by its first bytes. One that has the name but not the bytes is
/// damaged, which is for the decoder to say.
pub(crate) fn is_image(path: &Path) -> Result<bool> {
    const NAMES: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp"];
    let extension = path
        .extension()
        .and_then(|end| end.to_str())
        .map(str::to_ascii_lowercase);
    if extension.is_some_and(|end| NAMES.contains(&end.as_str())) {
        return Ok(true);
    }
    let mut head = Vec::with_capacity(16);
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(16).read_to_end(&mut head).map_err(Error::io("read", path))?;
    Ok(matches!(
        image::guess_format(&head),
        Ok(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::WebP)
    ))
}
