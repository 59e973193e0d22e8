//! Oxford-IIIT Pets: `images/*.jpg` and `annotations/{trainval,test}.txt`.
//!
//! A line is `Abyssinian_100 1 1 1`: image, class from 1, species, breed within the species. The class
//! name is the image's name up to its last `_`, and classes stand in the order of their numbers, which
//! ignores case. Only listed images count: the archive holds about 40 more and three stray `.mat`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Description, Item, Listing, Role, Unpacked, wrong};
use crate::error::{Error, Result};

pub(crate) const LAYOUT: Description = Description {
    roles: &[
        Role::archive("images"),
        Role::archive("annotations"),
        Role::labels("coop-split").optional(),
    ],
    ..Description::new(read)
};

/// Pool = official trainval, test = official test.
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let mut names = BTreeMap::new();
    let annotations = unpacked.root.join("annotations");
    let pool = read_list(&annotations.join("trainval.txt"), &mut names)?;
    let test = read_list(&annotations.join("test.txt"), &mut names)?;
    for (expected, (class, name)) in names.iter().enumerate() {
        if *class as usize != expected {
            return Err(unpacked.fail(format!(
                "class {} has no image, class {} is `{name}`",
                expected + 1,
                class + 1
            )));
        }
    }
    Ok(Listing::new(names.into_values().collect(), pool, test))
}

fn read_list(path: &Path, names: &mut BTreeMap<u32, String>) -> Result<Vec<Item>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut items = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        // `list.txt` opens with six lines of comment; the two lists read here have none today.
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |what: &str| wrong(path, format!("line {}: {what}: `{line}`", number + 1));
        let mut words = line.split_whitespace();
        let (Some(image), Some(class)) = (words.next(), words.next()) else {
            return Err(at("an image and a class number should stand here"));
        };
        let class = class.parse().ok().and_then(|class: u32| class.checked_sub(1));
        let class = class.ok_or_else(|| at("the class is no number from 1"))?;
        let Some((name, _)) = image.rsplit_once('_') else {
            return Err(at("the image's name has no `_` that ends the class name"));
        };
        let known = names.entry(class).or_insert_with(|| name.to_owned());
        if known != name {
            return Err(at(&format!("class {} was `{known}` before", class + 1)));
        }
        items.push(Item::new(format!("images/{image}.jpg"), class));
    }
    Ok(items)
}
