//! One cell at the true shape of DINOv2-small: 224 px, 257 tokens, 22 M parameters (random weights).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::support::Sandbox;

/// `facebook/dinov2-small`: config.json of the hub, shortened to what the model reads.
const CONFIG: &str = r#"{
  "architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12,
  "num_attention_heads": 6, "mlp_ratio": 4, "use_swiglu_ffn": false, "hidden_act": "gelu", "image_size": 518,
  "patch_size": 14, "num_channels": 3, "qkv_bias": true, "layerscale_value": 1.0, "layer_norm_eps": 1e-6,
  "torch_dtype": "float32"
}"#;
const PREPROCESSOR: &str = r#"{
  "crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true, "do_normalize": true,
  "do_rescale": true, "do_resize": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
  "image_processor_type": "BitImageProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
  "size": {"shortest_edge": 256}
}"#;
/// Peak resident memory that the cell may take: what a small cloud machine has.
const MAX_GIB: f64 = 8.0;

fn checkpoint(folder: &Path) {
    const D: usize = 384;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut put = |name: String, shape: &[usize], mean: f32, std: f32| {
        tensors.insert(name, Tensor::randn(mean, std, shape, &Device::Cpu).unwrap());
    };
    let e = "embeddings.";
    put(format!("{e}cls_token"), &[1, 1, D], 0.0, 0.02);
    put(format!("{e}mask_token"), &[1, D], 0.0, 0.02);
    put(format!("{e}position_embeddings"), &[1, 1 + 37 * 37, D], 0.0, 0.02);
    put(
        format!("{e}patch_embeddings.projection.weight"),
        &[D, 3, 14, 14],
        0.0,
        0.04,
    );
    put(format!("{e}patch_embeddings.projection.bias"), &[D], 0.0, 0.02);
    for layer in 0..12 {
        let l = format!("encoder.layer.{layer}.");
        for (name, output, input) in [
            ("attention.attention.query", D, D),
            ("attention.attention.key", D, D),
            ("attention.attention.value", D, D),
            ("attention.output.dense", D, D),
            ("mlp.fc1", 4 * D, D),
            ("mlp.fc2", D, 4 * D),
        ] {
            put(format!("{l}{name}.weight"), &[output, input], 0.0, 0.05);
            put(format!("{l}{name}.bias"), &[output], 0.0, 0.02);
        }
        for norm in ["norm1", "norm2"] {
            put(format!("{l}{norm}.weight"), &[D], 1.0, 0.02);
            put(format!("{l}{norm}.bias"), &[D], 0.0, 0.02);
        }
        for scale in ["layer_scale1", "layer_scale2"] {
            put(format!("{l}{scale}.lambda1"), &[D], 0.5, 0.1);
        }
    }
    put("layernorm.weight".into(), &[D], 1.0, 0.02);
    put("layernorm.bias".into(), &[D], 0.0, 0.02);
    fs::create_dir_all(folder).unwrap();
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("config.json"), CONFIG).unwrap();
    fs::write(folder.join("preprocessor_config.json"), PREPROCESSOR).unwrap();
}

#[test]
fn a_cell_at_the_shape_of_dinov2_small_fits_in_memory() {
    let sandbox = Sandbox::new();
    checkpoint(&sandbox.path("dinov2-small"));
    let mut child = sandbox
        .kshot(&[
            "sweep",
            "--config",
            "tiny.toml",
            "--set",
            "shots=[1]",
            "--set",
            "learner.0.model=dinov2-small",
        ])
        .args(["--set", "learner.0.rank=16", "--set", "learner.0.batch=32"])
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0u64;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let high = text
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak_kib = peak_kib.max(high.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(child.wait().unwrap().success());
    let peak_gib = peak_kib as f64 / f64::from(1 << 20);
    assert!(peak_kib > 0 && peak_gib < MAX_GIB, "peak memory {peak_gib:.2} GiB");

    let mut timings = csv::Reader::from_path(sandbox.path("results/tiny/timings.csv")).unwrap();
    let columns = timings.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = timings.records().map(Result::unwrap).collect();
    let row = rows
        .iter()
        .find(|r| r.iter().any(|field| field == "DINOv2 LoRA"))
        .unwrap();
    let rate = |name: &str| -> f64 { row[columns.iter().position(|c| c == name).unwrap()].parse().unwrap() };
    let (train, eval) = (rate("train_images_per_second"), rate("eval_images_per_second"));
    assert!(train > 0.0 && eval > 0.0);
    println!("DINOv2-small shape, 224 px: {train:.2} images/s training, {eval:.2} evaluating, {peak_gib:.2} GiB peak");
}
