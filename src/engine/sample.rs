//! Asking a model: continuations of prompts, and what it thinks of given ones.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

use super::sampling::{Chosen, Continuation, PromptScores, choose, likeliest_of};
use super::{AdapterId, Engine, Input, SampledSequence, SamplingParams, TokenScore, vision_is_trained};
use crate::error::{Error, Result};
use crate::example::{ModelInput, Sequence};
use crate::fs::hash::hex;
use crate::models::qwen3_vl::{Features, LOGITS_AT_ONCE, Qwen3Vl};
use crate::nn::loss::log_softmax;
use crate::seed;

/// Rows of a pass: tokens of prompts and of the trees of their continuations. One prompt with one continuation
/// may have more.
pub(crate) const ROWS: usize = 4096;
/// Rows that the tree of a prompt may have even if the prompt alone is longer than a pass.
const NODES: usize = 512;

/// A prompt and some of its continuations.
struct Piece {
    prompt: usize,
    /// Numbers of the continuations.
    members: Vec<usize>,
    rows: usize,
}

/// A model as it was at one moment, adapters added into the weights: training does not change it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) model: Qwen3Vl,
    /// True if tower or merger are not those of the base.
    trained_vision: bool,
    /// Shared by clones.
    identity: Arc<()>,
}

impl Snapshot {
    /// True if tower or merger are not those of the base: the features of pictures are its own.
    #[must_use]
    pub fn has_own_vision(&self) -> bool {
        self.trained_vision
    }

    fn of(model: &Qwen3Vl) -> Result<Self> {
        Ok(Self {
            trained_vision: vision_is_trained(model),
            model: model.merged()?,
            identity: Arc::default(),
        })
    }

    /// True of clones of one snapshot, and of all of an engine's base model: their prompts can share a pass.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }
}

impl Engine {
    /// The base model.
    pub fn base(&self) -> Result<Snapshot> {
        let identity = self.base_identity.clone();
        let snapshot = Snapshot::of(&self.base)?;
        Ok(Snapshot { identity, ..snapshot })
    }

    /// An adapter as it is now.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; when the device is out of memory.
    pub fn snapshot(&self, id: AdapterId) -> Result<Snapshot> {
        self.with(id, |adapter| Snapshot::of(&adapter.model))
    }

    /// The adapter of a PEFT folder.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not there or does not fit the model.
    pub fn saved(&self, dir: &Path) -> Result<Snapshot> {
        Snapshot::of(&self.base.load_adapter(dir)?)
    }

    /// Continues every prompt on its own.
    ///
    /// With a temperature above 0 every prompt has draws of its own, decided by the seed, the prompt and, where
    /// it is asked several times, by which time it is: not by what else is asked.
    ///
    /// # Errors
    /// [`Error::Input`] when a prompt does not fit the model; [`Error::Sampling`] when a setting makes no sense;
    /// [`Error::Model`] when a text is to end it and the model's folder lacks a tokenizer.
    pub fn sample(
        &self,
        snapshot: &Snapshot,
        prompts: &[ModelInput],
        params: &SamplingParams,
    ) -> Result<Vec<SampledSequence>> {
        params.check()?;
        let decode = |tokens: &[u32]| self.written(tokens);
        let mut asked = HashMap::new();
        let mut sampled = Vec::with_capacity(prompts.len());
        for (chunk, first) in self.passes(prompts) {
            let inputs = self.read(chunk, first)?;
            let draws = draws(&inputs, params, &mut asked).into_iter();
            let mut continuations: Vec<Continuation> = draws.map(|draws| Continuation::new(params, draws)).collect();
            let each = self.features(snapshot, &inputs)?;
            let features = Features::cat(&each.iter().flatten().collect::<Vec<_>>())?;
            let sequences: Vec<Sequence> = inputs.into_iter().map(|input| input.sequence).collect();
            let next = |logits: &Tensor, open: &[usize]| {
                let own = continuations.iter_mut().enumerate();
                let own = own.filter(|(i, _)| open.binary_search(i).is_ok());
                let mut open: Vec<&mut Continuation> = own.map(|(_, one)| one).collect();
                let chosen = choose(logits, &mut open)?;
                let push = |(one, chosen): (&mut &mut Continuation, Chosen)| {
                    Ok(one.push(&chosen, &decode)?.then_some(chosen.token))
                };
                open.iter_mut().zip(chosen).map(push).collect()
            };
            let limit = params.max_tokens;
            snapshot.model.generate_by(&sequences, features.as_ref(), limit, next)?;
            sampled.extend(continuations.into_iter().map(|one| one.sequence));
        }
        Ok(sampled)
    }

    /// Scores continuations of prompts: for each prompt, each of its continuations, each token.
    ///
    /// # Errors
    /// [`Error::Input`] when a prompt or one of its continuations does not fit the model, or is empty;
    /// [`Error::Sampling`] when there are not as many lists of continuations as prompts.
    pub fn compute_logprobs(
        &self,
        snapshot: &Snapshot,
        prompts: &[ModelInput],
        continuations: &[&[Vec<u32>]],
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        if prompts.len() != continuations.len() {
            let reason = format!("{} prompts, continuations of {}", prompts.len(), continuations.len());
            return Err(Error::Sampling { reason });
        }
        for (own, index) in continuations.iter().zip(0..) {
            for continuation in *own {
                self.check_tokens(continuation, index)?;
                if continuation.is_empty() {
                    let reason = "one of its continuations is empty".into();
                    return Err(Error::Input { index, reason });
                }
            }
        }
        let mut scores = Vec::with_capacity(prompts.len());
        for ((prompts, first), (continuations, _)) in self.passes(prompts).zip(self.passes(continuations)) {
            let inputs = self.read(prompts, first)?;
            let features = self.features(snapshot, &inputs)?;
            let prompts: Vec<_> = inputs.into_iter().map(|input| input.sequence).zip(features).collect();
            scores.extend(score(&snapshot.model, &prompts, continuations, ROWS)?);
        }
        Ok(scores)
    }

    /// The log-probabilities of prompts' own tokens, and the `top` likeliest tokens in each place.
    ///
    /// # Errors
    /// [`Error::Input`] when a prompt does not fit the model.
    pub fn prompt_logprobs(
        &self,
        snapshot: &Snapshot,
        prompts: &[ModelInput],
        top: usize,
    ) -> Result<Vec<PromptScores>> {
        let mut scores = Vec::with_capacity(prompts.len());
        for (chunk, first) in self.passes(prompts) {
            let inputs = self.read(chunk, first)?;
            let each = self.features(snapshot, &inputs)?;
            let features = Features::cat(&each.iter().flatten().collect::<Vec<_>>())?;
            let sequences: Vec<Sequence> = inputs.into_iter().map(|input| input.sequence).collect();
            let batch = snapshot.model.batch(&sequences)?;
            let states = snapshot.model.forward(&batch, features.as_ref(), None)?;
            let mut row = 0;
            for sequence in &sequences {
                scores.push(score_prompt(&snapshot.model, &states, row, sequence, top)?);
                row += sequence.ids.len() as u32;
            }
        }
        Ok(scores)
    }

    pub(super) fn features(&self, snapshot: &Snapshot, inputs: &[Input]) -> Result<Vec<Option<Features>>> {
        if snapshot.trained_vision {
            self.trained_features(&snapshot.model, inputs)
        } else {
            self.frozen_features(inputs)
        }
    }
}

/// Scores continuations of prompts, as the sampler of a backend is asked to, in passes of at most `limit` rows; each prompt
/// comes with the features of its images. A prompt is read once, and once more only for continuations that do not fit into
/// one pass.
pub(super) fn score(
    model: &Qwen3Vl,
    prompts: &[(Sequence, Option<Features>)],
    continuations: &[&[Vec<u32>]],
    limit: usize,
) -> Result<Vec<Vec<Vec<TokenScore>>>> {
    if prompts.len() != continuations.len() {
        let (asked, given) = (continuations.len(), prompts.len());
        return Err(Error::tensor(format!("continuations of {asked} prompts for {given}")));
    }
    let unknown = continuations.iter().map(|own| vec![Vec::new(); own.len()]);
    let mut scores: Vec<Vec<Vec<TokenScore>>> = unknown.collect();
    let mut pieces = Vec::new();
    for (i, ((prompt, _), continuations)) in prompts.iter().zip(continuations).enumerate() {
        pieces.extend(cut(i, prompt.ids.len(), continuations, limit));
    }
    let mut rest = &pieces[..];
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = |piece: &&Piece| {
            rows += piece.rows;
            rows <= limit
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (pass, others) = rest.split_at(count);
        rest = others;
        for (piece, found) in pass.iter().zip(score_pass(model, prompts, continuations, pass)?) {
            for (&member, found) in piece.members.iter().zip(found) {
                scores[piece.prompt][member] = found;
            }
        }
    }
    Ok(scores)
}

fn score_pass(
    model: &Qwen3Vl,
    prompts: &[(Sequence, Option<Features>)],
    continuations: &[&[Vec<u32>]],
    pass: &[Piece],
) -> Result<Vec<Vec<Vec<TokenScore>>>> {
    let own = |piece: &Piece| -> Vec<Vec<u32>> {
        let all = continuations[piece.prompt];
        piece.members.iter().map(|&member| all[member].clone()).collect()
    };
    let own: Vec<Vec<Vec<u32>>> = pass.iter().map(own).collect();
    let asked = pass.iter().zip(&own);
    let asked: Vec<(&Sequence, &[Vec<u32>])> = asked
        .map(|(piece, own)| (&prompts[piece.prompt].0, own.as_slice()))
        .collect();
    let features = pass.iter().filter_map(|piece| prompts[piece.prompt].1.as_ref());
    model.score(&asked, Features::cat(&features.collect::<Vec<_>>())?.as_ref())
}

/// Cuts a prompt's continuations so that each piece fits a pass; those that begin alike stay together.
fn cut(prompt: usize, length: usize, continuations: &[Vec<u32>], limit: usize) -> Vec<Piece> {
    let capacity = limit.saturating_sub(length).max(NODES.min(limit));
    let mut order: Vec<usize> = (0..continuations.len()).collect();
    order.sort_by(|&a, &b| continuations[a].cmp(&continuations[b]));
    let mut pieces: Vec<Piece> = Vec::new();
    let mut last: Option<&[u32]> = None;
    for member in order {
        let read = continuations[member].split_last().map_or(&[][..], |(_, read)| read);
        let shared = last.map_or(0, |last| last.iter().zip(read).take_while(|(a, b)| a == b).count());
        let new = read.len() - shared;
        match pieces.last_mut() {
            Some(piece) if piece.rows - length + new <= capacity => {
                piece.members.push(member);
                piece.rows += new;
            }
            _ => pieces.push(Piece {
                prompt,
                members: vec![member],
                rows: length + read.len(),
            }),
        }
        last = Some(read);
    }
    pieces
}

/// The log-probabilities of a sequence's own tokens from the states of its rows, the first of which is `row`.
pub(super) fn score_prompt(
    model: &Qwen3Vl,
    states: &Tensor,
    row: u32,
    sequence: &Sequence,
    top: usize,
) -> Result<PromptScores> {
    let (ids, placeholder) = (&sequence.ids, model.config().image_token_id);
    let mut scores = PromptScores {
        logprobs: vec![Some(0.0); ids.len()],
        top_logprobs: vec![Vec::new(); ids.len()],
    };
    scores.logprobs[0] = None;
    let places: Vec<usize> = (1..ids.len()).filter(|&place| ids[place] != placeholder).collect();
    let at_once = (LOGITS_AT_ONCE / model.config().text_config.vocab_size.max(1)).max(1);
    for places in places.chunks(at_once) {
        let rows: Vec<u32> = places.iter().map(|&place| row + place as u32 - 1).collect();
        let tokens: Vec<u32> = places.iter().map(|&place| ids[place]).collect();
        if top == 0 {
            let found = model.token_logprobs(states, &rows, &tokens)?;
            for (&place, found) in places.iter().zip(found) {
                scores.logprobs[place] = Some(found);
            }
            continue;
        }
        let found = log_softmax(&model.logits(states, &rows)?)?.to_vec2::<f32>()?;
        for ((&place, found), token) in places.iter().zip(&found).zip(tokens) {
            scores.logprobs[place] = found.get(token as usize).copied();
            scores.top_logprobs[place] = likeliest_of(found, top);
        }
    }
    Ok(scores)
}

/// A generator for each prompt; `asked` counts how often each was asked before.
fn draws(inputs: &[Input], params: &SamplingParams, asked: &mut HashMap<String, usize>) -> Vec<ChaCha8Rng> {
    let one = |input: &Input| {
        let prompt = print_of(input);
        let times = asked.entry(prompt.clone()).or_default();
        *times += 1;
        draws_of(&prompt, params.seed, *times)
    };
    inputs.iter().map(one).collect()
}

/// The draws of the continuation that is number `times` of a prompt, from 1.
pub(super) fn draws_of(prompt: &str, seed: u64, times: usize) -> ChaCha8Rng {
    seed::rng(seed, &format!("sample/{prompt}/{times}"))
}

/// Lower-case hex SHA-256 over the tokens and pictures of a prompt.
pub(super) fn print_of(input: &Input) -> String {
    let mut hash = Sha256::new();
    for id in &input.sequence.ids {
        hash.update(id.to_le_bytes());
    }
    for picture in &input.pictures {
        hash.update(picture.key.sha256.as_bytes());
        hash.update([u8::from(picture.key.mirrored)]);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::qwen3_vl::{Config, PrefixTree};
    use candle_core::Device;
    use rand::Rng as _;

    const TINY: &str = r#"{"model_type": "qwen3_vl", "image_token_id": 49,
        "text_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 50, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "rope_scaling": {"mrope_section": [2, 1, 1]}},
        "vision_config": {"hidden_size": 8, "intermediate_size": 12, "depth": 1, "num_heads": 2,
            "num_position_embeddings": 4, "deepstack_visual_indexes": [0], "out_hidden_size": 16, "patch_size": 2,
            "spatial_merge_size": 1, "temporal_patch_size": 1, "in_channels": 1,
            "hidden_act": "gelu_pytorch_tanh"}}"#;

    /// Continuations over few tokens, so that many begin alike.
    fn continuations(rng: &mut rand_chacha::ChaCha8Rng) -> Vec<Vec<u32>> {
        let count = rng.random_range(0..12);
        let one = |rng: &mut rand_chacha::ChaCha8Rng| {
            let length = rng.random_range(1..6);
            (0..length).map(|_| rng.random_range(3..6)).collect()
        };
        (0..count).map(|_| one(rng)).collect()
    }

    #[test]
    fn pieces_hold_every_continuation_once_and_fit() {
        let mut rng = crate::seed::rng(0, "pieces");
        for _ in 0..200 {
            let continuations = continuations(&mut rng);
            let (length, limit) = (rng.random_range(1..20), rng.random_range(1..30));
            let pieces = cut(3, length, &continuations, limit);
            let mut seen: Vec<usize> = pieces.iter().flat_map(|piece| piece.members.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..continuations.len()).collect::<Vec<_>>());
            for piece in pieces {
                let own: Vec<Vec<u32>> = piece.members.iter().map(|&i| continuations[i].clone()).collect();
                assert_eq!(piece.rows, length + PrefixTree::new(&own).unwrap().tokens().len());
                assert!(piece.rows <= limit.max(length + limit.min(NODES)) || own.len() == 1);
                assert_eq!(piece.prompt, 3);
            }
        }
    }

    #[test]
    fn the_size_of_passes_changes_nothing() {
        let mut rng = crate::seed::rng(0, "passes");
        let config = Config::parse(TINY.as_bytes()).unwrap();
        let mut take = |name: &str, shape: &[usize]| {
            let norm = shape.len() == 1 && name.ends_with("weight");
            let (centre, width) = if norm { (1.0, 0.1) } else { (0.0, 0.3) };
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|_| centre + width * rng.random_range(-1.0..1.0))
                .collect();
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
        };
        let model = Qwen3Vl::build(config, "random", "random weights", &mut take).unwrap();
        let grid = crate::example::Grid { rows: 2, columns: 1 };
        let prompt = |i: u32| {
            let pixels: Vec<f32> = (0..8).map(|j| (i * 3 + j) as f32 / 10.0).collect();
            let patches = candle_core::Tensor::from_vec(pixels, (2, 4), &Device::Cpu).unwrap();
            let (mut ids, mut images, mut features) = (vec![1, i], vec![], None);
            if !i.is_multiple_of(3) {
                ids.extend([49, 49, 2]);
                images.push(grid);
                features = Some(model.image_features(&patches, &[grid]).unwrap());
            }
            (Sequence { ids, images }, features)
        };
        let prompts: Vec<_> = (4..11).map(prompt).collect();
        let own: Vec<_> = prompts.iter().map(|_| continuations(&mut rng)).collect();
        let asked: Vec<&[Vec<u32>]> = own.iter().map(Vec::as_slice).collect();
        let expected = score(&model, &prompts, &asked, ROWS).unwrap();
        for limit in [1, 9, 20, 60] {
            let found = score(&model, &prompts, &asked, limit).unwrap();
            for ((found, expected), own) in found.iter().zip(&expected).zip(&own) {
                assert_eq!(found.len(), own.len());
                for ((found, expected), own) in found.iter().zip(expected).zip(own) {
                    assert_eq!((found.len(), expected.len()), (own.len(), own.len()));
                    for (found, expected) in found.iter().zip(expected) {
                        assert!((found.logprob - expected.logprob).abs() <= 1e-5);
                        assert_eq!(found.likeliest, expected.likeliest);
                    }
                }
            }
        }
        assert!(score(&model, &prompts, &asked[1..], ROWS).is_err());
        assert!(score(&model, &prompts[..1], &[&[vec![]]], ROWS).is_err());
    }
}
