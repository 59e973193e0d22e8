//! Which tokens bear the loss: the class name, or under `tinker` the whole message.

use std::sync::{Arc, Mutex};

use kshot::backend::{Backend, LocalBackend, Sampler, Trainer, Weights};
use kshot::config::{Protocol, Shots};
use kshot::engine::{AdamParams, AdapterConfig, ForwardOutput, Settings};
use kshot::error::{Error, Result};
use kshot::example::{Chunk, Datum, MESSAGE_END, Renderer, written};
use kshot::learner::qwen3_vl_lora::VlmClassifier;
use kshot::learner::reading::Answers;
use kshot::learner::{Classifier as _, Learner};
use kshot::nn::DeviceSpec;

use crate::support::{self, writing_model};

/// Keeps what it is to train on, and then trains nothing.
struct Recorder {
    local: LocalBackend,
    seen: Arc<Mutex<Vec<Datum>>>,
}

struct Recording(Box<dyn Trainer>, Arc<Mutex<Vec<Datum>>>);

impl Backend for Recorder {
    fn kind(&self) -> &'static str {
        self.local.kind()
    }
    fn fingerprint(&self) -> &str {
        self.local.fingerprint()
    }
    fn width(&self) -> usize {
        self.local.width()
    }
    fn trainer(&self, adapter: &AdapterConfig) -> Result<Box<dyn Trainer>> {
        Ok(Box::new(Recording(self.local.trainer(adapter)?, self.seen.clone())))
    }
    fn sampler(&self, weights: &Weights) -> Result<Box<dyn Sampler>> {
        self.local.sampler(weights)
    }
}

impl Trainer for Recording {
    fn trainable(&self) -> Vec<(String, Vec<usize>)> {
        self.0.trainable()
    }
    fn forward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        self.0.forward(data)
    }
    fn forward_backward(&mut self, data: &[Datum]) -> Result<ForwardOutput> {
        self.1.lock().unwrap().extend(data.iter().cloned());
        Err(Error::NoGradients)
    }
    fn optim_step(&mut self, params: &AdamParams) -> Result<f64> {
        self.0.optim_step(params)
    }
    fn save_state(&mut self, name: &str) -> Result<String> {
        self.0.save_state(name)
    }
    fn load_state(&mut self, path: &str) -> Result<()> {
        self.0.load_state(path)
    }
    fn save_weights_for_sampler(&mut self, name: &str) -> Result<Weights> {
        self.0.save_weights_for_sampler(name)
    }
    fn sampler(&mut self) -> Result<Box<dyn Sampler>> {
        self.0.sampler()
    }
}

fn learner(set: &[&str]) -> Learner {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    Learner::parse("qwen3-vl-lora", &writing_model(), &set).unwrap()
}

/// The first batch of a training.
fn batch(learner: &Learner) -> (Vec<Datum>, Vec<String>) {
    let Learner::Qwen3VlLora(config) = learner else {
        panic!("{learner:?}")
    };
    let cell = support::cells(
        "name = 'c'\ndatasets = ['mini-flowers']\nshots = [1]\n[[learner]]\nmethod = 'pixels'\n",
        &[],
    )
    .remove(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let backend = Recorder {
        local: LocalBackend::load(&writing_model(), &DeviceSpec::cpu(), Settings::default()).unwrap(),
        seen: seen.clone(),
    };
    let renderer = Arc::new(Renderer::load(&writing_model(), Some(480)).unwrap());
    let classes = &cell.split.classes;
    let mut classifier = VlmClassifier::new(Arc::new(backend), renderer, config.clone(), classes, 0).unwrap();
    let stopped = classifier.fit(&cell.shots().unwrap(), None, &mut |_| Ok(()));
    assert!(matches!(stopped, Err(Error::NoGradients)));
    let data = seen.lock().unwrap().clone();
    (data, classes.clone())
}

/// The tokens that bear the loss, which are the last ones, all alike; and the text that the model is given before them.
fn learned(datum: &Datum, renderer: &Renderer) -> (Vec<u32>, f32, String) {
    let start = datum.weights.iter().position(|weight| *weight > 0.0).unwrap();
    let weight = datum.weights[start];
    assert!(datum.weights[start..].iter().all(|other| *other == weight));
    assert!(datum.weights[..start].iter().all(|other| *other == 0.0));
    assert_eq!(datum.weights.len(), datum.input.positions());
    let learned = datum.target_tokens[start..].to_vec();
    let Some(Chunk::Tokens(read)) = datum.input.chunks.last() else {
        panic!("an answer follows the picture")
    };
    // All but the last learned token are read too; the rest comes before them.
    let (given, own) = read.split_at(read.len() - (learned.len() - 1));
    assert_eq!(own, &learned[..learned.len() - 1]);
    (learned, weight, renderer.prompter().tokenizer().decode(given).unwrap())
}

#[test]
fn under_tinker_the_loss_covers_exactly_the_assistant_s_message() {
    let renderer = Renderer::load(&writing_model(), Some(480)).unwrap();
    let encode = |text: &str| renderer.prompter().tokenizer().encode(text).unwrap();
    let small = ["images_per_class=2", "batch=16"];
    let plain = learner(&small);
    let tinker = plain.under(Protocol::Tinker, Shots::K(1));
    for (learner, start, end) in [
        (&plain, "", "<|im_end|>"),
        (&tinker, "The subject in this photo is:", "\n<|im_end|>"),
    ] {
        let (data, classes) = batch(learner);
        assert_eq!(data.len(), 16);
        let mut tokens = 0;
        let mut weights = Vec::new();
        for datum in &data {
            let (learned, weight, given) = learned(datum, &renderer);
            let expected = |class: &String| encode(&format!("{start} {}{end}", written(class))) == learned;
            assert_eq!(classes.iter().filter(|class| expected(class)).count(), 1, "{learned:?}");
            let before = if start.is_empty() {
                "assistant\nThe subject in this photo is:"
            } else {
                "assistant\n"
            };
            assert!(given.ends_with(before), "{given:?}");
            tokens += learned.len();
            weights.push(weight);
        }
        // The mean over the batch's tokens.
        assert!(weights.iter().all(|weight| *weight == 1.0 / tokens as f32));
    }
}

/// What was learned as a whole message is read as one: after the name a line break, then the end token.
#[test]
fn answers_end_as_they_were_learned() {
    let renderer = Renderer::load(&writing_model(), Some(480)).unwrap();
    let names = ["sun flower", "rose", "rose hip"].map(String::from);
    let plain = Answers::new(&renderer, &names, "").unwrap();
    let message = Answers::new(&renderer, &names, MESSAGE_END).unwrap();
    let line_break = renderer.prompter().tokenizer().encode(MESSAGE_END).unwrap();
    for (plain, message) in plain.tokens().iter().zip(message.tokens()) {
        let (end, name) = plain.split_last().unwrap();
        assert_eq!(*message, [name, &line_break, &[*end]].concat());
    }
}

#[test]
fn a_loss_is_the_protocol_s_unless_it_is_told() {
    let loss = |set: &[&str], protocol, shots: u32| {
        let learner = learner(set).under(protocol, Shots::K(shots));
        let value = learner.identity(Shots::K(shots));
        value.get("loss").and_then(|loss| loss.as_str().map(str::to_owned))
    };
    let message = Some("message".to_owned());
    assert_eq!(loss(&[], Protocol::Tinker, 1), message);
    assert_eq!(loss(&["loss=message"], Protocol::Clean, 1), message);
    // What run_ids were made of stays what they are made of.
    for protocol in [Protocol::Clean, Protocol::Coop] {
        assert_eq!(loss(&[], protocol, 1), None);
        assert_eq!(loss(&["loss=name"], protocol, 1), None);
    }
    assert_eq!(loss(&["loss=name"], Protocol::Tinker, 1), None);
    // Nothing is trained.
    assert_eq!(loss(&[], Protocol::Tinker, 0), None);
}
