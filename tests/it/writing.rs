//! Controls of the learner that writes: what must be chance is chance, and nothing but the image tells it the class.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kshot::backend::local::LocalBackend;
use kshot::backend::{Backend as _, Weights};
use kshot::config::ExpertLora;
use kshot::engine::{AdamParams, AdapterConfig, Settings};
use kshot::example::{Datum, Renderer};
use kshot::experiment::plan::Cell;
use kshot::learner::reading::{Answer, Answers};
use kshot::models::lora::Lora;
use kshot::nn::DeviceSpec;
use kshot::prediction::{Prediction, Reading};
use kshot::seed::rng;
use kshot::statistics;
use kshot::statistics::variance::{Estimate, Scores};
use rand::seq::SliceRandom as _;

use crate::support::{self, predict, writing_model};

const WRITING: &str = r#"
name = "writing"
datasets = ["mini-pets"]
shots = [4]
[[learner]]
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
images_per_class = 24
learning_rate = 4e-3
"#;

fn cells(set: &[&str]) -> Vec<Cell> {
    support::cells(WRITING, set)
}

fn share(rows: &[Prediction], reading: Reading) -> f64 {
    rows.iter().filter(|row| row.correct(reading)).count() as f64 / rows.len() as f64
}

/// On a novel set, of which the base model knows no name; trained as long as in the quickstart, so that what it answers
/// comes from the labels and not from the base model's first guess, which is the same for all shuffles.
#[test]
fn images_shuffled_against_labels_leave_chance() {
    let shuffles: u64 = 8;
    let seeds = format!("seeds={:?}", (0..shuffles).collect::<Vec<_>>());
    let mut scores: BTreeMap<String, (String, Vec<f64>)> = BTreeMap::new();
    let mut chance = 0.0;
    let set = [
        "shots=[8]",
        &seeds,
        "learner.0.readings=['trie']",
        "learner.0.reading=trie",
        "learner.0.images_per_class=80",
    ];
    for cell in cells(&set) {
        let mut shots = cell.shots().unwrap();
        let mut labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        labels.shuffle(&mut rng(cell.key.seed, "control/labels"));
        for (shot, label) in shots.iter_mut().zip(labels) {
            shot.class = label;
        }
        let mut classifier = cell.classifier().unwrap();
        classifier.fit(&shots, None, &mut |_| Ok(())).unwrap();
        for row in predict(classifier.as_mut(), &cell.test().unwrap()) {
            let score = f64::from(u8::from(row.correct(Reading::Trie)));
            let drawing = row.group.clone().unwrap();
            scores.entry(row.id).or_insert((drawing, vec![])).1.push(score);
        }
        chance = 1.0 / cell.split.classes.len() as f64;
    }
    let drawings: BTreeSet<String> = scores.values().map(|(drawing, _)| drawing.clone()).collect();
    let group = |drawing: &String| drawings.iter().position(|other| other == drawing).unwrap() as u32;
    let scores = Scores {
        groups: scores.values().map(|(drawing, _)| group(drawing)).collect(),
        strata: vec![0; scores.len()],
        seeds: shuffles as usize,
        values: scores.into_values().flat_map(|(_, scores)| scores).collect(),
    };
    assert!(scores.len() == 180 && scores.values.len() == 180 * shuffles as usize);
    let found = Estimate::share(&scores).unwrap();
    assert!(
        found.interval.low <= chance && chance <= found.interval.high,
        "{found:?} does not contain {chance}"
    );
}

#[test]
fn an_adapter_saved_and_reloaded_answers_the_same_and_says_nothing_without_an_image() {
    let cell = cells(&["datasets=['mini-flowers']"]).remove(0);
    let (shots, test) = (cell.shots().unwrap(), cell.test().unwrap());
    let mut trained = cell.classifier().unwrap();
    trained.fit(&shots, None, &mut |_| Ok(())).unwrap();
    let expected = predict(trained.as_mut(), &test);
    let classes = cell.split.classes.len();
    assert!(
        share(&expected, Reading::Free) > 2.0 / classes as f64,
        "it learned something"
    );

    let folder = tempfile::tempdir().unwrap();
    trained.save(folder.path()).unwrap();
    let mut loaded = cell.classifier().unwrap();
    loaded.load(folder.path()).unwrap();
    assert_eq!(predict(loaded.as_mut(), &test), expected);

    // The question without the photo has one answer, which is right as often as its class occurs.
    let model = writing_model();
    let renderer = Renderer::load(&model, Some(480)).unwrap();
    let answers = Answers::new(&renderer, &cell.split.classes, "").unwrap();
    let backend = Arc::new(LocalBackend::load(&model, &DeviceSpec::cpu(), Settings::default()).unwrap());
    let weights = Weights::Saved(folder.path().display().to_string());
    let mut sampler = backend.sampler(&weights).unwrap();
    let blind = vec![renderer.question(None).unwrap(); test.len()];
    let readings = [Reading::Free, Reading::Trie, Reading::Likelihood];
    let said = answers.read(sampler.as_mut(), &blind, &readings, None).unwrap();
    let mut counts = vec![0; classes];
    test.iter().for_each(|image| counts[image.class as usize] += 1);
    let most = counts.iter().max().copied().unwrap();
    for class in [|a: &Answer| a.free_class, |a: &Answer| a.trie_class] {
        let correct = said
            .iter()
            .zip(&test)
            .filter(|(a, image)| class(a) == Some(image.class))
            .count();
        assert!(
            correct as f64 / test.len() as f64 <= statistics::wilson(most, test.len()).high,
            "{correct}"
        );
    }
}

#[test]
fn without_examples_the_base_model_answers() {
    let cell = cells(&["shots=[0]", "datasets=['mini-flowers']"]).remove(0);
    let test = cell.test().unwrap();
    let rows = predict(cell.classifier().unwrap().as_mut(), &test);
    assert_eq!(rows.len(), test.len());
    // Its names were met in pre-training, though no drawing of these designers was.
    let chance = 1.0 / cell.split.classes.len() as f64;
    assert!(
        share(&rows, Reading::Trie) > 2.0 * chance,
        "{}",
        share(&rows, Reading::Trie)
    );
    assert!(cell.shots().unwrap().is_empty());
}

#[test]
fn one_batch_is_learned_by_heart() {
    let cell = cells(&["shots=[1]"]).remove(0);
    let shots = cell.shots().unwrap();
    let model = writing_model();
    let renderer = Renderer::load(&model, Some(480)).unwrap();
    let answers = Answers::new(&renderer, &cell.split.classes, "").unwrap();
    let tokens: usize = answers.tokens().iter().map(Vec::len).sum();
    let batch: Vec<Datum> = shots
        .iter()
        .map(|shot| {
            let pixels = image::open(&shot.path).unwrap().into_rgb8();
            let picture = renderer.picture(&pixels, &shot.sha256, false).unwrap();
            let question = renderer.question(Some(&picture)).unwrap();
            Datum::answered(question, &answers.tokens()[shot.class as usize], 1.0 / tokens as f32)
        })
        .collect();
    assert_eq!(batch.len(), 10);
    let backend = LocalBackend::load(&model, &DeviceSpec::cpu(), Settings::default()).unwrap();
    let lora = Lora {
        targets: ["q_proj", "v_proj", "up_proj", "down_proj"].map(String::from).into(),
        rank: 16,
        alpha: 16.0,
        experts: ExpertLora::Each,
    };
    let adapter = AdapterConfig {
        lora,
        seed: 0,
        start: None,
    };
    let mut trainer = backend.trainer(&adapter).unwrap();
    let params = AdamParams {
        learning_rate: 4e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        grad_clip_norm: Some(1.0),
    };
    let first = trainer.forward(&batch).unwrap().loss_sum;
    let step = (0..200).find(|_| trainer.train_step(&batch, &params).unwrap().loss_sum < 0.01);
    assert!(first > 1.0 && step.is_some(), "{first} nats a token, then {step:?}");
}
