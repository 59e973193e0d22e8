//! Controls: a classifier that learned nothing must look like chance, and what is saved must be what was trained.

use kshot::experiment::plan::Cell;
use kshot::prediction::Reading;
use kshot::seed::rng;
use kshot::statistics;
use rand::seq::SliceRandom as _;

use crate::support::{self, TINY, predict};

fn cells(set: &[&str]) -> Vec<Cell> {
    support::cells(TINY, set)
}

#[test]
fn labels_shuffled_among_the_shots_leave_chance() {
    let shuffles = 12;
    let seeds = format!("seeds={:?}", (0..shuffles).collect::<Vec<u64>>());
    let mut accuracies = Vec::new();
    let mut chance = 0.0;
    for cell in cells(&["shots=[8]", &seeds, "learner.0.images_per_class=24"]) {
        if !cell.learner.has_adapter() {
            continue;
        }
        let mut shots = cell.shots().unwrap();
        let mut labels: Vec<u32> = shots.iter().map(|s| s.class).collect();
        labels.shuffle(&mut rng(cell.key.seed, "control/labels"));
        for (shot, label) in shots.iter_mut().zip(labels) {
            shot.class = label;
        }
        let mut classifier = cell.classifier().unwrap();
        classifier.fit(&shots, None, &mut |_| Ok(())).unwrap();
        let rows = predict(classifier.as_mut(), &cell.test().unwrap());
        let correct = rows.iter().filter(|r| r.correct(Reading::Likelihood)).count();
        accuracies.push(correct as f64 / rows.len() as f64);
        chance = 1.0 / cell.split.classes.len() as f64;
    }
    assert_eq!(accuracies.len(), shuffles as usize);
    let interval = statistics::mean_interval(&accuracies).unwrap();
    assert!(
        interval.low <= chance && chance <= interval.high,
        "{interval:?} does not contain {chance}: {accuracies:?}"
    );
}

#[test]
fn an_adapter_saved_and_reloaded_predicts_the_same() {
    let cell = cells(&["shots=[2]"])
        .into_iter()
        .find(|c| c.learner.has_adapter())
        .unwrap();
    let (shots, test) = (cell.shots().unwrap(), cell.test().unwrap());
    let mut trained = cell.classifier().unwrap();
    trained.fit(&shots, None, &mut |_| Ok(())).unwrap();
    let expected = predict(trained.as_mut(), &test);

    let folder = tempfile::tempdir().unwrap();
    trained.save(folder.path()).unwrap();
    let mut loaded = cell.classifier().unwrap();
    loaded.load(folder.path()).unwrap();
    assert_eq!(predict(loaded.as_mut(), &test), expected);

    let mut untrained = cell.classifier().unwrap();
    assert!(
        untrained.save(folder.path()).is_err(),
        "an untrained classifier has nothing to save"
    );
    untrained.fit(&shots[..shots.len() / 2], None, &mut |_| Ok(())).unwrap();
    assert_ne!(
        predict(untrained.as_mut(), &test),
        expected,
        "other shots must give other predictions"
    );
}
