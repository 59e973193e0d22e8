//! A folder of folders: `train/<class>/*` and `test/<class>/*`, in an archive or in place; or `<class>/*` alone, of
//! which the manifest's `holdout` is the test.

use std::path::{Path, PathBuf};

use super::{Item, Listing, Unpacked, holdout};
use crate::error::{Error, Result};

/// Pool = `train`, test = `test`; classes are the folder names in byte order, the same on both sides.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    if let Some(share) = unpacked.manifest.holdout {
        return one_side(unpacked, share);
    }
    let (root, prefix) = root(unpacked)?;
    let classes = names(&root.join("train"), true)?;
    let of_test = names(&root.join("test"), true)?;
    if let Some(odd) = of_test.iter().find(|name| !classes.contains(name)) {
        return Err(unpacked.fail(format!("class `{odd}` is in `test` but not in `train`")));
    }
    if let Some(odd) = classes.iter().find(|name| !of_test.contains(name)) {
        return Err(unpacked.fail(format!("class `{odd}` is in `train` but not in `test`")));
    }
    let side = |side: &str| -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (class, name) in (0..).zip(&classes) {
            for image in names(&root.join(side).join(name), false)? {
                let id = format!("{side}/{name}/{image}");
                items.push(Item {
                    file: Some(format!("{prefix}{id}")),
                    ..Item::new(id, class)
                });
            }
        }
        Ok(items)
    };
    let (pool, test) = (side("train")?, side("test")?);
    Ok(Listing {
        classes,
        pool,
        val: Vec::new(),
        test,
    })
}

/// Classes are the folder names in byte order.
fn one_side(unpacked: &Unpacked, share: f64) -> Result<Listing> {
    let mut top = (unpacked.root.to_path_buf(), String::new());
    // An archive mostly holds one folder that holds the classes.
    if let [only] = names(unpacked.root, true)?.as_slice()
        && unpacked.manifest.directory.is_none()
    {
        top = (unpacked.root.join(only), format!("{only}/"));
    }
    let (root, prefix) = top;
    let classes = names(&root, true)?;
    let mut items = Vec::new();
    for (class, name) in (0..).zip(&classes) {
        for image in names(&root.join(name), false)? {
            let id = format!("{name}/{image}");
            items.push(Item {
                file: Some(format!("{prefix}{id}")),
                ..Item::new(id, class)
            });
        }
    }
    let (pool, test) = holdout::split(items, share, &unpacked.manifest.name);
    Ok(Listing {
        classes,
        pool,
        val: Vec::new(),
        test,
    })
}

/// Where `train` and `test` stand: at the top, or in the one folder that the archive holds.
fn root(unpacked: &Unpacked) -> Result<(PathBuf, String)> {
    let has_sides = |folder: &Path| folder.join("train").is_dir() && folder.join("test").is_dir();
    if has_sides(unpacked.root) {
        return Ok((unpacked.root.into(), String::new()));
    }
    match names(unpacked.root, true)?.as_slice() {
        [only] if has_sides(&unpacked.root.join(only)) => Ok((unpacked.root.join(only), format!("{only}/"))),
        _ => Err(unpacked.fail("no folders `train` and `test`".into())),
    }
}

/// Names of the folders (or else of the files) in a folder, sorted; hidden ones are left out.
fn names(folder: &Path, folders: bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(Error::io("read", entry.path())(std::io::Error::other(
                "its name is not UTF-8",
            )));
        };
        // `metadata` follows links: a user's own folder may well hold some.
        let metadata = std::fs::metadata(entry.path()).map_err(Error::io("read", entry.path()))?;
        if !name.starts_with('.') && metadata.is_dir() == folders {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
