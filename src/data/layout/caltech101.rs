//! Caltech 101: a zip with a nested tar.gz of `101_ObjectCategories/<Folder>/image_0001.jpg`.
//!
//! There is no official split: CoOp's frozen one stands in, with its 100 classes (without
//! `BACKGROUND_Google`, and without `Faces_easy`, whose images are crops of `Faces`) and its names.
//! Integers mean different classes in different releases, since folder names are of mixed case; names
//! decide. `BACKGROUND_Google` also holds a file `tmp`, which is no image of any class.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Item, Listing, Unpacked, coop, wrong};
use crate::error::{Error, Result};

/// The archive's image folder: within the official zip, or at the top if the inner archive was given.
const ROOTS: [&str; 2] = ["caltech-101/101_ObjectCategories", "101_ObjectCategories"];

/// Pool = CoOp's train and val, test = CoOp's test.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let path = unpacked.required("coop-split")?;
    let split = coop::Split::read(&path)?;
    let classes = split.classes(&path)?;
    let root = ROOTS.into_iter().find(|root| unpacked.root.join(root).is_dir());
    let root = root.ok_or_else(|| unpacked.fail("the archive holds no folder `101_ObjectCategories`".into()))?;
    let folders = folders(&unpacked.root.join(root))?;
    let item = |entry: coop::Entry| {
        let Some((folder, image)) = entry.image.split_once('/').filter(|(_, image)| is_image(image)) else {
            return Err(wrong(
                &path,
                format!("`{}` is not of the form `<Folder>/image_0001.jpg`", entry.image),
            ));
        };
        let on_disk = match folders.get(&folder.to_lowercase()).map(Vec::as_slice) {
            Some(found) if found.iter().any(|f| f == folder) => folder,
            Some([one]) => one,
            _ => {
                return Err(wrong(
                    &path,
                    format!("`{}`: the archive has no folder `{folder}`", entry.image),
                ));
            }
        };
        let file = Some(format!("{root}/{on_disk}/{image}"));
        Ok(Item {
            file,
            ..Item::new(entry.image, entry.label)
        })
    };
    let pool = split
        .train
        .into_iter()
        .chain(split.val)
        .map(item)
        .collect::<Result<_>>()?;
    let test = split.test.into_iter().map(item).collect::<Result<_>>()?;
    Ok(Listing { classes, pool, test })
}

/// `image_` and four digits, `.jpg`.
fn is_image(name: &str) -> bool {
    let number = name.strip_prefix("image_").and_then(|rest| rest.strip_suffix(".jpg"));
    number.is_some_and(|number| number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Folders by their lower-case names: re-packed archives differ in case (`Faces`, `faces`).
fn folders(root: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(root).map_err(Error::io("list", root))? {
        let entry = entry.map_err(Error::io("list", root))?;
        if let Some(name) = entry.file_name().to_str() {
            folders.entry(name.to_lowercase()).or_default().push(name.to_owned());
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::is_image;

    #[test]
    fn only_numbered_images_are_images() {
        assert!(is_image("image_0001.jpg"));
        for other in [
            "tmp",
            "image_001.jpg",
            "image_00001.jpg",
            "image_000a.jpg",
            "._image_0001.jpg",
            "image_0001.png",
        ] {
            assert!(!is_image(other), "{other}");
        }
    }
}
