//! Adapters on experts in folders: PEFT's form and kshot's own.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use kshot::config::ExpertLora;
use kshot::models::qwen3_vl::Qwen3Vl;
use kshot::nn::DeviceSpec;
use kshot::seed;

use crate::goldens::{self, distance, relative_norm, relative_to_max};
use crate::qwen_moe::{fresh, logits, lora, train};
use crate::qwen_support::Reference;

fn same(a: &Qwen3Vl, b: &Qwen3Vl) {
    let (a, b) = (a.trainable(), b.trainable());
    assert_eq!(a.len(), b.len());
    for ((name, var), (other, loaded)) in a.into_iter().zip(b) {
        assert_eq!(name, other);
        assert_eq!(distance(var.as_tensor(), loaded.as_tensor()), 0.0, "{name}");
    }
}

fn config(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn an_adapter_of_peft_is_written_as_peft_wrote_it() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        let from = golden.expected.join("adapter_experts");
        let model = reference.model.load_adapter(&from).unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save_adapter(folder.path()).unwrap();
        let load = |folder: &Path| -> HashMap<_, _> {
            candle_core::safetensors::load(folder.join("adapter_model.safetensors"), &Device::Cpu).unwrap()
        };
        let (found, expected) = (load(folder.path()), load(&from));
        assert_eq!(found.len(), expected.len());
        for (name, tensor) in &expected {
            assert_eq!(distance(&found[name], tensor), 0.0, "{name}");
        }
        let (found, expected) = (config(folder.path()), config(&from));
        let sorted = |config: &serde_json::Value| {
            let mut all: Vec<String> = serde_json::from_value(config["target_parameters"].clone()).unwrap();
            all.sort();
            all
        };
        assert_eq!(sorted(&found), sorted(&expected));
        assert_eq!(
            (&found["r"], &found["peft_type"]),
            (&expected["r"], &expected["peft_type"])
        );
    }
}

#[test]
fn a_saved_adapter_comes_back_to_the_bit() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        let both = ["experts.gate_up_proj", "experts.down_proj"];
        for experts in [ExpertLora::Each, ExpertLora::Shared] {
            for targets in [&both[..], &both[..1], &both[1..], &["self_attn.*", "down_proj"]] {
                let lora = lora(targets, experts);
                let model = reference.model.with_lora(&lora, &mut seed::rng(0, "lora")).unwrap();
                train(&model);
                let folder = tempfile::tempdir().unwrap();
                model.save_adapter(folder.path()).unwrap();
                let loaded = reference.model.load_adapter(folder.path()).unwrap();
                same(&model, &loaded);
                assert_eq!(model.adapter_shape().unwrap(), loaded.adapter_shape().unwrap());
                let (found, expected) = (logits(&reference, &loaded), logits(&reference, &model));
                assert_eq!(distance(&found, &expected), 0.0, "{}", golden.name);
                assert!(distance(&expected, &logits(&reference, &reference.model)) > 1e-3);
            }
        }
    }
}

#[test]
fn adapters_on_some_layers_come_back() {
    for golden in goldens::qwen3_vl_moe() {
        let base = Qwen3Vl::load(&golden.model, &DeviceSpec::cpu()).unwrap();
        let text = &base.config().text_config;
        let layer = (0..text.num_hidden_layers)
            .find(|&i| text.experts(i).is_some())
            .unwrap();
        let target = format!("layers.{layer}.mlp.experts.gate_up_proj");
        let lora = lora(&[&target, "layers.0.self_attn.q_proj"], ExpertLora::Each);
        let model = base.with_lora(&lora, &mut seed::rng(0, "lora")).unwrap();
        train(&model);
        let folder = tempfile::tempdir().unwrap();
        model.save_adapter(folder.path()).unwrap();
        same(&model, &base.load_adapter(folder.path()).unwrap());
    }
}

#[test]
fn shared_factors_expand_to_what_peft_loads() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        let model = fresh(&reference.model, ExpertLora::Shared);
        train(&model);
        let folder = tempfile::tempdir().unwrap();
        let (own, peft) = (folder.path().join("own"), folder.path().join("peft"));
        model.save_adapter(&own).unwrap();
        model.save_adapter_for_peft(&peft).unwrap();
        // PEFT knows no such type, so that it cannot load half of the adapter.
        assert_eq!(config(&own)["peft_type"], "KSHOT_LORA");
        assert_eq!(config(&peft)["peft_type"], "LORA");
        assert_eq!(config(&peft)["rank_pattern"]["mlp.experts.gate_up_proj"], 6);
        let expanded = reference.model.load_adapter(&peft).unwrap();
        assert!(expanded.trainable().len() < model.trainable().len());
        let (found, expected) = (logits(&reference, &expanded), logits(&reference, &model));
        let error = relative_to_max(&found, &expected);
        assert!(error <= 1e-5, "{}: {error:e}", golden.name);
        let stacks = |model: &Qwen3Vl| model.updated_experts().unwrap();
        for ((name, found), (_, expected)) in stacks(&expanded).iter().zip(stacks(&model)) {
            assert!(relative_to_max(found, &expected) <= 1e-6, "{name}");
        }
    }
}

/// A shared factor's gradient is the sum of those of its copies.
#[test]
fn gradients_of_shared_factors_are_sums_over_experts() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        let shared = fresh(&reference.model, ExpertLora::Shared);
        train(&shared);
        let folder = tempfile::tempdir().unwrap();
        shared.save_adapter_for_peft(folder.path()).unwrap();
        let expanded = reference.model.load_adapter(folder.path()).unwrap();
        let gradients = |model: &Qwen3Vl| -> HashMap<String, Tensor> {
            let features = model.image_features(&reference.patches, &reference.grids).unwrap();
            let loss = |states: &Tensor| Ok(reference.loss(model, states, "labels_name"));
            let (_, all) = model
                .backward(&reference.batch(), Some(&features), false, loss)
                .unwrap();
            let of = |(name, var): (String, Var)| (name, all.get(&var).unwrap().detach());
            model.trainable().into_iter().map(of).collect()
        };
        let (found, copies) = (gradients(&shared), gradients(&expanded));
        let mut compared = 0;
        for (name, gradient) in &found {
            let sum = if let Some(module) = name.strip_suffix(".experts.gate_proj.lora_A.weight") {
                // (E · 2r, D): the ranks of the gates come first.
                let rank = gradient.dims()[0];
                let all = &copies[&format!("{module}.experts.base_layer.lora_A.weight")];
                let all = all.reshape((all.dims()[0] / (2 * rank), 2 * rank, ())).unwrap();
                all.narrow(1, 0, rank).unwrap().sum(0).unwrap()
            } else if let Some(module) = name.strip_suffix(".experts.down_proj.lora_B.weight") {
                let all = &copies[&format!("{module}.experts.lora_B.weight")];
                let (out, rank) = gradient.dims2().unwrap();
                all.reshape((out, rank, ())).unwrap().sum(2).unwrap()
            } else {
                continue;
            };
            let error = relative_norm(gradient, &sum);
            assert!(error <= 1e-5, "{}: {name} differs by {error:e}", golden.name);
            compared += 1;
        }
        assert!(compared >= 2);
    }
}

#[test]
fn a_merged_model_is_a_snapshot() {
    let golden = &goldens::qwen3_vl_moe()[0];
    let reference = Reference::load(golden);
    for experts in [ExpertLora::Each, ExpertLora::Shared] {
        let model = fresh(&reference.model, experts);
        train(&model);
        let merged = model.merged().unwrap();
        assert!(merged.trainable().is_empty());
        let before = logits(&reference, &model);
        assert_eq!(distance(&logits(&reference, &merged), &before), 0.0);
        for (_, var) in model.trainable() {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        assert_eq!(distance(&logits(&reference, &merged), &before), 0.0);
        assert!(distance(&logits(&reference, &model), &before) > 1e-3);
    }
}

#[test]
fn a_merged_checkpoint_computes_the_same() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        for experts in [ExpertLora::Each, ExpertLora::Shared] {
            // f32, so that the sum is not rounded.
            let scratch = tempfile::tempdir().unwrap();
            let base_dir = scratch.path().join("base");
            crate::merge::in_f32(&golden, &base_dir);
            let base = Qwen3Vl::load(&base_dir, &DeviceSpec::cpu()).unwrap();
            let model = fresh(&base, experts);
            train(&model);
            let out = scratch.path().join("merged");
            model.save_merged(&base_dir, &out).unwrap();
            let merged = Qwen3Vl::load(&out, &DeviceSpec::cpu()).unwrap();
            let error = relative_to_max(&logits(&reference, &merged), &logits(&reference, &model));
            assert!(error <= 1e-5, "{}: {error:e}", golden.name);
        }
    }
}

#[test]
fn what_does_not_fit_the_experts_is_refused_by_name() {
    let golden = &goldens::qwen3_vl_moe()[0];
    let base = Qwen3Vl::load(&golden.model, &DeviceSpec::cpu()).unwrap();
    let model = fresh(&base, ExpertLora::Each);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let key = "base_model.model.model.language_model.layers.0.mlp.experts.lora_B.weight";
    for (change, words) in [("narrow", "has shape"), ("gone", "is missing")] {
        model.save_adapter(folder.path()).unwrap();
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let tensor = tensors.remove(key).unwrap();
        if change == "narrow" {
            tensors.insert(key.into(), tensor.narrow(1, 0, 4).unwrap().contiguous().unwrap());
        }
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let error = base.load_adapter(folder.path()).unwrap_err().to_string();
        let name = "layers.0.mlp.experts.lora_B.weight";
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    // The experts of a dense layer, or of another model.
    model.save_adapter(folder.path()).unwrap();
    let dense = &goldens::qwen3_vl()[0];
    let other = Qwen3Vl::load(&dense.model, &DeviceSpec::cpu()).unwrap();
    assert!(other.load_adapter(folder.path()).is_err());
}

/// Writes adapters on experts with the logits they give, for `tests/slow/peft_adapter_qwen.py`.
#[test]
#[ignore = "writes files for a Python script; see tests/slow/peft_adapter_qwen.py"]
fn qwen_expert_adapters_for_peft() {
    let out = std::path::PathBuf::from(std::env::var_os("KSHOT_PEFT_OUT").expect("KSHOT_PEFT_OUT"));
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        for (experts, form) in [(ExpertLora::Each, "each"), (ExpertLora::Shared, "shared")] {
            let model = fresh(&reference.model, experts);
            train(&model);
            let folder = out.join(format!("{}-{form}", golden.name));
            model.save_adapter_for_peft(&folder).unwrap();
            let mut tensors = reference.tensors.clone();
            tensors.insert("pixel_values".into(), reference.patches.clone());
            tensors.insert("logits".into(), logits(&reference, &model));
            candle_core::safetensors::save(&tensors, folder.join("logits.safetensors")).unwrap();
        }
    }
}

/// Writes merged checkpoints with the logits of the adapted models, for `tests/slow/merged_qwen.py`.
#[test]
#[ignore = "writes files for a Python script; see tests/slow/merged_qwen.py"]
fn merged_experts_for_transformers() {
    let out = std::path::PathBuf::from(std::env::var_os("KSHOT_MERGED_OUT").expect("KSHOT_MERGED_OUT"));
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        for (experts, form) in [(ExpertLora::Each, "each"), (ExpertLora::Shared, "shared")] {
            let model = fresh(&reference.model, experts);
            train(&model);
            let folder = out.join(format!("{}-{form}", golden.name));
            model.save_merged(&golden.model, &folder).unwrap();
            let merged = Qwen3Vl::load(&folder, &DeviceSpec::cpu()).unwrap();
            let mut tensors = reference.tensors.clone();
            tensors.insert("pixel_values".into(), reference.patches.clone());
            tensors.insert("logits".into(), logits(&reference, &merged));
            tensors.insert("base_logits".into(), logits(&reference, &reference.model));
            candle_core::safetensors::save(&tensors, folder.join("check.safetensors")).unwrap();
        }
    }
}
