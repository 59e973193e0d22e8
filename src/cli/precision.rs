//! Precision that a sweep can be expected to have: widths of its intervals, and seeds that a difference takes.

use serde::Serialize;

use crate::comparison::curve::ENOUGH_SEEDS;
use crate::experiment::outline::Point;
use crate::statistics::power::{ACCURACY, ASSUMED, DIFFERENCE};

/// The difference that is asked after, between 0 and 1.
const DIFFERENCE_OF: f64 = 0.02;

/// Expected 95 % intervals of one dataset with the seeds of the sweep.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Precision {
    dataset: String,
    seeds: usize,
    test_images: usize,
    /// Half the width of the interval of a mean accuracy, between 0 and 1.
    accuracy_half_width: f64,
    /// The same of a paired difference of two learners.
    difference_half_width: f64,
    /// The fewest seeds with which a true difference of 2 points is found with probability 80 %; none where 100 are not
    /// enough.
    seeds_for_2_points: Option<usize>,
}

/// One for each dataset, in order of the cells.
pub(super) fn precision(cells: &[Point]) -> Vec<Precision> {
    let mut found: Vec<Precision> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.key.shots.any()) {
        if found.iter().any(|one| one.dataset == cell.key.dataset) {
            continue;
        }
        let same = |other: &&Point| other.key.dataset == cell.key.dataset && other.key.shots.any();
        let mut seeds: Vec<u64> = cells.iter().filter(same).map(|other| other.key.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let (count, images) = (seeds.len(), cell.tested.max(2) as f64);
        found.push(Precision {
            dataset: cell.key.dataset.clone(),
            seeds: count,
            test_images: cell.tested,
            accuracy_half_width: ACCURACY.half_width(count, images),
            difference_half_width: DIFFERENCE.half_width(count, images),
            seeds_for_2_points: DIFFERENCE.seeds_for(DIFFERENCE_OF, images),
        });
    }
    found
}

/// As lines of text.
pub(super) fn lines(all: &[Precision]) -> String {
    let mut text = String::new();
    for one in all {
        let needed = match one.seeds_for_2_points {
            Some(seeds) => format!("a difference of 2 points takes {seeds} seeds"),
            None => "a difference of 2 points is out of reach: too few test images".to_owned(),
        };
        text += &format!(
            "expected of {}: {} seeds, {} test images: accuracy ± {:.1} points, difference of two learners ± {:.1}; {needed}\n",
            one.dataset,
            one.seeds,
            one.test_images,
            100.0 * one.accuracy_half_width,
            100.0 * one.difference_half_width,
        );
    }
    if all.iter().any(|one| one.seeds == 1) {
        text += "expected: one seed says nothing about other draws of the examples; its interval is over test images alone\n";
    } else if all.iter().any(|one| one.seeds < ENOUGH_SEEDS) {
        text += "expected: with two seeds an interval is a bound, no result; take five\n";
    }
    if !all.is_empty() {
        text += &format!("assumed: {ASSUMED}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_seeds_narrow_it_and_few_are_warned_of() {
        let of = |seeds, images| Precision {
            dataset: "a".into(),
            seeds,
            test_images: images as usize,
            accuracy_half_width: ACCURACY.half_width(seeds, images),
            difference_half_width: DIFFERENCE.half_width(seeds, images),
            seeds_for_2_points: DIFFERENCE.seeds_for(DIFFERENCE_OF, images),
        };
        let (two, five) = (of(2, 3669.0), of(5, 3669.0));
        // t with 1 and 4 degrees of freedom on seeds that differ by 2 points: 12.706 and 2.776 standard errors.
        assert!(
            two.accuracy_half_width > 0.17 && two.accuracy_half_width < 0.20,
            "{two:?}"
        );
        assert!(
            five.accuracy_half_width > 0.025 && five.accuracy_half_width < 0.03,
            "{five:?}"
        );
        assert_eq!(two.seeds_for_2_points, five.seeds_for_2_points);
        assert!(
            five.seeds_for_2_points.is_some_and(|seeds| (18..=22).contains(&seeds)),
            "{five:?}"
        );
        assert_eq!(of(5, 180.0).seeds_for_2_points, None);
        let text = lines(&[two]);
        assert!(text.contains("2 seeds, 3669 test images") && text.contains("take five") && text.contains("assumed: "));
        assert!(!lines(&[five]).contains("take five"));
    }
}
