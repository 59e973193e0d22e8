//! Parquet files of a repository: splits by the files' names, class names from their metadata.

use std::collections::BTreeMap;

use super::{Item, Listing, Unpacked, holdout};
use crate::config::Protocol;
use crate::data::manifest::Hub;
use crate::data::parquet::extract::Labels;
use crate::error::Result;

/// `clean`: pool = training and validation rows; `tinker`: pool = training rows alone. Ids are `<split>/<row>.<ext>`,
/// so that their order is the order of the rows. Without a test split the manifest's `holdout` makes one.
pub(super) fn read(unpacked: &Unpacked, protocol: Protocol, hub: &Hub) -> Result<Listing> {
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
    let mut pool = rows(&hub.train);
    if protocol != Protocol::Tinker {
        pool.extend(rows(&hub.val));
    }
    let mut test = rows(&hub.test);
    if let (true, Some(share)) = (test.is_empty(), unpacked.manifest.holdout) {
        (pool, test) = holdout::split(pool, share, &unpacked.manifest.skip);
    }
    Ok(Listing {
        classes: labels.classes,
        pool,
        val: Vec::new(),
        test,
    })
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
