//! Scores of continuations, in passes of bounded size.

use super::TokenScore;
use crate::error::Result;
use crate::example::Sequence;
use crate::models::qwen3_vl::{Features, Qwen3Vl};

/// Rows of a pass: tokens of prompts and of the trees of their continuations. One prompt with one continuation
/// may have more.
const ROWS: usize = 4096;
/// Where a prompt is longer than a pass: the rows that its tree may have all the same.
const NODES: usize = 512;

/// A prompt and some of its continuations.
struct Piece {
    prompt: usize,
    /// Numbers of the continuations.
    members: Vec<usize>,
    rows: usize,
}

/// Scores continuations of prompts, as [`crate::backend::Sampler::compute_logprobs`]; each prompt comes with the
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
    let scores = model.score(&asked, Features::cat(&features)?.as_ref())?;
    let token = |score: crate::models::qwen3_vl::Score| TokenScore {
        logprob: score.log_prob,
        likeliest: score.likeliest,
    };
    let tokens = |scores: Vec<_>| scores.into_iter().map(token).collect();
    Ok(scores
        .into_iter()
        .map(|scores| scores.into_iter().map(tokens).collect())
        .collect())
}

/// Cuts a prompt's continuations so that each piece fits a pass; those that begin alike stay together.
fn cut(prompt: usize, length: usize, continuations: &[Vec<u32>], limit: usize) -> Vec<Piece> {
    let room = limit.saturating_sub(length).max(NODES.min(limit));
    let mut order: Vec<usize> = (0..continuations.len()).collect();
    order.sort_by(|&a, &b| continuations[a].cmp(&continuations[b]));
    let mut pieces: Vec<Piece> = Vec::new();
    let mut last: Option<&[u32]> = None;
    for member in order {
        let read = continuations[member].split_last().map_or(&[][..], |(_, read)| read);
        let shared = last.map_or(0, |last| last.iter().zip(read).take_while(|(a, b)| a == b).count());
        let new = read.len() - shared;
        match pieces.last_mut() {
            Some(piece) if piece.rows - length + new <= room => {
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
