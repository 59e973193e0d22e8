//! What layer checkpointing saves: a 24-layer decoder of width 256 over 512 tokens.

use std::path::Path;
use std::process::{Command, Stdio};

use candle_core::{Device, Tensor};
use kshot::example::Sequence;
use kshot::models::qwen3_vl::{Config, Lora, Qwen3Vl};
use kshot::nn::cross_entropy;
use kshot::seed;

use crate::goldens::{relative_norm, values};

/// What the plain step takes over what it takes with checkpointing, beside the loaded model.
const SAVING: f64 = 4.0;
const GRADIENT: f64 = 1e-6;
/// Set in the process that takes one step: `plain` or `checkpointing`, a space, and the file for its gradients.
const STEP: &str = "KSHOT_TEST_STEP";

const CONFIG: &str = r#"{"model_type": "qwen3_vl", "image_token_id": 9, "tie_word_embeddings": true,
    "text_config": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "rope_theta": 5000000, "rope_scaling": {"mrope_section": [8, 4, 4], "rope_type": "default"}},
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 1, "num_position_embeddings": 4,
        "deepstack_visual_indexes": [], "out_hidden_size": 256, "patch_size": 2, "spatial_merge_size": 1,
        "temporal_patch_size": 1, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}}"#;

/// One step, in the process that [`checkpointing_saves_memory`] starts.
#[test]
fn one_step() {
    let Ok(task) = std::env::var(STEP) else { return };
    let (kind, file) = task.split_once(' ').unwrap();
    let mut rng = seed::rng(0, "checkpointing");
    let config = Config::parse(CONFIG.as_bytes()).unwrap();
    let base = Qwen3Vl::random(&config, &mut rng, &Device::Cpu).unwrap();
    let targets = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    let lora = Lora {
        targets: targets.map(str::to_owned).into(),
        rank: 8,
        alpha: 16.0,
    };
    let model = base.with_lora(&lora, &mut rng).unwrap();
    for (name, var) in model.trainable() {
        if name.contains("lora_B") {
            var.set(&(Tensor::ones(var.shape(), var.dtype(), var.device()).unwrap() * 0.01).unwrap())
                .unwrap();
        }
    }
    let ids: Vec<u32> = (0..512).map(|i| 10 + i * 7 % 50).collect();
    let batch = model
        .batch(&[Sequence {
            ids,
            images: Vec::new(),
        }])
        .unwrap();
    let labels = Tensor::new(&[3u32, 4, 5, 6], &Device::Cpu).unwrap();
    let loss = |states: &Tensor| cross_entropy(&model.logits(states, &[507, 508, 509, 510])?, &labels);
    let before = resident("VmRSS:");
    let (_, gradients) = model.backward(&batch, None, kind == "checkpointing", loss).unwrap();
    let step = resident("VmHWM:") - before;
    std::fs::write(format!("{file}.peak"), step.to_string()).unwrap();
    let all = model
        .trainable()
        .into_iter()
        .map(|(name, var)| (name, gradients.get(&var).unwrap().clone()));
    candle_core::safetensors::save(&all.collect(), file).unwrap();
}

/// A line of this process's status, in KiB.
fn resident(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// What one step takes at its peak, in KiB, in a process of its own: the peak of a process never falls.
fn peak(kind: &str, file: &Path) -> f64 {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "qwen_checkpointing::one_step"])
        .env(STEP, format!("{kind} {}", file.display()))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read_to_string(format!("{}.peak", file.display()))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn checkpointing_saves_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = |kind: &str| folder.path().join(kind);
    let (plain, checkpointing) = (
        peak("plain", &file("plain")),
        peak("checkpointing", &file("checkpointing")),
    );
    println!(
        "peak: {:.0} MiB plain, {:.0} MiB with checkpointing",
        plain / 1024.0,
        checkpointing / 1024.0
    );
    assert!(
        checkpointing > 0.0 && plain >= SAVING * checkpointing,
        "{plain} KiB plain, {checkpointing} KiB"
    );
    let load = |kind: &str| candle_core::safetensors::load(file(kind), &Device::Cpu).unwrap();
    let (expected, found) = (load("plain"), load("checkpointing"));
    assert_eq!(expected.len(), 24 * 7 * 2);
    for (name, expected) in &expected {
        assert!(values(expected).iter().any(|&value| value != 0.0), "{name}");
        let error = relative_norm(&found[name], expected);
        assert!(error <= GRADIENT, "gradient of {name} differs by {error:e}");
    }
}
