//! Full checkpoints with the adapters added in.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kshot::config::ExpertLora;
use kshot::models::qwen3_vl::{Lora, Qwen3Vl};
use kshot::nn::DeviceSpec;
use kshot::seed;

use crate::goldens::{self, Golden, distance};
use crate::qwen_support::Reference;

/// The base of a golden with adapters of B = 0.1 everywhere, in the language model alone or everywhere.
fn adapted(base: &Qwen3Vl, all: bool) -> Qwen3Vl {
    let mut targets = vec!["self_attn.*", "gate_proj", "up_proj", "down_proj"];
    if all {
        targets.extend(["merger.*", "visual.blocks.*.attn.*", "visual.blocks.*.mlp.*"]);
        if !base.config().tied() {
            targets.push("lm_head");
        }
    }
    let lora = Lora {
        targets: targets.into_iter().map(str::to_owned).collect(),
        rank: 3,
        alpha: 6.0,
        experts: ExpertLora::Each,
    };
    let model = base.with_lora(&lora, &mut seed::rng(0, "lora")).unwrap();
    for (name, var) in model.trainable() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count()).map(|i| (i as f32).sin() * 0.1).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
    }
    model
}

fn logits(reference: &Reference, model: &Qwen3Vl) -> Tensor {
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    let states = model.forward(&reference.batch(), Some(&features), None).unwrap();
    model.logits(&states, &reference.answer_rows()).unwrap().detach()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The tensors of a folder's weights with the file that each is in, as they are stored.
fn stored(folder: &Path) -> Vec<(String, String, Tensor)> {
    let mut all = Vec::new();
    for file in names(folder).into_iter().filter(|name| name.ends_with("safetensors")) {
        for (name, tensor) in candle_core::safetensors::load(folder.join(&file), &Device::Cpu).unwrap() {
            all.push((name, file.clone(), tensor));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The base as f32 in a folder of its own, and what it is there.
pub fn in_f32(golden: &Golden, folder: &Path) {
    fs::create_dir(folder).unwrap();
    for name in names(&golden.model) {
        let (from, to) = (golden.model.join(&name), folder.join(&name));
        if name.ends_with("safetensors") {
            let mut tensors = candle_core::safetensors::load(&from, &Device::Cpu).unwrap();
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(DType::F32).unwrap();
            }
            candle_core::safetensors::save(&tensors, &to).unwrap();
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn a_merged_checkpoint_computes_what_the_adapted_model_does() {
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        let scratch = tempfile::tempdir().unwrap();
        let base_dir = scratch.path().join("base");
        in_f32(&golden, &base_dir);
        let base = Qwen3Vl::load(&base_dir, &DeviceSpec::cpu()).unwrap();
        for all in [false, true] {
            let model = adapted(&base, all);
            let out = scratch.path().join(format!("merged-{all}"));
            model.save_merged(&base_dir, &out).unwrap();
            let merged = Qwen3Vl::load(&out, &DeviceSpec::cpu()).unwrap();
            let (found, expected) = (logits(&reference, &merged), logits(&reference, &model));
            assert_eq!(distance(&found, &expected), 0.0, "{}", golden.name);
            assert!(distance(&expected, &logits(&reference, &base)) > 1e-3);
        }
    }
}

#[test]
fn a_merged_folder_is_the_base_but_for_the_adapted_weights() {
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("deep/merged");
        let model = adapted(&reference.model, true);
        model.save_merged(&golden.model, &out).unwrap();
        assert_eq!(names(&out), names(&golden.model));
        for name in names(&out).iter().filter(|name| !name.ends_with("safetensors")) {
            let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
            assert_eq!(read(&out), read(&golden.model), "{name}");
        }
        let trained: Vec<String> = model.trainable().into_iter().map(|(name, _)| name).collect();
        for ((name, file, tensor), (base, base_file, old)) in stored(&out).iter().zip(stored(&golden.model)) {
            assert_eq!((name, file), (&base, &base_file));
            assert_eq!((tensor.dtype(), tensor.dims()), (old.dtype(), old.dims()));
            let module = name.strip_suffix(".weight").unwrap_or("no module");
            let adapted = trained.contains(&format!("base_model.model.{module}.lora_A.weight"));
            assert_eq!(distance(tensor, &old) > 0.0, adapted, "{name}");
        }
        assert_eq!(names(out.parent().unwrap()), ["merged"]);
    }
}

#[test]
fn what_cannot_be_merged_is_refused_and_leaves_nothing() {
    let all = goldens::qwen3_vl();
    let golden = &all[0];
    let base = Reference::load(golden).model;
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    assert!(base.save_merged(&golden.model, &out).is_err(), "nothing to merge");
    let model = adapted(&base, false);
    if let Some(other) = all.get(1) {
        assert!(model.save_merged(&other.model, &out).is_err(), "another base");
    }
    assert!(model.save_merged(&scratch.path().join("nowhere"), &out).is_err());
    assert!(names(scratch.path()).is_empty());
    fs::create_dir(&out).unwrap();
    let error = model.save_merged(&golden.model, &out).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert!(names(&out).is_empty());
}

/// Writes merged checkpoints with the logits of the adapted models, for `tests/slow/merged_qwen.py`.
#[test]
#[ignore = "writes files for a Python script; see tests/slow/merged_qwen.py"]
fn merged_checkpoints_for_transformers() {
    let out = std::path::PathBuf::from(std::env::var_os("KSHOT_MERGED_OUT").expect("KSHOT_MERGED_OUT"));
    for golden in goldens::qwen3_vl() {
        let reference = Reference::load(&golden);
        for all in [false, true] {
            let model = adapted(&reference.model, all);
            let folder = out.join(format!("{}-{}", golden.name, if all { "all" } else { "language" }));
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
