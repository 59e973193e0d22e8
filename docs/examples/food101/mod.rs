//! Food-101: `food-101/images/<class>/<number>.jpg`, with class names and a list of each side under `food-101/meta`. The
//! worked example of `docs/adding-a-dataset.md`.
//!
//! A line of `train.txt` or `test.txt` is `apple_pie/1005649`. `classes.txt` has the names of the folders, `labels.txt` those
//! for people, in the same order.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::layout::{Description, Item, Listing, Role, Unpacked, wrong};
use crate::error::{Error, Result};

pub(crate) const LAYOUT: Description = Description {
    roles: &[Role::archive("archive")],
    ..Description::new(read)
};

/// Pool = official training images (750 per class), test = official test images (250 per class).
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let meta = unpacked.root.join("food-101/meta");
    let folders = lines(&meta.join("classes.txt"))?;
    let names = lines(&meta.join("labels.txt"))?;
    if names.len() != folders.len() {
        let (names, folders) = (names.len(), folders.len());
        return Err(unpacked.fail(format!("`labels.txt` has {names} lines, `classes.txt` {folders}")));
    }
    let classes: BTreeMap<&str, u32> = folders.iter().map(String::as_str).zip(0..).collect();
    let side = |list: &str| -> Result<Vec<Item>> {
        let path = meta.join(list);
        let item = |image: &String| {
            let class = image.split_once('/').and_then(|(folder, _)| classes.get(folder));
            let class = class.ok_or_else(|| wrong(&path, format!("`{image}` lies in no class of `classes.txt`")))?;
            Ok(Item::new(format!("food-101/images/{image}.jpg"), *class))
        };
        lines(&path)?.iter().map(item).collect()
    };
    Ok(Listing::new(names, side("train.txt")?, side("test.txt")?))
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;
    use crate::data::files::DatasetFiles;
    use crate::manifest::{Form, Manifest};

    fn listed(train: &str) -> Result<Listing, String> {
        let root = tempfile::tempdir().unwrap();
        let meta = root.path().join("food-101/meta");
        std::fs::create_dir_all(&meta).unwrap();
        for (name, text) in [
            ("classes.txt", "apple_pie\nbeet_salad\n"),
            ("labels.txt", "Apple pie\nBeet salad\n"),
            ("train.txt", train),
            ("test.txt", "apple_pie/2\nbeet_salad/9\n"),
        ] {
            std::fs::write(meta.join(name), text).unwrap();
        }
        let text = "name = 'food'\ntitle = ''\nlayout = 'folders'\nlicence = ''\ncitation = ''\n";
        let manifest: Manifest = toml::from_str(text).unwrap();
        let source = DatasetFiles {
            manifest: &manifest,
            protocol: Protocol::Clean,
            form: Form::Archive,
            commit: None,
            files: Vec::new(),
        };
        let unpacked = Unpacked {
            source: &source,
            root: root.path(),
        };
        (LAYOUT.read)(&unpacked).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_name_the_images_of_both_sides() {
        let found = listed("beet_salad/7\napple_pie/1\n").unwrap();
        assert_eq!(found.classes, ["Apple pie", "Beet salad"]);
        let images =
            |items: &[Item]| -> Vec<(String, u32)> { items.iter().map(|item| (item.id.clone(), item.class)).collect() };
        let image = |path: &str, class: u32| (format!("food-101/images/{path}.jpg"), class);
        assert_eq!(images(&found.pool), [image("beet_salad/7", 1), image("apple_pie/1", 0)]);
        assert_eq!(images(&found.test), [image("apple_pie/2", 0), image("beet_salad/9", 1)]);
        assert!(found.val.is_empty());
    }

    #[test]
    fn an_image_of_no_class_is_named() {
        let error = listed("cheese/3\n").unwrap_err();
        assert!(
            error.ends_with("train.txt`: `cheese/3` lies in no class of `classes.txt`"),
            "{error}"
        );
    }
}
