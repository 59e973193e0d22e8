//! Qwen3-VL against transformers: positions, states, logits, losses, greedy text.

use std::collections::HashMap;

use candle_core::Tensor;
use kshot::models::qwen3_vl::{Features, KvCache, Positions};

use crate::goldens::{self, distance, experts_differ, largest, relative_to_max, tolerance, values};
use crate::qwen_support::{Greedy as _, Reference};

/// Share of the largest value of a state.
const STATE: f64 = 1e-5;
const LOGITS: f64 = 3e-4;
const LOSS: f64 = 1e-5;

#[test]
fn positions_and_token_types_match() {
    for golden in goldens::every_qwen3_vl() {
        let reference = Reference::load(&golden);
        let config = reference.model.config();
        let expected = reference.tensors["position_ids"].to_vec3::<i64>().unwrap();
        let deltas = reference.tensors["rope_deltas"].to_vec2::<i64>().unwrap();
        let types = reference.tensors["mm_token_type_ids"].to_vec2::<i64>().unwrap();
        for (i, sequence) in reference.sequences.iter().enumerate() {
            let merge = config.vision_config.spatial_merge_size;
            let found = Positions::of(sequence, config.image_token_id, merge).unwrap();
            for (axis, expected) in found.axes.iter().zip(&expected) {
                let expected: Vec<u32> = expected[i][..axis.len()].iter().map(|&p| p as u32).collect();
                assert_eq!(*axis, expected, "{} sequence {i}", golden.name);
            }
            assert_eq!(i64::from(found.next) - sequence.ids.len() as i64, deltas[i][0]);
            let images: Vec<i64> = sequence
                .ids
                .iter()
                .map(|&id| i64::from(id == config.image_token_id))
                .collect();
            assert_eq!(images, types[i][..images.len()]);
        }
    }
}

#[test]
fn every_state_matches() {
    for golden in goldens::every_qwen3_vl() {
        let (reference, expected) = (Reference::load(&golden), golden.tensors("forward.safetensors"));
        let found = reference
            .model
            .states(&reference.batch(), &reference.patches, &reference.grids)
            .unwrap();
        let mut compared = 0;
        let mut routed = HashMap::new();
        for (name, state) in &found {
            let plain = name.trim_end_matches(".0");
            let Some(expected) = expected.get(name).or_else(|| expected.get(plain)) else {
                continue;
            };
            let expected = match expected.dims() {
                [_, _, _] => reference.unpadded(expected),
                // A router sees the rows of the padded batch one after the other.
                [rows, width] if name.starts_with("text.router") => {
                    let samples = reference.lengths.len();
                    reference.unpadded(&expected.reshape((samples, rows / samples, *width)).unwrap())
                }
                _ => expected.clone(),
            };
            compared += 1;
            // Which experts, in which order, is defined up to ties.
            if name.starts_with("text.router_weights") || name.starts_with("text.router_experts") {
                routed.insert(name.clone(), (state.clone(), expected));
                continue;
            }
            let error = relative_to_max(state, &expected);
            assert!(error <= STATE, "{}: {name} differs by {error:e}", golden.name);
        }
        let rows = |tensor: &Tensor| {
            let width = *tensor.dims().last().unwrap();
            values(tensor).chunks(width).map(<[f64]>::to_vec).collect::<Vec<_>>()
        };
        for (name, (experts, of_reference)) in &routed {
            let Some(layer) = name.strip_prefix("text.router_experts.") else {
                continue;
            };
            let (weights, their_weights) = &routed[&format!("text.router_weights.{layer}")];
            let (_, logits) = found
                .iter()
                .find(|(name, _)| *name == format!("text.router_logits.{layer}"))
                .unwrap();
            let tolerance = STATE * largest(logits).max(1.0);
            let numbers = |rows: &[f64]| rows.iter().map(|&expert| expert as usize).collect::<Vec<_>>();
            let all = rows(logits).into_iter().zip(rows(experts)).zip(rows(weights));
            let theirs = rows(of_reference).into_iter().zip(rows(their_weights));
            for (row, (((logits, experts), weights), (their_experts, their_weights))) in all.zip(theirs).enumerate() {
                let found = (&numbers(&experts)[..], &weights[..]);
                let expected = (&numbers(&their_experts)[..], &their_weights[..]);
                if let Some(difference) = experts_differ(&logits, found, expected, tolerance) {
                    panic!("{}: {name} row {row}: {difference}", golden.name);
                }
            }
        }
        let states = expected
            .keys()
            .filter(|key| key.starts_with("vision.") || key.starts_with("text."))
            .count();
        assert!(
            compared == states && compared > 4,
            "{}: {compared} of {states} states",
            golden.name
        );
    }
}

#[test]
fn logits_and_losses_match() {
    for golden in goldens::every_qwen3_vl() {
        let (reference, expected) = (Reference::load(&golden), golden.tensors("forward.safetensors"));
        let checks = &golden.notes()["checks"];
        let features = reference
            .model
            .image_features(&reference.patches, &reference.grids)
            .unwrap();
        let states = reference
            .model
            .forward(&reference.batch(), Some(&features), None)
            .unwrap();
        let logits = reference.model.logits(&states, &reference.answer_rows()).unwrap();
        let error = distance(&logits, &expected["f64.logits_answer"]);
        let allowed = tolerance(LOGITS, &checks["noise_fp32_logits_max_abs"]);
        assert!(error <= allowed, "{}: logits differ by {error:e}", golden.name);
        for (labels, name) in [
            ("labels_name", "f64.loss_name"),
            ("labels_name_eos", "f64.loss_name_eos"),
        ] {
            let loss = reference.loss(&reference.model, &states, labels);
            let error = distance(&loss, &expected[name]);
            assert!(error <= LOSS, "{}: {name} differs by {error:e}", golden.name);
        }
    }
}

/// Features of one image each, from one pass over all of them.
fn per_image(reference: &Reference) -> Vec<Features> {
    let mut start = 0;
    let one = |grid: &kshot::example::Grid| {
        let patches = reference.patches.narrow(0, start, grid.patches()).unwrap();
        start += grid.patches();
        reference.model.image_features(&patches, &[*grid]).unwrap()
    };
    reference.grids.iter().map(one).collect()
}

#[test]
fn a_batch_equals_its_sequences_one_by_one() {
    for golden in goldens::every_qwen3_vl() {
        let reference = Reference::load(&golden);
        let model = &reference.model;
        let together = model.image_features(&reference.patches, &reference.grids).unwrap();
        let whole = model.forward(&reference.batch(), Some(&together), None).unwrap();
        let images = per_image(&reference);
        let apart = Features::cat(&images.iter().collect::<Vec<_>>()).unwrap().unwrap();
        assert!(relative_to_max(&apart.merged, &together.merged) <= STATE);
        let (mut row, mut image) = (0, 0);
        for sequence in &reference.sequences {
            let count = sequence.images.len();
            let own: Vec<&Features> = images[image..image + count].iter().collect();
            let features = Features::cat(&own).unwrap();
            let batch = model.batch(std::slice::from_ref(sequence)).unwrap();
            let alone = model.forward(&batch, features.as_ref(), None).unwrap();
            let expected = whole.narrow(0, row, sequence.ids.len()).unwrap();
            let error = relative_to_max(&alone, &expected);
            assert!(error <= STATE, "{}: {error:e}", golden.name);
            (row, image) = (row + sequence.ids.len(), image + count);
        }
    }
}

/// The prompts of the generation goldens as sequences.
fn prompts(reference: &Reference, expected: &goldens::Tensors) -> Vec<kshot::example::Sequence> {
    let prompt = |(i, sequence): (usize, &kshot::example::Sequence)| {
        let ids = expected[&format!("gen.{i}.prompt_ids")].to_vec1::<i64>().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        assert!(sequence.ids.starts_with(&ids));
        kshot::example::Sequence {
            ids,
            images: sequence.images.clone(),
        }
    };
    reference.sequences.iter().enumerate().map(prompt).collect()
}

fn tokens(expected: &goldens::Tensors, i: usize) -> Vec<u32> {
    let tokens = expected[&format!("gen.{i}.tokens")].to_vec1::<i64>().unwrap();
    tokens.into_iter().map(|id| id as u32).collect()
}

#[test]
fn greedy_text_matches_batched_and_alone() {
    for golden in goldens::every_qwen3_vl() {
        let (reference, expected) = (Reference::load(&golden), golden.tensors("forward.safetensors"));
        let prompts = prompts(&reference, &expected);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(golden.model.join("generation_config.json")).unwrap()).unwrap();
        let stop: Vec<u32> = serde_json::from_value(config["eos_token_id"].clone()).unwrap();
        let features = reference
            .model
            .image_features(&reference.patches, &reference.grids)
            .unwrap();
        let limit = 8;
        let batched = reference
            .model
            .generate(&prompts, Some(&features), limit, &stop)
            .unwrap();
        let images = per_image(&reference);
        let mut image = 0;
        for (i, prompt) in prompts.iter().enumerate() {
            assert_eq!(batched[i], tokens(&expected, i), "{} sequence {i}", golden.name);
            let own: Vec<&Features> = images[image..image + prompt.images.len()].iter().collect();
            image += prompt.images.len();
            let features = Features::cat(&own).unwrap();
            let alone = reference
                .model
                .generate(std::slice::from_ref(prompt), features.as_ref(), limit, &stop)
                .unwrap();
            assert_eq!(alone[0], batched[i]);
            // A stop token ends the answer and is kept; the others go on.
            let cut = reference.model.generate(
                std::slice::from_ref(prompt),
                features.as_ref(),
                limit,
                &batched[i][2..3],
            );
            let first = batched[i].iter().position(|token| *token == batched[i][2]).unwrap();
            assert_eq!(cut.unwrap()[0], batched[i][..=first]);
        }
    }
}

#[test]
fn cached_logits_match_step_by_step() {
    for golden in goldens::every_qwen3_vl() {
        let (reference, expected) = (Reference::load(&golden), golden.tensors("forward.safetensors"));
        let prompts = prompts(&reference, &expected);
        let model = &reference.model;
        let features = model.image_features(&reference.patches, &reference.grids).unwrap();
        // An answer may have ended early.
        let steps = (0..prompts.len()).map(|i| tokens(&expected, i).len()).min().unwrap();
        let capacity = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap() + steps;
        let config = &model.config().text_config;
        let mut cache = KvCache::new(config, prompts.len(), capacity, model.state_type(), model.device()).unwrap();
        let mut batch = model.batch(&prompts).unwrap();
        let mut features = Some(&features);
        let whole: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(i, prompt)| {
                let mut longer = prompt.clone();
                longer.ids.extend(tokens(&expected, i));
                longer
            })
            .collect();
        let all = model.batch(&whole).unwrap();
        let reference_states = model.forward(&all, features, None).unwrap();
        for step in 0..steps {
            let states = model.forward(&batch, features.take(), Some(&mut cache)).unwrap();
            let found = model.logits(&states, &batch.last_rows()).unwrap();
            let rows: Vec<u32> = prompts
                .iter()
                .enumerate()
                .map(|(i, p)| all.row(i, p.ids.len() - 1 + step).unwrap())
                .collect();
            let uncached = model.logits(&reference_states, &rows).unwrap();
            assert!(distance(&found, &uncached) <= 1e-4, "{} step {step}", golden.name);
            for i in 0..prompts.len() {
                if let Some(logits) = expected.get(&format!("gen.{i}.logits")) {
                    let error = distance(&found.get(i).unwrap(), &logits.get(step).unwrap());
                    assert!(error <= LOGITS, "{} sequence {i} step {step}: {error:e}", golden.name);
                }
            }
            let next: Vec<Option<u32>> = (0..prompts.len()).map(|i| Some(tokens(&expected, i)[step])).collect();
            batch = batch.then(&next);
        }
    }
}

#[test]
fn features_that_do_not_fit_are_errors() {
    let golden = &goldens::qwen3_vl()[0];
    let reference = Reference::load(golden);
    let model = &reference.model;
    let features = model.image_features(&reference.patches, &reference.grids).unwrap();
    assert!(model.forward(&reference.batch(), None, None).is_err());
    let text = kshot::example::Sequence {
        ids: vec![1, 2, 3],
        images: vec![],
    };
    let text = model.batch(&[text]).unwrap();
    assert!(model.forward(&text, Some(&features), None).is_err());
    assert!(model.forward(&text, None, None).is_ok());
    assert!(model.image_features(&reference.patches, &reference.grids[1..]).is_err());
    let narrow: Tensor = reference.patches.narrow(1, 0, 8).unwrap();
    assert!(model.image_features(&narrow, &reference.grids).is_err());
}
