//! The images that a page shows, each listed once, and their thumbnails within a budget.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::config::Protocol;
use crate::error::Result;

/// Thumbnails of a page, at most.
pub const MOST: usize = 4_000;
/// Bytes of all of them as they are in the page, in base64, at most.
pub const MOST_BYTES: usize = 6_000_000;
/// Thumbnails made between two looks at what is left of the budget.
const BATCH: usize = 256;

/// An image of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Name of the dataset.
    pub dataset: String,
    /// Protocol by which it was opened.
    pub protocol: Protocol,
    /// Path inside the dataset.
    pub id: String,
    /// Lower-case hex SHA-256 of the encoded file that the results are of.
    pub sha256: String,
    /// Name of the true class.
    pub class: String,
}

/// Maker of thumbnails.
pub trait Thumbnails {
    /// A JPEG file of each image, or why there is none; in order.
    fn make(&mut self, wanted: &[&Wanted]) -> Vec<Result<Vec<u8>>>;
}

/// Reason to show an image; the budget is spent on the first ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Gallery,
    Shots,
    Confusion,
}

/// Images in order of the first question for them.
#[derive(Default)]
pub(super) struct Pictures {
    all: Vec<(Wanted, Place)>,
    numbers: HashMap<Wanted, u32>,
}

/// An image as it is in the page: id, true class, then its thumbnail as a data URI, or the number of the reason why
/// there is none; `null`: the budget was spent.
#[derive(Serialize)]
pub(super) struct Picture(String, String, Shown);

#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Thumbnail(String),
    Unreadable(usize),
    Left,
}

/// Sums over the images of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Images that the page names.
    pub images: usize,
    /// Those with a thumbnail.
    pub thumbnails: usize,
    /// Bytes of the thumbnails as they are in the page.
    pub bytes: usize,
    /// Those left without one, since the budget was spent.
    pub left: usize,
    /// Those that could not be read.
    pub unreadable: usize,
    /// Why they could not be read, each reason once.
    pub reasons: Vec<String>,
    /// Bound of `thumbnails`.
    pub most: usize,
    /// Bound of `bytes`.
    pub most_bytes: usize,
}

impl Pictures {
    /// Number of an image in the page.
    pub(super) fn ask(&mut self, wanted: Wanted, place: Place) -> u32 {
        if let Some(&number) = self.numbers.get(&wanted) {
            let known = &mut self.all[number as usize].1;
            *known = place.min(*known);
            return number;
        }
        let number = self.all.len() as u32;
        self.numbers.insert(wanted.clone(), number);
        self.all.push((wanted, place));
        number
    }

    /// All images in order of their numbers, with thumbnails as far as `most` and `most_bytes` go.
    pub(super) fn with_thumbnails(
        self,
        thumbnails: &mut dyn Thumbnails,
        (most, most_bytes): (usize, usize),
    ) -> (Vec<Picture>, Budget) {
        let mut budget = Budget {
            images: self.all.len(),
            most,
            most_bytes,
            ..Budget::default()
        };
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|&number| (self.all[number].1, number));
        let mut shown: HashMap<usize, Shown> = HashMap::new();
        let mut spent = false;
        for numbers in order.chunks(BATCH) {
            if spent || budget.thumbnails == most {
                break;
            }
            let wanted: Vec<&Wanted> = numbers.iter().map(|&number| &self.all[number].0).collect();
            for (&number, made) in numbers.iter().zip(thumbnails.make(&wanted)) {
                match made {
                    Ok(jpeg) => {
                        let uri = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
                        spent |= budget.thumbnails == most || budget.bytes + uri.len() > most_bytes;
                        if !spent {
                            budget.thumbnails += 1;
                            budget.bytes += uri.len();
                            shown.insert(number, Shown::Thumbnail(uri));
                        }
                    }
                    Err(error) => {
                        budget.unreadable += 1;
                        let reason = error.to_string();
                        let known = budget.reasons.iter().position(|known| *known == reason);
                        let place = known.unwrap_or_else(|| {
                            budget.reasons.push(reason);
                            budget.reasons.len() - 1
                        });
                        shown.insert(number, Shown::Unreadable(place));
                    }
                }
            }
        }
        budget.left = budget.images - budget.thumbnails - budget.unreadable;
        let all = self.all.into_iter().enumerate();
        let pictures = all.map(|(number, (wanted, _))| {
            let shown = shown.remove(&number).unwrap_or(Shown::Left);
            Picture(wanted.id, wanted.class, shown)
        });
        (pictures.collect(), budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// Three bytes each; one dataset is not there.
    struct Three;

    impl Thumbnails for Three {
        fn make(&mut self, wanted: &[&Wanted]) -> Vec<Result<Vec<u8>>> {
            let one = |image: &&Wanted| match image.dataset.as_str() {
                "gone" => Err(Error::Image {
                    image: "gone".into(),
                    reason: "x".into(),
                }),
                _ => Ok(vec![1, 2, 3]),
            };
            wanted.iter().map(one).collect()
        }
    }

    fn wanted(dataset: &str, id: &str) -> Wanted {
        Wanted {
            dataset: dataset.into(),
            protocol: Protocol::Clean,
            id: id.into(),
            sha256: String::new(),
            class: "c".into(),
        }
    }

    #[test]
    fn the_budget_goes_to_galleries_first_and_what_is_left_is_counted() {
        let mut pictures = Pictures::default();
        let numbers = [
            pictures.ask(wanted("a", "0"), Place::Confusion),
            pictures.ask(wanted("a", "1"), Place::Shots),
            pictures.ask(wanted("gone", "2"), Place::Gallery),
            pictures.ask(wanted("a", "3"), Place::Confusion),
            pictures.ask(wanted("a", "3"), Place::Gallery),
        ];
        assert_eq!(numbers, [0, 1, 2, 3, 3], "an image is listed once");
        let (all, budget) = pictures.with_thumbnails(&mut Three, (2, 1_000));
        let json = serde_json::to_string(&all).unwrap();
        let uri = "data:image/jpeg;base64,AQID";
        assert_eq!(
            json,
            format!(r#"[["0","c",null],["1","c","{uri}"],["2","c",0],["3","c","{uri}"]]"#)
        );
        let sums = (budget.images, budget.thumbnails, budget.left, budget.unreadable);
        assert_eq!((sums, budget.bytes), ((4, 2, 1, 1), 2 * uri.len()));
        assert_eq!(budget.reasons.len(), 1);

        let mut pictures = Pictures::default();
        pictures.ask(wanted("a", "0"), Place::Gallery);
        pictures.ask(wanted("a", "1"), Place::Gallery);
        let (_, budget) = pictures.with_thumbnails(&mut Three, (9, uri.len()));
        assert_eq!((budget.thumbnails, budget.left), (1, 1), "bytes are bounded too");
    }
}
