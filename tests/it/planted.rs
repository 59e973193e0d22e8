//! Sanity controls find the faults that they are for, planted one by one in a learner that is otherwise sound.

use std::cell::Cell as Shared;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use kshot::data::LabelledImage;
use kshot::error::Result;
use kshot::experiment::control::ControlledCell;
use kshot::learner::{Checkpoints, Classifier, Fit, Prompted, Step};
use kshot::prediction::{Prediction, Reading};
use kshot::store::control::{Control, Name, Verdict};

const CLASSES: u32 = 10;
const READINGS: [Reading; 2] = [Reading::Trie, Reading::Likelihood];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It answers with the class of the row, always or for every third row.
    AnswersWithTheTruth,
    AnswersSometimesWithTheTruth,
    /// It learns the class from the image's name.
    LearnsFromNames,
    /// It can tell the classes without having learned: as a fault, and said openly.
    KnowsAlready,
    SaysThatItKnows,
    /// What it learned is never used.
    AdapterIsNotApplied,
    /// Training changes the base model.
    TrainsTheBase,
    /// Another adapter takes the place of the one that is asked.
    LoadsIntoAll,
    /// Something is lost between saving and loading.
    LosesATensor,
    /// The prompt holds the answer.
    PromptHoldsTheAnswer,
    /// A second training gives something else.
    NeverTheSame,
}

/// Learns which class each look belongs to, by the majority of the labels. An image's look is its path.
struct Learner {
    fault: Fault,
    /// For each look its class.
    learned: Option<Vec<u32>>,
    /// What the base model says about everything, shared by all learners on it.
    base: Rc<Shared<u32>>,
    /// The last adapter that was loaded.
    last: Rc<Shared<u32>>,
    fits: Rc<Shared<u32>>,
}

fn number(text: &str) -> u32 {
    text.split('/').next().unwrap().parse().unwrap()
}

fn look(image: &LabelledImage) -> u32 {
    number(image.path.to_str().unwrap())
}

impl Learner {
    fn answer(&self, image: &LabelledImage) -> u32 {
        let base = match self.fault {
            Fault::KnowsAlready | Fault::SaysThatItKnows => look(image),
            _ => self.base.get(),
        };
        let Some(learned) = self
            .learned
            .as_ref()
            .filter(|_| self.fault != Fault::AdapterIsNotApplied)
        else {
            return base;
        };
        let third = number(image.id.split_once('/').unwrap().1).is_multiple_of(3);
        match self.fault {
            Fault::AnswersWithTheTruth => image.class,
            Fault::AnswersSometimesWithTheTruth if third => image.class,
            // One answer shows that it learned, the others are as before.
            Fault::KnowsAlready | Fault::SaysThatItKnows => (look(image) + u32::from(image.id == "0/0")) % CLASSES,
            Fault::LoadsIntoAll => (learned[look(image) as usize] + self.last.get()) % CLASSES,
            _ => learned[look(image) as usize],
        }
    }

    fn row(&self, image: &LabelledImage, answer: u32) -> Prediction {
        Prediction {
            id: image.id.clone(),
            sha256: image.sha256.clone(),
            group: image.group.clone(),
            truth: image.class,
            free_text: None,
            free_class: None,
            trie_class: Some(answer),
            likelihood_class: Some(answer),
            log_probs: None,
        }
    }
}

impl Classifier for Learner {
    fn fit(
        &mut self,
        shots: &[LabelledImage],
        _: Option<&Checkpoints>,
        _: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit> {
        let mut votes = vec![vec![0; CLASSES as usize]; CLASSES as usize];
        for shot in shots {
            let class = match self.fault {
                Fault::LearnsFromNames => number(&shot.id),
                _ => shot.class,
            };
            votes[look(shot) as usize][class as usize] += 1;
        }
        let most = |votes: &Vec<u32>| {
            (0..CLASSES)
                .max_by_key(|&class| (votes[class as usize], CLASSES - class))
                .unwrap()
        };
        let mut learned: Vec<u32> = votes.iter().map(most).collect();
        self.fits.set(self.fits.get() + 1);
        match self.fault {
            Fault::TrainsTheBase => self.base.set(self.base.get() + 1),
            Fault::NeverTheSame => learned[7] = self.fits.get() % CLASSES,
            _ => {}
        }
        self.learned = Some(learned);
        Ok(Fit::default())
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        let rows: Vec<Prediction> = images.iter().map(|image| self.row(image, self.answer(image))).collect();
        rows.chunks(7).try_for_each(sink)
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).unwrap();
        // From 1, because an update of zeros is none.
        let update: Vec<f32> = self
            .learned
            .as_ref()
            .unwrap()
            .iter()
            .map(|&class| class as f32 + 1.0)
            .collect();
        let update = Tensor::new(update, &Device::Cpu)?;
        let tensors = HashMap::from([
            ("map.lora_A.weight", update.ones_like()?),
            ("map.lora_B.weight", update),
        ]);
        Ok(candle_core::safetensors::save(
            &tensors,
            dir.join("adapter_model.safetensors"),
        )?)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let tensors = candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu)?;
        let update = tensors["map.lora_B.weight"].to_vec1::<f32>()?;
        self.last.set(3);
        self.learned = update
            .iter()
            .any(|&u| u != 0.0)
            .then(|| update.iter().map(|&u| u as u32 - 1).collect());
        if let (Fault::LosesATensor, Some(learned)) = (self.fault, &mut self.learned) {
            learned[2] = (learned[2] + 1) % CLASSES;
        }
        Ok(())
    }

    fn prompted(&mut self) -> Option<&mut dyn Prompted> {
        Some(self)
    }
}

impl Prompted for Learner {
    fn predict_without_image(
        &mut self,
        images: &[LabelledImage],
        sink: &mut dyn FnMut(&[Prediction]) -> Result<()>,
    ) -> Result<()> {
        let told = |image: &LabelledImage| {
            if self.fault == Fault::PromptHoldsTheAnswer {
                image.class
            } else {
                4
            }
        };
        let rows: Vec<Prediction> = images.iter().map(|image| self.row(image, told(image))).collect();
        rows.chunks(7).try_for_each(sink)
    }
}

fn images(each: u32) -> Vec<LabelledImage> {
    let one = |i: u32| LabelledImage {
        id: format!("{}/{}", i / each, i % each),
        class: i / each,
        sha256: format!("{i:064}"),
        // Two views of one drawing.
        group: Some(format!("{}", i / 2)),
        path: format!("{}/{}.png", i / each, i % each).into(),
        ..LabelledImage::default()
    };
    (0..CLASSES * each).map(one).collect()
}

fn examine(fault: Fault, seed: u64) -> Vec<Control> {
    let folder = tempfile::tempdir().unwrap();
    let (shots, test) = (images(4), images(12));
    let [base, last, fits] = [9, 0, 0].map(|start| Rc::new(Shared::new(start)));
    let on = |base: &Rc<Shared<u32>>| Learner {
        fault,
        learned: None,
        base: base.clone(),
        last: last.clone(),
        fits: fits.clone(),
    };
    let mut stored = Vec::new();
    let mut before = on(&base);
    before.fit(&shots, None, &mut |_| Ok(())).unwrap();
    before
        .predict(&test, &mut |rows| {
            stored.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    let subject = ControlledCell {
        shots: &shots,
        test: &test,
        stored: &stored,
        classes: CLASSES as usize,
        readings: &READINGS,
        answers_unseen: fault == Fault::SaysThatItKnows,
        seed,
        name: "planted",
        fresh: &|| Ok(Box::new(on(&base)) as Box<dyn Classifier>),
        pristine: &|| Ok(Box::new(on(&Rc::new(Shared::new(9)))) as Box<dyn Classifier>),
        scratch: folder.path().join("scratch"),
    };
    let controls = subject.examine(&mut |_| {}).unwrap();
    assert!(!subject.scratch.exists(), "nothing is left behind");
    controls
}

fn with(controls: &[Control], verdict: Verdict) -> Vec<Name> {
    let found = controls.iter().filter(|control| control.verdict == verdict);
    found.map(|control| control.name).collect()
}

#[test]
fn a_sound_learner_is_green_whatever_is_drawn() {
    for seed in 0..30 {
        let controls = examine(Fault::None, seed);
        let all = [
            Name::Reproduced,
            Name::ShuffledImages,
            Name::ShuffledLabels,
            Name::AdapterOffOn,
            Name::ReloadParity,
            Name::PromptWithoutImage,
        ];
        assert_eq!(with(&controls, Verdict::Green), all, "seed {seed}: {controls:#?}");
    }
}

#[test]
fn every_fault_turns_its_control_red() {
    for (fault, red) in [
        (
            Fault::AnswersWithTheTruth,
            &[Name::ShuffledImages, Name::ShuffledLabels][..],
        ),
        // A third of right answers may be luck where all images of a class get one answer.
        (Fault::AnswersSometimesWithTheTruth, &[Name::ShuffledImages]),
        (Fault::LearnsFromNames, &[Name::ShuffledLabels]),
        (Fault::KnowsAlready, &[Name::ShuffledLabels]),
        (Fault::SaysThatItKnows, &[]),
        (Fault::AdapterIsNotApplied, &[Name::AdapterOffOn]),
        (Fault::TrainsTheBase, &[Name::AdapterOffOn]),
        (Fault::LoadsIntoAll, &[Name::AdapterOffOn, Name::ReloadParity]),
        (Fault::LosesATensor, &[Name::ReloadParity]),
        (Fault::PromptHoldsTheAnswer, &[Name::PromptWithoutImage]),
        (Fault::NeverTheSame, &[]),
    ] {
        let controls = examine(fault, 1);
        assert_eq!(with(&controls, Verdict::Red), red, "{fault:?}: {controls:#?}");
        let reproduced = with(&controls, Verdict::NotJudged) != [Name::Reproduced];
        assert_eq!(reproduced, !matches!(fault, Fault::NeverTheSame), "{fault:?}");
    }
}
