//! Generation side by side beside generation alone, on the micro model.

use std::collections::BTreeMap;

use super::*;
use crate::engine::micro::{adapter, engine, lessons, questions};
use crate::engine::{AdamParams, PromptScores, SampledSequence, SamplingParams};
use crate::example::ModelInput;

const END: u32 = 940;

/// Everything that was told of requests.
#[derive(Default)]
struct News {
    said: BTreeMap<(RequestId, usize), (SampledSequence, bool)>,
    prompts: BTreeMap<RequestId, PromptScores>,
    choices: BTreeMap<RequestId, (Vec<f64>, Vec<Vec<f32>>)>,
    chosen: BTreeMap<(RequestId, usize), Option<usize>>,
    failed: BTreeMap<RequestId, Error>,
}

impl News {
    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            let id = event.id();
            assert!(!self.failed.contains_key(&id), "news of a request that failed");
            match event {
                Event::Prompt { scores, .. } => assert!(self.prompts.insert(id, scores).is_none()),
                Event::Choices {
                    probabilities,
                    logprobs,
                    ..
                } => assert!(self.choices.insert(id, (probabilities, logprobs)).is_none()),
                Event::Token {
                    sample,
                    token,
                    logprob,
                    top,
                    ..
                } => {
                    let (said, done) = self.said.entry((id, sample)).or_default();
                    assert!(!*done, "a token after the end");
                    said.tokens.push(token);
                    said.logprobs.push(logprob);
                    said.top_logprobs.push(top);
                }
                Event::Finished {
                    sample,
                    stopped,
                    choice,
                    ..
                } => {
                    let (said, done) = self.said.entry((id, sample)).or_default();
                    assert!(!std::mem::replace(done, true), "finished twice");
                    said.stopped = stopped;
                    self.chosen.insert((id, sample), choice);
                }
                Event::Failed { error, .. } => assert!(self.failed.insert(id, error).is_none()),
            }
        }
    }

    fn of(&self, id: RequestId, sample: usize) -> &SampledSequence {
        let (said, done) = &self.said[&(id, sample)];
        assert!(done);
        said
    }
}

fn run(generator: &mut Generator, news: &mut News) {
    for _ in 0..10_000 {
        if generator.is_idle() {
            assert_eq!((generator.load(), generator.cache.order().count()), ((0, 0), 0));
            return;
        }
        news.hear(generator.step());
    }
    panic!("it goes on for ever");
}

fn request(snapshot: &Snapshot, prompt: &ModelInput, params: &SamplingParams) -> GenerationRequest {
    GenerationRequest {
        snapshot: snapshot.clone(),
        prompt: prompt.clone(),
        params: params.clone(),
        samples: 1,
        prompt_logprobs: None,
        choices: Vec::new(),
    }
}

fn generator(engine: &Arc<Engine>) -> Generator {
    Generator::new(engine.clone(), GeneratorSettings::default())
}

/// The base model and an adapter that has learned a little.
fn snapshots(engine: &Engine) -> [Snapshot; 2] {
    let id = engine.add(&adapter(1)).unwrap();
    for _ in 0..3 {
        engine.forward_backward(id, &lessons(4)).unwrap();
        let params = AdamParams {
            learning_rate: 5e-3,
            ..AdamParams::default()
        };
        engine.optim_step(id, &params).unwrap();
    }
    [engine.base().unwrap(), engine.snapshot(id).unwrap()]
}

fn same(found: &SampledSequence, expected: &SampledSequence) {
    assert_eq!((&found.tokens, found.stopped), (&expected.tokens, expected.stopped));
    for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
        assert!((found - expected).abs() <= 1e-4, "{found} {expected}");
    }
    let ids = |said: &SampledSequence| -> Vec<Vec<u32>> {
        let ids = |top: &Vec<(u32, f32)>| top.iter().map(|(id, _)| *id).collect();
        said.top_logprobs.iter().map(ids).collect()
    };
    assert_eq!(ids(found), ids(expected));
}

#[test]
fn what_is_made_side_by_side_is_what_is_made_alone() {
    let engine = engine();
    let snapshots = snapshots(&engine);
    let greedy = SamplingParams::greedy(12, vec![END]);
    let hot = SamplingParams {
        temperature: 1.5,
        top_k: Some(40),
        top_p: 0.95,
        seed: 3,
        top_logprobs: 3,
        ..greedy.clone()
    };
    let (mut generator, mut news) = (generator(&engine), News::default());
    let mut asked = Vec::new();
    for (number, prompt) in questions(11).iter().enumerate() {
        let (snapshot, params) = (&snapshots[number % 2], if number % 3 == 1 { &hot } else { &greedy });
        let samples = 1 + number % 4;
        let asking = GenerationRequest {
            samples,
            ..request(snapshot, prompt, params)
        };
        let id = generator.submit(asking).unwrap();
        // They join between the steps of others.
        (0..number % 3).for_each(|_| news.hear(generator.step()));
        asked.push((id, snapshot, prompt.clone(), params, samples));
    }
    run(&mut generator, &mut news);
    assert!(news.failed.is_empty());
    for (id, snapshot, prompt, params, samples) in asked {
        let alone = engine.sample(snapshot, &vec![prompt; samples], params).unwrap();
        for (sample, alone) in alone.iter().enumerate() {
            assert!(!alone.tokens.is_empty());
            same(news.of(id, sample), alone);
        }
    }
}

#[test]
fn prompts_have_their_scores() {
    let engine = engine();
    let [base, _] = snapshots(&engine);
    let prompts = questions(4);
    let (mut generator, mut news) = (generator(&engine), News::default());
    let ask = |max_tokens, top, prompt| GenerationRequest {
        prompt_logprobs: Some(top),
        ..request(&base, prompt, &SamplingParams::greedy(max_tokens, vec![]))
    };
    let ids: Vec<RequestId> = prompts
        .iter()
        .zip([0, 1, 3, 0])
        .map(|(prompt, length)| generator.submit(ask(length, length, prompt)).unwrap())
        .collect();
    run(&mut generator, &mut news);
    for ((id, prompt), top) in ids.iter().zip(&prompts).zip([0, 1, 3, 0]) {
        let expected = engine
            .prompt_logprobs(&base, std::slice::from_ref(prompt), top)
            .unwrap();
        let (found, expected) = (&news.prompts[id], &expected[0]);
        assert_eq!(found.logprobs.len(), prompt.positions());
        for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
            let (found, expected) = (found.unwrap_or(1.0), expected.unwrap_or(1.0));
            assert!((found - expected).abs() <= 1e-4);
        }
        let lengths = |scores: &PromptScores| -> Vec<usize> { scores.top_logprobs.iter().map(Vec::len).collect() };
        assert_eq!(lengths(found), lengths(expected));
        assert_eq!(news.of(*id, 0).tokens.len(), top);
    }
}

#[test]
fn a_request_that_cannot_be_carried_out_fails_alone() {
    let engine = engine();
    let [base, learned] = snapshots(&engine);
    let prompts = questions(5);
    let params = SamplingParams::greedy(6, vec![END]);
    let (mut generator, mut news) = (generator(&engine), News::default());
    let wrong = ModelInput::default().followed_by(&[1, 944, 2]);
    assert!(generator.submit(request(&base, &wrong, &params)).is_err());
    let none = GenerationRequest {
        samples: 0,
        ..request(&base, &prompts[0], &params)
    };
    assert!(generator.submit(none).is_err());
    let endless = SamplingParams::greedy(usize::MAX, vec![]);
    let error = generator.submit(request(&base, &prompts[0], &endless)).unwrap_err();
    assert!(matches!(error, Error::Sampling { .. }), "{error}");
    assert!(generator.is_idle());
    let first = generator.submit(request(&base, &prompts[0], &params)).unwrap();
    news.hear(generator.step());
    let ids: Vec<RequestId> = prompts
        .iter()
        .map(|prompt| generator.submit(request(&base, prompt, &params)).unwrap())
        .collect();
    let other = generator.submit(request(&learned, &prompts[0], &params)).unwrap();
    // One that turns out wrong only when it is read.
    for lane in &mut generator.lanes {
        lane.waiting
            .iter_mut()
            .filter(|one| one.id == ids[2])
            .for_each(|one| one.request.prompt = wrong.clone());
    }
    run(&mut generator, &mut news);
    assert_eq!(news.failed.keys().collect::<Vec<_>>(), [&ids[2]]);
    let alone = engine.sample(&base, &prompts, &params).unwrap();
    for (number, id) in ids.iter().enumerate().filter(|(number, _)| *number != 2) {
        same(news.of(*id, 0), &alone[number]);
    }
    same(news.of(first, 0), &alone[0]);
    same(
        news.of(other, 0),
        &engine.sample(&learned, &prompts[..1], &params).unwrap()[0],
    );
}

#[test]
fn little_memory_makes_requests_wait_and_what_is_given_up_makes_room() {
    let engine = engine();
    let base = engine.base().unwrap();
    let params = SamplingParams::greedy(8, vec![]);
    let rows: usize = 2 * (questions(1)[0].positions() + 8);
    let tight = Generator::new(
        engine.clone(),
        GeneratorSettings {
            cache_bytes: rows * KvCache::row_bytes(&engine.base.config().text_config, engine.base.state_type()),
            ..GeneratorSettings::default()
        },
    );
    let few = Generator::new(
        engine.clone(),
        GeneratorSettings {
            continuations: 2,
            prompt_rows: 1,
            ..GeneratorSettings::default()
        },
    );
    let prompts = vec![questions(1)[0].clone(); 5];
    let expected = &engine.sample(&base, &prompts[..1], &params).unwrap()[0];
    for mut generator in [tight, few] {
        let mut news = News::default();
        let ids: Vec<RequestId> = prompts
            .iter()
            .map(|prompt| generator.submit(request(&base, prompt, &params)).unwrap())
            .collect();
        news.hear(generator.step());
        news.hear(generator.step());
        assert_eq!(generator.load(), (3, 2));
        generator.cancel(ids[0]);
        generator.cancel(ids[4]);
        assert_eq!(generator.load(), (2, 1));
        run(&mut generator, &mut news);
        for &id in &ids[1..4] {
            same(news.of(id, 0), expected);
        }
        assert!(!news.chosen.contains_key(&(ids[0], 0)) && !news.chosen.contains_key(&(ids[4], 0)));
    }
}

#[test]
fn a_large_request_is_not_kept_waiting_by_small_ones_of_another_adapter() {
    let engine = engine();
    let [base, learned] = snapshots(&engine);
    let settings = GeneratorSettings {
        continuations: 4,
        ..GeneratorSettings::default()
    };
    let (mut generator, mut news) = (Generator::new(engine, settings), News::default());
    let prompt = &questions(1)[0];
    let small = || request(&base, prompt, &SamplingParams::greedy(3, vec![]));
    let first = generator.submit(small()).unwrap();
    news.hear(generator.step());
    let large = GenerationRequest {
        samples: 4,
        ..request(&learned, prompt, &SamplingParams::greedy(2, vec![]))
    };
    let large = generator.submit(large).unwrap();
    // Before it is through others come without end.
    for round in 0.. {
        generator.submit(small()).unwrap();
        news.hear(generator.step());
        if news.chosen.contains_key(&(large, 3)) {
            break;
        }
        assert!(round < 20, "it starves");
    }
    run(&mut generator, &mut news);
    assert_eq!(news.of(first, 0).tokens.len(), 3);
    assert_eq!(news.of(large, 3).tokens.len(), 2);
}

#[test]
fn an_answer_among_given_ones_comes_with_all_their_probabilities() {
    let engine = engine();
    let [base, learned] = snapshots(&engine);
    let choices = vec![
        vec![60, 61, END],
        vec![60, 62, END],
        vec![70, END],
        vec![71, 80, 81, END],
    ];
    let (mut generator, mut news) = (generator(&engine), News::default());
    let prompts = questions(3);
    let ask = |snapshot, prompt, temperature, samples| GenerationRequest {
        choices: choices.clone(),
        samples,
        ..request(
            snapshot,
            prompt,
            &SamplingParams {
                temperature,
                ..SamplingParams::default()
            },
        )
    };
    let mut asked = Vec::new();
    for prompt in &prompts {
        for snapshot in [&base, &learned] {
            asked.push((
                generator.submit(ask(snapshot, prompt, 0.0, 1)).unwrap(),
                snapshot,
                prompt,
            ));
        }
    }
    let count = 4000;
    let many = generator.submit(ask(&base, &prompts[0], 2.0, count)).unwrap();
    let free = generator
        .submit(request(&base, &prompts[0], &SamplingParams::greedy(4, vec![])))
        .unwrap();
    let empty = GenerationRequest {
        choices: vec![vec![60], vec![]],
        ..ask(&base, &prompts[0], 0.0, 1)
    };
    assert!(generator.submit(empty).is_err());
    run(&mut generator, &mut news);
    for (id, snapshot, prompt) in asked {
        let scores = engine
            .compute_logprobs(snapshot, std::slice::from_ref(prompt), &[&choices])
            .unwrap();
        let totals = scores[0]
            .iter()
            .map(|own| own.iter().map(|score| f64::from(score.logprob)).sum::<f64>());
        let totals: Vec<f64> = totals.map(f64::exp).collect();
        let sum: f64 = totals.iter().sum();
        let (probabilities, _) = &news.choices[&id];
        for (found, total) in probabilities.iter().zip(&totals) {
            assert!((found - total / sum).abs() <= 1e-4);
        }
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let best = news.chosen[&(id, 0)].unwrap();
        assert!(totals.iter().all(|total| *total <= totals[best] * (1.0 + 1e-4)));
        assert_eq!(news.of(id, 0).tokens, choices[best]);
    }
    let (probabilities, _) = &news.choices[&many];
    let roots: Vec<f64> = probabilities.iter().map(|p| p.sqrt()).collect();
    for (choice, root) in roots.iter().enumerate() {
        let drawn = (0..count)
            .filter(|&sample| news.chosen[&(many, sample)] == Some(choice))
            .count();
        let off = drawn as f64 / count as f64 - root / roots.iter().sum::<f64>();
        assert!(off.abs() < 4.0 * 0.5 / (count as f64).sqrt(), "{choice}: {off}");
    }
    assert_eq!(news.of(free, 0).tokens.len(), 4);
}
