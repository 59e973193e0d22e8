//! Folds inside the shots: what a learner may choose by, without looking at a test image.

use std::collections::HashMap;

use crate::data::LabelledImage;

/// The fold of each shot, 0 to `folds` − 1: of every class the n-th image is in fold n mod `folds`, images that are not
/// independent (views of one drawing) together. `None` where a class has fewer independent images than there are folds.
#[must_use]
pub fn stratified(shots: &[LabelledImage], folds: usize) -> Option<Vec<usize>> {
    let mut of_class: HashMap<u32, HashMap<&str, usize>> = HashMap::new();
    let mut places = Vec::with_capacity(shots.len());
    for shot in shots {
        let seen = of_class.entry(shot.class).or_default();
        let next = seen.len();
        places.push(*seen.entry(shot.group.as_deref().unwrap_or(&shot.id)).or_insert(next) % folds.max(1));
    }
    let enough = folds > 1 && !shots.is_empty() && of_class.values().all(|seen| seen.len() >= folds);
    enough.then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(class: u32, id: &str, group: Option<&str>) -> LabelledImage {
        LabelledImage {
            id: id.into(),
            class,
            sha256: String::new(),
            group: group.map(str::to_owned),
            path: id.into(),
            ..LabelledImage::default()
        }
    }

    #[test]
    fn every_class_is_in_every_fold() {
        let shots: Vec<LabelledImage> = (0..12).map(|i| shot(i % 2, &i.to_string(), None)).collect();
        let folds = stratified(&shots, 4).unwrap();
        for class in 0..2 {
            for fold in 0..4 {
                let here = |(shot, f): &(&LabelledImage, &usize)| shot.class == class && **f == fold;
                assert!(shots.iter().zip(&folds).any(|pair| here(&pair)), "{folds:?}");
            }
        }
        assert_eq!(stratified(&shots, 7), None);
        assert_eq!((stratified(&shots, 1), stratified(&[], 2)), (None, None));
    }

    #[test]
    fn views_of_one_drawing_stay_together_and_count_once() {
        let shots = [
            shot(0, "a", Some("x")),
            shot(0, "b", None),
            shot(0, "c", Some("x")),
            shot(0, "d", Some("y")),
        ];
        assert_eq!(stratified(&shots, 2), Some(vec![0, 1, 0, 0]));
        assert_eq!(stratified(&shots, 4), None);
    }
}
