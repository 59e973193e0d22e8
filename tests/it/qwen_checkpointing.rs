//! What layer checkpointing saves: a 24-layer decoder of width 256 over 512 tokens, and such a tower over 512 patches.

use std::path::Path;
use std::process::{Command, Stdio};

use candle_core::{Device, Tensor};
use kshot::config::ExpertLora;
use kshot::example::{Grid, Sequence};
use kshot::models::qwen3_vl::{Config, Lora};
use kshot::nn::cross_entropy;
use kshot::seed;

use crate::goldens::{relative_norm, values};
use crate::qwen_support;

/// What the plain step takes over what it takes with checkpointing, beside the loaded model.
const SAVING: f64 = 4.0;
const GRADIENT: f64 = 1e-6;
/// Set in the process that takes one step: `decoder` or `tower`, `plain` or `checkpointing`, and the file for its
/// gradients, with spaces between.
const STEP: &str = "KSHOT_TEST_STEP";

const CONFIG: &str = r#"{"model_type": "qwen3_vl", "image_token_id": 9, "tie_word_embeddings": true,
    "text_config": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "rope_theta": 5000000, "rope_scaling": {"mrope_section": [8, 4, 4], "rope_type": "default"}},
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 1, "num_position_embeddings": 4,
        "deepstack_visual_indexes": [], "out_hidden_size": 256, "patch_size": 2, "spatial_merge_size": 1,
        "temporal_patch_size": 1, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}}"#;

/// A deep tower under a flat decoder.
fn tower() -> String {
    let deep = CONFIG.replace(
        r#""hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 1"#,
        r#""hidden_size": 256, "intermediate_size": 768, "depth": 24, "num_heads": 8"#,
    );
    let tapped = deep.replace(
        r#""deepstack_visual_indexes": []"#,
        r#""deepstack_visual_indexes": [5, 23]"#,
    );
    tapped.replace(r#""num_hidden_layers": 24"#, r#""num_hidden_layers": 3"#)
}

/// One step, in the process that [`peak`] starts.
#[test]
fn one_step() {
    let Ok(task) = std::env::var(STEP) else { return };
    let [part, kind, file] = task.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{task}")
    };
    let mut rng = seed::rng(0, "checkpointing");
    let (config, targets, grids) = if part == "tower" {
        let grid = Grid { rows: 16, columns: 32 };
        (
            tower(),
            vec!["visual.blocks.*.*.*", "merger.*", "deepstack_merger_list.*.*"],
            vec![grid],
        )
    } else {
        (
            CONFIG.to_owned(),
            vec!["self_attn.*", "gate_proj", "up_proj", "down_proj"],
            vec![],
        )
    };
    let config = Config::parse(config.as_bytes()).unwrap();
    let base = qwen_support::random(&config, &mut rng, &Device::Cpu).unwrap();
    let lora = Lora {
        targets: targets.into_iter().map(str::to_owned).collect(),
        rank: 8,
        alpha: 16.0,
        experts: ExpertLora::Each,
    };
    let model = base.with_lora(&lora, &mut rng).unwrap();
    for (name, var) in model.trainable() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count()).map(|i| (i as f32).sin() * 0.02).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
    }
    let seen = grids.iter().map(Grid::patches).sum::<usize>();
    let mut ids = vec![config.image_token_id; seen];
    ids.extend((seen as u32..512).map(|i| 10 + i * 7 % 50));
    ids.extend((0..seen.min(8) as u32).map(|i| 20 + i));
    let last = ids.len() as u32 - 2;
    let batch = model
        .batch(&[Sequence {
            ids,
            images: grids.clone(),
        }])
        .unwrap();
    let values = (0..seen * config.vision_config.patch_width())
        .map(|i| (i as f32).sin())
        .collect();
    let patches = Tensor::from_vec(values, (seen, config.vision_config.patch_width()), &Device::Cpu).unwrap();
    let labels = Tensor::new(&[3u32, 4, 5, 6], &Device::Cpu).unwrap();
    let rows = [last - 3, last - 2, last - 1, last];
    let loss = |states: &Tensor| cross_entropy(&model.logits(states, &rows)?, &labels);
    let before = resident("VmRSS:");
    let (_, gradients) = if part == "tower" && kind == "checkpointing" {
        model.backward_from_patches(&batch, &patches, &grids, loss).unwrap()
    } else {
        let features = (seen > 0).then(|| model.image_features(&patches, &grids).unwrap());
        model
            .backward(&batch, features.as_ref(), kind == "checkpointing", loss)
            .unwrap()
    };
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

fn saves(part: &str, tensors: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = |kind: &str| folder.path().join(kind);
    let step = |kind: &str| peak(&format!("{part} {kind}"), &file(kind));
    let (plain, checkpointing) = (step("plain"), step("checkpointing"));
    assert!(
        checkpointing > 0.0 && plain >= SAVING * checkpointing,
        "{part}: {plain} KiB plain, {checkpointing} KiB"
    );
    let load = |kind: &str| candle_core::safetensors::load(file(kind), &Device::Cpu).unwrap();
    let (expected, found) = (load("plain"), load("checkpointing"));
    assert_eq!(expected.len(), tensors);
    for (name, expected) in &expected {
        assert!(values(expected).iter().any(|&value| value != 0.0), "{name}");
        let error = relative_norm(&found[name], expected);
        assert!(error <= GRADIENT, "gradient of {name} differs by {error:e}");
    }
}

#[test]
fn checkpointing_of_the_decoder_saves_memory() {
    saves("decoder", 24 * 7 * 2);
}

#[test]
fn checkpointing_of_the_tower_saves_memory() {
    saves("tower", (24 * 4 + 3 * 2) * 2);
}
