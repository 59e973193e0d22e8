//! Inputs of a vision-language model: tokens and pictures in order, and the targets of training.

use std::sync::Arc;

use image::RgbImage;

/// A picture as a model is given it, with a key that tells it from all others.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The picture, before the model's own resizing.
    pub pixels: Arc<RgbImage>,
    /// Equal keys mean equal pixels.
    pub key: PictureKey,
    /// Tokens that stand for it.
    pub tokens: usize,
}

/// Identity of a picture, mirrored or not: features of a frozen tower are computed once a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PictureKey {
    /// SHA-256 of the encoded file, and how it is decoded: see [`crate::data::LabelledImage::content`].
    pub sha256: Arc<str>,
    /// Mirrored left to right.
    pub mirrored: bool,
}

/// A piece of the input.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Token ids of text, special tokens around pictures included.
    Tokens(Vec<u32>),
    /// A picture in place of its placeholder.
    Picture(Picture),
}

/// A model's input, in order.
#[derive(Debug, Clone, Default)]
pub struct ModelInput {
    /// Texts and pictures.
    pub chunks: Vec<Chunk>,
}

/// A training example in the form that Tinker gives it: what stands at position `i` is scored on saying
/// `target_tokens[i]` next, with weight `weights[i]`. Positions of weight 0 are not computed.
#[derive(Debug, Clone)]
pub struct Datum {
    /// The model's input; T positions, pictures counted with their tokens.
    pub input: ModelInput,
    /// T token ids.
    pub target_tokens: Vec<u32>,
    /// T weights of the cross-entropy.
    pub weights: Vec<f32>,
}

impl ModelInput {
    /// Positions, pictures counted with their tokens.
    #[must_use]
    pub fn positions(&self) -> usize {
        let count = |chunk: &Chunk| match chunk {
            Chunk::Tokens(ids) => ids.len(),
            Chunk::Picture(picture) => picture.tokens,
        };
        self.chunks.iter().map(count).sum()
    }

    /// The same input followed by more tokens.
    #[must_use]
    pub fn followed_by(mut self, ids: &[u32]) -> Self {
        match self.chunks.last_mut() {
            Some(Chunk::Tokens(last)) => last.extend(ids),
            _ => self.chunks.push(Chunk::Tokens(ids.to_vec())),
        }
        self
    }
}

impl Datum {
    /// A prompt whose answer is scored: every token of `answer` bears `weight`.
    #[must_use]
    pub fn answered(prompt: ModelInput, answer: &[u32], weight: f32) -> Self {
        let input = prompt.followed_by(&answer[..answer.len().saturating_sub(1)]);
        let before = input.positions().saturating_sub(answer.len());
        let mut target_tokens = vec![0; before];
        target_tokens.extend(answer);
        let mut weights = vec![0.0; before];
        weights.resize(target_tokens.len(), weight);
        Self {
            input,
            target_tokens,
            weights,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_the_answer_is_a_target_where_it_comes_next() {
        let prompt = ModelInput {
            chunks: vec![Chunk::Tokens(vec![5, 6, 7])],
        };
        let datum = Datum::answered(prompt, &[8, 9], 0.5);
        assert_eq!(datum.input.positions(), 4);
        assert_eq!(datum.target_tokens, [0, 0, 8, 9]);
        assert_eq!(datum.weights, [0.0, 0.0, 0.5, 0.5]);
        assert!(matches!(&datum.input.chunks[..], [Chunk::Tokens(ids)] if ids == &[5, 6, 7, 8]));
    }
}
