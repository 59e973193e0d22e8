//! The classifier that writes class names, its training, and what it has learned.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::{Loss, Qwen3VlLora};
use crate::backend::{Backend, Sampler, Trainer, Weights};
use crate::data::LabelledImage;
use crate::engine::{AdamParams, AdapterConfig};
use crate::error::{Error, Result};
use crate::example::{Datum, MESSAGE_END, ModelInput, Picture, Renderer};
use crate::learner::classifier::{
    Checkpoints, Classifier, Fit, Interleaved, OnStep, Preprocessor, Prompted, Sink, View, argmax, untrained,
};
use crate::learner::reading::{Answer, Answers};
use crate::learner::training::{Plan, Trainable, train};
use crate::prediction::{Names, Prediction, Reading};

/// Test images asked about at once.
const BATCH: usize = 32;

/// A classifier that writes; before [`Classifier::fit`] or [`Classifier::load`] it answers with the base
/// model's weights, which is the zero-shot reading.
pub struct VlmClassifier {
    renderer: Arc<Renderer>,
    config: Qwen3VlLora,
    answers: Answers,
    seed: u64,
    /// A PEFT adapter folder, from whose weights training starts.
    pub(super) start: Option<PathBuf>,
    learned: Learned,
}

impl VlmClassifier {
    /// A classifier for these classes; `seed` decides initialisation, order and flips.
    ///
    /// # Errors
    /// When two class names are the same to a reader, or the tokenizer cannot write one.
    pub fn new(
        backend: Arc<dyn Backend>,
        renderer: Arc<Renderer>,
        config: Qwen3VlLora,
        classes: &[String],
        seed: u64,
    ) -> Result<Self> {
        let ending = match config.loss() {
            Loss::Name => "",
            Loss::Message => MESSAGE_END,
        };
        Ok(Self {
            answers: Answers::new(&renderer, classes, ending)?,
            learned: Learned::of(backend, Weights::Base),
            renderer,
            config,
            seed,
            start: None,
        })
    }

    /// Pictures of images, each mirrored or not.
    fn pictures(&self, images: &[LabelledImage], mirrored: &[bool]) -> Result<Vec<Picture>> {
        let renderer = &*self.renderer;
        let all = images.par_iter().zip(mirrored);
        all.map(|(image, &mirrored)| renderer.picture_of(image, mirrored))
            .collect()
    }

    /// One batch of training: the loss is the mean over the tokens that are learned.
    fn examples(&self, shots: &[LabelledImage], mirrored: &[bool]) -> Result<Vec<Datum>> {
        let pictures = self.pictures(shots, mirrored)?;
        let pairs: Vec<(ModelInput, Vec<u32>)> = pictures
            .iter()
            .zip(shots)
            .map(|(picture, shot)| self.lesson(picture, self.name(shot)?))
            .collect::<Result<_>>()?;
        let tokens: usize = pairs.iter().map(|(_, learned)| learned.len()).sum();
        let weight = 1.0 / tokens.max(1) as f32;
        let datum = |(prompt, learned): (ModelInput, Vec<u32>)| Datum::answered(prompt, &learned, weight);
        Ok(pairs.into_iter().map(datum).collect())
    }

    /// The prompt, and the tokens that the model learns to write after it.
    fn lesson(&self, picture: &Picture, name: &[u32]) -> Result<(ModelInput, Vec<u32>)> {
        match self.config.loss() {
            Loss::Name => Ok((self.renderer.question(Some(picture))?, name.to_vec())),
            Loss::Message => {
                let (prompt, mut message) = self.renderer.unopened(picture)?;
                message.extend(name);
                Ok((prompt, message))
            }
        }
    }

    /// The questions about images, each with its picture or none of them.
    fn questions(&self, images: &[LabelledImage], shown: bool) -> Result<Vec<ModelInput>> {
        if !shown {
            return images.iter().map(|_| self.renderer.question(None)).collect();
        }
        let pictures = self.pictures(images, &vec![false; images.len()])?;
        pictures
            .iter()
            .map(|picture| self.renderer.question(Some(picture)))
            .collect()
    }

    fn answer(&mut self, images: &[LabelledImage], shown: bool, sink: Sink<'_>) -> Result<()> {
        for batch in images.chunks(BATCH) {
            let prompts = self.questions(batch, shown)?;
            sink(&self.ask(batch, &prompts)?)?;
        }
        Ok(())
    }

    /// One batch: the question about each image to its row.
    fn ask(&mut self, images: &[LabelledImage], prompts: &[ModelInput]) -> Result<Vec<Prediction>> {
        let sampler = self.learned.sampler()?;
        let hints: Vec<u32> = images.iter().map(|image| image.class).collect();
        let answers = self
            .answers
            .read(sampler, prompts, &self.config.readings, Some(&hints))?;
        Ok(images.iter().zip(answers).map(|(image, a)| row(image, a)).collect())
    }

    fn name(&self, image: &LabelledImage) -> Result<&[u32]> {
        let names = self.answers.tokens();
        let name = names.get(image.class as usize).map(Vec::as_slice);
        name.ok_or_else(|| Error::Dataset {
            dataset: image.id.clone(),
            reason: format!("class {} is not among {} class names", image.class, names.len()),
        })
    }
}

impl Classifier for VlmClassifier {
    fn fit(&mut self, shots: &[LabelledImage], keep: Option<&Checkpoints>, on_step: OnStep<'_>) -> Result<Fit> {
        let (config, backend) = (&self.config, &self.learned.backend);
        let trainer = backend.trainer(&AdapterConfig {
            lora: config.into(),
            seed: self.seed,
            start: self.start.clone(),
        })?;
        let images = config.images_per_class * self.answers.tokens().len();
        let mut plan = Plan::new(backend.fingerprint(), shots.len(), images, config.batch, self.seed);
        if config.flip {
            plan = plan.with_flips();
        }
        let peak = AdamParams {
            learning_rate: config.peak_rate(backend.width()),
            weight_decay: config.weight_decay,
            grad_clip_norm: Some(config.clip),
            ..AdamParams::default()
        };
        let mut training = Training {
            classifier: &*self,
            trainer,
            shots,
            plan: &plan,
        };
        let fit = train(&plan, &peak, config.warmup, &mut training, keep, on_step)?;
        let mut trainer = training.trainer;
        let sampler = Some(trainer.sampler()?);
        self.learned = Learned {
            trainer: Some(trainer),
            sampler,
            ..Learned::of(self.learned.backend.clone(), Weights::Base)
        };
        Ok(fit)
    }

    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
        self.answer(images, true, sink)
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        self.learned.save(dir)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        let mut saved = Learned::of(self.learned.backend.clone(), Weights::Saved(dir.display().to_string()));
        saved.sampler()?;
        self.learned = saved;
        Ok(())
    }

    fn interleaved(&mut self) -> Option<&mut dyn Interleaved> {
        Some(self)
    }

    fn prompted(&mut self) -> Option<&mut dyn Prompted> {
        Some(self)
    }
}

impl Interleaved for VlmClassifier {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.renderer.clone()
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn predict_views(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>> {
        let question = |view: &View| match view {
            View::Picture(picture) => self.renderer.question(Some(picture)),
            View::Values(_) => Err(candle_core::Error::Msg("a view of another eye".into()).into()),
        };
        let prompts = views.iter().map(question).collect::<Result<Vec<_>>>()?;
        self.ask(images, &prompts)
    }

    fn release(&mut self) {
        self.learned.release();
    }
}

impl Prompted for VlmClassifier {
    fn predict_without_image(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
        self.answer(images, false, sink)
    }

    fn names(&mut self) -> Result<Option<Names>> {
        if !self.config.readings.contains(&Reading::Likelihood) {
            return Ok(None);
        }
        let question = self.renderer.question(None)?;
        let asked = [Reading::Likelihood];
        let answers = self.answers.read(self.learned.sampler()?, &[question], &asked, None)?;
        let prior = answers.into_iter().next().and_then(|answer| answer.log_probs);
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Ok(prior.map(|prior| Names {
            tokens: self.answers.tokens().iter().map(|tokens| count(tokens.len())).collect(),
            bytes: self.answers.texts().iter().map(|text| count(text.len())).collect(),
            prior,
        }))
    }
}

/// The weights that a classifier has learned, and a sampler of them: made when it is needed, and again after a
/// [release](Learned::release).
struct Learned {
    backend: Arc<dyn Backend>,
    weights: Weights,
    /// The training that is done, if the weights are its own.
    trainer: Option<Box<dyn Trainer>>,
    sampler: Option<Box<dyn Sampler>>,
}

impl Learned {
    /// Weights that no training of this classifier has made: the base model's, or those that [`Learned::save`] wrote.
    fn of(backend: Arc<dyn Backend>, weights: Weights) -> Self {
        Self {
            backend,
            weights,
            trainer: None,
            sampler: None,
        }
    }

    fn sampler(&mut self) -> Result<&mut dyn Sampler> {
        let sampler = match (self.sampler.take(), &mut self.trainer) {
            (Some(sampler), _) => sampler,
            (None, Some(trainer)) => trainer.sampler()?,
            (None, None) => self.backend.sampler(&self.weights)?,
        };
        Ok(&mut **self.sampler.insert(sampler))
    }

    /// Frees the sampler, which holds a copy of every adapted weight.
    fn release(&mut self) {
        self.sampler = None;
    }

    /// Writes what was trained.
    fn save(&mut self, dir: &Path) -> Result<()> {
        let trainer = self.trainer.as_mut().ok_or_else(|| untrained(dir))?;
        trainer.save_weights_for_sampler(&dir.display().to_string()).map(drop)
    }
}

/// A training by the backend's verbs.
struct Training<'a> {
    classifier: &'a VlmClassifier,
    trainer: Box<dyn Trainer>,
    shots: &'a [LabelledImage],
    plan: &'a Plan,
}

impl Trainable for Training<'_> {
    fn train_step(&mut self, number: usize, batch: &[usize], params: &AdamParams) -> Result<f64> {
        let shots: Vec<LabelledImage> = batch.iter().map(|&i| self.shots[i].clone()).collect();
        let first = number * self.plan.batch;
        let mirrored = |place: usize| self.plan.mirrored.get(first + place).copied().unwrap_or(false);
        let mirrored: Vec<bool> = (0..batch.len()).map(mirrored).collect();
        let examples = self.classifier.examples(&shots, &mirrored)?;
        Ok(self.trainer.train_step(&examples, params)?.loss_sum)
    }

    fn save(&mut self, name: &str) -> Result<Option<String>> {
        let path = self.trainer.save_state(name)?;
        Ok((path != name).then_some(path))
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        self.trainer.load_state(name)
    }

    fn trainable_parameters(&self) -> u64 {
        let numbers = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() as u64;
        self.trainer.trainable().iter().map(numbers).sum()
    }

    fn halved_to(&self) -> Option<usize> {
        self.trainer.halved_to()
    }
}

fn row(image: &LabelledImage, answer: Answer) -> Prediction {
    Prediction {
        id: image.id.clone(),
        sha256: image.sha256.clone(),
        group: image.group.clone(),
        truth: image.class,
        free_text: answer.free_text,
        free_class: answer.free_class,
        trie_class: answer.trie_class,
        likelihood_class: answer.log_probs.as_deref().map(argmax),
        log_probs: answer.log_probs,
    }
}
