//! Training examples of one pass: their rows, the targets that have a loss, and those that are only reported on.

use candle_core::Tensor;

use super::loss::{LossFn, Objective, Term};
use super::{Engine, ForwardOutput, Input};
use crate::error::{Error, Result};
use crate::example::Datum;
use crate::models::qwen3_vl::{Batch, Qwen3Vl};
use crate::nn::loss::log_softmax;

/// Examples of one pass, packed.
pub(super) struct Examples<'a> {
    pub inputs: Vec<Input<'a>>,
    pub batch: Batch,
    loss: LossFn,
    /// Targets that have a loss, each with its term.
    trained: Targets,
    pub terms: Vec<Term>,
    /// Targets whose log-probability alone is asked for.
    reported: Targets,
}

/// Targets of a pass.
#[derive(Default)]
struct Targets {
    /// Origin of each: (example of the call, position).
    places: Vec<(usize, usize)>,
    /// Their rows of the batch.
    rows: Vec<u32>,
    tokens: Vec<u32>,
}

/// The log-probabilities of the targets of a pass, nats.
#[derive(Default)]
pub(super) struct Found {
    pub trained: Vec<f32>,
    pub reported: Vec<f32>,
}

impl Engine {
    /// The examples that have a loss or are to be reported on, if there are any; the first of `data` is number `first` of those of
    /// the call.
    pub(super) fn examples<'a>(
        &self,
        model: &Qwen3Vl,
        (data, first): (&'a [Datum], usize),
        objective: &Objective,
    ) -> Result<Option<Examples<'a>>> {
        let inputs = self.read(data.iter().map(|datum| &datum.input), first)?;
        let (mut asked, mut kept) = (Vec::<Input>::new(), Vec::new());
        for ((datum, input), index) in data.iter().zip(inputs).zip(first..) {
            self.check_targets(datum, index)?;
            let terms = objective.terms(datum, index);
            let terms = terms.map_err(|reason| Error::Input { index, reason })?;
            if objective.all_logprobs || terms.iter().any(Option::is_some) {
                asked.push(input);
                kept.push((index, datum, terms));
            }
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let sequences: Vec<_> = asked.iter().map(|input| input.sequence.clone()).collect();
        let mut examples = Examples {
            inputs: asked,
            batch: model.batch(&sequences)?,
            loss: objective.loss,
            trained: Targets::default(),
            terms: Vec::new(),
            reported: Targets::default(),
        };
        let (vocabulary, placeholder) = (model.config().text_config.vocab_size, model.config().image_token_id);
        for (sequence, (index, datum, terms)) in kept.into_iter().enumerate() {
            for (position, (&token, term)) in datum.target_tokens.iter().zip(terms).enumerate() {
                let Some(row) = examples.batch.row(sequence, position) else {
                    continue;
                };
                let place = (index, position);
                if let Some(term) = term {
                    examples.terms.push(term);
                    examples.trained.push(place, row, token);
                } else if objective.all_logprobs
                    && (token as usize) < vocabulary
                    && sequences[sequence].ids[position] != placeholder
                {
                    examples.reported.push(place, row, token);
                }
            }
        }
        Ok(Some(examples))
    }
}

impl Targets {
    fn push(&mut self, place: (usize, usize), row: u32, token: u32) {
        self.places.push(place);
        self.rows.push(row);
        self.tokens.push(token);
    }

    fn report(&self, logprobs: &[f32], output: &mut ForwardOutput) {
        for (&(example, position), &logprob) in self.places.iter().zip(logprobs) {
            if let Some(place) = output.logprobs.get_mut(example).and_then(|row| row.get_mut(position)) {
                *place = logprob;
            }
        }
    }
}

impl Examples<'_> {
    /// A scalar that has the gradient of the loss (for cross-entropy the loss itself), and the log-probability of each target
    /// that has a loss.
    pub(super) fn loss(&self, model: &Qwen3Vl, states: &Tensor, step: usize) -> Result<(Tensor, Vec<f32>)> {
        let Targets { rows, tokens, .. } = &self.trained;
        let count = rows.len();
        let targets = Tensor::from_slice(tokens, (count, 1), model.device())?;
        let logprobs = log_softmax(&model.logits(states, rows)?)?.gather(&targets, 1)?;
        let values = logprobs.flatten_all()?.to_vec1::<f32>()?;
        let slope = |(&term, &logprob): (&Term, &f32)| self.loss.at(f64::from(logprob), term).1;
        let weights = self.terms.iter().zip(&values).map(slope);
        let weights: Vec<f32> = weights.map(|slope| -slope as f32).collect();
        if values.iter().chain(&weights).any(|value| !value.is_finite()) {
            return Err(Error::NotFinite { what: "loss", step });
        }
        let weights = Tensor::from_slice(&weights, (count, 1), model.device())?;
        Ok(((logprobs * weights)?.sum_all()?.neg()?, values))
    }

    /// The log-probability of each target that is only reported.
    pub(super) fn report_only(&self, model: &Qwen3Vl, states: &Tensor) -> Result<Vec<f32>> {
        let Targets { rows, tokens, .. } = &self.reported;
        model.token_logprobs(&states.detach(), rows, tokens)
    }

    pub(super) fn report(&self, found: &Found, output: &mut ForwardOutput) {
        for (&term, &logprob) in self.terms.iter().zip(&found.trained) {
            output.loss_sum += self.loss.at(f64::from(logprob), term).0;
        }
        self.trained.report(&found.trained, output);
        self.reported.report(&found.reported, output);
    }
}
