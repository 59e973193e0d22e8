//! CLIP and SigLIP without any training: the class whose name, put into published sentences, lies nearest to the image.
//!
//! Of each class the text features of all templates are scaled to unit length, averaged and scaled again (CLIP's
//! prompt ensembling); of an image its features are. Logits are `scale · cosine (+ bias)`. The class log-probabilities are
//! the log-softmax of the logits over the classes: CLIP's own; SigLIP's sigmoids are not a distribution over
//! classes, and under the softmax its bias cancels.

mod templates;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::architecture::Architecture;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::example::{CaptionTokenizer, ImageLoader, ImageProcessor, Padding, model_error, written};
use crate::formats::image_processor::image_settings;
use crate::fs::hash::hex;
use crate::learner::base::{Base, Bases, base};
use crate::learner::features::{self, pixel_values, stacked};
use crate::learner::settings::{Cost, HyperParameters, LearnerSettings, hyper_parameters};
use crate::learner::{Checkpoints, Classifier, Fit, Interleaved, OnStep, Preprocessor, Sink, View, argmax, row};
use crate::manifest::Layout;
use crate::models::contrastive::{Contrastive, Family, unit_rows};
use crate::nn::DeviceSpec;
use crate::prediction::Prediction;

/// Images, and texts, in a forward pass.
const BATCH: usize = 32;

/// A family of models with the texts that are published for it.
pub trait Published {
    /// Label in tables and figures, unless another one is set.
    const NAME: &'static str;
    /// The template for a dataset that has none of its own.
    const TEMPLATE: &'static str;
    /// Loss and preprocessing.
    const FAMILY: Family;
    /// Architecture of its models.
    const ARCHITECTURE: Architecture;
}

/// CLIP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip;

impl Published for Clip {
    const NAME: &'static str = "CLIP zero-shot";
    const TEMPLATE: &'static str = "a photo of a {}.";
    const FAMILY: Family = Family::Clip;
    const ARCHITECTURE: Architecture = Architecture::Clip;
}

/// SigLIP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Siglip;

impl Published for Siglip {
    const NAME: &'static str = "SigLIP zero-shot";
    const TEMPLATE: &'static str = "This is a photo of {}.";
    const FAMILY: Family = Family::Siglip;
    const ARCHITECTURE: Architecture = Architecture::Siglip;
}

/// Settings of CLIP.
pub type ClipZeroShot = ZeroShot<Clip>;
/// Settings of SigLIP.
pub type SiglipZeroShot = ZeroShot<Siglip>;

/// Settings of a model that answers from class names alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroShot<F> {
    /// Label in tables and figures; where none is given, `CLIP zero-shot` or `SigLIP zero-shot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hub-layout folder of the model, or `owner/name` on the hub.
    pub model: PathBuf,
    /// Texts with `{}` where the class name goes; where none are given, those published for the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<String>>,
    #[serde(skip)]
    family: PhantomData<F>,
}

impl<F: Published + 'static> LearnerSettings for ZeroShot<F> {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(F::NAME)
    }

    fn model(&self) -> Option<&Path> {
        Some(&self.model)
    }

    fn hyper_parameters(&self) -> HyperParameters {
        hyper_parameters!(self without name, model, family; prediction: templates = templates.as_ref();)
    }

    fn load(&self, bases: &mut Bases) -> Result<Arc<dyn Base>> {
        let dir = bases.folder(&self.model)?;
        let place = bases.place(Some(&self.model), self.dtype())?;
        let images = bases.images.clone();
        let pair = bases.once(&(&dir, F::FAMILY, place.dtype), || {
            let mut pair = Pair::load(&dir, F::FAMILY, &place)?;
            pair.images = pair.images.with_cache(images);
            Ok(pair)
        })?;
        let templates = self.templates.clone();
        let templates = templates.unwrap_or_else(|| templates::published(None, F::TEMPLATE));
        Ok(base(Some(pair.fingerprint.clone()), move |classes, _| {
            Ok(Box::new(ZeroShotClassifier::new(pair.clone(), classes, &templates)))
        }))
    }

    fn check(&self) -> Result<(), String> {
        let (label, Some(templates)) = (self.name(), &self.templates) else {
            return Ok(());
        };
        if templates.is_empty() {
            return Err(format!("learner `{label}`: templates is empty"));
        }
        match templates.iter().find(|template| template.matches("{}").count() != 1) {
            Some(wrong) => Err(format!("learner `{label}`: the template `{wrong}` needs one `{{}}`")),
            None => Ok(()),
        }
    }

    fn learns(&self) -> bool {
        false
    }

    fn has_probabilities(&self) -> bool {
        true
    }

    fn describe(&mut self, layout: Option<Layout>) {
        self.templates
            .get_or_insert_with(|| templates::published(layout, F::TEMPLATE));
    }

    fn architecture() -> Option<Architecture> {
        Some(F::ARCHITECTURE)
    }
}

impl<F> Cost for ZeroShot<F> {}

/// Both towers with what feeds them.
pub struct Pair {
    model: Contrastive,
    images: ImageLoader<ImageProcessor>,
    captions: CaptionTokenizer,
    /// Of weights, preprocessing and tokenizer.
    fingerprint: String,
}

impl Pair {
    /// Loads a hub-layout folder: weights, `preprocessor_config.json`, `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder lacks something, or its parts do not fit together.
    pub fn load(dir: &Path, family: Family, place: &DeviceSpec) -> Result<Self> {
        let model = Contrastive::load(dir, family, place)?;
        let settings = image_settings(dir)?;
        let processor = ImageProcessor::load(dir)?;
        let side = model.config().image_size();
        if processor.size() != (side, side) {
            let (height, width) = processor.size();
            let reason = format!("makes images of {width} x {height} pixels, `config.json` asks for {side} x {side}");
            return Err(model_error(&settings.path, reason));
        }
        let padding = match family {
            Family::Clip => Padding::Longest,
            Family::Siglip => Padding::MaxLength,
        };
        let captions = CaptionTokenizer::load(dir, padding, model.config().context())?;
        let fingerprint = Sha256::new()
            .chain_update(model.fingerprint())
            .chain_update(&settings.text)
            .chain_update(captions.fingerprint())
            .finalize();
        Ok(Self {
            fingerprint: hex(&fingerprint),
            model,
            images: ImageLoader::new(processor),
            captions,
        })
    }

    /// Normalised pixels of images: (B, 3, S, S).
    ///
    /// # Errors
    /// Unreadable images.
    pub fn pixels(&self, images: &[LabelledImage]) -> Result<Tensor> {
        pixel_values(images, &self.images, &Device::Cpu)
    }

    /// Text features of texts, not normalised: (N, P).
    ///
    /// # Errors
    /// A text that the tokenizer refuses, tensor failures.
    pub fn text_features(&self, texts: &[String]) -> Result<Tensor> {
        let mut parts = Vec::new();
        for batch in texts.chunks(BATCH) {
            let rows = self.captions.encode(batch)?;
            let length = rows.first().map_or(0, Vec::len);
            let ids = Tensor::from_vec(rows.concat(), (rows.len(), length), &Device::Cpu)?;
            parts.push(self.model.text_features(&ids)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// One unit vector per class: (C, P).
    fn classes(&self, classes: &[String], templates: &[String]) -> Result<Tensor> {
        let of_class = |class: &String| {
            let name = written(class);
            templates.iter().map(move |template| template.replace("{}", &name))
        };
        let texts: Vec<String> = classes.iter().flat_map(of_class).collect();
        let features = unit_rows(&self.text_features(&texts)?)?;
        let width = features.dim(1)?;
        unit_rows(&features.reshape((classes.len(), templates.len(), width))?.mean(1)?)
    }
}

/// A classifier that knows the names of the classes and nothing else of them.
pub struct ZeroShotClassifier {
    pair: Arc<Pair>,
    names: Vec<String>,
    templates: Vec<String>,
    /// Made when first needed.
    classes: Option<Tensor>,
}

impl ZeroShotClassifier {
    /// Classes with these names, asked by these templates (`{}` for the name).
    #[must_use]
    pub fn new(pair: Arc<Pair>, names: &[String], templates: &[String]) -> Self {
        Self {
            pair,
            names: names.to_vec(),
            templates: templates.to_vec(),
            classes: None,
        }
    }

    /// Logits of images: rows of one number a class.
    ///
    /// # Errors
    /// Unreadable images, tensor failures.
    pub fn logits(&mut self, images: &[LabelledImage]) -> Result<Vec<Vec<f32>>> {
        self.logits_of(&self.pair.pixels(images)?)
    }

    fn logits_of(&mut self, pixels: &Tensor) -> Result<Vec<Vec<f32>>> {
        let pair = &self.pair;
        let classes = match &mut self.classes {
            Some(classes) => classes,
            none => none.insert(pair.classes(&self.names, &self.templates)?),
        };
        let features = pair.model.image_features(pixels)?;
        Ok(pair.model.logits(&unit_rows(&features)?, classes)?.to_vec2()?)
    }
}

impl Classifier for ZeroShotClassifier {
    fn fit(&mut self, _: &[LabelledImage], _: Option<&Checkpoints>, _: OnStep<'_>) -> Result<Fit> {
        Err(Error::Config {
            origin: "a zero-shot learner".into(),
            reason: "it answers from class names alone and learns nothing: it belongs to `shots = 0`".into(),
        })
    }

    fn predict(&mut self, images: &[LabelledImage], sink: Sink<'_>) -> Result<()> {
        images
            .chunks(BATCH)
            .try_for_each(|batch| sink(&rows(batch, &self.logits(batch)?)))
    }

    fn interleaved(&mut self) -> Option<&mut dyn Interleaved> {
        Some(self)
    }
}

impl Interleaved for ZeroShotClassifier {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.pair.clone()
    }

    fn batch(&self) -> usize {
        features::BATCH
    }

    fn predict_views(&mut self, images: &[LabelledImage], views: &[View]) -> Result<Vec<Prediction>> {
        let mut answers = Vec::with_capacity(images.len());
        for (images, views) in images.chunks(BATCH).zip(views.chunks(BATCH)) {
            let pixels = stacked(views, self.pair.images.resizer(), &Device::Cpu)?;
            answers.extend(rows(images, &self.logits_of(&pixels)?));
        }
        Ok(answers)
    }
}

impl Preprocessor for Pair {
    fn preprocess(&self, image: &LabelledImage, bytes: &[u8]) -> Result<View> {
        let framed = self.images.decode(image, bytes)?;
        Ok(View::Values(self.images.resizer().normalised(&framed)))
    }
}

fn rows(images: &[LabelledImage], logits: &[Vec<f32>]) -> Vec<Prediction> {
    let pairs = images.iter().zip(logits);
    pairs
        .map(|(image, logits)| row(image, argmax(logits), Some(log_softmax(logits))))
        .collect()
}

/// Log-probabilities of logits, nats.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    logits.iter().map(|l| (f64::from(l - max) - sum.ln()) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_templates_stay_and_others_are_written_out() {
        let parse = |set: &str| toml::from_str::<SiglipZeroShot>(&format!("model = 'm'\n{set}")).unwrap();
        let templates = |mut learner: SiglipZeroShot, layout| {
            learner.describe(layout);
            learner.templates.unwrap()
        };
        assert_eq!(templates(parse("templates=['{}!']"), Some(Layout::OxfordPets)), ["{}!"]);
        assert_eq!(
            templates(parse(""), Some(Layout::OxfordPets)),
            ["a photo of a {}, a type of pet."]
        );
        assert_eq!(templates(parse(""), None), ["This is a photo of {}."]);
    }

    #[test]
    fn a_template_has_one_place_for_the_name() {
        let with = |templates: &[&str]| ClipZeroShot {
            name: Some("CLIP".into()),
            model: "m".into(),
            templates: Some(templates.iter().map(|t| (*t).to_owned()).collect()),
            family: PhantomData,
        };
        assert!(with(&["a photo of a {}."]).check().is_ok());
        for wrong in [&[][..], &["a photo."], &["{} and {}"]] {
            let reason = with(wrong).check().unwrap_err();
            assert!(reason.contains("`CLIP`"), "{reason}");
        }
    }
}
