use crate::comparison::series::*;
use crate::prediction::Reading;
use crate::statistics::metric::Metrics;
use crate::store::record::{Account, Identity, Timing, TrainingSummary};

type Cell = (Record, Vec<Prediction>);

/// A finished cell with `n` test images of 4 classes in pairs that show one drawing, of which `right`
/// says which are answered correctly.
pub(crate) fn cell(
    (dataset, learner, shots, seed): (&str, &str, u32, u64),
    n: u32,
    right: impl Fn(u32) -> bool,
) -> Cell {
    let method = if learner.contains("pixels") { "pixels" } else { "other" };
    let identity = Identity {
        key: CellKey {
            dataset: dataset.into(),
            protocol: Protocol::Clean,
            learner: learner.into(),
            shots: shots.into(),
            seed,
        },
        hyper_parameters: serde_json::json!({ "method": method }),
        train: vec![],
        test: vec![],
        classes: ["ant", "bee", "cat", "dog"].map(String::from).into(),
        weights: None,
        dtype: "f32".into(),
        backend: "local".into(),
        recipe: 1,
    };
    let account = Account {
        reading: Reading::Likelihood,
        headline: Headline::Top1,
        micro: true,
        regime: Some("novel".into()),
        split_sha256: "00".into(),
        card: None,
        fitted: None,
        names: None,
        training: TrainingSummary {
            trainable_parameters: u64::from(learner.contains("LoRA")),
            chosen: None,
            ..TrainingSummary::default()
        },
        timing: Timing::default(),
    };
    let row = |i: u32| Prediction {
        id: format!("{i:04}.png"),
        sha256: format!("{i:02x}"),
        group: Some(format!("drawing {}", i / 2)),
        truth: i % 4,
        free_text: None,
        free_class: None,
        trie_class: None,
        likelihood_class: Some(if right(i) { i % 4 } else { (i + 1) % 4 }),
        log_probs: None,
    };
    let rows: Vec<_> = (0..n).map(row).collect();
    (Record::new(&identity, account, &rows, String::new()), rows)
}

/// Answers of a writing learner to `n` images as in [`cell`]: by trie and by likelihood right where `chosen` says;
/// written right where `written` says, else every second answer names another class and the rest names none.
pub(crate) fn written_cell(
    key: (&str, &str, u32, u64),
    n: u32,
    written: impl Fn(u32) -> bool,
    chosen: impl Fn(u32) -> bool,
) -> Cell {
    let (mut record, mut rows) = cell(key, n, chosen);
    for (i, row) in (0..).zip(&mut rows) {
        let named = if written(i) {
            Some(row.truth)
        } else {
            (i % 2 == 0).then_some((row.truth + 1) % 4)
        };
        row.free_text = Some(named.map_or("a yak".into(), |class| record.classes[class as usize].clone()));
        row.free_class = named;
        row.trie_class = row.likelihood_class;
        // A tenth of the probability is on names, four fifths of that on the class chosen.
        let likely = |class| {
            if Some(class) == row.trie_class {
                0.08_f32
            } else {
                0.02 / 3.0
            }
        };
        row.log_probs = Some((0..4).map(|class| likely(class).ln()).collect());
    }
    record.reading = Reading::Free;
    record.metrics = Metrics::of(&rows, Reading::Free, Headline::Top1);
    record.predictions_sha256 = crate::store::predictions::fingerprint(&record.classes, &rows);
    (record, rows)
}

#[test]
fn runs_are_grouped_by_seed_and_images_aligned_by_id() {
    let mut second = cell(("a", "x", 4, 7), 8, |i| i < 2);
    second.1.reverse(); // another order of the same images
    let cells = [
        cell(("a", "x", 8, 0), 8, |_| true),
        second,
        cell(("a", "x", 4, 1), 8, |i| i == 7),
    ];
    let series = Series::group(cells.into_iter().map(Ok)).unwrap();
    let shots: Vec<_> = series.iter().map(|s| (s.shots.count().unwrap(), s.seeds())).collect();
    assert_eq!(shots, [(4, vec![1, 7]), (8, vec![0])]);
    assert!(Arc::ptr_eq(&series[0].test, &series[1].test));
    let scores = series[0].scores();
    let images: Vec<&[f64]> = scores.images().collect();
    assert_eq!((images[0], images[7]), (&[0.0, 1.0][..], &[1.0, 0.0][..]));
    assert_eq!(scores.groups[6..], [3, 3]);
}

#[test]
fn differences_pair_seeds_and_images() {
    let series = |learner, seeds: &[u64], right: fn(u32) -> bool| {
        let cells = seeds.iter().map(|&seed| Ok(cell(("a", learner, 4, seed), 4, right)));
        Series::group(cells).unwrap().remove(0)
    };
    let ours = series("x", &[0, 1, 2], |i| i != 3);
    let theirs = series("y", &[1, 2, 5], |i| i == 0 || i == 3);
    let scores = ours.differences(&theirs).unwrap();
    let scores: Vec<&[f64]> = scores.images().collect();
    assert_eq!(scores, [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]);
}

#[test]
fn the_run_without_shots_meets_every_draw() {
    let zero = |seed| written_cell(("a", "VLM LoRA", 0, seed), 4, |_| false, |i| i == 1);
    let cells = [
        zero(7), // the first seed was another one once: the same answers
        zero(0),
        written_cell(("a", "VLM LoRA", 4, 0), 4, |i| i < 2, |_| true),
        written_cell(("a", "VLM LoRA", 4, 1), 4, |i| i < 3, |_| true),
        cell(("a", "x", 4, 1), 4, |i| i == 0),
    ];
    let series = Series::group(cells.into_iter().map(Ok)).unwrap();
    let [zero, four, other] = &series[..] else {
        panic!("{series:?}")
    };
    assert_eq!(
        (zero.runs.len(), zero.seeds(), zero.label().as_str()),
        (1, vec![], "VLM LoRA (free text)")
    );
    assert_eq!(other.label(), "x");
    let scores = |own: &Series, other: &Series| -> Vec<Vec<f64>> {
        let scores = own.differences(other).unwrap();
        scores.images().map(<[f64]>::to_vec).collect()
    };
    assert_eq!(scores(four, zero), [[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]);
    assert_eq!(scores(zero, four)[0], [-1.0, -1.0]);
    assert_eq!(
        scores(four, other),
        [[0.0], [1.0], [1.0], [0.0]],
        "each by its own reading"
    );
    let by = |reading| zero.scores_by(reading).unwrap().values;
    assert_eq!(by(Reading::Trie), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(by(Reading::Free).iter().sum::<f64>(), 0.0);
    assert!(other.scores_by(Reading::Trie).is_none() && other.scores_by(Reading::Likelihood).is_some());
}

#[test]
fn other_images_classes_or_metrics_are_not_compared() {
    let changes: [fn(&mut Cell); 4] = [
        |c| c.1[0].sha256 = "other".into(),
        |c| c.0.classes.swap(0, 1),
        |c| c.0.metrics.headline = Headline::MeanPerClass,
        |c| c.0.reading = Reading::Free,
    ];
    for change in changes {
        let mut other = cell(("a", "x", 4, 1), 4, |_| true);
        change(&mut other);
        let cells = [cell(("a", "x", 4, 0), 4, |_| true), other];
        let error = Series::group(cells.into_iter().map(Ok)).unwrap_err();
        assert!(matches!(error, Error::NotComparable { .. }), "{error}");
    }
}

#[test]
fn of_two_results_for_one_cell_the_later_counts() {
    let (mut old, rows) = cell(("a", "x", 4, 0), 4, |_| false);
    old.timing.finished = "2026-01-01T00:00:00Z".into();
    let (mut new, new_rows) = cell(("a", "x", 4, 0), 4, |_| true);
    new.timing.finished = "2026-01-02T00:00:00Z".into();
    let (old, new) = ((old, rows), (new, new_rows));
    for cells in [[old.clone(), new.clone()], [new, old]] {
        let series = Series::group(cells.into_iter().map(Ok)).unwrap();
        assert_eq!(series[0].values(), [1.0]);
    }
}
