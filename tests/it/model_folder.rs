//! Model folders that are wrong in one way each: the message names the thing.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kshot::models::dinov2::Dinov2;
use kshot::nn::DeviceSpec;

type Tensors = HashMap<String, Tensor>;

const WEIGHTS: &str = "model.safetensors";

/// Loads the plain fixture with its tensors and config changed.
fn load(change: impl FnOnce(&mut Tensors, &mut serde_json::Value, &Path)) -> Result<Dinov2, String> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oracle/fixtures/dinov2");
    let mut tensors = candle_core::safetensors::load(model.join(WEIGHTS), &Device::Cpu).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    change(&mut tensors, &mut config, folder.path());
    if !tensors.is_empty() {
        candle_core::safetensors::save(&tensors, folder.path().join(WEIGHTS)).unwrap();
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Dinov2::load(folder.path(), &DeviceSpec::cpu()).map_err(|error| {
        assert!(error.hint().is_some());
        error.to_string()
    })
}

fn names(error: Result<Dinov2, String>, parts: &[&str]) {
    let error = error.unwrap_err();
    for part in parts {
        assert!(error.contains(part), "`{error}` does not name {part}");
    }
}

#[test]
fn an_unchanged_folder_loads() {
    assert!(load(|_, _, _| ()).is_ok());
}

#[test]
fn a_classifier_checkpoint_loads_as_its_backbone() {
    let classifier = load(|tensors, _, _| {
        let mut prefixed: Tensors = tensors
            .drain()
            .map(|(name, tensor)| (format!("dinov2.{name}"), tensor))
            .collect();
        prefixed.insert(
            "classifier.weight".into(),
            Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap(),
        );
        *tensors = prefixed;
    });
    assert!(classifier.is_ok());
}

#[test]
fn weights_are_missing_or_damaged() {
    names(load(|tensors, _, _| tensors.clear()), &["model.safetensors.index.json"]);
    let truncated = load(|tensors, _, folder| {
        let path = folder.join(WEIGHTS);
        candle_core::safetensors::save(tensors, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        tensors.clear();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    names(truncated, &[WEIGHTS, "truncated"]);
    let shards = load(|tensors, _, folder| {
        tensors.clear();
        let index = r#"{"weight_map": {"a": "../elsewhere.safetensors"}}"#;
        std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    });
    names(shards, &["../elsewhere.safetensors"]);
}

#[test]
fn one_message_names_every_tensor_that_does_not_fit() {
    let error = load(|tensors, _, _| {
        tensors.remove("layernorm.bias").unwrap();
        tensors.insert(
            "surplus.weight".into(),
            Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
        );
        tensors.insert(
            "layernorm.weight".into(),
            Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap(),
        );
        let name = "encoder.layer.0.norm1.weight";
        let broken = (&tensors[name] * f64::NAN).unwrap();
        tensors.insert(name.into(), broken);
        let name = "encoder.layer.0.norm1.bias";
        let integers = tensors[name].to_dtype(DType::U32).unwrap();
        tensors.insert(name.into(), integers);
    });
    names(
        error,
        &[
            "`layernorm.bias` is missing",
            "`surplus.weight` [3] is not part of this model",
            "`layernorm.weight` has shape [7]",
            "`encoder.layer.0.norm1.weight` holds values that are not finite",
            "`encoder.layer.0.norm1.bias` has type U32",
        ],
    );
}

#[test]
fn configs_that_do_not_fit_are_named() {
    for (key, value, part) in [
        ("model_type", "\"vit\"", "vit"),
        ("num_attention_heads", "5", "num_attention_heads 5"),
        ("hidden_act", "\"relu\"", "relu"),
        ("num_channels", "1", "num_channels"),
        ("image_size", "3", "image_size 3"),
    ] {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        names(load(|_, config, _| config[key] = value), &["config.json", part]);
    }
}

#[test]
fn the_fingerprint_follows_weights_and_config() {
    let print = |change: &dyn Fn(&mut Tensors, &mut serde_json::Value)| {
        load(|tensors, config, _| change(tensors, config))
            .unwrap()
            .fingerprint()
            .to_owned()
    };
    let base = print(&|_, _| ());
    assert_eq!(base.len(), 64);
    let weights = print(&|tensors, _| {
        let shifted = (&tensors["layernorm.bias"] + 1.0).unwrap();
        tensors.insert("layernorm.bias".into(), shifted);
    });
    let config = print(&|_, config| config["layer_norm_eps"] = 1e-5.into());
    assert!(base != weights && base != config && weights != config);
}
