//! The part of a cell's predictions that the gate keeps: which images were asked, and which answers are right. Cells of the same
//! test images share the list of them, so that a cell takes a bit an image and not the four hundred bytes of its row.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::prediction::{Prediction, Reading};

/// One test image; texts are told apart by 64 bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image {
    /// Its path in the dataset.
    pub id: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its true class.
    pub truth: u32,
    /// Its group; `None`: its own.
    pub group: Option<u64>,
}

/// Test images in order of their ids.
pub type Images = Arc<[Image]>;

/// Which answers are right, in the order of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right(Vec<u64>);

impl Right {
    /// One bit an answer.
    #[must_use]
    pub fn of(answers: impl IntoIterator<Item = bool>) -> Self {
        let mut words = Vec::new();
        for (i, right) in answers.into_iter().enumerate() {
            if i.is_multiple_of(64) {
                words.push(0);
            }
            if let Some(word) = words.last_mut() {
                *word |= u64::from(right) << (i % 64);
            }
        }
        words.shrink_to_fit();
        Self(words)
    }

    /// The answer to image `i`.
    #[must_use]
    pub fn get(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }
}

/// Lists that cells have in common, each of them once.
#[derive(Debug, Default)]
pub struct Shared {
    images: HashMap<u64, Vec<Images>>,
    classes: HashMap<u64, Vec<Arc<[String]>>>,
}

impl Shared {
    /// The images of `rows`, and which of them have a right answer by `reading`.
    pub fn images(&mut self, mut rows: Vec<Prediction>, reading: Reading) -> (Images, Right) {
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let right = Right::of(rows.iter().map(|row| row.correct(reading)));
        let image = |row: &Prediction| Image {
            id: hash(&row.id),
            bytes: hash(&row.sha256),
            truth: row.truth,
            group: row.group.as_ref().map(hash),
        };
        (once(&mut self.images, rows.iter().map(image).collect()), right)
    }

    /// The class list.
    pub fn classes(&mut self, classes: Vec<String>) -> Arc<[String]> {
        once(&mut self.classes, classes.into())
    }
}

fn once<T: Hash + PartialEq>(known: &mut HashMap<u64, Vec<Arc<[T]>>>, list: Arc<[T]>) -> Arc<[T]> {
    let alike = known.entry(hash(&list)).or_default();
    if let Some(found) = alike.iter().find(|found| **found == list) {
        return Arc::clone(found);
    }
    alike.push(Arc::clone(&list));
    list
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_that_were_given() {
        let answers: Vec<bool> = (0..200).map(|i| i % 3 == 0 || i == 64).collect();
        let right = Right::of(answers.iter().copied());
        assert!((0..200).all(|i| right.get(i) == answers[i]));
        assert!(!right.get(200) && !right.get(10_000));
    }

    #[test]
    fn the_same_images_are_kept_once() {
        let row = |i: u32, answer| Prediction {
            id: format!("test/{i}.png"),
            sha256: "ab".into(),
            group: None,
            truth: 1,
            free_text: None,
            free_class: None,
            trie_class: None,
            likelihood_class: Some(answer),
            log_probs: None,
        };
        let mut shared = Shared::default();
        let (one, right) = shared.images(vec![row(1, 1), row(2, 0)], Reading::Likelihood);
        let (other, wrong) = shared.images(vec![row(2, 1), row(1, 0)], Reading::Likelihood);
        assert!(Arc::ptr_eq(&one, &other), "whatever the order of the rows");
        assert_eq!(
            [right.get(0), right.get(1), wrong.get(0), wrong.get(1)],
            [true, false, false, true]
        );
    }
}
