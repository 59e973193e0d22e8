//! Stanford Cars: `cars_train/00001.jpg` …, `cars_test/`, and a devkit of MATLAB struct arrays.
//!
//! Class names hold `/` ("Ram C/V Cargo Van Minivan 2012"): they are never used as paths. The devkit's
//! own test annotations have no classes; these come in a separate file, which is hard to find since the
//! official host is gone, so that CoOp's split file, which labels all test images too, may stand in.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Description, Item, Listing, Role, Unpacked, coop, wrong, zero_based};
use crate::error::Result;
use crate::formats::mat::{Array, MatFile};

const WITH_LABELS: &str = "cars_test_annos_withlabels.mat";

pub(crate) const LAYOUT: Description = Description {
    roles: &[
        Role::archive("train-images"),
        Role::archive("test-images"),
        Role::archive("devkit"),
        Role::labels("test-labels").optional(),
        Role::labels("coop-split").optional(),
    ],
    // Either labels the test images.
    alternatives: &["test-labels", "coop-split"],
    coop: Some(same_but_for_the_year_s_place),
    ..Description::new(read)
};

/// `Audi TTS Coupe 2012` is CoOp's `2012 Audi TTS Coupe`.
fn same_but_for_the_year_s_place(ours: &str, coop: &str) -> bool {
    match (ours.rsplit_once(' '), coop.split_once(' ')) {
        (Some((car, year)), Some((of_year, of_car))) => car == of_car && year == of_year,
        _ => ours == coop,
    }
}

/// Pool = official train, test = official test.
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let devkit = unpacked.root.join("devkit");
    let classes = class_names(&devkit.join("cars_meta.mat"))?;
    let pool = annotations(&devkit.join("cars_train_annos.mat"), "cars_train", classes.len())?;
    let inside = Some(devkit.join(WITH_LABELS)).filter(|path| path.exists());
    let test = if let Some(path) = unpacked.label_file("test-labels").or(inside) {
        annotations(&path, "cars_test", classes.len())?
    } else if let Some(path) = unpacked.label_file("coop-split") {
        from_coop(&path, &pool, classes.len())?
    } else {
        return Err(unpacked.fail(format!(
            "no labels for the test images: give `{WITH_LABELS}` (role `test-labels`) or CoOp's \
             split_zhou_StanfordCars.json (role `coop-split`)"
        )));
    };
    Ok(Listing::new(classes, pool, test))
}

/// `class_names` of `cars_meta.mat`: a cell row of character rows.
fn class_names(path: &Path) -> Result<Vec<String>> {
    let file = MatFile::read(path)?;
    let cells = file.get("class_names").and_then(Array::cells);
    let cells = cells.ok_or_else(|| wrong(path, "no cell array `class_names`"))?;
    let name = |(i, cell): (usize, &Array)| {
        cell.text()
            .map(str::to_owned)
            .ok_or_else(|| wrong(path, format!("class name {} is no text", i + 1)))
    };
    cells.iter().enumerate().map(name).collect()
}

/// `annotations`: structs with (at least) `class`, a number from 1, and `fname`.
fn annotations(path: &Path, folder: &str, classes: usize) -> Result<Vec<Item>> {
    let file = MatFile::read(path)?;
    let array = file
        .get("annotations")
        .ok_or_else(|| wrong(path, "no variable `annotations`"))?;
    let field = |name: &str| {
        array
            .field(name)
            .ok_or_else(|| wrong(path, format!("`annotations` is no struct array with a field `{name}`")))
    };
    let mut items = Vec::new();
    for (i, (class, name)) in field("class")?.into_iter().zip(field("fname")?).enumerate() {
        let at = |what: &str| wrong(path, format!("annotation {}: {what}", i + 1));
        let class = match class.numbers() {
            Some([class]) => zero_based(*class, classes)
                .ok_or_else(|| at(&format!("class {class}, but the devkit names {classes} classes")))?,
            _ => return Err(at("`class` is no single number")),
        };
        let name = name.text().ok_or_else(|| at("`fname` is no text"))?;
        items.push(Item::new(format!("{folder}/{name}"), class));
    }
    Ok(items)
}

/// Test labels out of CoOp's file, if its labels of the training images are the devkit's.
fn from_coop(path: &Path, pool: &[Item], classes: usize) -> Result<Vec<Item>> {
    let split = coop::Split::read(path)?;
    let devkit: BTreeMap<_, _> = pool.iter().map(|item| (item.id.as_str(), item.class)).collect();
    for entry in split.train.iter().chain(&split.val) {
        if devkit.get(entry.image.as_str()) != Some(&entry.label) {
            return Err(wrong(
                path,
                format!("`{}` has another label than in the devkit", entry.image),
            ));
        }
    }
    let item = |entry: coop::Entry| {
        if entry.label as usize >= classes || !entry.image.starts_with("cars_test/") {
            return Err(wrong(
                path,
                format!(
                    "`{}`, label {}: no test image of these classes",
                    entry.image, entry.label
                ),
            ));
        }
        Ok(Item::new(entry.image, entry.label))
    };
    split.test.into_iter().map(item).collect()
}
