//! Parquet files, of a repository or of one's own: splits by the files' names, class names from their metadata.

use std::collections::BTreeMap;

use super::{Item, Listing, Unpacked, names};
use crate::config::Protocol;
use crate::data::extract::Labels;
use crate::data::layout::sides;
use crate::error::Result;

/// Share of each class that is kept for the test where the rows of the test split turn out to be unlabelled.
const HOLDOUT: f64 = 0.3;

/// `clean`: pool = training and validation rows; `tinker`: pool = training rows alone. Ids are `<split>/<row>.<ext>`,
/// so that their order is the order of the rows. Without a test split, or with one that has no labels, the manifest's
/// `holdout` makes one.
pub(super) fn read(unpacked: &Unpacked, protocol: Protocol, splits: [&Vec<String>; 3]) -> Result<Listing> {
    let [train, val, test] = splits;
    let mut labels = Labels::load(unpacked.root)?;
    let mut rows = |splits: &[String]| -> Vec<Item> {
        let mut items = Vec::new();
        for split in splits {
            let rows = labels.splits.remove(split).unwrap_or_default();
            items.extend(
                rows.into_iter()
                    .map(|(file, class)| Item::new(format!("{split}/{file}"), class)),
            );
        }
        items
    };
    let mut pool = rows(train);
    if protocol != Protocol::Tinker {
        pool.extend(rows(val));
    }
    let mut test_items = rows(test);
    let manifest = unpacked.manifest;
    let unlabelled = test
        .iter()
        .filter_map(|split| labels.left_out.get(split))
        .map(|[rows, _]| rows)
        .sum::<u64>();
    let share = match (manifest.holdout, unlabelled) {
        (None, 1..) if unpacked.source.is_lenient() && test_items.is_empty() => {
            tracing::warn!(
                "dataset `{}`: the {unlabelled} rows of its test split have no labels; {} % of each class are kept for \
                 the test instead",
                manifest.name,
                HOLDOUT * 100.0
            );
            Some(HOLDOUT)
        }
        (share, _) => share,
    };
    if manifest.clean_names {
        same_words(&mut labels.classes, [&mut pool, &mut test_items]);
    }
    if let (true, Some(share)) = (test_items.is_empty(), share) {
        (pool, test_items) = sides::split(pool, share, &manifest.skip);
    }
    let mut classes = labels.classes;
    if manifest.clean_names
        && let Ok(renamed) = names::cleaned(&classes)
    {
        for name in &mut classes {
            if let Some(clean) = renamed.get(name) {
                name.clone_from(clean);
            }
        }
    }
    Ok(Listing {
        classes,
        pool,
        val: Vec::new(),
        test: test_items,
    })
}

/// Makes one class of labels that differ in spelling only; the first in order stands for all.
fn same_words(classes: &mut Vec<String>, sides: [&mut Vec<Item>; 2]) {
    let mut kept: Vec<String> = Vec::new();
    let mut by_key: BTreeMap<String, u32> = BTreeMap::new();
    let mut number = Vec::new();
    for name in classes.drain(..) {
        let class = *by_key.entry(names::key(&name)).or_insert(kept.len() as u32);
        match kept.get(class as usize) {
            Some(same) => tracing::warn!("the labels `{same}` and `{name}` are taken for one class"),
            None => kept.push(name),
        }
        number.push(class);
    }
    for item in sides.into_iter().flatten() {
        item.class = number.get(item.class as usize).copied().unwrap_or(u32::MAX);
    }
    *classes = kept;
}

/// Classes in the order and spelling of the manifest: what two sources give differs in case, and in order.
///
/// # Errors
/// Which name the source has and the manifest has not, or the other way round.
pub(super) fn as_named(listing: &mut Listing, names: &[String]) -> Result<(), String> {
    let plain = |name: &String| name.trim_end_matches('?').replace('_', " ").to_lowercase();
    let wanted: BTreeMap<String, u32> = names.iter().map(plain).zip(0..).collect();
    let mut order = Vec::new();
    for name in &listing.classes {
        let class = wanted.get(&plain(name));
        order.push(*class.ok_or_else(|| format!("class `{name}` is not in the manifest's `class_names`"))?);
    }
    let found: std::collections::BTreeSet<u32> = order.iter().copied().collect();
    if let Some((_, name)) = (0..).zip(names).find(|(class, _)| !found.contains(class)) {
        return Err(format!(
            "class `{name}` of the manifest's `class_names` is not in its labels"
        ));
    }
    for item in listing.pool.iter_mut().chain(&mut listing.val).chain(&mut listing.test) {
        // A label out of range stays one.
        item.class = order.get(item.class as usize).copied().unwrap_or(u32::MAX);
    }
    listing.classes = names.to_vec();
    Ok(())
}
