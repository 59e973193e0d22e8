//! DINOv2 against transformers and peft.

use candle_core::{DType, Tensor, Var};
use kshot::models::dinov2::Dinov2;
use kshot::nn::{AdamParams, AdamW, Head, ParamGroup, cross_entropy};

use crate::goldens::{self, Golden, Gradients, Tensors, distance, relative_to_max, tolerance};

/// Shares of the largest value of a state.
const STATE: f64 = 1e-5;
const LOGITS: f64 = 1e-5;
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const WEIGHTS: f64 = 3e-5;

fn load(golden: &Golden) -> Dinov2 {
    Dinov2::load(&golden.model, &goldens::place()).unwrap()
}

fn head(tensors: &Tensors, prefix: [&str; 2]) -> Head {
    Head::new(&tensors[prefix[0]], &tensors[prefix[1]]).unwrap()
}

#[test]
fn every_state_matches() {
    for golden in goldens::dinov2() {
        let (model, expected) = (load(&golden), golden.tensors("forward.safetensors"));
        let states = model.states(&expected["pixel_values"]).unwrap();
        let mut names = vec!["embeddings".to_owned()];
        names.extend((0..states.len() - 2).map(|i| format!("layer_out.{i}")));
        names.push("last_hidden_state".into());
        assert!(!expected.contains_key(&format!("layer_out.{}", states.len() - 2)));
        for (name, state) in names.iter().zip(&states) {
            let error = relative_to_max(state, &expected[name]);
            assert!(error <= STATE, "{}: {name} differs by {error:e}", golden.name);
        }
    }
}

#[test]
fn any_image_size_matches() {
    for golden in goldens::dinov2() {
        let (model, expected) = (load(&golden), golden.tensors("forward.safetensors"));
        let sizes: Vec<&str> = expected
            .keys()
            .filter_map(|key| key.strip_suffix(".pixel_values"))
            .collect();
        assert!(!sizes.is_empty());
        for size in sizes {
            let states = model.states(&expected[&format!("{size}.pixel_values")]).unwrap();
            for (name, state) in [
                ("embeddings", &states[0]),
                ("last_hidden_state", &states[states.len() - 1]),
            ] {
                let error = relative_to_max(state, &expected[&format!("{size}.{name}")]);
                assert!(error <= STATE, "{}: {size} {name} differs by {error:e}", golden.name);
            }
        }
    }
}

#[test]
fn features_logits_and_loss_match() {
    for golden in goldens::dinov2() {
        let (model, expected) = (load(&golden), golden.tensors("forward.safetensors"));
        let checks = &golden.notes()["checks"];
        let features = model.features(&expected["pixel_values"]).unwrap();
        let reference = Tensor::cat(&[&expected["cls"], &expected["patch_mean"]], 1).unwrap();
        assert_eq!(features.dim(1).unwrap(), 2 * model.hidden_size());
        assert!(relative_to_max(&features, &reference) <= STATE, "{}", golden.name);
        let logits = head(&expected, ["head.weight", "head.bias"])
            .forward(&features)
            .unwrap();
        let error = distance(&logits, &expected["f64.logits"]);
        let allowed = tolerance(LOGITS, &checks["noise_fp32_logits_max_abs"]);
        assert!(error <= allowed, "{}: logits differ by {error:e}", golden.name);
        let loss = cross_entropy(&logits, &expected["labels"]).unwrap();
        let error = distance(&loss, &expected["f64.loss"]);
        assert!(error <= LOSS, "{}: loss differs by {error:e}", golden.name);
    }
}

/// The trainable model of the LoRA goldens: adapters as peft saved them, the head as it was then.
fn trainable(golden: &Golden, expected: &Tensors) -> (Dinov2, Head) {
    let model = load(golden).load_adapter(&golden.expected.join("adapter_r8")).unwrap();
    for (name, var) in model.trainable() {
        assert_eq!(
            distance(var.as_tensor(), &expected[&format!("init.{name}")]),
            0.0,
            "{name}"
        );
    }
    (
        model,
        head(expected, ["init.classifier.weight", "init.classifier.bias"]),
    )
}

fn variables(model: &Dinov2, head: &Head) -> Vec<(String, Var)> {
    let mut all = model.trainable();
    all.extend(head.trainable());
    all
}

#[test]
fn lora_gradients_match() {
    for golden in goldens::dinov2() {
        let (forward, expected) = (
            golden.tensors("forward.safetensors"),
            golden.tensors("lora_r8.safetensors"),
        );
        let notes = &golden.notes()["lora_r8"];
        let (model, head) = trainable(&golden, &expected);
        let logits = head
            .forward(&model.features(&forward["pixel_values"]).unwrap())
            .unwrap();
        let error = distance(&logits, &expected["f64.logits"]);
        assert!(
            error <= tolerance(LOGITS, &notes["noise_logits_max_abs"]),
            "{}: {error:e}",
            golden.name
        );
        let loss = cross_entropy(&logits, &forward["labels"]).unwrap();
        assert!(distance(&loss, &expected["f64.loss"]) <= LOSS, "{}", golden.name);
        let gradients = loss.backward().unwrap();
        let golden_gradients = Gradients::of(&expected, notes, GRADIENT);
        let variables = variables(&model, &head);
        let count = expected.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(variables.len(), count);
        for (name, var) in variables {
            let found = gradients.get(var.as_tensor()).unwrap();
            golden_gradients.assert_close(&golden.name, &name, found);
        }
    }
}

#[test]
fn merging_the_adapter_changes_no_bit_and_matches() {
    for golden in goldens::dinov2() {
        let (forward, expected) = (
            golden.tensors("forward.safetensors"),
            golden.tensors("lora_r8.safetensors"),
        );
        let (model, head) = trainable(&golden, &expected);
        let merged = model.merged().unwrap();
        assert!(merged.trainable().is_empty());
        let logits = |model: &Dinov2| {
            head.forward(&model.features(&forward["pixel_values"]).unwrap())
                .unwrap()
        };
        let allowed = tolerance(LOGITS, &golden.notes()["lora_r8"]["noise_logits_max_abs"]);
        let change = distance(&logits(&model), &logits(&merged));
        assert!(change <= if goldens::fused() { 0.0 } else { allowed }, "{change:e}");
        assert!(
            distance(&logits(&merged), &expected["merged.logits"]) <= allowed,
            "{}",
            golden.name
        );
    }
}

#[test]
fn three_adamw_steps_match() {
    for golden in goldens::dinov2() {
        let (forward, expected) = (
            golden.tensors("forward.safetensors"),
            golden.tensors("lora_r8.safetensors"),
        );
        let golden_gradients = Gradients::of(&expected, &golden.notes()["lora_r8"], GRADIENT);
        for (weight_decay, tag) in [(0.0, "adamw_wd0.0"), (0.01, "adamw_wd0.01")] {
            let (model, head) = trainable(&golden, &expected);
            let variables = variables(&model, &head);
            let vars = variables.iter().map(|(_, var)| var.clone()).collect();
            let group = ParamGroup {
                vars,
                lr: 1e-3,
                weight_decay: 1.0,
            };
            let params = AdamParams {
                weight_decay,
                ..AdamParams::default()
            };
            let mut optimiser = AdamW::new(vec![group]).unwrap();
            let loss = || {
                let features = model.features(&forward["pixel_values"]).unwrap();
                cross_entropy(&head.forward(&features).unwrap(), &forward["labels"]).unwrap()
            };
            let losses = golden.notes()["lora_r8"][format!("{tag}_losses")].clone();
            for step in 0..3 {
                let loss = loss();
                let found = loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                assert!(
                    (found - losses[step].as_f64().unwrap()).abs() <= LOSS,
                    "{} {tag} {step}",
                    golden.name
                );
                optimiser.step(&mut loss.backward().unwrap(), &params).unwrap();
            }
            for (name, var) in &variables {
                let exact = expected.get(&format!("f64.{tag}.{name}"));
                let reference = exact.unwrap_or_else(|| &expected[&format!("{tag}.{name}")]);
                let run = format!("{} {tag}", golden.name);
                golden_gradients.assert_trained(&run, name, (var.as_tensor(), reference), WEIGHTS, 3.0 * 1e-3);
            }
        }
    }
}
