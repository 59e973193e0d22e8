//! Every trainable tensor is reached by a gradient, and adapters survive the disk.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use kshot::config::ExpertLora;
use kshot::models::dinov2::{Dinov2, Lora};
use kshot::nn::{Head, cross_entropy};
use kshot::seed;

use crate::goldens::{self, Golden, distance, values};

fn every_layer() -> Lora {
    let targets = [
        "query",
        "key",
        "value",
        "output.dense",
        "fc1",
        "fc2",
        "weights_in",
        "weights_out",
    ];
    Lora {
        targets: targets.map(String::from).into(),
        rank: 3,
        alpha: 6.0,
        experts: ExpertLora::Each,
    }
}

fn adapted(golden: &Golden, lora: &Lora) -> Dinov2 {
    let base = Dinov2::load(&golden.model, &goldens::place()).unwrap();
    base.with_lora(lora, &mut seed::rng(0, "lora")).unwrap()
}

/// Sets every B to values that are not zero.
fn train(model: &Dinov2) {
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

fn gradients(model: &Dinov2, head: &Head, pixels: &Tensor, labels: &Tensor) -> GradStore {
    let logits = head.forward(&model.features(pixels).unwrap()).unwrap();
    cross_entropy(&logits, labels).unwrap().backward().unwrap()
}

fn is_zero(gradients: &GradStore, name: &str, var: &Var) -> bool {
    let gradient = gradients
        .get(var.as_tensor())
        .unwrap_or_else(|| panic!("no gradient for {name}"));
    values(gradient).iter().all(|&g| g == 0.0)
}

#[test]
fn every_trainable_tensor_gets_a_gradient() {
    for golden in goldens::dinov2() {
        let forward = golden.tensors("forward.safetensors");
        let (pixels, labels) = (&forward["pixel_values"], &forward["labels"]);
        let head = Head::new(&forward["head.weight"], &forward["head.bias"]).unwrap();
        let model = adapted(&golden, &every_layer());
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(golden.model.join("config.json")).unwrap()).unwrap();
        let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
        assert_eq!(
            model.trainable().len(),
            layers * 6 * 2,
            "six linear layers a block, A and B"
        );

        // At the start B is zero, so A cannot matter yet.
        let start = gradients(&model, &head, pixels, labels);
        for (name, var) in model.trainable() {
            assert_eq!(
                is_zero(&start, &name, &var),
                name.contains("lora_A"),
                "{}: {name}",
                golden.name
            );
        }
        train(&model);
        let later = gradients(&model, &head, pixels, labels);
        for (name, var) in model.trainable().into_iter().chain(head.trainable()) {
            assert!(!is_zero(&later, &name, &var), "{}: {name}", golden.name);
        }
    }
}

#[test]
fn fresh_adapters_change_no_bit() {
    for golden in goldens::dinov2() {
        let pixels = &golden.tensors("forward.safetensors")["pixel_values"];
        let base = Dinov2::load(&golden.model, &goldens::place()).unwrap();
        let model = adapted(&golden, &every_layer());
        assert_eq!(
            distance(&base.features(pixels).unwrap(), &model.features(pixels).unwrap()),
            0.0
        );
        train(&model);
        assert!(distance(&base.features(pixels).unwrap(), &model.features(pixels).unwrap()) > 1e-3);
    }
}

#[test]
fn a_saved_adapter_comes_back_to_the_bit() {
    for golden in goldens::dinov2() {
        let pixels = &golden.tensors("forward.safetensors")["pixel_values"];
        let model = adapted(&golden, &every_layer());
        train(&model);
        let folder = tempfile::tempdir().unwrap();
        model.save_adapter(folder.path()).unwrap();
        let base = Dinov2::load(&golden.model, &goldens::place()).unwrap();
        let loaded = base.load_adapter(folder.path()).unwrap();
        for ((name, var), (loaded_name, loaded)) in model.trainable().into_iter().zip(loaded.trainable()) {
            assert_eq!(name, loaded_name);
            assert_eq!(var.dims(), loaded.dims(), "{name}");
            assert_eq!(distance(var.as_tensor(), loaded.as_tensor()), 0.0, "{name}");
        }
        let (before, after) = (model.features(pixels).unwrap(), loaded.features(pixels).unwrap());
        assert_eq!(distance(&before, &after), 0.0);
    }
}

#[test]
fn adapters_with_hub_names_load_too() {
    for golden in goldens::dinov2() {
        let expected = golden.tensors("lora_r8.safetensors");
        let pixels = &golden.tensors("forward.safetensors")["pixel_values"];
        let folder = tempfile::tempdir().unwrap();
        let tensors: goldens::Tensors = expected
            .iter()
            .filter_map(|(key, tensor)| Some((key.strip_prefix("init.")?.to_owned(), tensor.clone())))
            .filter(|(key, _)| key.contains("lora_"))
            .collect();
        candle_core::safetensors::save(&tensors, folder.path().join("adapter_model.safetensors")).unwrap();
        let theirs = golden.expected.join("adapter_r8");
        std::fs::copy(
            theirs.join("adapter_config.json"),
            folder.path().join("adapter_config.json"),
        )
        .unwrap();
        let base = Dinov2::load(&golden.model, &goldens::place()).unwrap();
        let (hub, new) = (
            base.load_adapter(folder.path()).unwrap(),
            base.load_adapter(&theirs).unwrap(),
        );
        assert_eq!(
            distance(&hub.features(pixels).unwrap(), &new.features(pixels).unwrap()),
            0.0
        );
    }
}

#[test]
fn targets_end_on_a_dot_and_must_match_something() {
    let golden = &goldens::dinov2()[0];
    let base = Dinov2::load(&golden.model, &goldens::place()).unwrap();
    let lora = |targets: &[&str], rank| Lora {
        targets: targets.iter().map(|t| (*t).into()).collect(),
        rank,
        alpha: 1.0,
        experts: ExpertLora::Each,
    };
    let mut rng = seed::rng(0, "lora");
    let attention = base.with_lora(&lora(&["query", "no.such.layer"], 2), &mut rng).unwrap();
    assert!(
        attention
            .trainable()
            .iter()
            .all(|(name, _)| name.contains(".attention.attention.query.lora_"))
    );
    for (targets, rank) in [(["uery", "c1"], 2), (["", "."], 2), (["query", "key"], 0)] {
        let error = base.with_lora(&lora(&targets, rank), &mut rng).unwrap_err();
        assert!(matches!(error, kshot::error::Error::Model { .. }), "{targets:?}");
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let golden = &goldens::dinov2()[0];
    let forward = golden.tensors("forward.safetensors");
    let head = Head::new(&forward["head.weight"], &forward["head.bias"]).unwrap();
    let run = || {
        let model = adapted(golden, &every_layer());
        train(&model);
        let gradients = gradients(&model, &head, &forward["pixel_values"], &forward["labels"]);
        let all = model.trainable().into_iter();
        all.flat_map(|(_, var)| values(gradients.get(var.as_tensor()).unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// Writes adapters with the features they give, for `tests/slow/peft_adapter.py`.
#[test]
#[ignore = "writes files for a Python script; see tests/slow/peft_adapter.py"]
fn adapters_for_peft() {
    let out = std::path::PathBuf::from(std::env::var_os("KSHOT_PEFT_OUT").expect("KSHOT_PEFT_OUT"));
    for golden in goldens::dinov2() {
        let pixels = &golden.tensors("forward.safetensors")["pixel_values"];
        let model = adapted(&golden, &every_layer());
        train(&model);
        let folder = out.join(&golden.name);
        model.save_adapter(&folder).unwrap();
        let features = model.features(pixels).unwrap().detach();
        let tensors = goldens::Tensors::from([
            ("pixel_values".to_owned(), pixels.clone()),
            ("features".to_owned(), features),
        ]);
        candle_core::safetensors::save(&tensors, folder.join("features.safetensors")).unwrap();
    }
}
