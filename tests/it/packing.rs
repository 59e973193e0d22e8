//! Sequences and images of any length lie one after the other, without padding, and know nothing of each other: values and
//! gradients of a packed batch are those of its parts one by one.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use kshot::config::ExpertLora;
use kshot::example::{Grid, Sequence};
use kshot::models::qwen3_vl::{Config, Features, Lora, Qwen3Vl};
use kshot::nn::cross_entropy;
use kshot::seed;

use crate::goldens::{relative_norm, relative_to_max};
use crate::qwen_support;

/// Sums in another order.
const VALUES: f64 = 1e-5;
const GRADIENTS: f64 = 1e-4;

const CONFIG: &str = r#"{"model_type": "qwen3_vl", "image_token_id": 9, "tie_word_embeddings": true,
    "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "rope_theta": 5000000, "rope_scaling": {"mrope_section": [2, 1, 1], "rope_type": "default"}},
    "vision_config": {"hidden_size": 16, "intermediate_size": 24, "depth": 3, "num_heads": 2, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 2], "out_hidden_size": 32, "patch_size": 2, "spatial_merge_size": 2,
        "temporal_patch_size": 1, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}}"#;
const MERGE: usize = 2;

/// A model whose adapters, in decoder, tower and mergers, do something.
fn model() -> Qwen3Vl {
    let mut rng = seed::rng(0, "packing");
    let config = Config::parse(CONFIG.as_bytes()).unwrap();
    let targets = [
        "self_attn.*",
        "gate_proj",
        "up_proj",
        "down_proj",
        "visual.blocks.*.*.*",
        "merger.*",
        "deepstack_merger_list.*.*",
    ];
    let lora = Lora {
        targets: targets.map(str::to_owned).into(),
        rank: 4,
        alpha: 8.0,
        experts: ExpertLora::Each,
    };
    let base = qwen_support::random(&config, &mut rng, &Device::Cpu).unwrap();
    let model = base.with_lora(&lora, &mut rng).unwrap();
    for (name, var) in model.trainable() {
        if name.contains("lora_B") {
            let values: Vec<f32> = (0..var.elem_count()).map(|i| (i as f32).sin() * 0.05).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
    }
    model
}

/// A sample: text, images of these grids with a token after each, text; its length is its own.
struct Sample {
    sequence: Sequence,
    patches: Tensor,
    label: u32,
}

fn sample(model: &Qwen3Vl, number: u32, before: u32, sides: &[(usize, usize)], after: u32) -> Sample {
    let grids: Vec<Grid> = sides.iter().map(|&(rows, columns)| Grid { rows, columns }).collect();
    let text = |length: u32| {
        (0..length)
            .map(|i| 10 + (i * 7 + number * 13) % 50)
            .collect::<Vec<u32>>()
    };
    let mut ids = text(before);
    for grid in &grids {
        ids.extend(vec![9; grid.tokens(MERGE)]);
        ids.push(20 + number);
    }
    ids.extend(text(after));
    let width = model.config().vision_config.patch_width();
    let count: usize = grids.iter().map(Grid::patches).sum();
    let values = (0..count * width).map(|i| ((i as f32 + 1.0) * (number as f32 + 0.5)).sin());
    Sample {
        sequence: Sequence { ids, images: grids },
        patches: Tensor::from_vec(values.collect(), (count, width), &Device::Cpu).unwrap(),
        label: 10 + number,
    }
}

/// One pass over samples: features, states, and gradients of the sum of the losses at their last tokens.
fn pass(model: &Qwen3Vl, samples: &[&Sample]) -> (Option<Features>, Tensor, f32, GradStore) {
    let sequences: Vec<Sequence> = samples.iter().map(|sample| sample.sequence.clone()).collect();
    let grids: Vec<Grid> = sequences.iter().flat_map(|sequence| sequence.images.clone()).collect();
    let patches: Vec<&Tensor> = samples.iter().map(|sample| &sample.patches).collect();
    let features = (!grids.is_empty()).then(|| {
        model
            .image_features(&Tensor::cat(&patches, 0).unwrap(), &grids)
            .unwrap()
    });
    let batch = model.batch(&sequences).unwrap();
    let states = model.forward(&batch, features.as_ref(), None).unwrap();
    let last = |(i, sequence): (usize, &Sequence)| batch.row(i, sequence.ids.len() - 1).unwrap();
    let rows: Vec<u32> = sequences.iter().enumerate().map(last).collect();
    let labels: Vec<u32> = samples.iter().map(|sample| sample.label).collect();
    let labels = Tensor::from_vec(labels, samples.len(), &Device::Cpu).unwrap();
    let loss = |states: &Tensor| Ok((cross_entropy(&model.logits(states, &rows)?, &labels)? * samples.len() as f64)?);
    let (loss, gradients) = model.backward(&batch, features.as_ref(), false, loss).unwrap();
    (features, states, loss.to_scalar().unwrap(), gradients)
}

#[test]
fn a_packed_batch_is_its_samples_one_by_one() {
    let model = model();
    let samples = [
        sample(&model, 0, 3, &[(4, 6)], 5),
        sample(&model, 1, 1, &[(2, 2), (8, 4)], 2),
        sample(&model, 2, 17, &[], 0),
        sample(&model, 3, 2, &[(6, 2)], 1),
    ];
    let all: Vec<&Sample> = samples.iter().collect();
    let (features, states, loss, gradients) = pass(&model, &all);
    // Not a row more than there are tokens, not one more than there are merged patches.
    let tokens: usize = samples.iter().map(|sample| sample.sequence.ids.len()).sum();
    let merged: usize = samples
        .iter()
        .map(|sample| sample.patches.dim(0).unwrap() / (MERGE * MERGE))
        .sum();
    let features = features.unwrap();
    assert_eq!(
        (states.dim(0).unwrap(), features.merged.dim(0).unwrap()),
        (tokens, merged)
    );

    let (mut row, mut seen, mut sum) = (0, 0, 0.0);
    let mut sums: Vec<Option<Tensor>> = vec![None; model.trainable().len()];
    for sample in &samples {
        let (own_features, own_states, own_loss, own_gradients) = pass(&model, &[sample]);
        let length = own_states.dim(0).unwrap();
        let error = relative_to_max(&states.narrow(0, row, length).unwrap(), &own_states);
        assert!(error <= VALUES, "states differ by {error:e}");
        row += length;
        if let Some(own) = own_features {
            let count = own.merged.dim(0).unwrap();
            let packed = std::iter::once(&features.merged).chain(&features.deepstack);
            for (packed, own) in packed.zip(std::iter::once(&own.merged).chain(&own.deepstack)) {
                let error = relative_to_max(&packed.narrow(0, seen, count).unwrap(), own);
                assert!(error <= VALUES, "features differ by {error:e}");
            }
            seen += count;
        }
        sum += own_loss;
        for (total, (_, var)) in sums.iter_mut().zip(model.trainable()) {
            // A sample without image has no gradient in the tower.
            if let Some(own) = own_gradients.get(&var) {
                *total = Some(
                    total
                        .as_ref()
                        .map_or_else(|| own.clone(), |total| (total + own).unwrap()),
                );
            }
        }
    }
    assert_eq!((row, seen), (tokens, merged));
    assert!((loss - sum).abs() <= 1e-5 * sum, "{loss} is not {sum}");
    let mut compared = 0;
    for (sum, (name, var)) in sums.into_iter().zip(model.trainable()) {
        match (gradients.get(&var), sum) {
            (Some(packed), Some(sum)) => {
                let error = relative_norm(packed, &sum);
                assert!(error <= GRADIENTS, "gradient of {name} differs by {error:e}");
                compared += 1;
            }
            (packed, sum) => assert_eq!(packed.is_some(), sum.is_some(), "{name}"),
        }
    }
    assert_eq!(compared, model.trainable().len());
}

#[test]
fn samples_of_a_packed_batch_do_not_see_each_other() {
    let model = model();
    let kept = sample(&model, 0, 3, &[(4, 6)], 5);
    let others = [sample(&model, 1, 2, &[(2, 2)], 1), sample(&model, 5, 9, &[(6, 4)], 4)];
    let length = kept.sequence.ids.len();
    let beside = |other: &Sample| pass(&model, &[&kept, other]).1.narrow(0, 0, length).unwrap();
    let error = relative_to_max(&beside(&others[0]), &beside(&others[1]));
    assert!(error <= VALUES, "{error:e}");
}
