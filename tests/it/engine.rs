//! The local engine: how it works changes nothing of what it computes.

use std::fs;
use std::path::Path;

use kshot::backend::{Backend, Trainer, Weights};
use kshot::engine::{AdapterConfig, Settings};
use kshot::error::Error;
use kshot::example::{Chunk, Datum};

use crate::backend_support::{LANGUAGE, adam, adapter, close, data, local, picture, questions, scores, weighted};
use crate::goldens::{self, Golden};

/// Tower and merger too.
const ALL: [&str; 11] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "merger.*",
    "deepstack_merger_list.*.*",
    "visual.blocks.*.attn.*",
    "visual.blocks.*.mlp.*",
];
/// Sums in another order: share of a loss or a norm.
const SUMS: f64 = 1e-5;

/// What three steps of training give.
#[derive(Debug)]
struct Run {
    losses: Vec<f64>,
    norms: Vec<f64>,
    scores: Vec<f32>,
}

fn train(backend: &dyn Backend, config: &AdapterConfig, model: &Path) -> Run {
    let mut trainer = backend.trainer(config).unwrap();
    let data = data(model);
    let mut run = Run {
        losses: vec![],
        norms: vec![],
        scores: vec![],
    };
    for _ in 0..3 {
        run.losses.push(trainer.forward_backward(&data).unwrap().loss_sum);
        run.norms.push(trainer.optim_step(&adam()).unwrap());
    }
    run.scores = scores(&mut *trainer.sampler().unwrap(), model);
    run
}

/// Largest difference of two runs: share of a loss and a norm of the first step, which have the same weights, and of
/// a log-probability in the end.
fn difference(a: &Run, b: &Run) -> (f64, f64, f64) {
    let share = |a: &[f64], b: &[f64]| ((a[0] - b[0]) / b[0]).abs();
    let scores = a.scores.iter().zip(&b.scores);
    (
        share(&a.losses, &b.losses),
        share(&a.norms, &b.norms),
        scores.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max),
    )
}

fn settings(change: impl Fn(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

/// Trains the same with two settings, the language model alone and then tower and merger with it.
fn compare(golden: &Golden, change: impl Fn(&mut Settings)) -> Vec<(Run, Run)> {
    let plain = local(&golden.model, Settings::default());
    let other = local(&golden.model, settings(change));
    let both = |targets: &[&str]| {
        let config = adapter(targets);
        (
            train(&other, &config, &golden.model),
            train(&plain, &config, &golden.model),
        )
    };
    vec![both(&LANGUAGE), both(&ALL)]
}

/// Rounding is all that may differ; where a gradient is all rounding, Adam's steps enlarge it as much as they do
/// between the reference's own two precisions.
fn assert_equal(golden: &Golden, pairs: &[(Run, Run)], what: &str) {
    let noise = &golden.notes()["lora_r8"]["noise_adamw_param_max_abs"];
    let scores = goldens::tolerance(1e-4, noise);
    for (found, expected) in pairs {
        let (loss, norm, score) = difference(found, expected);
        let off = format!(
            "{} {what}: loss {loss:e}, norm {norm:e}, log-probability after three steps {score:e}",
            golden.name
        );
        assert!(loss <= SUMS && norm <= SUMS && score <= scores, "{off}");
    }
}

#[test]
fn micro_batches_change_nothing() {
    for golden in goldens::qwen3_vl() {
        for size in [1, 3] {
            let pairs = compare(&golden, |settings| settings.micro_batch = size);
            assert_equal(&golden, &pairs, &format!("in micro-batches of {size}"));
        }
    }
}

#[test]
fn checkpointing_changes_nothing() {
    for golden in goldens::qwen3_vl() {
        let pairs = compare(&golden, |settings| settings.checkpointing = true);
        assert_equal(&golden, &pairs, "with checkpointing");
    }
}

#[test]
fn cached_features_give_the_same_training_to_the_bit() {
    for golden in goldens::qwen3_vl() {
        for (found, expected) in compare(&golden, |settings| settings.cache_features = false) {
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{}", golden.name);
        }
    }
}

#[test]
fn features_are_kept_for_the_picture_they_belong_to() {
    let golden = &goldens::qwen3_vl()[0];
    let (cached, plain) = (
        local(&golden.model, Settings::default()),
        local(&golden.model, settings(|settings| settings.cache_features = false)),
    );
    // The same file in two sizes, mirrored, and another file.
    let mut pictures = vec![
        picture(&golden.model, 0, (64, 64)),
        picture(&golden.model, 0, (64, 32)),
        picture(&golden.model, 1, (64, 64)),
    ];
    let mut mirrored = pictures[0].clone();
    image::imageops::flip_horizontal_in_place(std::sync::Arc::make_mut(&mut mirrored.pixels));
    mirrored.key.mirrored = true;
    pictures.push(mirrored);
    let (mut cached, mut plain) = (
        cached.sampler(&Weights::Base).unwrap(),
        plain.sampler(&Weights::Base).unwrap(),
    );
    let mut seen = Vec::new();
    for round in 0..2 {
        for picture in &pictures {
            let prompt = kshot::example::ModelInput {
                chunks: vec![Chunk::Picture(picture.clone()), Chunk::Tokens(vec![5, 6])],
            };
            let ask = |sampler: &mut dyn kshot::backend::Sampler| {
                sampler
                    .compute_logprobs(std::slice::from_ref(&prompt), &[&[vec![7]]])
                    .unwrap()[0][0][0]
                    .logprob
            };
            let found = ask(&mut *cached);
            assert_eq!(found, ask(&mut *plain));
            assert!(round == 1 || !seen.contains(&found), "two pictures look the same");
            seen.push(found);
        }
    }
}

#[test]
fn every_trained_tensor_moves() {
    for golden in goldens::qwen3_vl() {
        let config = golden.config();
        let layers = config["text_config"]["num_hidden_layers"].as_u64().unwrap() as usize;
        let backend = local(&golden.model, Settings::default());
        let folder = tempfile::tempdir().unwrap();
        let saved = |trainer: &mut dyn Trainer, name: &str| {
            let folder = folder.path().join(name);
            trainer.save_weights_for_sampler(folder.to_str().unwrap()).unwrap();
            candle_core::safetensors::load(folder.join("adapter_model.safetensors"), &candle_core::Device::Cpu).unwrap()
        };
        let mut trainer = backend.trainer(&adapter(&ALL)).unwrap();
        let first = saved(&mut *trainer, "first");
        let params = kshot::engine::AdamParams {
            weight_decay: 0.0,
            ..adam()
        };
        // With B = 0 the first step moves B alone.
        for _ in 0..2 {
            trainer.train_step(&data(&golden.model), &params).unwrap();
        }
        let last = saved(&mut *trainer, "last");
        let trainable = trainer.trainable();
        assert_eq!(trainable.len(), first.len());
        for (name, shape) in trainable {
            assert_eq!(first[&name].dims(), shape);
            let moved = goldens::distance(&last[&name], &first[&name]) > 0.0;
            // What is added to image rows after the last layer reaches no answer.
            let unheard = (layers - 1..8).any(|i| name.contains(&format!("deepstack_merger_list.{i}.")));
            assert_eq!(moved, !unheard, "{}: {name}", golden.name);
        }
    }
}

#[test]
fn a_tower_in_training_can_do_without_pictures() {
    let golden = &goldens::qwen3_vl()[0];
    for checkpointing in [false, true] {
        let backend = local(
            &golden.model,
            settings(|settings| settings.checkpointing = checkpointing),
        );
        let mut trainer = backend.trainer(&adapter(&ALL)).unwrap();
        let data = data(&golden.model);
        assert!(trainer.train_step(&data[2..3], &adam()).unwrap().loss_sum > 0.0);
        trainer.train_step(&data, &adam()).unwrap();
    }
}

#[test]
fn an_adapter_can_be_the_start_of_another() {
    let golden = &goldens::qwen3_vl()[0];
    let backend = local(&golden.model, Settings::default());
    let folder = tempfile::tempdir().unwrap();
    for targets in [&LANGUAGE[..], &ALL] {
        let mut trainer = backend.trainer(&adapter(targets)).unwrap();
        trainer.train_step(&data(&golden.model), &adam()).unwrap();
        let dir = folder.path().join("adapter");
        trainer.save_weights_for_sampler(dir.to_str().unwrap()).unwrap();
        let expected = scores(&mut *trainer.sampler().unwrap(), &golden.model);
        let start = |config: AdapterConfig| AdapterConfig {
            start: Some(dir.clone()),
            ..config
        };
        let mut again = backend.trainer(&start(adapter(targets))).unwrap();
        assert_eq!(again.trainable(), trainer.trainable());
        assert_eq!(scores(&mut *again.sampler().unwrap(), &golden.model), expected);
        let loss = again.forward(&data(&golden.model)).unwrap().loss_sum;
        assert!(again.train_step(&data(&golden.model), &adam()).unwrap().loss_sum <= loss * (1.0 + 1e-6));
        assert_ne!(scores(&mut *again.sampler().unwrap(), &golden.model), expected);
        // What the config says of the adapter must be true of it.
        let mut wrong = [adapter(targets), adapter(targets), adapter(&["q_proj"])];
        wrong[0].lora.rank = 2;
        wrong[1].lora.alpha = 9.0;
        for config in wrong {
            let error = backend.trainer(&start(config)).err().unwrap();
            assert!(matches!(error.kind(), Error::Model { .. }), "{error}");
        }
    }
}

/// A trained adapter's state, and a trainer to load it.
fn state(backend: &dyn Backend, golden: &Golden, dir: &Path) -> (Box<dyn Trainer>, String) {
    let mut trainer = backend.trainer(&adapter(&LANGUAGE)).unwrap();
    trainer.train_step(&data(&golden.model), &adam()).unwrap();
    let path = trainer.save_state(dir.to_str().unwrap()).unwrap();
    (trainer, path)
}

#[test]
fn torn_and_foreign_states_are_named_and_change_nothing() {
    let all = goldens::qwen3_vl();
    let golden = &all[0];
    let backend = local(&golden.model, Settings::default());
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("state");
    let (mut trainer, path) = state(&backend, golden, &dir);
    trainer.train_step(&data(&golden.model), &adam()).unwrap();
    let before = scores(&mut *trainer.sampler().unwrap(), &golden.model);
    for file in ["state.json", "optimiser.safetensors", "adapter_model.safetensors"] {
        let whole = fs::read(dir.join(file)).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for torn in [Some(whole[..whole.len() / 2].to_vec()), Some(flipped), None] {
            match torn {
                Some(bytes) => fs::write(dir.join(file), bytes).unwrap(),
                None => fs::remove_file(dir.join(file)).unwrap(),
            }
            let found = trainer.load_state(&path);
            // The last byte of state.json is a line's end.
            if let Err(error) = &found {
                assert!(matches!(error, Error::State { .. }), "{error}");
                assert!(error.to_string().contains(file), "{error}");
            }
            assert!(found.is_err() || file == "state.json");
            if found.is_err() {
                assert_eq!(scores(&mut *trainer.sampler().unwrap(), &golden.model), before);
            }
            fs::write(dir.join(file), &whole).unwrap();
        }
    }
    let mut other = backend.trainer(&adapter(&["q_proj"])).unwrap();
    assert!(matches!(other.load_state(&path), Err(Error::State { .. })));
    if let Some(golden) = all.get(1) {
        let mut foreign = local(&golden.model, Settings::default())
            .trainer(&adapter(&LANGUAGE))
            .unwrap();
        assert!(matches!(foreign.load_state(&path), Err(Error::State { .. })));
    }
    trainer.load_state(&path).unwrap();
    assert_ne!(scores(&mut *trainer.sampler().unwrap(), &golden.model), before);
    // A state takes the place of a state, never of somebody's other files.
    let taken = scratch.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.txt"), "all of it").unwrap();
    let error = trainer.save_state(taken.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, Error::State { .. }), "{error}");
    assert!(taken.join("thesis.txt").is_file());
}

#[test]
fn numbers_that_are_not_finite_stop_training_and_change_no_weight() {
    let golden = &goldens::qwen3_vl()[0];
    let backend = local(&golden.model, Settings::default());
    let mut trainer = backend.trainer(&adapter(&LANGUAGE)).unwrap();
    let data = data(&golden.model);
    trainer.train_step(&data, &adam()).unwrap();
    let before = scores(&mut *trainer.sampler().unwrap(), &golden.model);
    let mut huge: Vec<Datum> = data.clone();
    huge[0].weights.iter_mut().for_each(|weight| *weight *= f32::MAX);
    // The loss overflows, or else the gradients' norm does.
    let error = trainer.train_step(&huge, &adam()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 1, .. }), "{error}");
    assert_eq!(scores(&mut *trainer.sampler().unwrap(), &golden.model), before);
    assert!(matches!(trainer.optim_step(&adam()), Err(Error::NoGradients)));
    trainer.train_step(&data, &adam()).unwrap();
}

#[test]
fn scores_are_those_of_training_batched_and_alone() {
    for golden in goldens::qwen3_vl() {
        let backend = local(&golden.model, Settings::default());
        let mut trainer = backend.trainer(&adapter(&ALL)).unwrap();
        let data = data(&golden.model);
        trainer.train_step(&data, &adam()).unwrap();
        let expected = weighted(&data, &trainer.forward(&data).unwrap().logprobs);
        let mut sampler = trainer.sampler().unwrap();
        let together = scores(&mut *sampler, &golden.model);
        let alone = questions(&golden.model).into_iter().flat_map(|(prompt, answer)| {
            let found = sampler.compute_logprobs(&[prompt], &[&[answer]]).unwrap();
            found[0][0].iter().map(|score| score.logprob).collect::<Vec<_>>()
        });
        for ((together, alone), expected) in together.iter().zip(alone).zip(expected) {
            let (a, b) = (f64::from(*together), f64::from(alone));
            assert!(
                close(a, f64::from(expected), 1e-5) && close(b, a, 1e-5),
                "{a} {b} {expected}"
            );
        }
    }
}
