//! Classes that a dataset does without.

use std::collections::BTreeSet;

use super::Listing;

/// Takes classes out by name, with their images.
///
/// # Errors
/// When there is no class of such a name.
pub(super) fn leave_out(listing: &mut Listing, classes: &[String]) -> Result<(), String> {
    if let Some(unknown) = classes.iter().find(|name| !listing.classes.contains(name)) {
        return Err(format!("`skip_classes` names `{unknown}`, which is no class"));
    }
    keep(listing, &|_, name| !classes.iter().any(|skipped| skipped == name));
    Ok(())
}

/// Takes out classes without an image to learn from or without one to test on, and says which: files from elsewhere
/// name classes that they do not use.
pub(super) fn prune(listing: &mut Listing) -> Vec<String> {
    let with_images = |side: &[super::Item]| side.iter().map(|item| item.class).collect::<BTreeSet<u32>>();
    let (pool, test) = (with_images(&listing.pool), with_images(&listing.test));
    let (mut unused, mut one_sided) = (Vec::new(), Vec::new());
    for (class, name) in (0..).zip(&listing.classes) {
        match (pool.contains(&class), test.contains(&class)) {
            (true, true) => {}
            (false, false) => unused.push(format!("`{name}`")),
            (true, false) => one_sided.push(format!("`{name}` (no test image)")),
            (false, true) => one_sided.push(format!("`{name}` (no training image)")),
        }
    }
    // Nothing but one side is a fault of another kind, which is told as such.
    if pool.is_empty() || test.is_empty() {
        return Vec::new();
    }
    keep(listing, &|class, _| pool.contains(&class) && test.contains(&class));
    let note = |names: Vec<String>, one: &str, many: &str| match names.len() {
        0 => None,
        1 => Some(format!("1 {one} is left out: {}", listed(&names))),
        count => Some(format!("{count} {many} are left out: {}", listed(&names))),
    };
    [
        note(unused, "class name that no image has", "class names that no image has"),
        note(one_sided, "class", "classes"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn listed(names: &[String]) -> String {
    const NAMED: usize = 20;
    let more = names.len().saturating_sub(NAMED);
    let text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{text} and {more} more")
    } else {
        text
    }
}

fn keep(listing: &mut Listing, is_kept: &dyn Fn(u32, &str) -> bool) {
    let mut numbers = Vec::new();
    let mut kept = Vec::new();
    for (class, name) in (0..).zip(std::mem::take(&mut listing.classes)) {
        let is_kept = is_kept(class, &name);
        numbers.push(is_kept.then_some(kept.len() as u32));
        if is_kept {
            kept.push(name);
        }
    }
    listing.classes = kept;
    for side in [&mut listing.pool, &mut listing.val, &mut listing.test] {
        // A label out of range stays one.
        side.retain(|item| numbers.get(item.class as usize).is_none_or(Option::is_some));
        for item in side {
            item.class = numbers.get(item.class as usize).copied().flatten().unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Item;
    use super::*;

    fn listing() -> Listing {
        let items = |side: &str, classes: &[u32]| -> Vec<Item> {
            classes
                .iter()
                .map(|class| Item::new(format!("{side}/{class}.jpg"), *class))
                .collect()
        };
        Listing {
            classes: ["ant", "bee", "cat", "dog"].map(str::to_owned).to_vec(),
            pool: items("train", &[0, 2, 3]),
            val: Vec::new(),
            test: items("test", &[0, 3]),
        }
    }

    fn classes(items: &[Item]) -> Vec<(&str, u32)> {
        items.iter().map(|item| (item.id.as_str(), item.class)).collect()
    }

    #[test]
    fn unused_and_one_sided_classes_go_with_their_images() {
        let mut listing = listing();
        let notes = prune(&mut listing);
        assert_eq!(listing.classes, ["ant", "dog"]);
        assert_eq!(classes(&listing.pool), [("train/0.jpg", 0), ("train/3.jpg", 1)]);
        assert_eq!(classes(&listing.test), [("test/0.jpg", 0), ("test/3.jpg", 1)]);
        assert_eq!(
            notes,
            [
                "1 class name that no image has is left out: `bee`",
                "1 class is left out: `cat` (no test image)"
            ]
        );
    }

    #[test]
    fn classes_are_left_out_by_name() {
        let mut listing = listing();
        leave_out(&mut listing, &["ant".into(), "bee".into()]).unwrap();
        assert_eq!(listing.classes, ["cat", "dog"]);
        assert_eq!(classes(&listing.test), [("test/3.jpg", 1)]);
        assert!(leave_out(&mut listing, &["ant".into()]).unwrap_err().contains("`ant`"));
    }
}
