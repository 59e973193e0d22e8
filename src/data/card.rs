//! The protocol card: on what data, from where and by which rules a result was made. It is stored with the result.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::overlap::{NEAR, Pair, count_pairs, hashes};
use super::split::Split;
use super::{Dataset, LabelledImage};
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fs::hash::hex;
use crate::manifest::Form;

/// So many pairs of near-duplicates are listed; all are counted.
const LISTED: usize = 100;

/// Facts about the data behind a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// In which form the dataset came.
    pub form: Form,
    /// Names of its files with their hashes, or the repository, or the folder.
    pub source: String,
    /// Commit of the repository.
    pub revision: Option<String>,
    /// Number of classes.
    pub classes: usize,
    /// SHA-256 of the class names in label order, as compact JSON with a line feed.
    pub classes_sha256: String,
    /// Images.
    pub counts: Counts,
    /// Which accuracy is the headline.
    pub headline: String,
    /// Images that the manifest's `skip` left out.
    pub left_out: usize,
    /// Ids of images that were left out for all learners, since one of the sweep's cannot take their size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Shots that a class really has, where more were asked for and the protocol takes what there is.
    pub capped: Option<u32>,
    /// Shots that look like test images; `None` where images were not compared.
    pub near_duplicates: Option<NearDuplicates>,
}

/// Numbers of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// That shots are drawn from.
    pub pool: usize,
    /// That the protocol sets aside for validation.
    pub val: usize,
    /// That are predicted.
    pub test: usize,
    /// Shots drawn.
    pub train: usize,
    /// Validation images drawn with them.
    pub val_drawn: usize,
}

/// Pairs of a shot and a test image whose [difference hashes](super::overlap::dhash) are close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearDuplicates {
    /// Bits of 64 in which they may differ.
    pub within: u32,
    /// Number of pairs.
    pub pairs: usize,
    /// The first of them, closest first.
    pub list: Vec<NearDuplicate>,
}

/// A shot and a test image that look alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearDuplicate {
    /// Bits in which their hashes differ.
    pub bits: u32,
    /// Id of the shot.
    pub train: String,
    /// Id of the test image.
    pub test: String,
}

impl Card {
    /// The card of a split of a dataset.
    ///
    /// # Errors
    /// [`Error::Dataset`] when the split is not of this dataset.
    pub fn of(dataset: &Dataset, split: &Split, headline: &str) -> Result<Self> {
        let (shots, test) = (split.train_images(dataset)?, split.test_images(dataset)?);
        let classes = serde_json::to_vec(&split.classes);
        let mut classes = classes.map_err(|e| dataset.fail(format!("class names as JSON: {e}")))?;
        classes.push(b'\n');
        Ok(Self {
            protocol: split.protocol,
            form: dataset.origin.form,
            source: dataset.origin.source.clone(),
            revision: dataset.origin.revision.clone(),
            classes: split.classes.len(),
            classes_sha256: hex(&Sha256::digest(&classes)),
            counts: Counts {
                pool: dataset.pool.len(),
                val: dataset.val.len(),
                test: test.len(),
                train: shots.len(),
                val_drawn: split.val.len(),
            },
            headline: headline.into(),
            left_out: dataset.left_out,
            refused: dataset.refused.clone(),
            capped: split.capped,
            near_duplicates: near_duplicates(&shots, &test),
        })
    }

    /// Indented JSON with a final newline.
    ///
    /// # Errors
    /// [`Error::Dataset`] if it cannot be serialised.
    pub fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Dataset {
            dataset: self.source.clone(),
            reason: format!("card as JSON: {e}"),
        })?;
        Ok(json + "\n")
    }
}

/// An index made before images were hashed has 0 for all of them.
fn near_duplicates(shots: &[LabelledImage], test: &[LabelledImage]) -> Option<NearDuplicates> {
    if shots.iter().chain(test).all(|image| image.dhash == 0) {
        return None;
    }
    let (count, pairs) = count_pairs(&hashes(shots), &hashes(test), NEAR, usize::MAX);
    let named = |pair: &Pair| {
        Some(NearDuplicate {
            bits: pair.distance,
            train: shots.get(pair.pool)?.id.clone(),
            test: test.get(pair.test)?.id.clone(),
        })
    };
    let mut list: Vec<NearDuplicate> = pairs.iter().filter_map(named).collect();
    list.sort();
    list.truncate(LISTED);
    Some(NearDuplicates {
        within: NEAR,
        pairs: count,
        list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::{clean, toy};

    #[test]
    fn a_card_counts_what_was_drawn_and_names_what_looks_alike() {
        let mut data = toy::dataset(&[20, 20]);
        let split = clean(&data, 2, 0).unwrap();
        let unknown = Card::of(&data, &split, "top1").unwrap();
        assert_eq!(unknown.near_duplicates, None);

        // Far from each other, but for two test images that a shot differs from in 0 and in 4 bits.
        let images = data.pool.iter_mut().chain(&mut data.test);
        for (i, image) in images.enumerate() {
            image.dhash = 0x0101_0101_0101_0101_u64
                .wrapping_mul(i as u64 * 37 % 256)
                .rotate_left(i as u32 / 8)
                | 1 << 63;
        }
        let shot = split.train[3].id.clone();
        let hash = 0xdead_beef_0bad_cafe;
        data.pool.iter_mut().find(|image| image.id == shot).unwrap().dhash = hash;
        data.test[1].dhash = hash ^ 0b1111;
        data.test[5].dhash = hash;
        data.test[6].dhash = hash ^ 0b11111;
        let card = Card::of(&data, &split, "top1").unwrap();
        let near = card.near_duplicates.clone().unwrap();
        let own: Vec<_> = near.list.iter().filter(|pair| pair.train == shot).collect();
        let named: Vec<_> = own.iter().map(|pair| (pair.bits, pair.test.as_str())).collect();
        assert_eq!(named, [(0, data.test[5].id.as_str()), (4, data.test[1].id.as_str())]);
        assert_eq!((near.within, near.pairs), (4, near.list.len()));
        assert_eq!(
            card.counts,
            Counts {
                pool: 40,
                val: 0,
                test: 42,
                train: 4,
                val_drawn: 0
            }
        );
        // printf '["class 0","class 1"]\n' | sha256sum
        assert_eq!(
            card.classes_sha256,
            "9f181a800a4ce0ea7c7a202b5668334bdcac27b842c3ebd9b52170135d3ebe22"
        );
        let read: Card = serde_json::from_str(&card.to_json().unwrap()).unwrap();
        assert_eq!(read, card);
    }

    #[test]
    fn a_hundred_pairs_are_listed_and_all_are_counted() {
        let mut data = toy::dataset(&[60]);
        data.pool
            .iter_mut()
            .chain(&mut data.test)
            .for_each(|image| image.dhash = 1);
        let split = clean(&data, 2, 0).unwrap();
        let near = Card::of(&data, &split, "top1").unwrap().near_duplicates.unwrap();
        assert_eq!((near.pairs, near.list.len()), (122, LISTED));
    }
}
