//! Inputs of the engine, checked against the model.

use super::Engine;
use crate::error::{Error, Result};
use crate::example::{Chunk, Datum, ModelInput, Picture, Sequence};

/// A model's input as the model takes it.
#[derive(Debug)]
pub(super) struct Input<'a> {
    /// Tokens, a placeholder for every token of a picture, and the pictures' grids.
    pub(super) sequence: Sequence,
    /// The pictures, in order.
    pub(super) pictures: Vec<&'a Picture>,
}

impl Engine {
    /// Reads inputs, the first of which is number `first` of those that the caller was given.
    ///
    /// # Errors
    /// [`Error::Input`] when one is empty, has a token that the model does not know or a placeholder among its
    /// texts, or a picture of another number of tokens than the model makes of it; [`Error::Image`].
    pub(super) fn read<'a>(
        &self,
        inputs: impl IntoIterator<Item = &'a ModelInput>,
        first: usize,
    ) -> Result<Vec<Input<'a>>> {
        inputs
            .into_iter()
            .zip(first..)
            .map(|(input, index)| self.read_one(input, index))
            .collect()
    }

    fn read_one<'a>(&self, input: &'a ModelInput, index: usize) -> Result<Input<'a>> {
        let fail = |reason: String| Err(Error::Input { index, reason });
        let placeholder = self.base.config().image_token_id;
        let mut read = Input {
            sequence: Sequence {
                ids: Vec::with_capacity(input.positions()),
                images: Vec::new(),
            },
            pictures: Vec::new(),
        };
        for chunk in &input.chunks {
            match chunk {
                Chunk::Tokens(ids) => {
                    self.check_tokens(ids, index)?;
                    read.sequence.ids.extend(ids);
                }
                Chunk::Picture(picture) => {
                    let grid = self.processor.grid(&picture.pixels)?;
                    let tokens = grid.tokens(self.processor.merge());
                    if tokens != picture.tokens {
                        return fail(format!(
                            "a picture is said to have {} tokens, the model sees it as {tokens}",
                            picture.tokens
                        ));
                    }
                    if read.sequence.ids.last() == Some(&placeholder) {
                        return fail("two pictures stand side by side without a token between them".into());
                    }
                    read.sequence.ids.extend(std::iter::repeat_n(placeholder, tokens));
                    read.sequence.images.push(grid);
                    read.pictures.push(picture);
                }
            }
        }
        if read.sequence.ids.is_empty() {
            return fail("it is empty".into());
        }
        Ok(read)
    }

    /// # Errors
    /// [`Error::Input`] when a token of a text is not in the vocabulary, or stands for a picture.
    pub(super) fn check_tokens(&self, ids: &[u32], index: usize) -> Result<()> {
        let config = self.base.config();
        let vocabulary = config.text_config.vocab_size;
        let wrong = ids
            .iter()
            .find(|&&id| id as usize >= vocabulary || id == config.image_token_id);
        let Some(&id) = wrong else { return Ok(()) };
        let reason = if id == config.image_token_id {
            format!("token {id} stands for a picture and cannot be part of a text")
        } else {
            format!("token {id} is not among the model's {vocabulary}")
        };
        Err(Error::Input { index, reason })
    }

    /// # Errors
    /// [`Error::Input`] when targets and weights are not as many as positions, a weight is not finite, or a
    /// target that bears weight is not in the vocabulary.
    pub(super) fn check_targets(&self, datum: &Datum, index: usize) -> Result<()> {
        let fail = |reason: String| Err(Error::Input { index, reason });
        let (positions, targets, weights) = (datum.input.positions(), datum.target_tokens.len(), datum.weights.len());
        if (targets, weights) != (positions, positions) {
            return fail(format!(
                "{targets} targets and {weights} weights for {positions} positions"
            ));
        }
        if let Some(weight) = datum.weights.iter().find(|weight| !weight.is_finite()) {
            return fail(format!("a weight of {weight}"));
        }
        let vocabulary = self.base.config().text_config.vocab_size;
        for (&target, &weight) in datum.target_tokens.iter().zip(&datum.weights) {
            if weight != 0.0 && target as usize >= vocabulary {
                return fail(format!("target {target} is not among the model's {vocabulary} tokens"));
            }
        }
        Ok(())
    }
}
