//! What every backend must do, whoever runs the model.

use std::path::Path;

use kshot::backend::{Backend, Sampler, Trainer, Weights};
use kshot::engine::{SamplingParams, Settings};
use kshot::error::Error;
use kshot::example::{Chunk, Datum, ModelInput};

use crate::backend_support::{
    LANGUAGE, ROUNDING, adam, adapter, close, data, local, outspoken, picture, questions, scores, weighted,
};
use crate::goldens;

/// All of it; `scratch` is a folder, or a prefix of names, that belongs to the caller.
fn contract(backend: &dyn Backend, model: &Path, scratch: &Path) {
    assert!(!backend.kind().is_empty() && !backend.fingerprint().is_empty() && backend.width() > 0);
    fresh_adapters_change_nothing(backend, model);
    losses_are_weighted_sums(backend, model);
    gradients_add_up_until_a_step(backend, model);
    adapters_do_not_influence_each_other(backend, model);
    a_kept_state_continues_to_the_bit(backend, model, &scratch.join("state"));
    weights_come_back(backend, model, &scratch.join("weights"));
    a_batch_can_be_learned(backend, model);
    answers_have_their_scores(backend, model);
    draws_belong_to_the_prompt(backend, model);
    nonsense_is_refused(backend, model);
}

fn trainer(backend: &dyn Backend) -> Box<dyn Trainer> {
    backend.trainer(&adapter(&LANGUAGE)).unwrap()
}

fn fresh_adapters_change_nothing(backend: &dyn Backend, model: &Path) {
    let base = scores(&mut *backend.sampler(&Weights::Base).unwrap(), model);
    assert!(base.iter().all(|logprob| *logprob < 0.0));
    let mut trainer = trainer(backend);
    assert_eq!(scores(&mut *trainer.sampler().unwrap(), model), base);
    let data = data(model);
    let output = trainer.forward(&data).unwrap();
    for (found, expected) in weighted(&data, &output.logprobs).iter().zip(&base) {
        assert!((found - expected).abs() <= 1e-5, "{found} {expected}");
    }
}

fn losses_are_weighted_sums(backend: &dyn Backend, model: &Path) {
    let mut trainer = trainer(backend);
    let mut data = data(model);
    data[0].weights.iter_mut().for_each(|weight| *weight *= 2.5);
    data[2].weights.iter_mut().for_each(|weight| *weight *= -0.5);
    data[3].weights.iter_mut().for_each(|weight| *weight = 0.0);
    let output = trainer.forward(&data).unwrap();
    let terms = data.iter().zip(&output.logprobs).flat_map(|(datum, row)| {
        let pairs = datum.weights.iter().zip(row);
        pairs.map(|(&weight, &logprob)| -f64::from(weight) * f64::from(logprob))
    });
    let expected: f64 = terms.sum();
    assert!(close(output.loss_sum, expected, 1e-9), "{} {expected}", output.loss_sum);
    let backward = trainer.forward_backward(&data).unwrap();
    assert!(close(backward.loss_sum, expected, ROUNDING));
    assert!(output.logprobs[3].iter().all(|&logprob| logprob == 0.0));
}

fn gradients_add_up_until_a_step(backend: &dyn Backend, model: &Path) {
    let (mut once, mut twice) = (trainer(backend), trainer(backend));
    let data = data(model);
    for _ in 0..3 {
        let whole = once.forward_backward(&data).unwrap().loss_sum;
        let parts =
            twice.forward_backward(&data[..1]).unwrap().loss_sum + twice.forward_backward(&data[1..]).unwrap().loss_sum;
        assert!(close(parts, whole, ROUNDING), "{parts} {whole}");
        let (whole, parts) = (once.optim_step(&adam()).unwrap(), twice.optim_step(&adam()).unwrap());
        assert!(whole > 0.0 && close(parts, whole, 1e-4), "{parts} {whole}");
        // The gradients are gone.
        assert!(matches!(once.optim_step(&adam()), Err(Error::NoGradients)));
    }
}

fn adapters_do_not_influence_each_other(backend: &dyn Backend, model: &Path) {
    let data = data(model);
    let alone = {
        let mut trainer = trainer(backend);
        for _ in 0..2 {
            trainer.train_step(&data[..2], &adam()).unwrap();
        }
        scores(&mut *trainer.sampler().unwrap(), model)
    };
    let (mut first, mut second) = (trainer(backend), trainer(backend));
    for _ in 0..2 {
        first.forward_backward(&data[..2]).unwrap();
        second.train_step(&data[2..], &adam()).unwrap();
        first.optim_step(&adam()).unwrap();
    }
    assert_eq!(scores(&mut *first.sampler().unwrap(), model), alone);
    assert_ne!(scores(&mut *second.sampler().unwrap(), model), alone);
}

fn a_kept_state_continues_to_the_bit(backend: &dyn Backend, model: &Path, state: &Path) {
    let data = data(model);
    let mut trainer = trainer(backend);
    trainer.train_step(&data[..2], &adam()).unwrap();
    trainer.save_state(state.to_str().unwrap()).unwrap();
    trainer.train_step(&data[2..], &adam()).unwrap();
    // In place of the one before.
    let path = trainer.save_state(state.to_str().unwrap()).unwrap();
    let steps = [&data[..3], &data[1..], &data[..]];
    let losses = |trainer: &mut dyn Trainer| -> Vec<u64> {
        let step = |data: &&[Datum]| trainer.train_step(data, &adam()).unwrap().loss_sum.to_bits();
        steps.iter().map(step).collect()
    };
    let expected = losses(&mut *trainer);
    let scored = scores(&mut *trainer.sampler().unwrap(), model);
    let mut other = backend.trainer(&adapter(&LANGUAGE)).unwrap();
    // Gradients that were not stepped with are no part of a state.
    other.forward_backward(&data[..1]).unwrap();
    for trainer in [&mut other, &mut trainer] {
        trainer.load_state(&path).unwrap();
        assert_eq!(losses(&mut **trainer), expected);
        assert_eq!(scores(&mut *trainer.sampler().unwrap(), model), scored);
    }
    assert!(other.load_state(&format!("{path}-that-is-not-there")).is_err());
}

fn weights_come_back(backend: &dyn Backend, model: &Path, folder: &Path) {
    let mut trainer = trainer(backend);
    trainer.train_step(&data(model), &adam()).unwrap();
    let mut snapshot = trainer.sampler().unwrap();
    let expected = scores(&mut *snapshot, model);
    let weights = trainer.save_weights_for_sampler(folder.to_str().unwrap()).unwrap();
    trainer.train_step(&data(model), &adam()).unwrap();
    assert_eq!(
        scores(&mut *snapshot, model),
        expected,
        "a later step changed a sampler"
    );
    assert_ne!(scores(&mut *trainer.sampler().unwrap(), model), expected);
    assert_eq!(scores(&mut *backend.sampler(&weights).unwrap(), model), expected);
}

fn a_batch_can_be_learned(backend: &dyn Backend, model: &Path) {
    let data = data(model);
    let tokens: usize = data
        .iter()
        .map(|datum| datum.weights.iter().filter(|&&weight| weight != 0.0).count())
        .sum();
    let mut trainer = trainer(backend);
    let step = |_| trainer.train_step(&data, &adam()).unwrap().loss_sum / tokens as f64;
    let reached = (0..200).map(step).position(|loss| loss < 0.01);
    assert!(reached.is_some(), "never below 0.01 nat a token");
    // What was learned is what is said, and the first token of each answer is no accident.
    let (prompts, answers): (Vec<_>, Vec<_>) = questions(model).into_iter().unzip();
    let greedy = SamplingParams::greedy(8, vec![3]);
    let said = trainer.sampler().unwrap().sample(&prompts, &greedy).unwrap();
    for (said, answer) in said.iter().zip(&answers) {
        assert!(said.stopped && said.tokens == *answer, "{:?} {answer:?}", said.tokens);
    }
}

fn answers_have_their_scores(backend: &dyn Backend, model: &Path) {
    let mut sampler = backend.sampler(&Weights::Base).unwrap();
    let prompts: Vec<ModelInput> = questions(model).into_iter().map(|(prompt, _)| prompt).collect();
    let params = SamplingParams::greedy(5, vec![]);
    let said = sampler.sample(&prompts, &params).unwrap();
    let own: Vec<Vec<Vec<u32>>> = said.iter().map(|said| vec![said.tokens.clone(), vec![4, 9]]).collect();
    let own: Vec<&[Vec<u32>]> = own.iter().map(Vec::as_slice).collect();
    let scores = sampler.compute_logprobs(&prompts, &own).unwrap();
    for ((prompt, said), scores) in prompts.iter().zip(&said).zip(&scores) {
        assert!(said.tokens.len() == 5 && !said.stopped);
        assert_eq!((scores.len(), scores[0].len(), scores[1].len()), (2, 5, 2));
        for ((token, logprob), score) in said.tokens.iter().zip(&said.logprobs).zip(&scores[0]) {
            assert_eq!(score.likeliest, *token);
            assert!((score.logprob - logprob).abs() <= 1e-4);
        }
        // A stop token ends it and is kept; alone it is said as among others.
        let stopping = SamplingParams {
            stop: vec![said.tokens[2]].into(),
            ..params.clone()
        };
        let alone = sampler.sample(std::slice::from_ref(prompt), &stopping).unwrap();
        let end = said.tokens.iter().position(|token| *token == said.tokens[2]).unwrap();
        assert!(alone[0].stopped && alone[0].tokens == said.tokens[..=end]);
    }
}

fn draws_belong_to_the_prompt(backend: &dyn Backend, model: &Path) {
    let mut sampler = backend.sampler(&Weights::Base).unwrap();
    let prompts: Vec<ModelInput> = questions(model).into_iter().map(|(prompt, _)| prompt).collect();
    let params = |seed| SamplingParams {
        // So hot that no model is sure of its next token.
        temperature: 5.0,
        seed,
        ..SamplingParams::greedy(6, vec![])
    };
    let drawn = |sampler: &mut dyn Sampler, prompts: &[ModelInput], seed| -> Vec<Vec<u32>> {
        let all = sampler.sample(prompts, &params(seed)).unwrap();
        all.into_iter().map(|said| said.tokens).collect()
    };
    let all = drawn(&mut *sampler, &prompts, 0);
    for (i, prompt) in prompts.iter().enumerate() {
        assert_eq!(drawn(&mut *sampler, std::slice::from_ref(prompt), 0)[0], all[i]);
    }
    assert_eq!(drawn(&mut *sampler, &prompts, 0), all);
    assert_ne!(drawn(&mut *sampler, &prompts, 1), all);
    let twice = drawn(&mut *sampler, &[prompts[0].clone(), prompts[0].clone()], 0);
    assert_eq!(twice[0], all[0]);
    assert_ne!(twice[0], twice[1]);
}

fn nonsense_is_refused(backend: &dyn Backend, model: &Path) {
    let mut trainer = trainer(backend);
    let sound = data(model);
    let broken: [fn(&mut Datum); 5] = [
        |datum| datum.weights.push(1.0),
        |datum| datum.target_tokens.truncate(1),
        |datum| datum.weights[0] = f32::NAN,
        |datum| datum.input.chunks.push(Chunk::Tokens(vec![u32::MAX])),
        |datum| {
            datum.target_tokens.fill(u32::MAX);
        },
    ];
    for break_it in broken {
        let mut data = sound.clone();
        break_it(&mut data[1]);
        let error = trainer.forward_backward(&data).unwrap_err();
        assert!(matches!(error, Error::Input { index: 1, .. }), "{error}");
        assert!(matches!(trainer.optim_step(&adam()), Err(Error::NoGradients)));
    }
    let mut wrong = picture(model, 0, (64, 64));
    wrong.tokens += 1;
    let wrong = ModelInput {
        chunks: vec![Chunk::Tokens(vec![5]), Chunk::Picture(wrong)],
    };
    let mut sampler = backend.sampler(&Weights::Base).unwrap();
    let text = questions(model)[2].0.clone();
    for prompts in [&[text.clone(), wrong][..], &[text.clone(), ModelInput::default()]] {
        let own = vec![&[][..]; 2];
        let error = sampler.compute_logprobs(prompts, &own).unwrap_err();
        assert!(matches!(error, Error::Input { index: 1, .. }), "{error}");
    }
    let empty = [vec![1], vec![]];
    assert!(
        sampler
            .compute_logprobs(std::slice::from_ref(&text), &[&empty])
            .is_err()
    );
    assert!(sampler.compute_logprobs(&[text], &[]).is_err());
    assert!(backend.sampler(&Weights::Saved("nowhere".into())).is_err());
}

#[test]
fn the_local_backend_keeps_the_contract() {
    for golden in goldens::qwen3_vl() {
        let scratch = tempfile::tempdir().unwrap();
        let model = outspoken(&golden);
        contract(&local(model.path(), Settings::default()), model.path(), scratch.path());
    }
}
