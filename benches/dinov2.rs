//! Images per second of DINOv2 with LoRA in every linear layer: `cargo bench --bench dinov2 [micro|small]`.
//!
//! A training step is forward, backward, clipping and AdamW; evaluation uses merged adapters.
//! The floor is the multiplications alone at the speed of one large matrix product.

#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use kshot::models::dinov2::{Config, Dinov2, Lora};
use kshot::models::lora::ExpertLora;
use kshot::nn::{AdamW, Group, Head, clip_grad_norm, cross_entropy};

struct Shape {
    name: &'static str,
    config: Config,
    side: usize,
    batch: usize,
    steps: usize,
}

fn main() -> kshot::error::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("f32 product of 1024 x 1024 x 1024: {:.0} GFLOP/s", product_speed()?);
    for shape in [
        Shape {
            name: "micro",
            config: Config::micro(),
            side: 48,
            batch: 32,
            steps: 40,
        },
        Shape {
            name: "small",
            config: Config::small(),
            side: 224,
            batch: 8,
            steps: 4,
        },
    ] {
        if wanted.is_empty() || wanted.iter().any(|name| name == shape.name) {
            measure(&shape)?;
        }
    }
    Ok(())
}

fn measure(shape: &Shape) -> kshot::error::Result<()> {
    let device = Device::Cpu;
    let mut rng = kshot::seed::rng(0, "bench");
    let targets = ["query", "key", "value", "output.dense", "fc1", "fc2"]
        .map(String::from)
        .into();
    let lora = Lora {
        targets,
        rank: 16,
        alpha: 16.0,
        experts: ExpertLora::Each,
    };
    let model = Dinov2::random(&shape.config, &mut rng, &device)?.with_lora(&lora, &mut rng)?;
    let head = Head::zeros(10, 2 * model.hidden_size(), &device)?;
    let adapters: Vec<_> = model.trainable().into_iter().map(|(_, var)| var).collect();
    let heads: Vec<_> = head.trainable().into_iter().map(|(_, var)| var).collect();
    let all: Vec<_> = adapters.iter().chain(&heads).cloned().collect();
    let groups = vec![
        Group {
            vars: adapters,
            lr: 1e-3,
            weight_decay: 0.0,
        },
        Group {
            vars: heads,
            lr: 1e-2,
            weight_decay: 0.0,
        },
    ];
    let mut optimiser = AdamW::new(groups, 0.9, 0.95, 1e-8)?;
    let pixels = Tensor::randn(0f32, 1.0, (shape.batch, 3, shape.side, shape.side), &device)?;
    let labels = Tensor::arange(0u32, shape.batch as u32, &device)?.to_dtype(DType::F32)?;
    let labels = (labels / 10.0)?.to_dtype(DType::U32)?;

    let mut seconds = [0f64; 3];
    for step in 0..=shape.steps {
        let start = Instant::now();
        let loss = cross_entropy(&head.forward(&model.features(&pixels)?)?, &labels)?;
        let forward = start.elapsed().as_secs_f64();
        let mut grads = loss.backward()?;
        let backward = start.elapsed().as_secs_f64();
        clip_grad_norm(&all, &mut grads, 1.0)?;
        optimiser.step(&grads, 1.0)?;
        let end = start.elapsed().as_secs_f64();
        if step > 0 {
            seconds[0] += forward;
            seconds[1] += backward - forward;
            seconds[2] += end - backward;
        }
    }
    let images = (shape.batch * shape.steps) as f64;
    let per_step = seconds.map(|s| 1e3 * s / shape.steps as f64);
    println!(
        "{}: train {:.1} images/s, batch {} (ms a step: forward {:.1}, backward {:.1}, optimiser {:.1})",
        shape.name,
        images / seconds.iter().sum::<f64>(),
        shape.batch,
        per_step[0],
        per_step[1],
        per_step[2],
    );

    let merged = model.merged()?;
    head.forward(&merged.features(&pixels)?)?;
    let start = Instant::now();
    for _ in 0..shape.steps {
        head.forward(&merged.features(&pixels)?)?;
    }
    println!(
        "{}: evaluate {:.1} images/s",
        shape.name,
        images / start.elapsed().as_secs_f64()
    );
    if let Some(megabytes) = peak_memory() {
        println!("{}: peak memory so far {megabytes} MB", shape.name);
    }
    Ok(())
}

/// GFLOP/s of a large square product.
fn product_speed() -> kshot::error::Result<f64> {
    let n = 1024;
    let a = Tensor::randn(0f32, 1.0, (n, n), &Device::Cpu)?;
    a.matmul(&a)?;
    let start = Instant::now();
    for _ in 0..5 {
        a.matmul(&a)?;
    }
    Ok(5.0 * 2.0 * (n as f64).powi(3) / start.elapsed().as_secs_f64() / 1e9)
}

/// Peak resident memory of this process, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes / 1024)
}
