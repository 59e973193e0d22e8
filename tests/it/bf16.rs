//! A base in bf16 or f16 under adapters in f32; the operations of a GPU on the CPU; and no trace of CUDA in a CPU build.

use std::path::Path;
use std::process::Command;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use kshot::example::Sequence;
use kshot::models::dinov2::Dinov2;
use kshot::models::qwen3_vl::Qwen3Vl;
use kshot::nn::{AdamParams, AdamW, DeviceSpec, ParamGroup};

use crate::goldens::{self, Golden, distance, relative_norm, values};
use crate::qwen_support::{Greedy as _, Reference};

/// The golden batch, with the model in another type.
fn narrow(golden: &Golden, dtype: DType) -> Reference {
    let place = DeviceSpec {
        dtype,
        ..goldens::place()
    };
    let mut reference = Reference::load(golden);
    reference.model = Qwen3Vl::load(&golden.model, &place).unwrap();
    reference
}

fn adapted(golden: &Golden, reference: &Reference) -> Qwen3Vl {
    reference
        .model
        .load_adapter(&golden.expected.join("adapter_r8"))
        .unwrap()
}

fn backward(reference: &Reference, model: &Qwen3Vl, checkpointing: bool) -> (f64, GradStore) {
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    let loss = |states: &Tensor| Ok(reference.loss(model, states, "labels_name"));
    let (loss, gradients) = model
        .backward(&reference.batch(), Some(&features), checkpointing, loss)
        .unwrap();
    (values(&loss)[0], gradients)
}

/// Fixtures with the losses of transformers and peft beside them; `tests/slow/bf16_losses.py` writes them.
fn with_losses() -> Vec<(Golden, serde_json::Value)> {
    let known = |golden: Golden| {
        let losses = std::fs::read(golden.expected.join("bf16.json")).ok()?;
        Some((golden, serde_json::from_slice(&losses).unwrap()))
    };
    let found: Vec<_> = goldens::qwen3_vl().into_iter().filter_map(known).collect();
    if !found.is_empty() {
        return found;
    }
    goldens::committed_qwen3_vl().into_iter().filter_map(known).collect()
}

#[test]
fn twenty_losses_are_those_of_transformers_and_peft() {
    let all = with_losses();
    assert!(!all.is_empty());
    for (golden, expected) in all {
        let reference = narrow(&golden, DType::BF16);
        let model = adapted(&golden, &reference);
        let group = ParamGroup {
            vars: model.trainable().into_iter().map(|(_, var)| var).collect(),
            lr: expected["lr"].as_f64().unwrap(),
            weight_decay: 0.0,
        };
        let mut optimiser = AdamW::new(vec![group]).unwrap();
        let expected: Vec<f64> = serde_json::from_value(expected["bf16"].clone()).unwrap();
        assert_eq!(expected.len(), 20);
        let mut found = Vec::new();
        for _ in &expected {
            let (loss, mut gradients) = backward(&reference, &model, false);
            found.push(loss);
            optimiser.step(&mut gradients, &AdamParams::default()).unwrap();
        }
        let off = found.iter().zip(&expected).map(|(a, b)| (a / b - 1.0).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off <= 0.01, "{}: off by {off:.4}: {found:?} {expected:?}", golden.name);
        assert!(found[19] < 0.6 * found[0], "{}: {found:?}", golden.name);
    }
}

#[test]
fn gradients_are_f32_and_close_to_those_over_f32() {
    for golden in goldens::committed_qwen3_vl() {
        let exact = Reference::load(&golden);
        let model = adapted(&golden, &exact);
        let (_, expected) = backward(&exact, &model, false);
        let expected: Vec<Tensor> = model
            .trainable()
            .iter()
            .map(|(_, var)| expected.get(var).unwrap().clone())
            .collect();
        for (dtype, allowed) in [(DType::BF16, 0.1), (DType::F16, 0.02)] {
            let reference = narrow(&golden, dtype);
            let model = adapted(&golden, &reference);
            assert!(model.linear_weights().iter().all(|(_, weight)| weight.dtype() == dtype));
            for checkpointing in [false, true] {
                let (_, gradients) = backward(&reference, &model, checkpointing);
                for ((name, var), expected) in model.trainable().iter().zip(&expected) {
                    let found = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
                    assert_eq!((found.dtype(), var.dtype()), (DType::F32, DType::F32), "{name}");
                    let error = relative_norm(found, expected);
                    assert!(error <= allowed && error > 0.0, "{dtype:?} {name}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_narrow_base_samples_and_scores() {
    let golden = &goldens::committed_qwen3_vl()[0];
    let of = |reference: &Reference| {
        // Adapters fixed beside the weights.
        let model = adapted(golden, reference).merged().unwrap();
        assert!(model.trainable().is_empty());
        let features = model.image_features(&reference.patches, &reference.grids).unwrap();
        let prompts: Vec<Sequence> = reference.sequences.clone();
        let written = model.generate(&prompts, Some(&features), 3, &[]).unwrap();
        assert!(written.iter().all(|tokens| tokens.len() == 3));
        let continuations = [vec![5, 6, 7], vec![5, 9]];
        let asked: Vec<(&Sequence, &[Vec<u32>])> = prompts.iter().map(|prompt| (prompt, &continuations[..])).collect();
        let scores = model.score(&asked, Some(&features)).unwrap();
        let scores = scores.into_iter().flatten().flatten();
        scores.map(|score| f64::from(score.logprob)).collect::<Vec<f64>>()
    };
    let (exact, found) = (of(&Reference::load(golden)), of(&narrow(golden, DType::BF16)));
    assert_eq!(exact.len(), found.len());
    for (found, exact) in found.iter().zip(&exact) {
        assert!((found - exact).abs() <= 0.03 * exact.abs(), "{found} {exact}");
    }
    assert_ne!(found, exact);
}

#[test]
fn features_of_a_narrow_dinov2_are_close() {
    for golden in goldens::dinov2() {
        let expected = golden.tensors("forward.safetensors");
        let of = |dtype| {
            let place = DeviceSpec {
                dtype,
                ..goldens::place()
            };
            let model = Dinov2::load(&golden.model, &place).unwrap();
            model.features(&expected["pixel_values"]).unwrap()
        };
        let exact = of(DType::F32);
        for (dtype, allowed) in [(DType::BF16, 0.03), (DType::F16, 0.005)] {
            let found = of(dtype);
            assert_eq!(found.dtype(), DType::F32);
            let error = relative_norm(&found, &exact);
            assert!(error <= allowed && error > 0.0, "{} {dtype:?}: {error:e}", golden.name);
        }
        assert_eq!(distance(&of(DType::F32), &exact), 0.0);
    }
}

/// What a GPU computes with are candle's plain operations; here the CPU does so: the goldens again, and this file.
#[test]
fn plain_operations_give_the_goldens_too() {
    if !goldens::fused() {
        return;
    }
    let tests = ["bf16::", "qwen::", "qwen_lora::", "dinov2::", "gradients::"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(tests).env("KSHOT_FUSED", "0").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("gradients_match_plain_and_checkpointed ... ok"), "{told}");
}

#[test]
fn the_cpu_build_has_no_part_of_cuda() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    assert!(manifest["features"].get("default").is_none());
    for (name, dependency) in manifest["dependencies"].as_table().unwrap() {
        assert!(!dependency.to_string().contains("cuda"), "{name}");
    }
    let needed = needed(&std::fs::read(env!("CARGO_BIN_EXE_kshot")).unwrap());
    assert!(
        needed.iter().any(|library| library.starts_with("libc.so")),
        "{needed:?}"
    );
    let gpu = ["libcuda", "libcudart", "libcublas", "libcurand", "libnvrtc"];
    let found = needed
        .iter()
        .any(|library| gpu.iter().any(|of| library.starts_with(of)));
    assert_eq!(found, cfg!(feature = "cuda"), "{needed:?}");
}

/// The libraries that an ELF file for 64 bits asks the loader for.
fn needed(elf: &[u8]) -> Vec<String> {
    let short = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    assert_eq!(elf[..5], *b"\x7fELF\x02");
    // Segments: type, offset in the file, address, size in the file.
    let segments: Vec<(u32, usize, usize, usize)> = (0..short(56))
        .map(|i| word(32) + i * short(54))
        .map(|at| {
            let kind = u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
            (kind, word(at + 8), word(at + 16), word(at + 32))
        })
        .collect();
    let (_, start, _, size) = *segments.iter().find(|segment| segment.0 == 2).unwrap();
    let entries: Vec<(usize, usize)> = (start..start + size)
        .step_by(16)
        .map(|at| (word(at), word(at + 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == 5).unwrap().1;
    let loaded = segments
        .iter()
        .find(|(kind, _, address, size)| *kind == 1 && (*address..address + size).contains(&strings));
    let strings = strings - loaded.unwrap().2 + loaded.unwrap().1;
    let name = |(_, at): &(usize, usize)| {
        let text = &elf[strings + at..];
        let end = text.iter().position(|&byte| byte == 0).unwrap();
        String::from_utf8_lossy(&text[..end]).into_owned()
    };
    entries.iter().filter(|(tag, _)| *tag == 1).map(name).collect()
}
