//! What is known about every image of an unpacked dataset after it was looked at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive::plain_parts;
use super::layout::{Item, Listing};
use super::manifest::Manifest;
use super::{Dataset, LabelledImage, cache, hex, image, provenance};
use crate::error::{Error, Result};

const SCHEMA: u32 = 1;

/// The content of `index.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    schema: u32,
    classes: Vec<String>,
    /// Images that the manifest's `skip` left out.
    left_out: usize,
    /// Pool before test, each sorted by id.
    images: Vec<Indexed>,
}

/// One image that was read, hashed and decoded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Indexed {
    id: String,
    role: Role,
    class: u32,
    sha256: String,
    width: u32,
    height: u32,
    /// Size of the encoded file.
    bytes: u64,
    group: Option<String>,
    /// Where it lies below the root, if not at `id`.
    file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Role {
    Pool,
    Test,
}

impl Index {
    /// An index whose images all lie where it says, with their sizes; `None` has it made again.
    pub(super) fn load(path: &Path, root: &Path) -> Option<Self> {
        let index: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let is_there = |image: &Indexed| {
            let file = root.join(image.file.as_deref().unwrap_or(&image.id));
            std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == image.bytes)
        };
        (index.schema == SCHEMA && index.images.iter().all(is_there)).then_some(index)
    }

    /// Compares the counts with those that the manifest promises.
    pub(super) fn check_counts(&self, manifest: &Manifest) -> Result<()> {
        let Some(expect) = manifest.expect else { return Ok(()) };
        let count = |role| self.images.iter().filter(|image| image.role == role).count();
        let counts = [
            ("classes", self.classes.len(), expect.classes),
            ("pool images", count(Role::Pool), expect.pool),
            ("test images", count(Role::Test), expect.test),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                let reason = format!("found {found} {what}, the manifest expects {expected}");
                return Err(Error::Dataset {
                    dataset: manifest.name.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::Malformed {
            kind: "dataset index",
            path: path.into(),
            reason: e.to_string(),
        })?;
        cache::write_whole(path, &json)
    }

    pub(super) fn into_dataset(self, manifest: &Manifest, root: &Path) -> Dataset {
        let (mut pool, val, mut test) = (Vec::new(), Vec::new(), Vec::new());
        for image in self.images {
            let path = root.join(image.file.as_deref().unwrap_or(&image.id));
            let Indexed {
                id,
                class,
                sha256,
                group,
                ..
            } = image;
            let side = if image.role == Role::Pool { &mut pool } else { &mut test };
            side.push(LabelledImage {
                id,
                class,
                sha256,
                group,
                dhash: 0,
                path,
            });
        }
        Dataset {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            classes: self.classes,
            pool,
            val,
            test,
            origin: super::Origin::default(),
            layout: manifest.layout,
            micro: manifest.micro,
            regime: manifest.regime,
            left_out: self.left_out,
            coop: None,
        }
    }

    /// Checks that labels and images fit together, then reads, hashes and decodes every image.
    pub(super) fn examine(manifest: &Manifest, mut listing: Listing, root: &Path) -> Result<Self> {
        let fail = |reason: String| Error::Dataset {
            dataset: manifest.name.clone(),
            reason,
        };
        let left_out = leave_out(&mut listing, &manifest.skip).map_err(fail)?;
        check_classes(&listing).map_err(fail)?;
        listing.pool.sort_by(|a, b| a.id.cmp(&b.id));
        listing.test.sort_by(|a, b| a.id.cmp(&b.id));
        let groups = groups(manifest, &listing)?;
        let of_pool = listing.pool.iter().map(|item| (item, Role::Pool));
        let items: Vec<_> = of_pool
            .chain(listing.test.iter().map(|item| (item, Role::Test)))
            .collect();
        let mut ids = BTreeSet::new();
        for (item, _) in &items {
            for path in [Some(&item.id), item.file.as_ref()].into_iter().flatten() {
                plain_parts(path).map_err(|why| fail(format!("image `{path}` {why}")))?;
            }
            if !ids.insert(&item.id) {
                return Err(fail(format!("image `{}` is listed twice", item.id)));
            }
        }
        let look = |(item, role): &(&Item, Role)| {
            let path = root.join(item.file.as_deref().unwrap_or(&item.id));
            let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    let class = listing.classes.get(item.class as usize).map_or("", String::as_str);
                    fail(format!(
                        "`{}` is labelled `{class}`, but there is no such image",
                        item.id
                    ))
                }
                _ => Error::io("read", &path)(e),
            })?;
            let pixels = image::decode(&bytes, &item.id)?;
            Ok(Indexed {
                id: item.id.clone(),
                role: *role,
                class: item.class,
                sha256: hex(&Sha256::digest(&bytes)),
                width: pixels.width(),
                height: pixels.height(),
                bytes: bytes.len() as u64,
                group: groups.get(&item.id).cloned(),
                file: item.file.clone(),
            })
        };
        let images = all_or_first_error(items.par_iter().map(look).collect())?;
        Ok(Self {
            schema: SCHEMA,
            classes: listing.classes,
            left_out,
            images,
        })
    }
}

/// Takes the skipped images out of a listing and counts them.
fn leave_out(listing: &mut Listing, skip: &[String]) -> Result<usize, String> {
    let mut unused: BTreeSet<&str> = skip.iter().map(String::as_str).collect();
    let skip = unused.clone();
    let before = listing.pool.len() + listing.test.len();
    for side in [&mut listing.pool, &mut listing.test] {
        side.retain(|item| {
            unused.remove(item.id.as_str());
            !skip.contains(item.id.as_str())
        });
    }
    match unused.first() {
        Some(id) => Err(format!("`skip` names `{id}`, which no label file lists")),
        None => Ok(before - listing.pool.len() - listing.test.len()),
    }
}

fn check_classes(listing: &Listing) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for name in &listing.classes {
        if name.is_empty() || !names.insert(name) {
            return Err(format!("class name `{name}` is empty or stands twice"));
        }
    }
    for (what, side) in [("training", &listing.pool), ("test", &listing.test)] {
        let with_images: BTreeSet<u32> = side.iter().map(|item| item.class).collect();
        for (class, name) in (0..).zip(&listing.classes) {
            if !with_images.contains(&class) {
                return Err(format!("class `{name}` has no {what} image"));
            }
        }
    }
    Ok(())
}

/// The drawing of each image, if the manifest says where images come from.
fn groups(manifest: &Manifest, listing: &Listing) -> Result<BTreeMap<String, String>> {
    let Some(path) = &manifest.provenance else {
        return Ok(BTreeMap::new());
    };
    let path = manifest.resolve(path);
    let wrong = |reason: String| Error::Labels {
        path: path.clone(),
        reason,
    };
    let rows: BTreeMap<_, _> = provenance::read(&path)?
        .into_iter()
        .map(|row| (row.id.clone(), row))
        .collect();
    let mut groups = BTreeMap::new();
    for item in listing.pool.iter().chain(&listing.test) {
        let row = rows
            .get(&item.id)
            .ok_or_else(|| wrong(format!("no row for image `{}`", item.id)))?;
        let class = listing.classes.get(item.class as usize).map_or("", String::as_str);
        // Label files spell names in their own way: Pets, for one, marks cats by an upper-case initial.
        let plain = |name: &str| name.to_lowercase().replace('_', " ");
        if plain(&row.class) != plain(class) {
            return Err(wrong(format!(
                "image `{}` is `{}`, but its label is `{class}`",
                item.id, row.class
            )));
        }
        groups.insert(item.id.clone(), row.drawing.clone());
    }
    Ok(groups)
}

/// All images, or the first failure, which then also names the other images that cannot be decoded.
fn all_or_first_error(results: Vec<Result<Indexed>>) -> Result<Vec<Indexed>> {
    let mut images = Vec::with_capacity(results.len());
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(image) => images.push(image),
            Err(error) => failures.push(error),
        }
    }
    let others: Vec<String> = failures
        .iter()
        .skip(1)
        .filter_map(|error| match error {
            Error::Image { image, .. } => Some(format!("`{image}`")),
            _ => None,
        })
        .collect();
    match failures.into_iter().next() {
        None => Ok(images),
        Some(Error::Image { image, reason }) if !others.is_empty() => Err(Error::Image {
            image,
            reason: format!("{reason} (nor can {})", others.join(", ")),
        }),
        Some(error) => Err(error),
    }
}
