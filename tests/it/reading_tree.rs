//! Continuations of prompts scored by one tree, one by one and batched, against transformers.

use candle_core::{D, DType, Tensor};
use kshot::example::Sequence;
use kshot::models::qwen3_vl::{Features, TokenScore};

use crate::goldens::{self, Golden, tolerance, values};
use crate::qwen_support::Reference;

const LOG_PROB: f64 = 3e-4;
const LOSS: f64 = 1e-5;
/// Between one pass over a tree and passes over single sequences.
const SAME: f32 = 1e-5;

/// Natural-log probabilities of each row in double precision.
fn log_softmax(logits: &Tensor) -> Vec<Vec<f64>> {
    let rows = logits.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let row = |row: Vec<f64>| {
        let normaliser = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        row.into_iter().map(|logit| logit - normaliser).collect()
    };
    rows.into_iter().map(row).collect()
}

/// The golden prompts with their images' features and the answers that bear the loss, end token included.
struct Asked {
    reference: Reference,
    prompts: Vec<Sequence>,
    features: Vec<Features>,
    answers: Vec<Vec<u32>>,
}

impl Asked {
    fn load(golden: &Golden) -> Self {
        let reference = Reference::load(golden);
        let labels = reference.tensors["labels_name_eos"].to_vec2::<i64>().unwrap();
        let (mut prompts, mut answers, mut features) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (sequence, labels) in reference.sequences.iter().zip(&labels) {
            let first = labels.iter().position(|&label| label >= 0).unwrap();
            let answer = labels.iter().filter(|&&label| label >= 0).map(|&label| label as u32);
            answers.push(answer.collect());
            prompts.push(Sequence {
                ids: sequence.ids[..first].to_vec(),
                images: sequence.images.clone(),
            });
            let count: usize = sequence.images.iter().map(kshot::example::Grid::patches).sum();
            let patches = reference.patches.narrow(0, start, count).unwrap();
            features.push(reference.model.image_features(&patches, &sequence.images).unwrap());
            start += count;
        }
        Self {
            reference,
            prompts,
            features,
            answers,
        }
    }

    /// Every prompt with these continuations, in one pass.
    fn together(&self, continuations: &[Vec<Vec<u32>>]) -> Vec<Vec<Vec<TokenScore>>> {
        let asked: Vec<(&Sequence, &[Vec<u32>])> = self
            .prompts
            .iter()
            .zip(continuations.iter().map(Vec::as_slice))
            .collect();
        let features = Features::cat(&self.features.iter().collect::<Vec<_>>()).unwrap();
        self.reference.model.score(&asked, features.as_ref()).unwrap()
    }

    /// A prompt and one continuation as a packed sequence, without a tree.
    fn alone(&self, prompt: usize, continuation: &[u32]) -> Vec<TokenScore> {
        let mut sequence = self.prompts[prompt].clone();
        let first = sequence.ids.len() - 1;
        sequence.ids.extend(continuation);
        let model = &self.reference.model;
        let batch = model.batch(&[sequence]).unwrap();
        let states = model.forward(&batch, Some(&self.features[prompt]), None).unwrap();
        let rows: Vec<u32> = (first..).take(continuation.len()).map(|row| row as u32).collect();
        let logits = model.logits(&states, &rows).unwrap();
        let likeliest = logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap();
        let log_probs = log_softmax(&logits);
        let scores = continuation.iter().zip(log_probs).zip(likeliest);
        scores
            .map(|((&token, log_probs), likeliest)| TokenScore {
                logprob: log_probs[token as usize] as f32,
                likeliest,
            })
            .collect()
    }

    /// Continuations that share beginnings, end inside one another and differ from prompt to prompt.
    fn bushes(&self) -> Vec<Vec<Vec<u32>>> {
        let of = |prompt: usize| {
            let mut all = self.answers.clone();
            let own = &self.answers[prompt];
            for cut in 1..own.len() {
                for token in [7, 40 + prompt as u32] {
                    let mut other = own[..cut].to_vec();
                    other.extend([token, 5 + cut as u32, own[0]]);
                    all.push(other);
                }
                all.push(own[..cut].to_vec());
            }
            all.rotate_left(prompt);
            all
        };
        (0..self.prompts.len()).map(of).collect()
    }
}

#[test]
fn a_tree_equals_its_continuations_one_by_one() {
    for golden in goldens::qwen3_vl() {
        let asked = Asked::load(&golden);
        let bushes = asked.bushes();
        let found = asked.together(&bushes);
        for (prompt, (continuations, found)) in bushes.iter().zip(&found).enumerate() {
            assert!(continuations.len() > 5 && continuations.len() == found.len());
            for (continuation, found) in continuations.iter().zip(found) {
                let expected = asked.alone(prompt, continuation);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (found.logprob - expected.logprob).abs();
                    assert!(error <= SAME, "{} prompt {prompt}: {error:e}", golden.name);
                    assert_eq!(found.likeliest, expected.likeliest);
                }
            }
        }
    }
}

/// Scores of the golden answer of each prompt, whichever way they were found.
fn match_goldens(golden: &Golden, asked: &Asked, found: &[Vec<TokenScore>]) {
    let (expected, notes) = (golden.tensors("forward.safetensors"), golden.notes());
    let allowed = tolerance(LOG_PROB, &notes["checks"]["noise_fp32_logits_max_abs"]);
    // The log-probability of each token whose logits are kept.
    let log_probs = log_softmax(&expected["f64.logits_answer"]);
    let positions = asked.reference.tensors["answer_positions"].to_vec2::<i64>().unwrap();
    let mut compared = 0;
    for (at, log_probs) in positions.iter().zip(&log_probs) {
        let sample = at[0] as usize;
        let Some(token) = (at[1] as usize + 1).checked_sub(asked.prompts[sample].ids.len()) else {
            continue;
        };
        let Some(&id) = asked.answers[sample].get(token) else {
            continue;
        };
        let error = (f64::from(found[sample][token].logprob) - log_probs[id as usize]).abs();
        assert!(error <= allowed, "{}: {error:e}", golden.name);
        compared += 1;
    }
    assert!(compared > 0, "{}: no answer position to compare", golden.name);
    let loss = |found: &[&[TokenScore]]| {
        let count: usize = found.iter().map(|tokens| tokens.len()).sum();
        let sum: f64 = found
            .iter()
            .flat_map(|tokens| *tokens)
            .map(|score| f64::from(score.logprob))
            .sum();
        -sum / count as f64
    };
    let whole: Vec<&[TokenScore]> = found.iter().map(Vec::as_slice).collect();
    let names: Vec<&[TokenScore]> = found.iter().map(|tokens| &tokens[..tokens.len() - 1]).collect();
    for (name, found) in [("f64.loss_name_eos", &whole), ("f64.loss_name", &names)] {
        let error = (loss(found) - values(&expected[name])[0]).abs();
        assert!(error <= LOSS, "{}: {name} differs by {error:e}", golden.name);
    }
    if let Some(sums) = expected.get("sum_nll_name_per_sample_f64acc") {
        for (found, expected) in names.iter().zip(values(sums)) {
            let error = (loss(&[found]) * found.len() as f64 - expected).abs();
            assert!(error <= allowed, "{}: {error:e}", golden.name);
        }
    }
}

#[test]
fn name_losses_match_one_by_one_batched_and_by_the_tree() {
    for golden in goldens::qwen3_vl() {
        let asked = Asked::load(&golden);
        let (model, answers) = (&asked.reference.model, &asked.answers);
        let alone = |(i, answer): (usize, &Vec<u32>)| {
            let answer = std::slice::from_ref(answer);
            let mut scores = model
                .score(&[(&asked.prompts[i], answer)], Some(&asked.features[i]))
                .unwrap();
            scores.remove(0).remove(0)
        };
        let one_by_one: Vec<_> = answers.iter().enumerate().map(alone).collect();
        match_goldens(&golden, &asked, &one_by_one);
        let single: Vec<_> = answers.iter().map(|answer| vec![answer.clone()]).collect();
        let batched: Vec<_> = asked
            .together(&single)
            .into_iter()
            .map(|mut all| all.remove(0))
            .collect();
        match_goldens(&golden, &asked, &batched);
        let all = vec![answers.clone(); asked.prompts.len()];
        let tree = asked.together(&all).into_iter().enumerate();
        match_goldens(
            &golden,
            &asked,
            &tree.map(|(i, mut all)| all.swap_remove(i)).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let golden = &goldens::qwen3_vl()[0];
    let asked = Asked::load(golden);
    let model = &asked.reference.model;
    let image = model.config().image_token_id;
    let beyond = model.config().text_config.vocab_size as u32;
    let (prompt, features) = (&asked.prompts[0], Some(&asked.features[0]));
    let score = |continuations: &[Vec<u32>]| model.score(&[(prompt, continuations)], features);
    for continuation in [vec![], vec![image, 3], vec![3, beyond], vec![beyond, 3]] {
        assert!(score(&[vec![4, 5], continuation]).is_err());
    }
    assert_eq!(score(&[]).unwrap(), [Vec::<Vec<TokenScore>>::new()]);
    assert!(model.score(&[], None).unwrap().is_empty());
    assert!(model.score(&[(prompt, &[vec![4]])], None).is_err());
}
