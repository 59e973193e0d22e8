//! What a model thinks of continuations of prompts.

use candle_core::{D, Tensor};

use super::TokenScore;
use crate::error::Result;
use crate::example::Sequence;
use crate::models::qwen3_vl::{Features, Qwen3Vl};
use crate::nn::loss::log_softmax;

/// Sequences per pass.
const SEQUENCES: usize = 32;

/// Scores each token of each continuation of each prompt; continuations are not empty, and as many lists as
/// prompts. The prompts come with the features of their pictures.
///
/// # Errors
/// When a prompt and its features do not fit.
pub(crate) fn score(
    model: &Qwen3Vl,
    prompts: &[(Sequence, Option<Features>)],
    continuations: &[&[Vec<u32>]],
) -> Result<Vec<Vec<Vec<TokenScore>>>> {
    let mut scores: Vec<Vec<Vec<TokenScore>>> = continuations.iter().map(|own| Vec::with_capacity(own.len())).collect();
    let pairs: Vec<(usize, &Vec<u32>)> = continuations
        .iter()
        .enumerate()
        .flat_map(|(prompt, own)| own.iter().map(move |continuation| (prompt, continuation)))
        .collect();
    for pairs in pairs.chunks(SEQUENCES) {
        let (mut sequences, mut features, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for &(prompt, continuation) in pairs {
            let (sequence, own) = &prompts[prompt];
            let mut sequence = sequence.clone();
            // The last token is said, never read.
            sequence
                .ids
                .extend(continuation.split_last().map_or(&[][..], |(_, read)| read));
            sequences.push(sequence);
            features.extend(own);
            tokens.extend(continuation.iter().copied());
        }
        let features = Features::cat(&features)?;
        let batch = model.batch(&sequences)?;
        let states = model.forward(&batch, features.as_ref(), None)?;
        let mut rows = Vec::with_capacity(tokens.len());
        for (i, &(prompt, continuation)) in pairs.iter().enumerate() {
            let before = prompts[prompt].0.ids.len().saturating_sub(1);
            rows.extend((0..continuation.len()).filter_map(|at| batch.row(i, before + at)));
        }
        let tokens = Tensor::from_vec(tokens, (rows.len(), 1), model.device())?;
        let logprobs = log_softmax(&model.logits(&states, &rows)?)?;
        let likeliest = logprobs.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let logprobs = logprobs.gather(&tokens, 1)?.flatten_all()?.to_vec1::<f32>()?;
        let mut all = logprobs
            .into_iter()
            .zip(likeliest)
            .map(|(logprob, likeliest)| TokenScore { logprob, likeliest });
        for &(prompt, continuation) in pairs {
            scores[prompt].push(all.by_ref().take(continuation.len()).collect());
        }
    }
    Ok(scores)
}
