//! Experts: what they take from files, what is refused, and what training of them means.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use kshot::config::ExpertLora;
use kshot::example::Sequence;
use kshot::models::qwen3_vl::{Config, Lora, Qwen3Vl};
use kshot::nn::{DeviceSpec, cross_entropy};
use kshot::seed;

use crate::goldens::{self, distance, relative_norm, values};
use crate::qwen_support::{self, Reference};

const ATTENTION_AND_EXPERTS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

pub fn lora(targets: &[&str], experts: ExpertLora) -> Lora {
    Lora {
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        rank: 3,
        alpha: 6.0,
        experts,
    }
}

/// The base with fresh adapters on what is adapted by default.
pub fn fresh(base: &Qwen3Vl, experts: ExpertLora) -> Qwen3Vl {
    let lora = lora(&ATTENTION_AND_EXPERTS, experts);
    base.with_lora(&lora, &mut seed::rng(0, "lora")).unwrap()
}

/// Sets every B to values that are not zero.
pub fn train(model: &Qwen3Vl) {
    for (i, (name, var)) in model.trainable().into_iter().enumerate() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count())
                .map(|j| ((i + 2 * j) as f32).sin() * 0.1)
                .collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
    }
}

pub fn logits(reference: &Reference, model: &Qwen3Vl) -> Tensor {
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    let states = model.forward(&reference.batch(), Some(&features), None).unwrap();
    model.logits(&states, &reference.answer_rows()).unwrap().detach()
}

#[test]
fn every_factor_gets_a_gradient_plain_and_checkpointed() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        for experts in [ExpertLora::Each, ExpertLora::Shared] {
            let model = fresh(&reference.model, experts);
            let base = logits(&reference, &reference.model);
            assert_eq!(distance(&base, &logits(&reference, &model)), 0.0, "{}", golden.name);
            train(&model);
            let features = model.image_features(&reference.patches, &reference.grids).unwrap();
            let backward = |checkpointing| {
                let loss = |states: &Tensor| Ok(reference.loss(&model, states, "labels_name"));
                let done = model.backward(&reference.batch(), Some(&features), checkpointing, loss);
                done.unwrap().1
            };
            let (plain, again, checkpointed) = (backward(false), backward(false), backward(true));
            for (name, var) in model.trainable() {
                let gradient = plain.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
                assert_eq!(gradient.dims(), var.dims());
                assert!(values(gradient).iter().any(|&value| value != 0.0), "{name}");
                assert_eq!(distance(again.get(&var).unwrap(), gradient), 0.0, "{name}");
                let error = relative_norm(checkpointed.get(&var).unwrap(), gradient);
                assert!(error <= 1e-6, "{}: {name} differs by {error:e}", golden.name);
            }
        }
    }
}

#[test]
fn experts_without_tokens_have_zeros_as_their_gradient() {
    let golden = &goldens::qwen3_vl_moe()[0];
    let base = Qwen3Vl::load(&golden.model, &DeviceSpec::cpu()).unwrap();
    let text = &base.config().text_config;
    let (layer, experts) = (0..text.num_hidden_layers)
        .find_map(|i| Some((i, text.experts(i)?)))
        .unwrap();
    let model = fresh(&base, ExpertLora::Each);
    train(&model);
    let one = Sequence {
        ids: vec![7],
        images: vec![],
    };
    let batch = model.batch(&[one]).unwrap();
    let label = Tensor::new(&[3u32], &Device::Cpu).unwrap();
    let loss = |states: &Tensor| cross_entropy(&model.logits(states, &[0])?, &label);
    let (_, gradients) = model.backward(&batch, None, false, loss).unwrap();
    let name = format!("base_model.model.model.language_model.layers.{layer}.mlp.experts.lora_A.weight");
    let var = model.trainable().into_iter().find(|(key, _)| *key == name).unwrap().1;
    let rows = gradients.get(&var).unwrap().to_vec2::<f32>().unwrap();
    let used = |rows: &[Vec<f32>]| rows.iter().flatten().any(|&value| value != 0.0);
    let used = rows.chunks(3).filter(|rows| used(rows)).count();
    assert_eq!((rows.len(), used), (3 * experts.count, experts.chosen));
}

#[test]
fn the_shared_form_has_the_size_that_tinker_states() {
    for golden in goldens::qwen3_vl_moe() {
        let base = Qwen3Vl::load(&golden.model, &DeviceSpec::cpu()).unwrap();
        let model = fresh(&base, ExpertLora::Shared);
        let text = &base.config().text_config;
        let of_layer = |i| {
            let experts = text.experts(i)?;
            Some(3 * 3 * (text.hidden_size + experts.count * experts.middle))
        };
        let expected: usize = (0..text.num_hidden_layers).filter_map(of_layer).sum();
        let trainable = model.trainable().into_iter();
        let of_experts = trainable.filter(|(name, _)| name.contains(".experts."));
        assert_eq!(of_experts.map(|(_, var)| var.elem_count()).sum::<usize>(), expected);
    }
}

/// A copy of a fixture in one file, with some tensors changed.
fn changed(golden: &goldens::Golden, to: &Path, change: impl Fn(&str, Tensor) -> Tensor) {
    let mut tensors = HashMap::new();
    for entry in fs::read_dir(&golden.model).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "safetensors") {
            for (name, tensor) in candle_core::safetensors::load(&path, &Device::Cpu).unwrap() {
                let tensor = change(&name, tensor);
                tensors.insert(name, tensor);
            }
        } else if path.is_file() && !path.to_string_lossy().ends_with("index.json") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
}

fn turned(name: &str, tensor: Tensor) -> Tensor {
    if name.contains(".experts.") {
        tensor.transpose(1, 2).unwrap().contiguous().unwrap()
    } else {
        tensor
    }
}

#[test]
fn both_layouts_of_experts_are_read_and_merged_in_their_own() {
    for golden in goldens::qwen3_vl_moe() {
        let reference = Reference::load(&golden);
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        changed(&golden, &other, turned);
        let model = Qwen3Vl::load(&other, &DeviceSpec::cpu()).unwrap();
        let expected = logits(&reference, &reference.model);
        assert_eq!(distance(&logits(&reference, &model), &expected), 0.0, "{}", golden.name);
        let model = fresh(&model, ExpertLora::Each);
        train(&model);
        let out = folder.path().join("merged");
        model.save_merged(&other, &out).unwrap();
        let shapes = |folder: &Path| -> Vec<(String, Vec<usize>)> {
            let all = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
            let mut all: Vec<_> = all.into_iter().map(|(name, t)| (name, t.dims().to_vec())).collect();
            all.sort();
            all
        };
        assert_eq!(shapes(&out), shapes(&other));
    }
}

#[test]
fn fewer_experts_than_the_config_says_are_refused_by_name() {
    for golden in goldens::qwen3_vl_moe() {
        let folder = tempfile::tempdir().unwrap();
        changed(&golden, folder.path(), |_, tensor| tensor);
        let mut config = golden.config();
        let count = config["text_config"]["num_experts"].as_u64().unwrap();
        config["text_config"]["num_experts"] = (count + 2).into();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = Qwen3Vl::load(folder.path(), &DeviceSpec::cpu())
            .unwrap_err()
            .to_string();
        for part in [
            "mlp.experts.gate_up_proj` has shape",
            &format!("[{count}, "),
            &format!("[{}, ", count + 2),
            &folder.path().to_string_lossy(),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn a_router_is_never_adapted() {
    let golden = &goldens::qwen3_vl_moe()[0];
    let base = Qwen3Vl::load(&golden.model, &DeviceSpec::cpu()).unwrap();
    let lora = lora(&["mlp.gate", "gate"], ExpertLora::Each);
    let error = base
        .with_lora(&lora, &mut seed::rng(0, "lora"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("experts.gate_up_proj"), "{error}");
}

#[test]
fn a_random_model_has_experts_of_sane_size() {
    let golden = &goldens::qwen3_vl_moe()[0];
    let bytes = fs::read(golden.model.join("config.json")).unwrap();
    let config = Config::parse(&bytes).unwrap();
    let random = || qwen_support::random(&config, &mut seed::rng(1, "moe"), &Device::Cpu).unwrap();
    let (first, second) = (random().updated_experts().unwrap(), random().updated_experts().unwrap());
    assert!(!first.is_empty());
    for ((name, stack), (_, again)) in first.iter().zip(&second) {
        assert_eq!(distance(stack, again), 0.0, "{name}");
        let variance = values(stack).iter().map(|x| x * x).sum::<f64>() / stack.elem_count() as f64;
        let inputs = stack.dims()[1] as f64;
        assert!((variance * inputs - 1.0).abs() < 0.2, "{name}: {variance}");
    }
}

/// `Qwen/Qwen3-VL-30B-A3B-Instruct` with one layer and a small tower.
const ONE_LAYER: &str = r#"{"image_token_id": 151655, "model_type": "qwen3_vl_moe", "tie_word_embeddings": false,
    "text_config": {"attention_bias": false, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 6144, "num_attention_heads": 32, "num_hidden_layers": 1, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_scaling": {"mrope_interleaved": true, "mrope_section": [24, 20, 20]},
        "rope_theta": 5000000, "vocab_size": 151936, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_experts": 128, "num_experts_per_tok": 8},
    "vision_config": {"deepstack_visual_indexes": [], "depth": 1, "hidden_size": 16, "intermediate_size": 16,
        "num_heads": 1, "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "num_position_embeddings": 4,
        "out_hidden_size": 2048, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}}"#;

#[test]
#[ignore = "takes 6 GB; prints seconds and memory"]
fn one_layer_of_the_true_shape() {
    let clock = std::time::Instant::now();
    let mut rng = seed::rng(0, "shape");
    let config = Config::parse(ONE_LAYER.as_bytes()).unwrap();
    let base = qwen_support::random(&config, &mut rng, &Device::Cpu).unwrap();
    println!("filled after {:.1} s", clock.elapsed().as_secs_f64());
    for experts in [ExpertLora::Each, ExpertLora::Shared] {
        let lora = Lora {
            rank: 32,
            alpha: 32.0,
            ..lora(&ATTENTION_AND_EXPERTS, experts)
        };
        let model = base.with_lora(&lora, &mut rng).unwrap();
        train(&model);
        let ids = (0..400).map(|i| 100 + i * 37 % 150_000).collect();
        let batch = model.batch(&[Sequence { ids, images: vec![] }]).unwrap();
        let label = Tensor::new(&[3u32], &Device::Cpu).unwrap();
        let loss = |states: &Tensor| cross_entropy(&model.logits(states, &[399])?, &label);
        let clock = std::time::Instant::now();
        let (value, gradients) = model.backward(&batch, None, true, loss).unwrap();
        assert!(values(&value)[0].is_finite());
        let trained = model.trainable();
        let numbers: usize = trained.iter().map(|(_, var)| var.elem_count()).sum();
        for (name, var) in &trained {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
            assert!(values(gradient).iter().all(|value| value.is_finite()), "{name}");
        }
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        println!(
            "{experts:?}: {numbers} numbers trained, 400 tokens forward and back in {:.1} s, {peak}",
            clock.elapsed().as_secs_f64()
        );
    }
}
