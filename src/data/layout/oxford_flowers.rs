//! Oxford Flowers 102: `jpg/image_00001.jpg` …, `imagelabels.mat`, `setid.mat`.
//!
//! `labels` holds one class from 1 per image, in the order of image numbers (which also start at 1);
//! `trnid`, `valid` and `tstid` hold image numbers. Class names are not in the files but in the manifest.

use std::path::Path;

use super::{Description, Item, Listing, Role, Unpacked, wrong, zero_based};
use crate::error::Result;
use crate::formats::mat::MatFile;

pub(crate) const LAYOUT: Description = Description {
    roles: &[
        Role::archive("images"),
        Role::labels("labels"),
        Role::labels("splits"),
        Role::labels("coop-split").optional(),
    ],
    coop: Some(same_but_for_a_question_mark),
    ..Description::new(read)
};

/// `pink-yellow dahlia?` is CoOp's `pink-yellow dahlia`.
fn same_but_for_a_question_mark(ours: &str, coop: &str) -> bool {
    ours.trim_end_matches('?') == coop.trim_end_matches('?')
}

/// Pool = official training and validation images (20 per class), test = official test images.
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let classes = unpacked.manifest().class_names.clone();
    let path = unpacked.required("labels")?;
    let mut labels = Vec::new();
    for (i, value) in numbers(&MatFile::read(&path)?, "labels", &path)?.iter().enumerate() {
        let label = zero_based(*value, classes.len()).ok_or_else(|| {
            wrong(
                &path,
                format!(
                    "label {value} of image {}; the manifest names {} classes",
                    i + 1,
                    classes.len()
                ),
            )
        })?;
        labels.push(label);
    }
    let path = unpacked.required("splits")?;
    let sets = MatFile::read(&path)?;
    let images = |set: &str| -> Result<Vec<Item>> {
        let item = |value: &f64| {
            let image = zero_based(*value, labels.len());
            let known = image.and_then(|image| Some((image + 1, labels.get(image as usize)?)));
            let (number, label) = known.ok_or_else(|| {
                wrong(
                    &path,
                    format!(
                        "`{set}` names image {value}, labels are given for 1 to {}",
                        labels.len()
                    ),
                )
            })?;
            Ok(Item::new(format!("jpg/image_{number:05}.jpg"), *label))
        };
        numbers(&sets, set, &path)?.iter().map(item).collect()
    };
    let mut pool = images("trnid")?;
    pool.extend(images("valid")?);
    let test = images("tstid")?;
    Ok(Listing::new(classes, pool, test))
}

fn numbers<'a>(file: &'a MatFile, name: &str, path: &Path) -> Result<&'a [f64]> {
    let array = file
        .get(name)
        .ok_or_else(|| wrong(path, format!("no variable `{name}`")))?;
    array
        .numbers()
        .ok_or_else(|| wrong(path, format!("`{name}` is not numeric")))
}
