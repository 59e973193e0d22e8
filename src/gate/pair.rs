//! Two runs of one cell beside each other, image by image.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gate::change::Group;
use crate::gate::folder::Cell;
use crate::gate::folder::{Image, Images, Right};
use crate::gate::problem::Kind;
use crate::statistics::metric::Headline;

/// A change below this is rounding.
const ROUNDING: f64 = 1e-12;

/// Why two runs of one cell key cannot be compared; empty when they can.
#[must_use]
pub fn differences(baseline: &Cell, other: &Cell) -> Vec<(Kind, String)> {
    let (old, new) = (baseline, other);
    let mut found = Vec::new();
    if old.classes != new.classes {
        found.push((Kind::Classes, class_lists(&old.classes, &new.classes)));
    } else if let Some(finding) = test_images(&old.images, &new.images) {
        found.push((Kind::TestImages, finding));
    } else if old.split_sha256 != new.split_sha256 {
        let (old, new) = (brief(&old.split_sha256), brief(&new.split_sha256));
        let finding = format!("other images were learned from: split {new}, the baseline has {old}");
        found.push((Kind::Draw, finding));
    }
    let metric = |cell: &Cell| format!("{} by {}", cell.headline, cell.reading);
    if metric(old) != metric(new) {
        found.push((
            Kind::Metric,
            format!("{}, the baseline has {}", metric(new), metric(old)),
        ));
    }
    found
}

fn brief(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

fn class_lists(old: &[String], new: &[String]) -> String {
    let first = (0..old.len().max(new.len()))
        .find(|&i| old.get(i) != new.get(i))
        .unwrap_or(0);
    let name = |classes: &[String]| classes.get(first).map_or("nothing".into(), |name| format!("`{name}`"));
    format!(
        "{} classes, the baseline has {}; the first difference is class {first}: {}, there {}",
        new.len(),
        old.len(),
        name(new),
        name(old)
    )
}

fn test_images(old: &Images, new: &Images) -> Option<String> {
    if Arc::ptr_eq(old, new) {
        return None;
    }
    let before: HashMap<u64, &Image> = old.iter().map(|image| (image.id, image)).collect();
    let (mut added, mut bytes, mut truth, mut group) = (0, 0, 0, 0);
    for image in new.iter() {
        match before.get(&image.id) {
            None => added += 1,
            Some(old) if old.bytes != image.bytes => bytes += 1,
            Some(old) if old.truth != image.truth => truth += 1,
            Some(old) if old.group != image.group => group += 1,
            Some(_) => {}
        }
    }
    let kept = new.len() - added;
    let counts = [
        (added, "new"),
        (old.len().saturating_sub(kept), "missing"),
        (bytes, "with other bytes"),
        (truth, "with another label"),
        (group, "in another group"),
    ];
    let said: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    // An image that is there twice would pass unnoticed by its id alone.
    let uneven = || (old.len() != new.len()).then(|| format!("{} instead of {}", new.len(), old.len()));
    if said.is_empty() {
        return uneven();
    }
    Some(format!("of {} test images {}", old.len(), said.join(", ")))
}

/// The test images of a cell: what each is worth, and which belong together.
#[derive(Debug)]
pub struct ImageWeights {
    /// Share of the headline accuracy of each image, in order of ids.
    worth: Vec<f64>,
    /// Group of each image.
    group: Vec<usize>,
    /// Share of each group.
    groups: Vec<f64>,
}

/// Differences between the answers of two runs to the images.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// All groups, changed or not.
    pub groups: Vec<Group>,
    /// Images that only the results have right.
    pub wins: usize,
    /// Images that only the baseline has right.
    pub losses: usize,
}

impl ImageWeights {
    /// The images of `rows`, which are sorted by id. With mean per-class accuracy an image is worth
    /// 1 / (classes × images of its class), otherwise 1 / images.
    #[must_use]
    pub fn of(images: &[Image], headline: Headline) -> Self {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for image in images {
            *counts.entry(image.truth).or_default() += 1;
        }
        let worth: Vec<f64> = images
            .iter()
            .map(|image| match headline {
                Headline::Top1 => 1.0 / images.len() as f64,
                Headline::MeanPerClass => 1.0 / (counts.len() * counts[&image.truth]) as f64,
            })
            .collect();
        let mut numbers: HashMap<(bool, u64), usize> = HashMap::new();
        let mut group = Vec::with_capacity(images.len());
        let mut groups: Vec<f64> = Vec::new();
        for (image, worth) in images.iter().zip(&worth) {
            let name = image.group.map_or((false, image.id), |name| (true, name));
            let number = *numbers.entry(name).or_insert(groups.len());
            if number == groups.len() {
                groups.push(0.0);
            }
            groups[number] += worth;
            group.push(number);
        }
        Self { worth, group, groups }
    }

    /// The contribution of each group to the accuracy, of answers to the same images.
    #[must_use]
    pub fn scores(&self, right: &Right) -> Vec<f64> {
        let mut scores = vec![0.0; self.groups.len()];
        for (i, (&group, worth)) in self.group.iter().zip(&self.worth).enumerate() {
            scores[group] += if right.get(i) { *worth } else { 0.0 };
        }
        scores
    }

    /// Differences between two runs on these images.
    #[must_use]
    pub fn pair(&self, baseline: &Right, results: &Right) -> Paired {
        let mut groups: Vec<Group> = self
            .groups
            .iter()
            .map(|&weight| Group { weight, change: 0.0 })
            .collect();
        let (mut wins, mut losses) = (0, 0);
        for (i, (&group, worth)) in self.group.iter().zip(&self.worth).enumerate() {
            match (baseline.get(i), results.get(i)) {
                (false, true) => {
                    wins += 1;
                    groups[group].change += worth;
                }
                (true, false) => {
                    losses += 1;
                    groups[group].change -= worth;
                }
                _ => {}
            }
        }
        for group in &mut groups {
            group.change = if group.change.abs() < ROUNDING {
                0.0
            } else {
                group.change
            };
        }
        Paired { groups, wins, losses }
    }
}
