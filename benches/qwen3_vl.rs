//! Images per second of a Qwen3-VL with LoRA in the decoder: `cargo bench --bench qwen3_vl`.
//!
//! Three pictures of 224 px with a question and an answer of four tokens, decoder and tower of 8 layers, 256 wide, 2,048
//! tokens: a shape that transformers and peft train too, so that the two can be held against each other.

#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::time::Instant;

use candle_core::{Device, Tensor};
use kshot::example::{Grid, Sequence};
use kshot::models::lora::ExpertLora;
use kshot::models::qwen3_vl::{Config, Lora, Qwen3Vl};
use kshot::nn::{AdamW, Group, cross_entropy};

const CONFIG: &str = r#"{
    "model_type": "qwen3_vl", "image_token_id": 2000, "tie_word_embeddings": true,
    "text_config": {
        "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 2048, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0,
        "hidden_act": "silu", "rope_scaling": {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": true}
    },
    "vision_config": {
        "depth": 8, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 8, "out_hidden_size": 256,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [1, 3, 5], "patch_size": 16, "in_channels": 3,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "hidden_act": "gelu_pytorch_tanh"
    }
}"#;
const PICTURES: usize = 3;
const STEPS: usize = 7;

fn main() -> kshot::error::Result<()> {
    let device = Device::Cpu;
    let mut rng = kshot::seed::rng(0, "bench");
    let config = Config::parse(CONFIG.as_bytes()).map_err(candle_core::Error::Msg)?;
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
        targets: targets.map(String::from).into(),
        rank: 8,
        alpha: 16.0,
        experts: ExpertLora::Each,
    };
    let model = Qwen3Vl::random(&config, &mut rng, &device)?.with_lora(&lora, &mut rng)?;
    let grids = vec![Grid { rows: 14, columns: 14 }; PICTURES];
    let patches = Tensor::randn(0f32, 1.0, (PICTURES * 196, config.vision_config.patch_width()), &device)?;
    let sequences: Vec<Sequence> = (0..PICTURES as u32)
        .map(|i| {
            let mut ids: Vec<u32> = (0..91).map(|at| (at * 37 + i * 11) % 1900).collect();
            ids[9..58].fill(config.image_token_id);
            Sequence {
                ids,
                images: vec![grids[0]],
            }
        })
        .collect();
    let batch = model.batch(&sequences)?;
    let rows: Vec<u32> = (0..PICTURES as u32)
        .flat_map(|i| (84..88).map(move |at| i * 91 + at))
        .collect();
    let labels: Vec<u32> = rows.iter().map(|row| row % 1900).collect();
    let labels = Tensor::from_vec(labels, rows.len(), &device)?;
    let group = Group {
        vars: model.trainable().into_iter().map(|(_, var)| var).collect(),
        lr: 1e-3,
        weight_decay: 0.0,
    };
    let mut optimiser = AdamW::new(vec![group], 0.9, 0.95, 1e-8)?;

    let kept = model.see(&patches, &grids)?;
    let mut train = |keep: bool| -> kshot::error::Result<()> {
        let seen = if keep {
            kept.clone()
        } else {
            model.see(&patches, &grids)?
        };
        let loss = |states: &Tensor| cross_entropy(&model.logits(states, &rows)?, &labels);
        let (_, gradients) = model.backward(&batch, Some(&seen), false, loss)?;
        optimiser.step(&gradients, 1.0)
    };
    report("train, the tower runs in each step", || train(false))?;
    report("train, visual features kept", || train(true))?;
    let merged = model.merged()?;
    report("forward, the tower runs in each pass", || {
        let seen = merged.see(&patches, &grids)?;
        let states = merged.forward(&batch, Some(&seen), None)?;
        merged.logits(&states, &rows).map(drop)
    })
}

/// Prints the median of some repetitions, after two that do not count.
fn report(what: &str, mut step: impl FnMut() -> kshot::error::Result<()>) -> kshot::error::Result<()> {
    let mut seconds = Vec::with_capacity(STEPS);
    for repetition in 0..STEPS + 2 {
        let start = Instant::now();
        step()?;
        if repetition >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[STEPS / 2];
    println!(
        "{what}: {:.1} images/s ({:.0} ms a step)",
        PICTURES as f64 / median,
        1e3 * median
    );
    Ok(())
}
