//! Proof that a micro model learns at all: the bar that a miniature dataset has to clear before its figure is
//! worth drawing. At 16 shots the trained learner is right on at least half of the images, 15 points above
//! nearest neighbours on raw pixels, and 10 points above itself at one shot. One that writes its answers must
//! also beat itself without shots. Answers count by the learner's headline reading.

use crate::comparison::paired;
use crate::comparison::paired::Difference;
use crate::comparison::series::Series;
use crate::error::Result;
use crate::statistics::variance::Estimate;

const NONE: u32 = 0;
const FEW: u32 = 1;
const MANY: u32 = 16;
const ACCURACY: f64 = 0.50;
const OVER_PIXELS: f64 = 0.15;
const OVER_ONE_SHOT: f64 = 0.10;

/// The numbers of one dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct MicroGate {
    /// Name of the dataset.
    pub dataset: String,
    /// The trained learner, with the reading it counts by.
    pub learner: String,
    /// True if it writes its answers, so that it has to beat itself without shots.
    pub writes: bool,
    /// Seeds behind its accuracy.
    pub seeds: usize,
    /// Its accuracy at 16 shots.
    pub accuracy: Estimate,
    /// Its gain over raw pixels at 16 shots, paired.
    pub over_pixels: Difference,
    /// Its gain over itself at one shot, paired.
    pub over_one_shot: Difference,
    /// Its gain over itself without shots, paired; `None` where there is no such result.
    pub over_zero_shot: Option<Difference>,
}

impl MicroGate {
    /// True if all three means reach their level.
    #[must_use]
    pub fn reaches_levels(&self) -> bool {
        self.accuracy.mean >= ACCURACY
            && self.over_pixels.gain.mean >= OVER_PIXELS
            && self.over_one_shot.gain.mean >= OVER_ONE_SHOT
    }

    /// True if all gains are above zero with 95 % confidence, and none is missing.
    #[must_use]
    pub fn gains_are_certain(&self) -> bool {
        let certain = |difference: &Difference| difference.gain.interval.low > 0.0;
        certain(&self.over_pixels)
            && certain(&self.over_one_shot)
            && self.over_zero_shot.as_ref().map_or(!self.writes, certain)
    }

    /// True if the dataset clears the bar.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.reaches_levels() && self.gains_are_certain()
    }
}

/// The gate of every dataset that has `learner` at 1 and at 16 shots and raw pixels at 16.
///
/// # Errors
/// As [`paired::paired`].
pub fn micro_gates(series: &[Series], learner: &str) -> Result<Vec<MicroGate>> {
    let mut gates = Vec::new();
    for many in series.iter().filter(|s| s.learner == learner && s.shots == MANY) {
        let beside = |s: &&Series| s.dataset == many.dataset && s.protocol == many.protocol;
        let on_pixels = |s: &&Series| s.runs[0].record.hyper_parameters["method"] == "pixels";
        let itself = |shots: u32| {
            let mut beside = series.iter().filter(beside);
            beside.find(|s| s.learner == learner && s.shots == shots)
        };
        let one_shot = itself(FEW);
        let pixels = series.iter().filter(beside).filter(on_pixels).find(|s| s.shots == MANY);
        let (Some(one_shot), Some(pixels)) = (one_shot, pixels) else {
            continue;
        };
        let accuracy = Estimate::share(&many.scores());
        let (over_pixels, over_one_shot) = (paired::paired(many, pixels)?, paired::paired(many, one_shot)?);
        let over_zero_shot = match itself(NONE) {
            Some(none) => paired::paired(many, none)?,
            None => None,
        };
        if let (Some(accuracy), Some(over_pixels), Some(over_one_shot)) = (accuracy, over_pixels, over_one_shot) {
            gates.push(MicroGate {
                dataset: many.dataset.clone(),
                learner: many.label(),
                writes: many.reading().is_some(),
                seeds: many.runs.len(),
                accuracy,
                over_pixels,
                over_one_shot,
                over_zero_shot,
            });
        }
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{cell, written_cell};

    /// LoRA at 16 shots right on `many` of 10 images, at one shot on `few`, pixels at 16 on `pixels`.
    fn gate(many: u32, few: u32, pixels: u32) -> MicroGate {
        // The drawing decides, so that both images of a drawing agree.
        let right = |share: u32| move |i: u32| (i / 2 * 7) % 10 < share;
        let cells = (0..3).flat_map(|seed| {
            [
                cell(("a", "LoRA", 16, seed), 400, right(many)),
                cell(("a", "LoRA", 1, seed), 400, right(few)),
                cell(("a", "raw pixels", 16, seed), 400, right(pixels)),
                cell(("b", "LoRA", 16, seed), 8, right(10)), // no pixels, so no gate
            ]
        });
        let series = Series::group(cells.map(Ok)).unwrap();
        let mut gates = micro_gates(&series, "LoRA").unwrap();
        assert_eq!(gates.len(), 1);
        gates.remove(0)
    }

    #[test]
    fn every_bar_counts() {
        let good = gate(7, 3, 5);
        assert!(good.passes());
        assert_eq!(good.seeds, 3);
        assert!((good.accuracy.mean - 0.7).abs() < 1e-12);
        assert!((good.over_pixels.gain.mean - 0.2).abs() < 1e-12);
        assert!((good.over_one_shot.gain.mean - 0.4).abs() < 1e-12);
        assert!(!gate(4, 1, 1).passes(), "below one half");
        assert!(!gate(7, 3, 6).passes(), "ten points over pixels");
        assert!(!gate(7, 7, 5).passes(), "nothing learnt from more shots");
        let certain = gate(7, 7, 5);
        assert!(!certain.gains_are_certain() && !certain.reaches_levels());
    }

    #[test]
    fn a_writing_learner_must_beat_itself_without_shots_too() {
        let right = |share: u32| move |i: u32| (i / 2 * 7) % 10 < share;
        let gate = |none: Option<u32>| {
            let vlm = |shots, seed, share| written_cell(("a", "VLM", shots, seed), 400, right(share), |_| true);
            let mut cells: Vec<_> = none.map(|share| vlm(0, 0, share)).into_iter().collect();
            for seed in 0..3 {
                cells.extend([vlm(1, seed, 3), vlm(16, seed, 7)]);
                cells.push(cell(("a", "raw pixels", 16, seed), 400, right(5)));
            }
            let series = Series::group(cells.into_iter().map(Ok)).unwrap();
            micro_gates(&series, "VLM").unwrap().remove(0)
        };
        let good = gate(Some(2));
        assert!(good.passes() && good.learner == "VLM (free text)");
        let gain = good.over_zero_shot.unwrap();
        assert!((gain.gain.mean - 0.5).abs() < 1e-12 && gain.seeds == 3);
        assert!(!gate(Some(7)).passes(), "it knew as much before");
        assert!(!gate(None).passes(), "nobody looked what it knew before");
    }
}
