//! Caltech 101: a zip with a nested tar.gz of `101_ObjectCategories/<Folder>/image_0001.jpg`.
//!
//! There is no official split: CoOp's frozen one stands in, with its 100 classes (without
//! `BACKGROUND_Google`, and without `Faces_easy`, whose images are crops of `Faces`) and its names.
//! Integers mean different classes in different releases, since folder names are of mixed case; names
//! decide. `BACKGROUND_Google` also holds a file `tmp`, which is no image of any class.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Description, Item, Listing, Role, Unpacked, coop, wrong};
use crate::config::Protocol;
use crate::error::{Error, Result};

/// The archive's image folder: within the official zip, or at the top if the inner archive was given.
const ROOTS: [&str; 2] = ["caltech-101/101_ObjectCategories", "101_ObjectCategories"];

pub(crate) const LAYOUT: Description = Description {
    roles: &[Role::archive("archive"), Role::labels("coop-split")],
    coop: None,
    ..Description::new(read)
};

/// `clean`: pool = CoOp's train and val, test = CoOp's test. `coop`: CoOp's three sides as they are, each class of one
/// folder whose name is the class's.
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let protocol = unpacked.source.protocol;
    let (path, split, classes) = coop::Split::of(unpacked)?;
    let root = ROOTS.into_iter().find(|root| unpacked.root.join(root).is_dir());
    let root = root.ok_or_else(|| unpacked.fail("the archive holds no folder `101_ObjectCategories`"))?;
    let folders = folders(&unpacked.root.join(root))?;
    let prefix = match (protocol, &unpacked.manifest().coop) {
        (Protocol::Coop, Some(coop)) => coop.prefix.as_str(),
        _ => "",
    };
    let mut folder_of: BTreeMap<u32, String> = BTreeMap::new();
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
        let first = folder_of.entry(entry.label).or_insert_with(|| folder.to_owned());
        if protocol == Protocol::Coop && (first != folder || !singular_of(folder, &entry.class_name)) {
            return Err(wrong(
                &path,
                format!(
                    "`{}` is `{}` there, but lies in `{folder}`",
                    entry.image, entry.class_name
                ),
            ));
        }
        let file = Some(format!("{root}/{on_disk}/{image}"));
        Ok(Item {
            file,
            ..Item::new(format!("{prefix}{}", entry.image), entry.label)
        })
    };
    let mut listing = split.listing(classes, item)?;
    if protocol == Protocol::Clean {
        listing.pool.append(&mut listing.val);
    }
    Ok(listing)
}

/// The folder `Faces` is CoOp's `face`, `airplanes` is `airplane`.
fn singular_of(folder: &str, coop: &str) -> bool {
    let folder = folder.to_lowercase();
    folder == coop || folder.strip_suffix('s') == Some(coop)
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
