//! What a page shows of single answers: by series counts per class and pairs of classes, galleries of wrong answers, and
//! the answers of all learners to the images in them. Prediction files are read one at a time, and each of them twice.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::comparison::series::Series;
use crate::config::{Protocol, Shots};
use crate::error::Result;
use crate::report::page::pictures::{Pictures, Place, Wanted};
use crate::report::page::tally;
use crate::report::page::tally::{Confusion, LeftOut, Tally};
use crate::statistics::metric::Headline;
use crate::store::Store;

/// Pairs of classes in a page, at most: they are shared out evenly among its series.
pub(super) const PAIRS: usize = 160_000;
/// Answers to images of galleries in a page, about.
const GALLERY_ANSWERS: usize = 100_000;
/// Images of a gallery.
const GALLERY: usize = 12;
/// Letters of a written answer that are shown.
const LETTERS: usize = 80;

/// One learner at one number of shots on one dataset.
#[derive(Serialize)]
pub(super) struct SeriesView {
    dataset: String,
    protocol: Protocol,
    learner: String,
    shots: Shots,
    seeds: Vec<u64>,
    reading: String,
    headline: Headline,
    /// Mean over runs of the headline accuracy.
    accuracy: f64,
    n_test: usize,
    micro: bool,
    red: bool,
    capped: Option<u32>,
    /// Class names, as a number among the lists of the page.
    classes: usize,
    tested: Vec<u32>,
    right: Vec<u32>,
    /// True class, answered class (−1: none), answers, images.
    confusion: Vec<(u32, i64, u32, Vec<u32>)>,
    left_out_pairs: usize,
    left_out_answers: u32,
    surest: Vec<u32>,
    often: Vec<u32>,
}

/// All learners on one dataset at one number of shots.
#[derive(Serialize)]
pub(super) struct Group {
    dataset: String,
    protocol: Protocol,
    shots: Shots,
    disagreements: Vec<u32>,
    /// By image: answers of each learner and seed.
    answers: BTreeMap<u32, Vec<Answer>>,
}

/// Series, seed, class (−1: none), probability of it where there are any, text where it was written.
#[derive(Serialize)]
struct Answer(usize, u64, i64, Option<f64>, Option<String>);

/// Class lists, each kept once.
#[derive(Default)]
pub(super) struct ClassLists(pub(super) Vec<Vec<String>>);

impl ClassLists {
    fn number(&mut self, classes: &[String]) -> usize {
        let known = self.0.iter().position(|known| known == classes);
        known.unwrap_or_else(|| {
            self.0.push(classes.to_vec());
            self.0.len() - 1
        })
    }
}

fn index(class: Option<u32>) -> i64 {
    class.map_or(-1, i64::from)
}

/// Room for single answers in a page, as each series and gallery has it.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Pairs of classes of a series.
    pub(super) pairs: usize,
    /// Images of a gallery.
    pub(super) gallery: usize,
}

impl Room {
    /// The room of each, where a page holds all these series of results folders.
    pub(super) fn among(folders: &[&[Series]]) -> Self {
        let series: usize = folders.iter().map(|series| series.len()).sum();
        let answers = |series: &[Series], group: &[usize]| {
            let runs: usize = group.iter().map(|&one| series[one].runs.len()).sum();
            (2 * group.len() + 1) * runs
        };
        let of = |series: &&[Series]| groups(series).iter().map(|group| answers(series, group)).sum::<usize>();
        let each: usize = folders.iter().map(of).sum();
        Self {
            pairs: PAIRS / series.max(1),
            gallery: (GALLERY_ANSWERS / each.max(1)).clamp(2, GALLERY),
        }
    }
}

/// Places of the series of each dataset, protocol and number of shots with the same test images, in order of learners.
fn groups(series: &[Series]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let alike = |a: &Series, b: &Series| {
        (&a.dataset, a.protocol, a.shots) == (&b.dataset, b.protocol, b.shots) && a.test == b.test
    };
    for (place, one) in series.iter().enumerate() {
        match groups.iter_mut().find(|group| alike(&series[group[0]], one)) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    groups
}

/// All series of a results folder, and what learners say beside each other.
///
/// # Errors
/// As [`Store::predictions`].
pub(super) fn read(
    store: &Store,
    series: &[Series],
    room: Room,
    (classes, pictures): (&mut ClassLists, &mut Pictures),
) -> Result<(Vec<SeriesView>, Vec<Group>)> {
    let mut views: BTreeMap<usize, SeriesView> = BTreeMap::new();
    let mut all = Vec::new();
    for group in groups(series) {
        let mut tallies = Vec::new();
        for &place in &group {
            tallies.push(counted(store, &series[place])?);
        }
        let first = &series[group[0]];
        let mut shown = Shown {
            of: first,
            classes: &first.runs[0].record.classes,
            pictures,
            numbers: BTreeMap::new(),
        };
        let wrong: Vec<(&[u16], usize)> = (group.iter().zip(&tallies))
            .map(|(&place, tally)| (tally.wrong.as_slice(), series[place].runs.len()))
            .collect();
        let disagreements = shown.in_gallery(&tally::disagreements(&wrong, room.gallery));
        for (&place, tally) in group.iter().zip(&tallies) {
            let galleries = (
                shown.in_gallery(&tally::surest(tally, room.gallery)),
                shown.in_gallery(&tally::most_often_wrong(tally, room.gallery)),
            );
            let (pairs, left_out) = tally.confusions(room.pairs);
            let confusion = pairs.into_iter().map(|pair| shown.pair(pair)).collect();
            let view = view(&series[place], tally, classes, confusion, left_out, galleries);
            views.insert(place, view);
        }
        let numbers = shown.numbers;
        all.push(Group {
            dataset: first.dataset.clone(),
            protocol: first.protocol,
            shots: first.shots,
            disagreements,
            answers: answers(store, series, &group, &numbers)?,
        });
    }
    Ok((views.into_values().collect(), all))
}

/// The answers of all cells of a series, counted.
fn counted(store: &Store, series: &Series) -> Result<Tally> {
    let record = &series.runs[0].record;
    let mut tally = Tally::new(record.reading, record.classes.len(), &series.test);
    for run in &series.runs {
        tally.add(&series.test, &store.predictions(&run.record.run_id)?);
    }
    Ok(tally)
}

/// The images of a test set that are shown.
struct Shown<'a> {
    of: &'a Series,
    classes: &'a [String],
    pictures: &'a mut Pictures,
    /// Those in galleries: by place in the test set, the number in the page.
    numbers: BTreeMap<usize, u32>,
}

impl Shown<'_> {
    fn number(&mut self, image: u32, place: Place) -> u32 {
        let (id, sha256, truth) = &self.of.test.images[image as usize];
        let wanted = Wanted {
            dataset: self.of.dataset.clone(),
            protocol: self.of.protocol,
            id: id.clone(),
            sha256: sha256.clone(),
            class: self.classes.get(*truth as usize).cloned().unwrap_or_default(),
        };
        self.pictures.ask(wanted, place)
    }

    fn in_gallery(&mut self, images: &[u32]) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(images.len());
        for &image in images {
            let number = self.number(image, Place::Gallery);
            self.numbers.insert(image as usize, number);
            numbers.push(number);
        }
        numbers
    }

    fn pair(&mut self, pair: Confusion) -> (u32, i64, u32, Vec<u32>) {
        let numbers = pair.images.iter().map(|&image| self.number(image, Place::Confusion));
        let numbers = numbers.collect();
        (pair.truth, index(pair.answer), pair.count, numbers)
    }
}

fn view(
    series: &Series,
    tally: &Tally,
    classes: &mut ClassLists,
    confusion: Vec<(u32, i64, u32, Vec<u32>)>,
    left_out: LeftOut,
    (surest, often): (Vec<u32>, Vec<u32>),
) -> SeriesView {
    let record = &series.runs[0].record;
    let values = series.values();
    SeriesView {
        dataset: series.dataset.clone(),
        protocol: series.protocol,
        learner: series.label(),
        shots: series.shots,
        seeds: series.seeds(),
        reading: record.reading.to_string(),
        headline: series.headline(),
        accuracy: values.iter().sum::<f64>() / values.len() as f64,
        n_test: record.n_test,
        micro: series.is_micro(),
        red: series.is_red(),
        capped: series.capped(),
        classes: classes.number(&record.classes),
        tested: tally.tested.clone(),
        right: tally.right.clone(),
        confusion,
        left_out_pairs: left_out.pairs,
        left_out_answers: left_out.answers,
        surest,
        often,
    }
}

/// The answers of all cells of a group to the images in its galleries, by the images' numbers in the page.
fn answers(
    store: &Store,
    series: &[Series],
    group: &[usize],
    numbers: &BTreeMap<usize, u32>,
) -> Result<BTreeMap<u32, Vec<Answer>>> {
    let mut answers: BTreeMap<u32, Vec<Answer>> = BTreeMap::new();
    for &place in group {
        let one = &series[place];
        for run in &one.runs {
            let record = &run.record;
            for prediction in store.predictions(&record.run_id)? {
                let number = tally::place(&one.test, &prediction).and_then(|image| numbers.get(&image));
                if let Some(&number) = number {
                    let p = tally::probability(&prediction, record.reading).map(four_digits);
                    let answer = index(prediction.answer(record.reading));
                    let text = prediction.free_text.as_deref().map(shortened);
                    let answer = Answer(place, record.key.seed, answer, p, text);
                    answers.entry(number).or_default().push(answer);
                }
            }
        }
    }
    Ok(answers)
}

fn four_digits(p: f64) -> f64 {
    (p * 1e4).round() / 1e4
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
