//! Training Qwen3-VL against peft: gradients, AdamW, merging, adapter folders.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use kshot::config::ExpertLora;
use kshot::models::qwen3_vl::{Lora, Qwen3Vl};
use kshot::nn::{AdamParams, AdamW, ParamGroup};
use kshot::seed;

use crate::goldens::{self, Golden, Gradients, Tensors, distance, relative_norm, tolerance, values};
use crate::qwen_support::Reference;

const LOGITS: f64 = 3e-4;
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const WEIGHTS: f64 = 3e-5;
const LEARNING_RATE: f64 = 1e-3;

/// The model of the LoRA goldens: the adapter as peft saved it.
fn adapted(golden: &Golden, tag: &str, reference: &Reference) -> Qwen3Vl {
    reference
        .model
        .load_adapter(&golden.expected.join(format!("adapter_{tag}")))
        .unwrap()
}

/// Every fixture with each adapter that it has goldens for.
fn cases() -> impl Iterator<Item = (Golden, &'static str)> {
    goldens::every_qwen3_vl().into_iter().flat_map(|golden| {
        let case = |tag| {
            let Golden { name, model, expected } = &golden;
            let (name, model, expected) = (format!("{name} {tag}"), model.clone(), expected.clone());
            (Golden { name, model, expected }, tag)
        };
        golden.adapters().into_iter().map(case).collect::<Vec<_>>()
    })
}

fn backward(reference: &Reference, model: &Qwen3Vl, checkpointing: bool) -> (Tensor, GradStore) {
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    let loss = |states: &Tensor| Ok(reference.loss(model, states, "labels_name"));
    model
        .backward(&reference.batch(), Some(&features), checkpointing, loss)
        .unwrap()
}

/// The tower's blocks checkpointed too.
fn from_patches(reference: &Reference, model: &Qwen3Vl) -> (Tensor, GradStore) {
    let loss = |states: &Tensor| Ok(reference.loss(model, states, "labels_name"));
    model
        .backward_from_patches(&reference.batch(), &reference.patches, &reference.grids, loss)
        .unwrap()
}

fn logits(reference: &Reference, model: &Qwen3Vl) -> Tensor {
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    let states = model.forward(&reference.batch(), Some(&features), None).unwrap();
    model.logits(&states, &reference.answer_rows()).unwrap()
}

/// The tensors under `prefix`, without it.
fn under<'a>(expected: &'a Tensors, prefix: &str) -> HashMap<&'a str, &'a Tensor> {
    expected
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
        .collect()
}

#[test]
fn gradients_match_plain_and_checkpointed() {
    for (golden, tag) in cases() {
        let (reference, expected) = (
            Reference::load(&golden),
            golden.tensors(&format!("lora_{tag}.safetensors")),
        );
        let notes = &golden.notes()[format!("lora_{tag}")];
        let model = adapted(&golden, tag, &reference);
        let error = distance(&logits(&reference, &model), &expected["f64.logits_answer"]);
        let allowed = tolerance(LOGITS, &notes["noise_logits_max_abs"]);
        assert!(error <= allowed, "{}: logits differ by {error:e}", golden.name);
        let gradients = Gradients::of(&expected, notes, GRADIENT);
        assert_eq!(gradients.len(), model.trainable().len());
        let (plain_loss, plain) = backward(&reference, &model, false);
        let (loss, checkpointed) = backward(&reference, &model, true);
        assert_eq!(distance(&loss, &plain_loss), 0.0);
        let error = distance(&loss, &expected["f64.loss_name"]);
        assert!(error <= LOSS, "{}: loss differs by {error:e}", golden.name);
        for (name, var) in model.trainable() {
            if let Some(init) = expected.get(&format!("init.{name}")) {
                assert_eq!(distance(var.as_tensor(), init), 0.0, "{name}");
            }
            let found = plain.get(&var).unwrap();
            gradients.assert_close(&golden.name, &name, found);
            let checkpointed = checkpointed.get(&var).unwrap();
            gradients.assert_same(&golden.name, &name, checkpointed, found);
        }
    }
}

#[test]
fn three_adamw_steps_match() {
    let mut compared = 0;
    for (golden, tag) in cases() {
        let (reference, expected) = (
            Reference::load(&golden),
            golden.tensors(&format!("lora_{tag}.safetensors")),
        );
        let notes = &golden.notes()[format!("lora_{tag}")];
        let gradients = Gradients::of(&expected, notes, GRADIENT);
        for (weight_decay, run) in [(0.0, "adamw_wd0.0"), (0.01, "adamw_wd0.01")] {
            let exact = under(&expected, &format!("f64.{run}."));
            let single = under(&expected, &format!("{run}."));
            if exact.is_empty() && single.is_empty() {
                continue;
            }
            let model = adapted(&golden, tag, &reference);
            let variables = model.trainable();
            let vars = variables.iter().map(|(_, var)| var.clone()).collect();
            let group = ParamGroup {
                vars,
                lr: LEARNING_RATE,
                weight_decay: 1.0,
            };
            let params = AdamParams {
                weight_decay,
                ..AdamParams::default()
            };
            let mut optimiser = AdamW::new(vec![group]).unwrap();
            for step in 0..3 {
                let (loss, mut slopes) = backward(&reference, &model, false);
                let found = loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                // Where a gradient is all rounding, Adam's first step is one of chance: some references carry much noise.
                let single = notes[format!("{run}_losses")][step].as_f64().unwrap();
                let plain = &notes["adamw_wd0.0_losses"][step];
                let noise = notes["adamw_wd0.0_losses_f64"][step]
                    .as_f64()
                    .map_or(0.0, |exact| (exact - plain.as_f64().unwrap()).abs());
                let exact = notes[format!("{run}_losses_f64")][step].as_f64();
                let expected = exact.unwrap_or(single);
                assert!(
                    (found - expected).abs() <= LOSS.max(8.0 * noise),
                    "{} {run} step {step}: {found} {expected}",
                    golden.name
                );
                optimiser.step(&mut slopes, &params).unwrap();
            }
            for (name, var) in &variables {
                let expected = exact.get(name.as_str()).or_else(|| single.get(name.as_str()));
                let Some(expected) = expected else {
                    // The committed goldens with experts have those of the first layer alone.
                    assert!(!name.contains(".layers.0."), "{}: {name}", golden.name);
                    continue;
                };
                let run = format!("{} {run}", golden.name);
                gradients.assert_trained(&run, name, (var.as_tensor(), expected), WEIGHTS, 3.0 * LEARNING_RATE);
            }
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn merged_weights_match_and_change_no_bit() {
    let mut compared = 0;
    for (golden, tag) in cases() {
        let (reference, expected) = (
            Reference::load(&golden),
            golden.tensors(&format!("lora_{tag}.safetensors")),
        );
        let model = adapted(&golden, tag, &reference);
        let merged = model.merged().unwrap();
        assert!(merged.trainable().is_empty());
        let found = logits(&reference, &merged);
        let allowed = tolerance(LOGITS, &golden.notes()[format!("lora_{tag}")]["noise_logits_max_abs"]);
        let change = distance(&found, &logits(&reference, &model));
        assert!(change <= if goldens::fused() { 0.0 } else { allowed }, "{change:e}");
        if let Some(expected) = expected.get("merged.logits_answer") {
            assert!(distance(&found, expected) <= allowed, "{}", golden.name);
        }
        let mut weights: HashMap<String, Tensor> = merged.linear_weights().into_iter().collect();
        // transformers 5 has experts as (E, out, in).
        let experts = merged.updated_experts().unwrap().into_iter();
        weights.extend(experts.map(|(name, stack)| (name, stack.transpose(1, 2).unwrap())));
        for (name, expected) in under(&expected, "merged.model.") {
            let error = relative_norm(&weights[&format!("model.{name}")], expected);
            assert!(error <= 1e-6, "{}: {name} differs by {error:e}", golden.name);
            compared += 1;
        }
    }
    assert!(compared > 0);
}

/// The linear layers of the language model, and with `all` those of merger and tower and an untied head.
fn lora(reference: &Reference, all: bool) -> Lora {
    let mut targets = vec![
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    if all {
        targets.extend([
            "merger.*",
            "deepstack_merger_list.*.*",
            "visual.blocks.*.attn.*",
            "visual.blocks.*.mlp.*",
        ]);
        if !reference.model.config().tied() {
            targets.push("lm_head");
        }
    }
    Lora {
        targets: targets.into_iter().map(str::to_owned).collect(),
        rank: 3,
        alpha: 6.0,
        experts: ExpertLora::Each,
    }
}

fn fresh(reference: &Reference, all: bool) -> Qwen3Vl {
    reference
        .model
        .with_lora(&lora(reference, all), &mut seed::rng(0, "lora"))
        .unwrap()
}

/// Sets every B to values that are not zero.
fn train(model: &Qwen3Vl) {
    for (i, (name, var)) in model.trainable().into_iter().enumerate() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count())
                .map(|j| ((i + 2 * j) as f32).sin() * 0.1)
                .collect();
            var.set(&Tensor::from_vec(values, var.shape(), &goldens::place().device).unwrap())
                .unwrap();
        }
    }
}

#[test]
fn every_adapter_of_every_layer_gets_a_gradient() {
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        let config = reference.model.config();
        let text = 7 * config.text_config.num_hidden_layers;
        let vision = &config.vision_config;
        let tower = 4 * vision.depth + 2 + 2 * vision.deepstack_visual_indexes.len();
        let head = usize::from(!config.tied());
        for (all, layers) in [(false, text), (true, text + tower + head)] {
            let model = fresh(&reference, all);
            assert_eq!(model.trainable().len(), 2 * layers);
            for trained in [false, true] {
                if trained {
                    train(&model);
                }
                let (_, plain) = backward(&reference, &model, false);
                let (_, checkpointed) = backward(&reference, &model, true);
                let (_, deeper) = from_patches(&reference, &model);
                for (name, var) in model.trainable() {
                    let gradient = plain.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
                    let zero = values(gradient).iter().all(|&value| value == 0.0);
                    // With B = 0 nothing depends on A yet. What is added to image rows after the last
                    // layer reaches no answer.
                    let unheard = (config.text_config.num_hidden_layers - 1..vision.deepstack_visual_indexes.len())
                        .any(|i| name.contains(&format!("deepstack_merger_list.{i}.")));
                    let expected = unheard || !trained && name.contains("lora_A");
                    assert_eq!(zero, expected, "{}: {name}", golden.name);
                    for again in [&checkpointed, &deeper] {
                        let again = again.get(&var).unwrap();
                        let error = if zero {
                            distance(again, gradient)
                        } else {
                            relative_norm(again, gradient)
                        };
                        assert!(error <= 1e-6, "{}: {name} differs by {error:e}", golden.name);
                    }
                }
            }
        }
    }
}

#[test]
fn fresh_adapters_change_no_bit() {
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        let base = logits(&reference, &reference.model);
        let model = fresh(&reference, true);
        assert_eq!(distance(&base, &logits(&reference, &model)), 0.0);
        train(&model);
        assert!(distance(&base, &logits(&reference, &model)) > 1e-3);
    }
}

#[test]
fn a_saved_adapter_comes_back_to_the_bit() {
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        for all in [false, true] {
            let model = fresh(&reference, all);
            train(&model);
            let folder = tempfile::tempdir().unwrap();
            model.save_adapter(folder.path()).unwrap();
            let loaded = reference.model.load_adapter(folder.path()).unwrap();
            for ((name, var), (other, loaded)) in model.trainable().into_iter().zip(loaded.trainable()) {
                assert_eq!(name, other);
                assert_eq!(distance(var.as_tensor(), loaded.as_tensor()), 0.0, "{name}");
            }
            assert_eq!(distance(&logits(&reference, &model), &logits(&reference, &loaded)), 0.0);
        }
    }
}

#[test]
fn a_tied_head_cannot_be_adapted() {
    for golden in goldens::qwen3_vl() {
        let model = Reference::load(&golden).model;
        let lora = Lora {
            targets: vec!["lm_head".into()],
            rank: 2,
            alpha: 2.0,
            experts: ExpertLora::Each,
        };
        let found = model.with_lora(&lora, &mut seed::rng(0, "lora"));
        assert_eq!(found.is_err(), model.config().tied(), "{}", golden.name);
    }
}

#[test]
fn training_is_reproducible_to_the_bit() {
    let golden = &goldens::qwen3_vl()[0];
    let reference = Reference::load(golden);
    let model = fresh(&reference, true);
    train(&model);
    for checkpointing in [false, true] {
        let (first, second) = (
            backward(&reference, &model, checkpointing).1,
            backward(&reference, &model, checkpointing).1,
        );
        for (name, var) in model.trainable() {
            assert_eq!(
                distance(first.get(&var).unwrap(), second.get(&var).unwrap()),
                0.0,
                "{name}"
            );
        }
    }
}

/// Writes adapters with the logits they give, for `tests/slow/peft_adapter_qwen.py`.
#[test]
#[ignore = "writes files for a Python script; see tests/slow/peft_adapter_qwen.py"]
fn qwen_adapters_for_peft() {
    let out = std::path::PathBuf::from(std::env::var_os("KSHOT_PEFT_OUT").expect("KSHOT_PEFT_OUT"));
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        for all in [false, true] {
            let model = fresh(&reference, all);
            train(&model);
            let folder = out.join(format!("{}-{}", golden.name, if all { "all" } else { "language" }));
            model.save_adapter(&folder).unwrap();
            let mut tensors = reference.tensors.clone();
            tensors.insert("pixel_values".into(), reference.patches.clone());
            tensors.insert("logits".into(), logits(&reference, &model).detach());
            candle_core::safetensors::save(&tensors, folder.join("logits.safetensors")).unwrap();
        }
    }
}
