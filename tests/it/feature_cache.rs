//! What the frozen tower sees in a picture is kept within a stated budget, and shared by all adapters that meet it.

use kshot::backend::{Backend, Sampler, Weights};
use kshot::engine::{CacheStats, Settings};
use kshot::example::{Chunk, ModelInput, Picture};

use crate::backend_support::{LANGUAGE, adam, adapter, data, local, picture};
use crate::goldens;

fn ask(sampler: &mut dyn Sampler, pictures: &[Picture]) -> Vec<f32> {
    let prompt = |picture: &Picture| ModelInput {
        chunks: vec![Chunk::Picture(picture.clone()), Chunk::Tokens(vec![5, 6])],
    };
    let prompts: Vec<ModelInput> = pictures.iter().map(prompt).collect();
    let asked: Vec<Vec<Vec<u32>>> = prompts.iter().map(|_| vec![vec![7, 8]]).collect();
    let asked: Vec<&[Vec<u32>]> = asked.iter().map(Vec::as_slice).collect();
    let scores = sampler.compute_logprobs(&prompts, &asked).unwrap();
    scores.iter().flatten().flatten().map(|score| score.logprob).collect()
}

/// Several adapters are asked about the same test set, batch by batch; what it took, and what they said.
fn asked(room: usize) -> (CacheStats, Vec<Vec<f32>>) {
    let golden = &goldens::qwen3_vl()[0];
    let settings = Settings {
        feature_bytes: room,
        ..Settings::default()
    };
    let backend = local(&golden.model, settings);
    let test: Vec<Picture> = (10..22)
        .map(|number| picture(&golden.model, number, (64, 48)))
        .collect();
    let mut samplers = vec![backend.sampler(&Weights::Base).unwrap()];
    for steps in 1..3 {
        let mut trainer = backend.trainer(&adapter(&LANGUAGE)).unwrap();
        for _ in 0..steps {
            trainer.train_step(&data(&golden.model), &adam()).unwrap();
        }
        samplers.push(trainer.sampler().unwrap());
    }
    let before = backend.cache_stats().unwrap();
    let mut said = Vec::new();
    for sampler in &mut samplers {
        said.push(test.chunks(4).flat_map(|batch| ask(&mut **sampler, batch)).collect());
    }
    let after = backend.cache_stats().unwrap();
    let sight = CacheStats {
        hits: after.hits - before.hits,
        misses: after.misses - before.misses,
        bytes: after.bytes,
    };
    (sight, said)
}

#[test]
fn within_its_budget_the_tower_sees_each_test_image_once_for_all_adapters() {
    let (all, said) = asked(Settings::default().feature_bytes);
    assert_eq!((all.hits, all.misses), (24, 12));
    // Beyond it the oldest go: no adapter finds what the one before it has seen, and says the same.
    let one_batch = {
        let (none, again) = asked(0);
        assert_eq!((none.hits, none.misses), (0, 36));
        assert_eq!(again, said);
        none.bytes
    };
    let (some, again) = asked(2 * one_batch);
    assert!(
        one_batch > 0 && some.bytes <= 2 * one_batch && all.bytes > some.bytes,
        "{some:?} {all:?}"
    );
    assert_eq!(again, said);
}
