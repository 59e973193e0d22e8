//! A vision-language model that learns, by LoRA, to write the class name. Written against the backend's
//! verbs only, so that it learns the same way wherever the model runs.

mod cost;
mod learned;
mod settings;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::local::LocalBackend;
use crate::backend::{Backend, Trainer};
use crate::checkpoint::architecture::Architecture;
use crate::config::{Dtype, Protocol, Shots};
use crate::data::LabelledImage;
use crate::engine::{AdamParams, AdapterConfig};
use crate::error::{Error, Result};
use crate::example::{Datum, MESSAGE_END, ModelInput, PatchProcessor, Picture, Renderer, shrunk};
use crate::learner::base::{Base, Bases, SharedTower};
use crate::learner::order::Plan;
use crate::learner::reading::{Answer, Answers};
use crate::learner::settings::{HyperParameters, LearnerSettings, group};
use crate::learner::training::{Schedule, Trainable, train};
use crate::learner::{Checkpoints, Classifier, Fit, Interleaved, Preprocessor, Prompted, Step, View, argmax};
use crate::prediction::{Names, Prediction, Reading};
use learned::Learned;
pub use settings::{Loss, Qwen3VlLora};

/// Test images asked about at once.
const BATCH: usize = 32;

impl LearnerSettings for Qwen3VlLora {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        // `auto` and the type that it stands for are the same, and an identity has the type. Where `images_per_class_of_all`
        // counts it has taken the place of `images_per_class`.
        let Self {
            name: _,
            model: _,
            dtype: _,
            images_per_class_of_all: _,
            targets,
            experts,
            rank,
            alpha,
            learning_rate,
            weight_decay,
            batch,
            images_per_class,
            warmup,
            clip,
            flip,
            loss,
            checkpointing,
            prompt,
            longest_side,
            reading,
            readings,
        } = self;
        // A default that came later is no hyper-parameter of before.
        let experts = (!experts.is_default()).then_some(experts);
        let prompt = (!prompt.is_default()).then_some(prompt);
        // In which order readings are taken changes none of them.
        let mut readings = readings.clone();
        readings.sort_unstable();
        readings.dedup();
        HyperParameters {
            training: group!(
                targets, rank, alpha, weight_decay, batch, images_per_class, warmup, clip, flip, checkpointing;
                optional experts, learning_rate, loss
            ),
            prediction: group!(longest_side, reading, readings; optional prompt),
        }
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let dir = bases.folder(&self.model)?;
        let place = bases.place(Some(&self.model), self.dtype)?;
        let images = bases.images();
        let renderer = bases.once(&(&dir, self.longest_side, self.prompt), || {
            let renderer = Renderer::load(&dir, Some(self.longest_side))?.in_words(self.prompt);
            Ok(renderer.keeping(images))
        })?;
        let feature_bytes = bases.feature_bytes();
        let backend = bases.once(&(&dir, self.checkpointing, place.dtype), || {
            let mut settings = cost::engine_settings(self, &dir, &place)?;
            if let Some(bytes) = feature_bytes {
                settings.feature_bytes = bytes;
            }
            LocalBackend::load(&dir, &place, settings)
        })?;
        Ok(Arc::new(Qwen3VlBase {
            backend,
            renderer,
            config: self.clone(),
        }))
    }

    fn check(&self) -> Result<(), String> {
        let of = |reason: &str| Err(format!("learner `{}`: {reason}", self.name));
        let numbers = [
            ("rank", self.rank as f64),
            ("alpha", self.alpha),
            ("batch", self.batch as f64),
            ("images_per_class", self.images_per_class as f64),
            ("clip", self.clip),
            ("longest_side", f64::from(self.longest_side)),
            ("learning_rate", self.learning_rate.unwrap_or(1.0)),
        ];
        if let Some((what, _)) = numbers.iter().find(|(_, n)| !(n.is_finite() && *n > 0.0)) {
            return of(&format!("{what} must be above 0"));
        }
        if self.targets.is_empty() {
            return of("targets is empty");
        }
        if !(0.0..=1.0).contains(&self.warmup) {
            return of("warmup is a share of the steps, 0 to 1");
        }
        if !self.readings.contains(&self.reading) {
            return of("reading is not among readings");
        }
        Ok(())
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn has_adapter(&self) -> bool {
        true
    }

    fn answers_unseen(&self) -> bool {
        true
    }

    fn has_probabilities(&self) -> bool {
        self.readings.contains(&Reading::Likelihood)
    }

    fn reading(&self) -> Reading {
        self.reading
    }

    fn readings(&self) -> Vec<Reading> {
        self.readings.clone()
    }

    fn images_seen(&self, classes: usize) -> usize {
        self.images_per_class * classes
    }

    fn specialise(&mut self, protocol: Protocol, shots: Shots) {
        if shots == Shots::All {
            self.images_per_class = self.images_per_class_of_all;
        }
        let of_protocol = (protocol == Protocol::Tinker).then_some(Loss::Message);
        let loss = self.loss.or(of_protocol);
        self.loss = loss.filter(|loss| *loss != Loss::Name && shots.any());
    }

    fn refuses(&self, width: u32, height: u32) -> bool {
        let (width, height) = shrunk((width, height), self.longest_side);
        PatchProcessor::refuses(width, height)
    }

    fn architecture() -> Option<Architecture> {
        Some(Architecture::Qwen3Vl)
    }
}

/// A model that writes, on the backend where it runs.
struct Qwen3VlBase {
    backend: Arc<dyn Backend>,
    renderer: Arc<Renderer>,
    config: Qwen3VlLora,
}

impl Qwen3VlBase {
    fn fresh(&self, classes: &[String], seed: u64) -> Result<VlmClassifier> {
        let (backend, renderer) = (self.backend.clone(), self.renderer.clone());
        VlmClassifier::new(backend, renderer, self.config.clone(), classes, seed)
    }
}

impl Base for Qwen3VlBase {
    fn fingerprint(&self) -> Option<&str> {
        Some(self.backend.fingerprint())
    }

    fn backend(&self) -> &'static str {
        self.backend.kind()
    }

    fn classifier(&self, classes: &[String], seed: u64) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(self.fresh(classes, seed)?))
    }

    fn classifier_from(&self, adapter: &Path, classes: &[String], seed: u64) -> Result<Option<Box<dyn Classifier>>> {
        Ok(Some(Box::new(self.fresh(classes, seed)?.starting_from(adapter))))
    }

    fn tower(&self) -> Option<SharedTower> {
        let identity = [
            Arc::as_ptr(&self.backend).cast::<()>() as usize,
            Arc::as_ptr(&self.renderer) as usize,
        ];
        let tokens = self.renderer.most_tokens();
        Some(SharedTower {
            identity,
            capacity: tokens.and_then(|tokens| self.backend.feature_capacity(tokens)),
            lookups: self.backend.cache_stats(),
        })
    }
}

/// A classifier that writes; before [`Classifier::fit`] or [`Classifier::load`] it answers with the base
/// model's weights, which is the zero-shot reading.
pub struct VlmClassifier {
    backend: Arc<dyn Backend>,
    renderer: Arc<Renderer>,
    config: Qwen3VlLora,
    answers: Answers,
    /// Tokens of each class's name, with what ends the answer.
    names: Vec<Vec<u32>>,
    seed: u64,
    start: Option<std::path::PathBuf>,
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
        let answers = Answers::ending(&renderer, classes, ending)?;
        let names = answers.tokens().to_vec();
        Ok(Self {
            learned: Learned::nothing(backend.clone()),
            backend,
            renderer,
            config,
            answers,
            names,
            seed,
            start: None,
        })
    }

    /// The same, but training starts from the weights of a PEFT adapter folder.
    #[must_use]
    pub fn starting_from(mut self, adapter: &Path) -> Self {
        self.start = Some(adapter.to_path_buf());
        self
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

    fn answer(
        &mut self,
        images: &[LabelledImage],
        shown: bool,
        sink: &mut dyn FnMut(&[Prediction]) -> Result<()>,
    ) -> Result<()> {
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
        let name = self.names.get(image.class as usize).map(Vec::as_slice);
        name.ok_or_else(|| Error::Dataset {
            dataset: image.id.clone(),
            reason: format!("class {} is not among {} class names", image.class, self.names.len()),
        })
    }
}

impl Classifier for VlmClassifier {
    fn fit(
        &mut self,
        shots: &[LabelledImage],
        keep: Option<&Checkpoints>,
        on_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Fit> {
        let config = &self.config;
        let trainer = self.backend.trainer(&AdapterConfig {
            lora: config.into(),
            seed: self.seed,
            start: self.start.clone(),
        })?;
        let images = config.images_per_class * self.names.len();
        let mut plan = Plan::new(self.backend.fingerprint(), shots.len(), images, config.batch, self.seed);
        if config.flip {
            plan = plan.with_flips();
        }
        let schedule = Schedule {
            peak: config.peak_rate(self.backend.width()),
            warmup: config.warmup,
            weight_decay: config.weight_decay,
            clip: config.clip,
        };
        let mut training = Training {
            classifier: &*self,
            trainer,
            shots,
            plan: &plan,
        };
        let fit = train(&plan, &schedule, &mut training, keep, on_step)?;
        self.learned = Learned::by(training.trainer)?;
        Ok(fit)
    }

    fn predict(&mut self, images: &[LabelledImage], sink: &mut dyn FnMut(&[Prediction]) -> Result<()>) -> Result<()> {
        self.answer(images, true, sink)
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        self.learned.save(dir)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        self.learned = Learned::saved(self.backend.clone(), dir)?;
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
            View::Values(_) | View::File => Err(candle_core::Error::Msg("a view of another eye".into()).into()),
        };
        let prompts = views.iter().map(question).collect::<Result<Vec<_>>>()?;
        self.ask(images, &prompts)
    }

    fn release(&mut self) {
        self.learned.release();
    }
}

impl Prompted for VlmClassifier {
    fn predict_without_image(
        &mut self,
        images: &[LabelledImage],
        sink: &mut dyn FnMut(&[Prediction]) -> Result<()>,
    ) -> Result<()> {
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
            tokens: self.names.iter().map(|tokens| count(tokens.len())).collect(),
            bytes: self.answers.texts().iter().map(|text| count(text.len())).collect(),
            prior,
        }))
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
