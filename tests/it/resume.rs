//! What is interrupted goes on where it was, and ends to the bit as if nothing had happened.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kshot::error::{Error, Result};
use kshot::experiment::cell;
use kshot::experiment::cell::Event;
use kshot::experiment::config::Sweep;
use kshot::experiment::plan::Cell;
use kshot::learner::features::Frozen;
use kshot::learner::{Checkpoints, Classifier, Fit};
use kshot::nn::DeviceSpec;
use kshot::prediction::Prediction;
use kshot::store::Store;
use kshot::store::record::Record;

use crate::support::{self, contents, predict};

/// Both learners that train by steps: ten steps each.
const TRAINED: &str = r#"
name = "resume"
datasets = ["mini-pets"]
shots = [2]
checkpoint_steps = 3

[[learner]]
method = "dinov2-lora"
model = "datasets/mini/models/micro-dinov2"
images_per_class = 8
batch = 8
rank = 4

[[learner]]
method = "qwen3-vl-lora"
model = "datasets/mini/models/micro-qwen3-vl"
images_per_class = 8
batch = 8
rank = 4
readings = ["free"]
"#;
const STEPS: usize = 10;
const EVERY: usize = 3;

fn trained() -> Vec<Cell> {
    support::cells(TRAINED, &[])
}

fn keep(folder: &Path) -> Checkpoints {
    Checkpoints {
        folder: folder.join("state"),
        every: EVERY,
        run_id: "0123456789abcdef".into(),
    }
}

/// Trains until `stop` steps are done, as a kill after the last of them would; how many steps were taken here.
fn fit(cell: &Cell, keep: Option<&Checkpoints>, stop: usize) -> (Box<dyn Classifier>, Result<Fit>, usize) {
    let mut classifier = cell.classifier().unwrap();
    let mut told = Vec::new();
    let fit = classifier.fit(&cell.shots().unwrap(), keep, &mut |step| {
        assert_eq!(step.of, STEPS);
        told.push((step.done, step.images));
        if step.done == stop {
            Err(Error::NoGradients)
        } else {
            Ok(())
        }
    });
    // The first may tell of steps of an earlier process; all images are told, each once.
    let first = told.first().map_or(0, |(done, images)| {
        assert_eq!(*images, done * 8);
        if *done > 1 { *done } else { 0 }
    });
    let last = told.last().map_or(0, |(done, _)| *done);
    assert_eq!(told.len(), last - first + usize::from(first > 0));
    (classifier, fit, last - first)
}

/// Everything that a training leaves: the adapter's files, answers, and the final loss to its last bit.
fn outcome(cell: &Cell, (mut classifier, fit, _): (Box<dyn Classifier>, Result<Fit>, usize)) -> Outcome {
    let (folder, fit) = (tempfile::tempdir().unwrap(), fit.unwrap());
    classifier.save(folder.path()).unwrap();
    let numbers = (fit.steps, fit.images_seen, fit.trainable_parameters);
    Outcome {
        files: contents(folder.path()),
        rows: predict(classifier.as_mut(), &cell.test().unwrap()[..20]),
        final_loss: fit.final_loss.unwrap().to_bits(),
        numbers,
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    files: BTreeMap<PathBuf, Vec<u8>>,
    rows: Vec<Prediction>,
    final_loss: u64,
    numbers: (u64, u64, u64),
}

#[test]
fn a_training_that_was_interrupted_ends_the_same() {
    for cell in trained() {
        let expected = outcome(&cell, fit(&cell, None, 0));
        assert_eq!(expected.numbers.0, STEPS as u64);
        for stops in [&[1][..], &[7], &[STEPS - 1], &[STEPS], &[4, 5, 8]] {
            let folder = tempfile::tempdir().unwrap();
            let keep = keep(folder.path());
            let mut taken = 0;
            for &stop in stops {
                let (_, stopped, steps) = fit(&cell, Some(&keep), stop);
                assert!(matches!(stopped, Err(Error::NoGradients)), "{stop}");
                taken += steps;
            }
            let end = fit(&cell, Some(&keep), 0);
            taken += end.2;
            assert!(taken <= STEPS + stops.len() * (EVERY - 1), "{stops:?}: {taken} steps");
            if let [stop] = stops {
                let kept = if *stop == STEPS { STEPS } else { stop / EVERY * EVERY };
                assert_eq!(end.2, STEPS - kept);
                assert_eq!(end.1.as_ref().unwrap().seconds_before > 0.0, kept > 0);
            }
            assert!(outcome(&cell, end) == expected, "{} after {stops:?}", cell.key);
            assert_eq!(
                fs::read_dir(folder.path()).unwrap().count(),
                1,
                "leftovers beside the state"
            );
            keep.forget().unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

/// What is warned of while `work` runs in this thread.
fn warnings(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// The number of the step with which training begins.
fn begins(cell: &Cell, keep: &Checkpoints) -> usize {
    let mut classifier = cell.classifier().unwrap();
    let mut first = 0;
    let stopped = classifier.fit(&cell.shots().unwrap(), Some(keep), &mut |step| {
        first = step.done;
        Err(Error::NoGradients)
    });
    assert!(stopped.is_err());
    first
}

#[test]
fn a_torn_or_foreign_state_is_named_and_not_used() {
    for cell in trained() {
        let folder = tempfile::tempdir().unwrap();
        let whole = keep(folder.path());
        fit(&cell, Some(&whole), 7).1.unwrap_err();
        let files = contents(&whole.folder);
        assert!(files.len() >= 3, "{:?}", files.keys());
        assert_eq!(warnings(|| assert_eq!(begins(&cell, &whole), 6)), "");

        let anew = |keep: &Checkpoints, named: &str| {
            let said = warnings(|| assert_eq!(begins(&cell, keep), 1, "{named}"));
            assert!(said.contains(named) && said.lines().count() == 1, "{named}: {said}");
        };
        for (name, bytes) in &files {
            let path = whole.folder.join(name);
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 1;
            let [mut longer, half] = [bytes.clone(), bytes[..bytes.len() / 2].to_vec()];
            longer.push(b'\n');
            for damaged in [flipped, half, longer, vec![]] {
                fs::write(&path, damaged).unwrap();
                anew(&whole, whole.folder.to_str().unwrap());
                if !name.ends_with("SHA256SUMS") {
                    anew(&whole, name.to_str().unwrap());
                }
            }
            fs::remove_file(&path).unwrap();
            anew(&whole, "SHA256SUMS");
            fs::write(&path, bytes).unwrap();
        }
        let other = Checkpoints {
            run_id: "f123456789abcdef".into(),
            ..whole.clone()
        };
        anew(&other, "0123456789abcdef");
        // The same name, but other random decisions.
        let reseeded = support::cells(TRAINED, &["seeds=[1]"]);
        let reseeded = reseeded.iter().find(|other| other.learner == cell.learner).unwrap();
        let said = warnings(|| assert_eq!(begins(reseeded, &whole), 1));
        assert!(said.contains("training.json"), "{said}");
        // It is still whole, also when the power went in the moment between two states.
        fs::rename(&whole.folder, folder.path().join("state.old")).unwrap();
        fs::create_dir(folder.path().join("state.tmp")).unwrap();
        assert_eq!(begins(&cell, &whole), 6);

        let unwritable = Checkpoints {
            folder: whole.folder.join("training.json/in/a/file"),
            ..whole.clone()
        };
        fs::rename(folder.path().join("state.old"), &whole.folder).unwrap();
        let (_, stopped, steps) = fit(&cell, Some(&unwritable), 0);
        assert!(
            matches!(stopped, Err(Error::Io { .. })) && steps == EVERY - 1,
            "{steps}"
        );
    }
}

/// A torn state costs time and nothing else.
#[test]
fn training_anew_after_a_torn_state_ends_the_same() {
    for cell in trained() {
        let expected = outcome(&cell, fit(&cell, None, 0));
        let folder = tempfile::tempdir().unwrap();
        let keep = keep(folder.path());
        fit(&cell, Some(&keep), 7).1.unwrap_err();
        fs::write(keep.folder.join("training.json"), "{").unwrap();
        let end = fit(&cell, Some(&keep), 0);
        assert_eq!(end.2, STEPS);
        assert!(outcome(&cell, end) == expected);
    }
}

/// One cell a kind of learner, run until the end however often it is stopped.
fn run_to_the_end(folder: &Path, set: &[&str], stop_every: usize) -> (Vec<Record>, usize) {
    let config = format!(
        "{TRAINED}\n[[learner]]\nmethod = 'logistic-regression'\nmodel = 'datasets/mini/models/micro-dinov2'\n\
         [[learner]]\nmethod = 'pixels'\n"
    );
    let overrides: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let sweep = Sweep::parse(&config, "test", &overrides).unwrap();
    let mut stops = 0;
    let mut records = Vec::new();
    for index in 0..sweep.learners.len() {
        let store = Store::open(folder).unwrap();
        for session in 1.. {
            // Planned anew, as a new process does.
            let cell = support::cells(&config, set).remove(index);
            let (mut events, mut steps, mut images) = (0, 0, 0);
            let ended = cell::run(&cell, &store, &sweep, support::PROVENANCE, &mut |event| {
                match event {
                    Event::Trained(step) => {
                        steps = step.done;
                        images += step.images;
                    }
                    Event::Predicted(rows) => images += rows,
                    Event::Complete => {}
                }
                events += 1;
                if events == stop_every {
                    Err(Error::NoGradients)
                } else {
                    Ok(())
                }
            });
            match ended {
                Ok(record) => {
                    assert_eq!(record.timing.sessions, session, "{}", cell.key);
                    assert_eq!(record.training.steps, steps as u64);
                    assert_eq!(
                        images as u64,
                        record.training.steps * 8 + record.n_test as u64,
                        "told once each"
                    );
                    assert!(record.timing.eval_seconds > 0.0 && record.timing.eval_images_per_second > 0.0);
                    records.push(record);
                    break;
                }
                Err(error) => assert!(matches!(error, Error::NoGradients) && session < 20, "{error}"),
            }
            stops += 1;
        }
    }
    let store = Store::open(folder).unwrap();
    store.write_ledger(&records).unwrap();
    (records, stops)
}

#[test]
fn a_cell_that_was_stopped_again_and_again_leaves_the_same_files() {
    let results = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let timed = |path: &Path| path == Path::new("timings.csv") || path.starts_with("cells");
        contents(folder).into_iter().filter(|(path, _)| !timed(path)).collect()
    };
    let [whole, stopped] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (expected, stops) = run_to_the_end(whole.path(), &[], usize::MAX);
    assert_eq!(stops, 0);
    let (records, stops) = run_to_the_end(stopped.path(), &[], 5);
    assert!(stops >= 8, "{stops}");
    assert!(results(stopped.path()) == results(whole.path()));
    for (record, expected) in records.iter().zip(&expected) {
        let timeless = |record: &Record| Record {
            timing: expected.timing.clone(),
            // It is over the times too.
            seal: expected.seal.clone(),
            ..record.clone()
        };
        assert_eq!(timeless(record), timeless(expected));
    }
    for leftover in ["states", "adapters"] {
        assert_eq!(contents(&stopped.path().join(leftover)).len(), 0);
    }
    let names = contents(&stopped.path().join("predictions"));
    assert!(
        names.keys().all(|name| name.to_str().unwrap().ends_with(".parquet")),
        "{:?}",
        names.keys()
    );
}

/// After a kill other images are new at the same time; what is seen in each must not depend on that.
#[test]
fn features_of_an_image_do_not_depend_on_its_company() {
    let frozen = || Frozen::load(&support::model(), &DeviceSpec::cpu()).unwrap();
    let test = trained().remove(0).test().unwrap();
    let bits = |frozen: &Frozen, images| -> Vec<Vec<u32>> {
        let all = frozen.features(images).unwrap();
        all.iter()
            .map(|row| row.iter().map(|x| x.to_bits()).collect())
            .collect()
    };
    let expected = bits(&frozen(), &test);
    for size in [1, 2, 3, 7, 40] {
        let apart = frozen();
        let found: Vec<Vec<u32>> = test.chunks(size).flat_map(|images| bits(&apart, images)).collect();
        assert!(found == expected, "{size} at once");
    }
}
