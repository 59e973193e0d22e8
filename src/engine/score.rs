//! Scores of continuations, in passes of bounded size.

use super::TokenScore;
use crate::error::Result;
use crate::example::Sequence;
use crate::models::qwen3_vl::{Features, Qwen3Vl};

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

/// Scores continuations of prompts, as the sampler of a backend is asked to; each prompt comes with the
/// features of its images. A prompt is read once, and once more only for continuations that do not fit into one
/// pass.
///
/// # Errors
/// As [`Qwen3Vl::score`].
pub(crate) fn score(
    model: &Qwen3Vl,
    prompts: &[(Sequence, Option<Features>)],
    continuations: &[&[Vec<u32>]],
) -> Result<Vec<Vec<Vec<TokenScore>>>> {
    score_in_passes(model, prompts, continuations, ROWS)
}

fn score_in_passes(
    model: &Qwen3Vl,
    prompts: &[(Sequence, Option<Features>)],
    continuations: &[&[Vec<u32>]],
    limit: usize,
) -> Result<Vec<Vec<Vec<TokenScore>>>> {
    if prompts.len() != continuations.len() {
        let reason = format!("continuations of {} prompts for {}", continuations.len(), prompts.len());
        return Err(candle_core::Error::Msg(reason).into());
    }
    let mut scores: Vec<Vec<Vec<TokenScore>>> = continuations
        .iter()
        .map(|continuations| vec![Vec::new(); continuations.len()])
        .collect();
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
    let asked: Vec<(&Sequence, &[Vec<u32>])> = pass
        .iter()
        .zip(&own)
        .map(|(piece, own)| (&prompts[piece.prompt].0, &own[..]))
        .collect();
    let features: Vec<&Features> = pass
        .iter()
        .filter_map(|piece| prompts[piece.prompt].1.as_ref())
        .collect();
    model.score(&asked, Features::cat(&features)?.as_ref())
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
        let model = Qwen3Vl::random(&config, &mut rng, &Device::Cpu).unwrap();
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
        let expected = score(&model, &prompts, &asked).unwrap();
        for limit in [1, 9, 20, 60] {
            let found = score_in_passes(&model, &prompts, &asked, limit).unwrap();
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
        assert!(score(&model, &prompts, &asked[1..]).is_err());
        assert!(score(&model, &prompts[..1], &[&[vec![]]]).is_err());
    }
}
