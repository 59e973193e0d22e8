//! Sanity controls of a finished cell: is its accuracy about the pictures and the labels, and about nothing else?
//!
//! The cell is trained once more and then asked what a sound one must answer in a known way. The two shuffled
//! controls are randomisation tests and red by bad luck with a probability of at most `FALSE_RED` each, whatever the
//! model; the others compare answers and leave nothing to chance. Draws are seeded: the same cell has the same verdict every
//! time.
//!
//! | control | red when |
//! |---|---|
//! | reproduced | never: reported, since another processor may round otherwise |
//! | shuffled images | rows that are shown pictures of other classes are answered with their own class more often than by chance: the classifier is told, or finds, what to answer elsewhere than in the picture |
//! | shuffled labels | trained on labels shuffled among the shots, it is right more often than by chance and than the base model is without examples: it learned from elsewhere than the labels |
//! | adapter off/on | with its updates zero it is not the base model as it lies on the disk to the bit; or with them it is; or switched on again it answers otherwise |
//! | reload parity | saved and loaded into a fresh classifier it answers otherwise, to the bit |
//! | prompt without image | asked without a picture it does not give all rows the same answer, or is right more often than the largest class is large |
//!
//! Shuffled labels say little about a model that can name the classes without examples: what it knew it may go on to
//! know, so its bound is its own accuracy without examples, the best of all readings. And they are blunt: a learner may
//! give all images of a class one answer, so that with ten classes half of all answers can be right by chance. What is
//! surely seen is a learner that does about as well as on the true labels. Fewer than nine classes take several
//! trainings (`shuffles`).
//!
//! The shuffle of a randomisation test was drawn by us, so what it could have given is known exactly, however alike test
//! images of one drawing are and however few there are. What was found is held against 9,999 other draws; if nothing leaks it
//! is one among equals, and a bound is what a share `FALSE_RED` of them exceeds (Fisher 1935, The Design of Experiments; in
//! this Monte-Carlo form Barnard 1963). For pictures that holds whatever the model is, for labels where it knows of a class
//! nothing but its labels.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::config::Shots;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::experiment::plan::Cell;
use crate::learner::base::Bases;
use crate::learner::{Classifier, Learner};
use crate::prediction::{Prediction, Reading};
use crate::seed::rng;
use crate::store::Store;
use crate::store::control::{Control, Controls, Measure, Name, SCHEMA, Verdict};
use crate::store::record::{Record, utc_now};

/// The cells to control: those asked for by `run_id`, or else for every dataset and every learner that has an adapter
/// the one with the most shots per class under `seed`.
///
/// # Errors
/// [`Error::Uncontrolled`] when an asked one is not among `cells` or cannot be controlled, or there is none.
pub fn choose<'a>(cells: &'a [Cell], seed: Option<u64>, asked: &[String]) -> Result<Vec<&'a Cell>> {
    let fit = |cell: &Cell| cell.learner.has_adapter() && cell.key.shots.any() && cell.key.shots != Shots::All;
    if !asked.is_empty() {
        let find = |run_id: &String| {
            let refuse = |cell: String, reason: &str| Error::Uncontrolled {
                cell,
                reason: reason.into(),
                remedy: "`kshot sweep --dry-run` with the same config lists its cells".into(),
            };
            let cell = cells.iter().find(|cell| cell.run_id == *run_id);
            let cell = cell.ok_or_else(|| refuse(format!("cell {run_id}"), "the config has no such cell"))?;
            if fit(cell) {
                return Ok(cell);
            }
            let reason = "controls need a learner with an adapter and the same number of shots for each class, above 0";
            Err(refuse(cell.key.to_string(), reason))
        };
        return asked.iter().map(find).collect();
    }
    let mut chosen: Vec<&Cell> = Vec::new();
    for cell in cells.iter().filter(|cell| fit(cell) && Some(cell.key.seed) == seed) {
        let place =
            |other: &&mut &Cell| (&other.key.dataset, &other.key.learner) == (&cell.key.dataset, &cell.key.learner);
        match chosen.iter_mut().find(place) {
            Some(other) if other.key.shots < cell.key.shots => *other = cell,
            Some(_) => {}
            None => chosen.push(cell),
        }
    }
    if chosen.is_empty() {
        let with_adapter = Learner::defaults().into_iter().filter(|learner| learner.has_adapter());
        let methods: Vec<String> = with_adapter.map(|learner| format!("`{}`", learner.method())).collect();
        return Err(Error::Uncontrolled {
            cell: "this config".into(),
            reason: "no learner has an adapter that is trained on a number of shots".into(),
            remedy: format!("controls are of {} with shots above 0", methods.join(" and ")),
        });
    }
    Ok(chosen)
}

/// Controls a finished cell and stores what was found; `on` hears which control begins. Base models are looked up
/// from `home`.
///
/// # Errors
/// Whatever training, prediction or the store report.
pub fn run(
    cell: &Cell,
    store: &Store,
    record: &Record,
    home: &Path,
    commit: Option<&str>,
    on: &mut dyn FnMut(Name),
) -> Result<Controls> {
    let start = Instant::now();
    let learner = &cell.learner;
    let subject = ControlledCell {
        shots: &cell.shots()?,
        test: &cell.test()?,
        stored: &store.predictions(&cell.run_id)?,
        classes: cell.split.classes.len(),
        readings: &learner.readings(),
        answers_unseen: learner.answers_unseen(),
        seed: cell.key.seed,
        name: &format!("{}/{}", cell.key.dataset, learner.name()),
        fresh: &|| cell.classifier(),
        pristine: &|| {
            let base = learner.load(&mut Bases::new(home))?;
            base.classifier(&cell.split.classes, cell.key.seed)
        },
        scratch: store.folder().join("controls").join(format!("{}.tmp", cell.run_id)),
    };
    let controls = Controls {
        schema: SCHEMA,
        run_id: cell.run_id.clone(),
        key: cell.key.clone(),
        predictions_sha256: record.predictions_sha256.clone(),
        controls: subject.examine(on)?,
        seconds: start.elapsed().as_secs_f64(),
        finished: utc_now(),
        commit: commit.map(str::to_owned),
    };
    store.write_controls(&controls)?;
    Ok(controls)
}

/// Makes a classifier of the cell's learner that has learned nothing yet.
type Make<'a> = &'a dyn Fn() -> Result<Box<dyn Classifier>>;

/// A cell as its controls see it.
pub struct ControlledCell<'a> {
    /// The images it learned from: as many of each class.
    pub shots: &'a [LabelledImage],
    /// The images it was tested on.
    pub test: &'a [LabelledImage],
    /// The predictions that are stored.
    pub stored: &'a [Prediction],
    /// Number of classes.
    pub classes: usize,
    /// Readings of its answers.
    pub readings: &'a [Reading],
    /// True if it can answer before it has learned.
    pub answers_unseen: bool,
    /// Seed of the cell, and of all draws here.
    pub seed: u64,
    /// Tells its draws from those of other cells under that seed.
    pub name: &'a str,
    /// Makes classifiers that share one base model.
    pub fresh: Make<'a>,
    /// Makes one on a base model that is read from the disk for it.
    pub pristine: Make<'a>,
    /// A folder to write into; it is not there before and not afterwards.
    pub scratch: PathBuf,
}

impl ControlledCell<'_> {
    /// All controls, in the order of [`Name`]; `on` hears which one begins.
    ///
    /// # Errors
    /// Whatever training, prediction or the scratch folder report.
    pub fn examine(&self, on: &mut dyn FnMut(Name)) -> Result<Vec<Control>> {
        let (adapter, off) = (self.scratch.join("adapter"), self.scratch.join("off"));
        clear(&self.scratch)?;
        fs::create_dir_all(&self.scratch).map_err(Error::io("make folder", &self.scratch))?;

        on(Name::Reproduced);
        let mut trained = self.trained(self.shots)?;
        let answers = predictions(trained.as_mut(), self.test)?;
        let mut controls = vec![self.reproduced(&answers)];
        on(Name::ShuffledImages);
        controls.push(self.shuffled_images(trained.as_mut())?);

        on(Name::ShuffledLabels);
        trained.save(&adapter)?;
        switch_off(&adapter, &off)?;
        let base = self.base(&off)?;
        controls.push(self.shuffled_labels(&base)?);

        // After all training, which must have left the base model alone.
        on(Name::AdapterOffOn);
        controls.push(self.off_on(trained.as_mut(), &answers, &base, &off)?);

        on(Name::ReloadParity);
        let mut loaded = (self.fresh)()?;
        loaded.load(&adapter)?;
        let loaded = predictions(loaded.as_mut(), self.test)?;
        let measure = Measure::new(
            "rows differ after saving and loading",
            differ(&answers, &loaded),
            self.test.len(),
        );
        controls.push(self.judged(Name::ReloadParity, vec![measure.at_most(0)]));

        on(Name::PromptWithoutImage);
        controls.extend(self.without_image(trained.as_mut())?);
        clear(&self.scratch)?;
        Ok(controls)
    }

    fn purpose(&self, draw: &str) -> String {
        format!("control/{draw}/{}", self.name)
    }

    fn judged(&self, name: Name, measures: Vec<Measure>) -> Control {
        Control::judged(name, self.seed, measures)
    }

    fn trained(&self, shots: &[LabelledImage]) -> Result<Box<dyn Classifier>> {
        let mut classifier = (self.fresh)()?;
        classifier.fit(shots, None, &mut |_| Ok(()))?;
        Ok(classifier)
    }

    /// Another processor, number of threads or version may round otherwise, and training makes more of it: what is
    /// not the same to the bit is no fault.
    fn reproduced(&self, answers: &[Prediction]) -> Control {
        let by_id: HashMap<&str, &Prediction> = answers.iter().map(|row| (row.id.as_str(), row)).collect();
        let pairs = || self.stored.iter().map(|row| (row, by_id.get(row.id.as_str())));
        let rows = pairs()
            .filter(|(row, own)| own.is_none_or(|own| !same(row, own)))
            .count();
        let mut measures = vec![Measure::new("rows differ from those stored", rows, self.stored.len())];
        for &reading in self.readings {
            let moved = pairs().filter(|(row, own)| own.is_none_or(|own| own.answer(reading) != row.answer(reading)));
            let measure = Measure::new("answers differ from those stored", moved.count(), self.stored.len());
            measures.push(by(reading, measure));
        }
        Control {
            verdict: if rows == 0 { Verdict::Green } else { Verdict::NotJudged },
            ..self.judged(Name::Reproduced, measures)
        }
    }

    /// Everything of a row but its picture stays: id, group, class, place.
    fn shuffled_images(&self, trained: &mut dyn Classifier) -> Result<Control> {
        let classes: Vec<u32> = self.test.iter().map(|image| image.class).collect();
        let mut random = rng(self.seed, &self.purpose("shuffled-images"));
        let dealt = deal(self.test.len(), &mut random);
        let show = |(row, &picture): (&LabelledImage, &usize)| LabelledImage {
            path: self.test[picture].path.clone(),
            sha256: self.test[picture].sha256.clone(),
            stamp: self.test[picture].stamp.clone(),
            ..row.clone()
        };
        let shown: Vec<LabelledImage> = self.test.iter().zip(&dealt).map(show).collect();
        let rows = predictions(trained, &shown)?;
        let answers = |&reading: &Reading| rows.iter().map(|row| row.answer(reading)).collect();
        let answers: Vec<Vec<Option<u32>>> = self.readings.iter().map(answers).collect();
        let chance = chance_of_pictures(&classes, &dealt, &answers, &mut random);
        let others = classes
            .iter()
            .zip(&dealt)
            .filter(|&(&class, &picture)| classes[picture] != class);
        let others = others.count();
        let of = |((&reading, answers), chance): ((&Reading, &Vec<Option<u32>>), &Chance)| {
            let found = betrayed(&classes, &dealt, |row| answers[row]);
            let measure = Measure::new("rows with pictures of other classes got their own class", found, others);
            by(reading, chance.limit(measure))
        };
        let measures = self.readings.iter().zip(&answers).zip(&chance).map(of).collect();
        Ok(self.judged(Name::ShuffledImages, measures))
    }

    fn shuffled_labels(&self, base: &[Prediction]) -> Result<Control> {
        let shuffles = shuffles(self.classes);
        let mut confusions: Vec<Vec<Confusion>> = vec![Vec::new(); self.readings.len()];
        for shuffle in 0..shuffles {
            let mut labels: Vec<u32> = self.shots.iter().map(|shot| shot.class).collect();
            labels.shuffle(&mut rng(
                self.seed,
                &self.purpose(&format!("shuffled-labels/{shuffle}")),
            ));
            let relabelled = |(shot, class): (&LabelledImage, u32)| LabelledImage { class, ..shot.clone() };
            let shots: Vec<LabelledImage> = self.shots.iter().zip(labels).map(relabelled).collect();
            let rows = predictions(self.trained(&shots)?.as_mut(), self.test)?;
            for (confusions, &reading) in confusions.iter_mut().zip(self.readings) {
                confusions.push(self.confusion(&rows, reading));
            }
        }
        let chance = chance_of_labels(
            &confusions,
            &mut rng(self.seed, &self.purpose("shuffled-labels/chance")),
        );
        let right = |rows: &[Prediction], reading| rows.iter().filter(|row| row.correct(reading)).count();
        let known = match self.answers_unseen {
            true => self.readings.iter().map(|&reading| right(base, reading)).max(),
            false => None,
        };
        let known = known.unwrap_or(0) * shuffles;
        let of = |((&reading, confusions), chance): ((&Reading, &Vec<Confusion>), &Chance)| {
            let diagonal = |counts: &Confusion| (0..counts.len()).map(|class| counts[class][class]).sum::<usize>();
            let found = confusions.iter().map(diagonal).sum();
            let measure = Measure::new("answers right after shuffled labels", found, shuffles * self.test.len());
            let most = chance.most.max(known);
            by(reading, chance.limit(measure).at_most(most))
        };
        let mut measures: Vec<Measure> = self.readings.iter().zip(&confusions).zip(&chance).map(of).collect();
        if self.answers_unseen {
            let best = Measure::new(
                "answers right without examples, by the best reading",
                known,
                shuffles * base.len(),
            );
            measures.push(best);
        }
        Ok(self.judged(Name::ShuffledLabels, measures))
    }

    fn confusion(&self, rows: &[Prediction], reading: Reading) -> Confusion {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for row in rows {
            let answer = row.answer(reading).and_then(|answer| counts.get_mut(answer as usize));
            if let Some(count) = answer.and_then(|counts| counts.get_mut(row.truth as usize)) {
                *count += 1;
            }
        }
        counts
    }

    /// Answers of the base model as it lies on the disk; where it needs a head to answer, under the trained one.
    fn base(&self, off: &Path) -> Result<Vec<Prediction>> {
        let mut base = (self.pristine)()?;
        if !self.answers_unseen {
            base.load(off)?;
        }
        predictions(base.as_mut(), self.test)
    }

    fn off_on(
        &self,
        trained: &mut dyn Classifier,
        answers: &[Prediction],
        base: &[Prediction],
        off: &Path,
    ) -> Result<Control> {
        let mut switched = (self.fresh)()?;
        switched.load(off)?;
        let without = predictions(switched.as_mut(), self.test)?;
        let again = predictions(trained, self.test)?;
        let n = self.test.len();
        let measures = vec![
            Measure::new(
                "rows differ between adapter off and base model",
                differ(&without, base),
                n,
            )
            .at_most(0),
            Measure::new("rows differ between adapter on and off", differ(answers, &without), n).at_least(1),
            Measure::new("rows differ when it is on again", differ(answers, &again), n).at_most(0),
        ];
        Ok(self.judged(Name::AdapterOffOn, measures))
    }

    /// `None` for a classifier that has no question beside the picture.
    fn without_image(&self, trained: &mut dyn Classifier) -> Result<Option<Control>> {
        let Some(trained) = trained.prompted() else {
            return Ok(None);
        };
        let mut rows = Vec::with_capacity(self.test.len());
        trained.predict_without_image(self.test, &mut |batch| {
            rows.extend_from_slice(batch);
            Ok(())
        })?;
        let answer = |row: &Prediction| {
            let classes = (row.free_class, row.trie_class, row.likelihood_class);
            (row.free_text.clone(), classes)
        };
        let first = rows.first().map(answer);
        let others = rows.iter().filter(|row| Some(answer(row)) != first).count();
        let n = self.test.len();
        let mut measures = vec![Measure::new("rows without picture differ from the first", others, n).at_most(0)];
        let mut sizes = vec![0; self.classes];
        let known = self
            .test
            .iter()
            .filter_map(|image| Some(image.class as usize).filter(|&c| c < self.classes));
        known.for_each(|class| sizes[class] += 1);
        let largest = sizes.into_iter().max().unwrap_or(0);
        for &reading in self.readings {
            let right = rows.iter().filter(|row| row.correct(reading)).count();
            let measure = Measure::new("answers right without picture", right, n).at_most(largest);
            measures.push(by(reading, measure));
        }
        Ok(Some(self.judged(Name::PromptWithoutImage, measures)))
    }
}

fn by(reading: Reading, measure: Measure) -> Measure {
    Measure {
        reading: Some(reading),
        ..measure
    }
}

fn predictions(classifier: &mut dyn Classifier, images: &[LabelledImage]) -> Result<Vec<Prediction>> {
    let mut rows = Vec::with_capacity(images.len());
    classifier.predict(images, &mut |batch| {
        rows.extend_from_slice(batch);
        Ok(())
    })?;
    Ok(rows)
}

/// Rows that are not the same to the bit.
fn differ(left: &[Prediction], right: &[Prediction]) -> usize {
    let pairs = left.iter().zip(right).filter(|(left, right)| !same(left, right));
    pairs.count() + left.len().abs_diff(right.len())
}

fn same(left: &Prediction, right: &Prediction) -> bool {
    let bits = |row: &Prediction| -> Vec<u32> { row.log_probs.iter().flatten().map(|p| p.to_bits()).collect() };
    left == right && bits(left) == bits(right)
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// The tensors of a PEFT folder.
const WEIGHTS: &str = "adapter_model.safetensors";
/// An update is `B · A`: a B of zeros makes none.
const ZEROED: &str = "lora_B";

/// Copies an adapter folder to `off`, its updates zero; whatever else it holds, such as a head, stays as it is.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] when it holds no update.
fn switch_off(folder: &Path, off: &Path) -> Result<()> {
    fs::create_dir_all(off).map_err(Error::io("make folder", off))?;
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let from = entry.map_err(Error::io("read", folder))?.path();
        if let Some(name) = from.file_name().filter(|_| from.is_file()) {
            fs::copy(&from, off.join(name)).map_err(Error::io("copy", &from))?;
        }
    }
    let weights = off.join(WEIGHTS);
    let fail = |reason: String| Error::model(folder.join(WEIGHTS), reason);
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&weights, &Device::Cpu).map_err(|e| fail(e.to_string()))?;
    let mut zeroed = 0;
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains(ZEROED)) {
        *tensor = tensor.zeros_like()?;
        zeroed += 1;
    }
    if zeroed == 0 {
        return Err(fail(format!("holds no tensor `…{ZEROED}…` that could be switched off")));
    }
    candle_core::safetensors::save(&tensors, &weights).map_err(Error::saving(&weights))
}

/// Other draws behind a bound.
const DRAWS: usize = 9_999;
/// Probability that a shuffled control is red although nothing leaks, all readings together.
const FALSE_RED: f64 = 1e-3;
/// Relabellings that there have to be, so that a learner that knows every true class cannot be lucky by chance.
const RELABELLINGS: f64 = 1e5;

/// Which picture is shown with each row: `deal(..)[row]` is the place of the picture. Every order is equally likely.
fn deal(rows: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut dealt: Vec<usize> = (0..rows).collect();
    dealt.shuffle(random);
    dealt
}

/// Rows that were shown a picture of another class and yet got the answer of their own.
/// `answer(row)` is the answer to the picture that was shown with the row.
fn betrayed(classes: &[u32], dealt: &[usize], answer: impl Fn(usize) -> Option<u32>) -> usize {
    let rows = classes.iter().zip(dealt).enumerate();
    rows.filter(|&(row, (&class, &picture))| classes[picture] != class && answer(row) == Some(class))
        .count()
}

/// Correct answers expected and allowed, of a number of answers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Chance {
    /// Mean over draws.
    expected: f64,
    /// More than so many are red.
    most: usize,
}

impl Chance {
    /// `readings` are judged together: each gets its part of `FALSE_RED`.
    fn of(mut draws: Vec<usize>, readings: usize) -> Self {
        draws.sort_unstable_by(|a, b| b.cmp(a));
        let expected = draws.iter().sum::<usize>() as f64 / draws.len().max(1) as f64;
        // With the draw itself there are DRAWS + 1 equals, of which so many may lie above the bound.
        let above = (FALSE_RED / readings.max(1) as f64 * (DRAWS + 1) as f64) as usize;
        let most = draws.get(above.saturating_sub(1)).or(draws.last());
        Self {
            expected,
            most: most.copied().unwrap_or(0),
        }
    }

    /// The measure with what chance gives and allows.
    fn limit(&self, measure: Measure) -> Measure {
        Measure {
            by_chance: Some(self.expected),
            at_most: Some(self.most),
            ..measure
        }
    }
}

/// Chance of [`betrayed`] rows if each answer depends on the picture alone. `answers[reading][row]` is the answer to the
/// picture that was shown with that row.
fn chance_of_pictures(
    classes: &[u32],
    dealt: &[usize],
    answers: &[Vec<Option<u32>>],
    random: &mut ChaCha8Rng,
) -> Vec<Chance> {
    let to_picture = |answers: &Vec<Option<u32>>| {
        let mut given = vec![None; answers.len()];
        for (&picture, &answer) in dealt.iter().zip(answers) {
            given[picture] = answer;
        }
        given
    };
    let given: Vec<Vec<Option<u32>>> = answers.iter().map(to_picture).collect();
    let mut draws = vec![Vec::with_capacity(DRAWS); given.len()];
    for _ in 0..DRAWS {
        let other = deal(classes.len(), random);
        for (draws, given) in draws.iter_mut().zip(&given) {
            draws.push(betrayed(classes, &other, |row| given[other[row]]));
        }
    }
    let chance = |draws| Chance::of(draws, answers.len());
    draws.into_iter().map(chance).collect()
}

/// Answers of one reading, counted: `counts[answered][true class]`.
type Confusion = Vec<Vec<usize>>;

/// Chance of answers after training on shuffled labels, one [`Confusion`] a shuffle, by each reading: to a learner
/// that knows of a class only what the labels say, the shuffle with any two classes exchanged is as good a shuffle,
/// and exchanges its answers alike.
fn chance_of_labels(readings: &[Vec<Confusion>], random: &mut ChaCha8Rng) -> Vec<Chance> {
    let classes = readings
        .first()
        .and_then(|shuffles| shuffles.first())
        .map_or(0, Vec::len);
    let shuffles = readings.first().map_or(0, Vec::len);
    let mut draws = vec![Vec::with_capacity(DRAWS); readings.len()];
    let mut names: Vec<usize> = (0..classes).collect();
    for _ in 0..DRAWS {
        let mut correct = vec![0; readings.len()];
        for shuffle in 0..shuffles {
            names.shuffle(random);
            for (correct, confusions) in correct.iter_mut().zip(readings) {
                let counts = &confusions[shuffle];
                *correct += names.iter().zip(counts).map(|(&name, row)| row[name]).sum::<usize>();
            }
        }
        draws
            .iter_mut()
            .zip(correct)
            .for_each(|(draws, correct)| draws.push(correct));
    }
    draws
        .into_iter()
        .map(|draws| Chance::of(draws, readings.len()))
        .collect()
}

/// Shuffles of the labels that are needed before a perfect answer cannot be chance: one from nine classes on.
fn shuffles(classes: usize) -> usize {
    let orders: f64 = (1..=classes).map(|n| n as f64).product();
    if orders < 2.0 {
        return 1;
    }
    (RELABELLINGS.ln() / orders.ln()).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced(classes: u32, each: u32) -> Vec<u32> {
        (0..classes * each).map(|row| row / each).collect()
    }

    /// Share of red controls, of answers drawn anew each time.
    fn share_red(night: impl Fn(u64) -> bool) -> f64 {
        let nights = 300;
        (0..nights).filter(|&seed| night(seed)).count() as f64 / nights as f64
    }

    #[test]
    fn answers_to_the_picture_are_within_chance_and_answers_to_the_row_are_not() {
        for (classes, nights) in [(balanced(2, 40), 40), (balanced(6, 5), 40), (balanced(10, 18), 10)] {
            let red = |seed: u64, answer: &dyn Fn(usize, usize) -> u32| {
                let mut random = rng(seed, "images");
                let dealt = deal(classes.len(), &mut random);
                let answers: Vec<Option<u32>> = (0..dealt.len()).map(|row| Some(answer(row, dealt[row]))).collect();
                let found = betrayed(&classes, &dealt, |row| answers[row]);
                found > chance_of_pictures(&classes, &dealt, &[answers], &mut random)[0].most
            };
            // All pictures of one class are taken for another one, as pictures of one drawing may be.
            let count = classes[classes.len() - 1] + 1;
            let confuses = |_: usize, picture: usize| (classes[picture] + u32::from(classes[picture] < 2)) % count;
            assert!((0..nights).all(|seed| !red(seed, &confuses)));
            let peeks = |row: usize, _: usize| classes[row];
            assert!((0..nights).all(|seed| red(seed, &peeks)));
        }
    }

    #[test]
    fn relabelled_answers_are_within_chance_as_often_as_said() {
        // What a learner of shuffled labels does at its luckiest and unluckiest: all images of a class get one answer.
        let counts = |answered: &[usize]| {
            let mut counts = vec![vec![0; 10]; 10];
            answered
                .iter()
                .enumerate()
                .for_each(|(class, &answer)| counts[answer][class] += 20);
            counts
        };
        let red = share_red(|seed| {
            let mut random = rng(seed, "labels");
            let mut answered: Vec<usize> = (0..10).collect();
            answered.shuffle(&mut random);
            let confusion = counts(&answered);
            let correct: usize = (0..10).map(|class| confusion[class][class]).sum();
            correct > chance_of_labels(&[vec![confusion]], &mut rng(0, "null"))[0].most
        });
        assert!(red <= 0.01, "{red}");
        let knows: Vec<usize> = (0..10).collect();
        let chance = chance_of_labels(&[vec![counts(&knows)]], &mut rng(0, "null"))[0];
        assert!((chance.expected - 20.0).abs() < 1.0 && chance.most < 200, "{chance:?}");
        // Who always says the same is exactly at chance.
        let one = chance_of_labels(&[vec![counts(&[4; 10])]], &mut rng(0, "null"))[0];
        assert_eq!((one.expected, one.most), (20.0, 20));
    }

    #[test]
    fn few_classes_take_several_shuffles() {
        assert_eq!([2, 3, 5, 8, 9, 10, 102].map(shuffles), [17, 7, 3, 2, 1, 1, 1]);
        // Three readings share the probability, and a learner that knows both classes still stands out.
        let knows = vec![vec![50, 0], vec![0, 50]];
        let confusions = vec![vec![knows; 17]; 3];
        let chance = chance_of_labels(&confusions, &mut rng(0, "null"))[0];
        assert!(chance.most < 17 * 100, "{chance:?}");
    }
}
