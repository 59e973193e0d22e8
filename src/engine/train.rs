//! Losses, gradients and steps.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::adapters::Adapter;
use super::examples::Found;
use super::loss::Objective;
use super::{AdapterId, Engine, ForwardOutput, Input, VISION, lock, vision_is_trained};
use crate::error::Result;
use crate::example::Datum;
use crate::models::qwen3_vl::{Features, Qwen3Vl};
use crate::nn::{AdamParams, add_gradients};

impl Engine {
    /// Losses without gradients.
    ///
    /// # Errors
    /// [`crate::error::Error::Input`] when an example does not fit the model.
    pub fn forward(&self, id: AdapterId, data: &[Datum]) -> Result<ForwardOutput> {
        self.forward_with(id, data, &Objective::default())
    }

    /// As [`Engine::forward`], of any loss.
    ///
    /// # Errors
    /// As [`Engine::forward`]; [`crate::error::Error::Input`] when the sampling policy of an example does not fit it;
    /// [`crate::error::Error::NotFinite`] when a loss is not.
    pub fn forward_with(&self, id: AdapterId, data: &[Datum], objective: &Objective) -> Result<ForwardOutput> {
        self.with(id, |adapter| self.losses(adapter, data, objective))
    }

    fn losses(&self, adapter: &Adapter, data: &[Datum], objective: &Objective) -> Result<ForwardOutput> {
        let Adapter { model, training, .. } = adapter;
        // Merged, nothing is trained any more and no graph is kept; not a bit of the result changes.
        let (merged, trained_vision, step) = (model.merged()?, vision_is_trained(model), training.steps());
        let mut output = empty(data);
        for (chunk, first) in self.passes(data) {
            let Some(examples) = self.examples(&merged, (chunk, first), objective)? else {
                continue;
            };
            let features = self.image_features(&merged, trained_vision, &examples.inputs)?;
            let states = merged.forward(&examples.batch, features.as_ref(), None)?;
            let mut found = Found::default();
            if !examples.terms.is_empty() {
                (_, found.trained) = examples.loss(&merged, &states, step)?;
            }
            found.reported = examples.report_only(&merged, &states)?;
            examples.report(&found, &mut output);
        }
        Ok(output)
    }

    /// Losses, and gradients added to those that are there. After an error the gradients are as they were.
    ///
    /// A device that is out of memory gets passes of half as many sequences from then on, once: see
    /// [`Engine::halved_to`].
    ///
    /// # Errors
    /// As [`Engine::forward`]; [`crate::error::Error::NotFinite`] when a loss is not.
    pub fn forward_backward(&self, id: AdapterId, data: &[Datum]) -> Result<ForwardOutput> {
        self.forward_backward_with(id, data, &Objective::default())
    }

    /// As [`Engine::forward_backward`], of any loss. Examples without any loss have gradients of zero.
    ///
    /// # Errors
    /// As [`Engine::forward_with`].
    pub fn forward_backward_with(&self, id: AdapterId, data: &[Datum], objective: &Objective) -> Result<ForwardOutput> {
        self.with(id, |adapter| {
            loop {
                let size = lock(&self.micro_batches).size();
                let pass = format!("sequences a pass of {size}");
                match self.gradients_of(adapter, data, objective) {
                    Err(error) if lock(&self.micro_batches).halve(&error, data.len(), &pass) => {}
                    other => return other,
                }
            }
        })
    }

    /// Sequences a pass since the device was out of memory, if it was.
    #[must_use]
    pub fn halved_to(&self) -> Option<usize> {
        lock(&self.micro_batches).halved_to()
    }

    /// The gradients so far, of the variables that have one, by name.
    ///
    /// # Errors
    /// [`crate::error::Error::NoAdapter`].
    pub fn gradients(&self, id: AdapterId) -> Result<Vec<(String, Tensor)>> {
        self.with(id, |adapter| Ok(adapter.training.gradients()))
    }

    fn gradients_of(&self, adapter: &mut Adapter, data: &[Datum], objective: &Objective) -> Result<ForwardOutput> {
        let (model, variables) = (adapter.model.clone(), adapter.training.variables().to_vec());
        let (trained_vision, step) = (vision_is_trained(&model), adapter.training.steps());
        let checkpointing = self.settings.checkpointing;
        let mut output = empty(data);
        let mut sum: Option<GradStore> = None;
        let mut pictures = false;
        for (chunk, first) in self.passes(data) {
            lock(&self.micro_batches).check_memory(chunk.len())?;
            let Some(examples) = self.examples(&model, (chunk, first), objective)? else {
                continue;
            };
            let mut found = Found::default();
            if examples.terms.is_empty() {
                let features = self.image_features(&model, trained_vision, &examples.inputs)?;
                let states = model.forward(&examples.batch, features.as_ref(), None)?;
                found.reported = examples.report_only(&model, &states)?;
                examples.report(&found, &mut output);
                continue;
            }
            let loss = |states: &Tensor| {
                let (loss, values) = examples.loss(&model, states, step)?;
                found.trained = values;
                found.reported = examples.report_only(&model, states)?;
                Ok(loss)
            };
            let shown = examples.inputs.iter().any(|input| !input.pictures.is_empty());
            pictures |= shown;
            let (_, gradients) = if shown && trained_vision && checkpointing {
                let (patches, grids) = self.patches(&examples.inputs)?;
                model.backward_from_patches(&examples.batch, &patches, &grids, loss)?
            } else {
                let features = self.image_features(&model, trained_vision, &examples.inputs)?;
                model.backward(&examples.batch, features.as_ref(), checkpointing, loss)?
            };
            let variables = variables.iter().map(|(_, var)| var);
            add_gradients(sum.get_or_insert_default(), &gradients, variables)?;
            examples.report(&found, &mut output);
        }
        if data.is_empty() {
            return Ok(output);
        }
        // Without a loss all gradients are zero, without a picture the tower's; candle leaves them out.
        let nothing = sum.is_none();
        let mut sum = sum.unwrap_or_default();
        if !pictures {
            for (_, var) in variables.iter().filter(|(name, _)| nothing || name.starts_with(VISION)) {
                sum.insert(var, var.zeros_like()?);
            }
        }
        adapter.training.add_gradients(&sum)?;
        Ok(output)
    }

    /// One step of AdamW with the gradients so far, which are gone then; gives their norm before clipping.
    ///
    /// # Errors
    /// [`crate::error::Error::NoGradients`]; [`crate::error::Error::NotFinite`] when one is not;
    /// [`crate::error::Error::Tensor`] when a variable has none.
    /// The weights are unchanged then.
    pub fn optim_step(&self, id: AdapterId, params: &AdamParams) -> Result<f64> {
        self.with(id, |adapter| adapter.training.optim_step(params))
    }

    /// The features of all pictures.
    fn image_features(&self, model: &Qwen3Vl, trained_vision: bool, inputs: &[Input]) -> Result<Option<Features>> {
        if !trained_vision {
            let each = self.frozen_features(inputs)?;
            return Features::cat(&each.iter().flatten().collect::<Vec<_>>());
        }
        if inputs.iter().all(|input| input.pictures.is_empty()) {
            return Ok(None);
        }
        let (patches, grids) = self.patches(inputs)?;
        model.image_features(&patches, &grids).map(Some)
    }
}

fn empty(data: &[Datum]) -> ForwardOutput {
    ForwardOutput {
        loss_sum: 0.0,
        logprobs: data.iter().map(|datum| vec![0.0; datum.weights.len()]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::loss::{LossFn, PolicyInputs, Term};
    use crate::engine::{AdapterConfig, Settings, micro};
    use crate::error::Error;
    use crate::example::{Chunk, ModelInput};
    use crate::models::lora::Lora;
    use crate::nn::DeviceSpec;

    /// Texts alone: the micro model's decoder.
    fn lessons() -> Vec<Datum> {
        let lesson = |i: u32| {
            let ids = (0..6 + i).map(|at| 10 + (at * 7 + i) % 40).collect();
            let prompt = ModelInput {
                chunks: vec![Chunk::Tokens(ids)],
            };
            Datum::answered(prompt, &[20 + i, 21], 0.25)
        };
        (0..6).map(lesson).collect()
    }

    fn engine(capacity: Option<usize>) -> (Engine, AdapterId) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/mini/models/micro-qwen3-vl");
        let mut engine = Engine::load(&folder, &DeviceSpec::cpu(), Settings::default()).unwrap();
        engine.micro_batches.get_mut().unwrap().memory_for = capacity;
        let lora = Lora {
            targets: vec!["q_proj".into()],
            rank: 2,
            alpha: 2.0,
            ..Lora::default()
        };
        let config = AdapterConfig {
            lora,
            seed: 0,
            start: None,
        };
        let id = engine.add(&config).unwrap();
        (engine, id)
    }

    #[test]
    fn out_of_memory_halves_the_passes_once_and_the_gradients_are_the_same() {
        let (roomy, expected) = engine(None);
        let (tight, found) = engine(Some(3));
        for _ in 0..2 {
            let whole = roomy.forward_backward(expected, &lessons()).unwrap();
            let halved = tight.forward_backward(found, &lessons()).unwrap();
            assert!((whole.loss_sum - halved.loss_sum).abs() <= 1e-5 * whole.loss_sum.abs());
        }
        assert_eq!((roomy.halved_to(), tight.halved_to()), (None, Some(3)));
        let (expected, found) = (roomy.gradients(expected).unwrap(), tight.gradients(found).unwrap());
        assert!(!found.is_empty() && found.len() == expected.len());
        for ((name, expected), (same, found)) in expected.iter().zip(&found) {
            let scale = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let off = (expected - found).unwrap().abs().unwrap().max_all().unwrap();
            assert!(
                name == same && off.to_scalar::<f32>().unwrap() <= 1e-5 * scale.max(1e-6),
                "{name}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_in_half_either_is_an_error_and_leaves_no_gradient() {
        let (engine, id) = engine(Some(2));
        let error = engine.forward_backward(id, &lessons()).unwrap_err();
        assert!(error.is_out_of_memory() && engine.gradients(id).unwrap().is_empty());
        assert_eq!(engine.halved_to(), Some(3));
        assert!(engine.forward_backward(id, &lessons()).is_err());
        assert_eq!(engine.halved_to(), Some(3));
    }

    /// Lessons of reinforcement learning: answers that were sampled, some better than others.
    fn sampled(engine: &Engine, id: AdapterId) -> (Vec<Datum>, Vec<PolicyInputs>) {
        let mut data = micro::lessons(4);
        data.iter_mut().for_each(|datum| datum.weights.fill(1.0));
        let all = Objective {
            all_logprobs: true,
            ..Objective::default()
        };
        let found = engine.forward_with(id, &data, &all).unwrap().logprobs;
        let policy = data.iter().zip(found).zip(0u32..).map(|((datum, found), number)| {
            let first = datum.weights.len() - 3;
            let behind = |values: [f32; 3]| [vec![0.0; first], values.to_vec()].concat();
            let sign = if number % 2 == 0 { 1.0 } else { -1.0 };
            PolicyInputs {
                // Ratios inside and outside of what is clipped.
                logprobs: behind([0, 1, 2].map(|i| found[first + i] + [0.05, -0.4, 0.5][i])),
                advantages: behind([1.0, -0.5, 0.75].map(|advantage| sign * advantage)),
            }
        });
        let policy = policy.collect();
        (data, policy)
    }

    fn drop_gradients(engine: &Engine, id: AdapterId) {
        let drop = |adapter: &mut Adapter| {
            adapter.training.drop_gradients();
            Ok(())
        };
        engine.with(id, drop).unwrap();
    }

    const LOSSES: [LossFn; 5] = [
        LossFn::CrossEntropy,
        LossFn::ImportanceSampling,
        LossFn::Ppo {
            clip_low: 0.8,
            clip_high: 1.2,
        },
        LossFn::Cispo {
            clip_low: 0.8,
            clip_high: 1.2,
        },
        LossFn::Dro { beta: 0.5 },
    ];

    #[test]
    fn every_loss_gives_every_variable_the_gradient_of_its_reported_value() {
        let engine = micro::engine();
        let id = engine.add(&micro::adapter(2)).unwrap();
        // B is no longer 0, so that A has a gradient too.
        engine.forward_backward(id, &micro::lessons(4)).unwrap();
        engine
            .optim_step(
                id,
                &AdamParams {
                    learning_rate: 1e-2,
                    ..AdamParams::default()
                },
            )
            .unwrap();
        let (data, policy) = sampled(&engine, id);
        for loss in LOSSES {
            let objective = Objective {
                loss,
                policy: if loss == LossFn::CrossEntropy { &[] } else { &policy },
                all_logprobs: false,
            };
            let before = engine.forward_with(id, &data, &objective).unwrap();
            let output = engine.forward_backward_with(id, &data, &objective).unwrap();
            assert!(
                (output.loss_sum - before.loss_sum).abs() <= 1e-5 * before.loss_sum.abs().max(1.0),
                "{loss:?}"
            );
            let gradients = engine.gradients(id).unwrap();
            let variables = engine
                .with(id, |adapter| Ok(adapter.training.variables().to_vec()))
                .unwrap();
            assert_eq!(gradients.len(), variables.len());
            // Along the gradient the loss changes by its squared length; CISPO's value is no integral of its gradient.
            let mut squared = 0.0;
            let values: Vec<Tensor> = variables
                .iter()
                .map(|(_, var)| var.as_tensor().copy().unwrap())
                .collect();
            for (name, gradient) in &gradients {
                let length = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(length > 0.0, "{loss:?}: {name} has no gradient");
                squared += f64::from(length);
            }
            let step = 2e-3 / squared.sqrt();
            let at = |sign: f64| {
                for (((_, var), value), (_, gradient)) in variables.iter().zip(&values).zip(&gradients) {
                    var.set(&(value + (gradient * (sign * step)).unwrap()).unwrap())
                        .unwrap();
                }
                engine.forward_with(id, &data, &objective).unwrap().loss_sum
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
            variables
                .iter()
                .zip(&values)
                .for_each(|((_, var), value)| var.set(value).unwrap());
            if !matches!(loss, LossFn::Cispo { .. }) {
                assert!((slope - squared).abs() <= 0.03 * squared, "{loss:?}: {slope} {squared}");
            }
            drop_gradients(&engine, id);
        }
    }

    #[test]
    fn a_loss_of_the_callers_own_is_a_cross_entropy_with_its_slopes_as_weights() {
        let engine = micro::engine();
        let id = engine.add(&micro::adapter(2)).unwrap();
        let (data, policy) = sampled(&engine, id);
        let objective = |loss, policy| Objective {
            loss,
            policy,
            all_logprobs: true,
        };
        for loss in &LOSSES[1..] {
            let expected = engine
                .forward_backward_with(id, &data, &objective(*loss, &policy))
                .unwrap();
            let gradients = engine.gradients(id).unwrap();
            drop_gradients(&engine, id);
            let found = engine
                .forward_with(id, &data, &objective(LossFn::CrossEntropy, &[]))
                .unwrap();
            let mut own = data.clone();
            for ((own, policy), found) in own.iter_mut().zip(&policy).zip(&found.logprobs) {
                for (at, weight) in own.weights.iter_mut().enumerate() {
                    let term = Term {
                        weight: 1.0,
                        sampled: policy.logprobs[at],
                        advantage: policy.advantages[at],
                    };
                    let counts = policy.advantages[at] != 0.0;
                    *weight = if counts {
                        -loss.at(f64::from(found[at]), term).1 as f32
                    } else {
                        0.0
                    };
                }
            }
            assert!(own.iter().any(|datum| datum.weights.iter().any(|&weight| weight < 0.0)));
            let output = engine
                .forward_backward_with(id, &own, &objective(LossFn::CrossEntropy, &[]))
                .unwrap();
            for (found, expected) in output.logprobs.iter().flatten().zip(expected.logprobs.iter().flatten()) {
                assert!((found - expected).abs() <= 1e-4);
            }
            for ((_, found), (name, expected)) in engine.gradients(id).unwrap().iter().zip(&gradients) {
                let size = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let off = size(&(found - expected).unwrap());
                assert!(off <= 1e-4 * size(expected).max(1e-4), "{loss:?} {name}: {off}");
            }
            drop_gradients(&engine, id);
        }
    }

    #[test]
    fn all_positions_are_reported_where_it_is_asked_and_nothing_else_changes() {
        let engine = micro::engine();
        let id = engine.add(&micro::adapter(2)).unwrap();
        let mut data = micro::lessons(3);
        for datum in &mut data {
            // Whole sequences, as the wire gives them: what comes next is the target, weighted or not.
            let ids = engine.read_one(&datum.input, 0).unwrap().sequence.ids;
            let count = ids.len();
            datum.target_tokens[..count - 1].copy_from_slice(&ids[1..]);
            datum.target_tokens[..count - 1]
                .iter_mut()
                .filter(|id| **id == 944)
                .for_each(|id| *id = 0);
        }
        let all = Objective {
            all_logprobs: true,
            ..Objective::default()
        };
        let plain = engine.forward(id, &data).unwrap();
        let told = engine.forward_with(id, &data, &all).unwrap();
        assert_eq!(told.loss_sum.to_bits(), plain.loss_sum.to_bits());
        let bits = |engine: &Engine| -> Vec<Vec<f32>> {
            let all = engine.gradients(id).unwrap().into_iter();
            all.map(|(_, gradient)| gradient.flatten_all().unwrap().to_vec1().unwrap())
                .collect()
        };
        let backward = engine.forward_backward(id, &data).unwrap();
        let expected = bits(&engine);
        drop_gradients(&engine, id);
        let backward_all = engine.forward_backward_with(id, &data, &all).unwrap();
        assert_eq!(bits(&engine), expected);
        assert_eq!(backward.loss_sum.to_bits(), backward_all.loss_sum.to_bits());
        let base = engine.base().unwrap();
        let inputs: Vec<ModelInput> = data.iter().map(|datum| datum.input.clone()).collect();
        let prompts = engine.prompt_logprobs(&base, &inputs, 2).unwrap();
        for (((datum, input), told), prompt) in data.iter().zip(&inputs).zip(&told.logprobs).zip(&prompts) {
            let ids = engine.read_one(input, 0).unwrap().sequence.ids;
            assert!(prompt.logprobs[0].is_none());
            for (at, &id) in ids.iter().enumerate() {
                if id == 944 {
                    assert_eq!((told[at], prompt.top_logprobs[at].len()), (0.0, 0));
                    assert!(prompt.logprobs[at].is_none_or(|logprob| logprob == 0.0));
                    continue;
                }
                assert!(told[at] < 0.0, "{at} of {}", ids.len());
                if at > 0 && ids[at - 1] != 944 {
                    // An adapter that learned nothing is the base.
                    let logprob = prompt.logprobs[at].unwrap();
                    assert!((logprob - told[at - 1]).abs() <= 1e-4);
                    assert_eq!(prompt.top_logprobs[at].len(), 2);
                    assert!(prompt.top_logprobs[at][0].1 >= logprob - 1e-6);
                }
            }
            assert_eq!(datum.weights.iter().filter(|weight| **weight != 0.0).count(), 3);
        }
        // The sums of whole continuations are the loss.
        let answer: Vec<Vec<u32>> = data
            .iter()
            .map(|datum| datum.target_tokens[datum.weights.len() - 3..].to_vec())
            .collect();
        let questions = micro::questions(3);
        let own: Vec<&[Vec<u32>]> = answer.iter().map(std::slice::from_ref).collect();
        let scores = engine.compute_logprobs(&base, &questions, &own).unwrap();
        let sum: f32 = scores.iter().flatten().flatten().map(|score| score.logprob).sum();
        assert!((f64::from(sum) * -0.25 - plain.loss_sum).abs() <= 1e-3);
    }

    #[test]
    fn examples_without_a_loss_have_gradients_of_zero() {
        let engine = micro::engine();
        let id = engine.add(&micro::adapter(2)).unwrap();
        let (mut data, mut policy) = sampled(&engine, id);
        policy.iter_mut().for_each(|policy| policy.advantages.fill(0.0));
        let objective = Objective {
            loss: LossFn::ImportanceSampling,
            policy: &policy,
            all_logprobs: true,
        };
        let output = engine.forward_backward_with(id, &data, &objective).unwrap();
        assert!(output.loss_sum == 0.0 && output.logprobs.iter().flatten().any(|&logprob| logprob < 0.0));
        assert_eq!(engine.optim_step(id, &AdamParams::default()).unwrap(), 0.0);
        data.iter_mut().for_each(|datum| datum.weights.fill(0.0));
        assert_eq!(engine.forward_backward(id, &data).unwrap().loss_sum, 0.0);
        assert_eq!(engine.optim_step(id, &AdamParams::default()).unwrap(), 0.0);
        let short = Objective {
            policy: &policy[..2],
            ..objective
        };
        let error = engine.forward_backward_with(id, &data, &short).unwrap_err();
        assert!(matches!(error, Error::Input { index: 2, .. }), "{error}");
    }
}
