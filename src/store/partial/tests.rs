use crate::store::partial::*;
use proptest::prelude::*;

const RUN: &str = "0123456789abcdef";

fn images(n: u32) -> Vec<LabelledImage> {
    let image = |i: u32| LabelledImage {
        id: format!("t/{i:03}.png"),
        class: i % 3,
        sha256: format!("{i:064x}"),
        group: i.is_multiple_of(2).then(|| format!("drawing \"{i}\"")),
        path: PathBuf::new(),
        ..LabelledImage::default()
    };
    (0..n).map(image).collect()
}

fn answer(image: &LabelledImage, log_probs: Option<Vec<f32>>) -> Prediction {
    Prediction {
        id: image.id.clone(),
        sha256: image.sha256.clone(),
        group: image.group.clone(),
        truth: image.class,
        free_text: Some("a line\nand \"another\" é".into()),
        free_class: None,
        trie_class: Some(1),
        likelihood_class: Some(2),
        log_probs,
    }
}

fn answers(images: &[LabelledImage]) -> Vec<Prediction> {
    let probs = |i: usize| vec![-0.1 * i as f32, f32::NEG_INFINITY, -1e-45];
    images
        .iter()
        .enumerate()
        .map(|(i, image)| answer(image, Some(probs(i))))
        .collect()
}

/// A file of two processes: batches of 4, 4, then 3 of 11 images.
fn written(folder: &Path) -> (Vec<LabelledImage>, Vec<u8>) {
    let (test, path) = (images(11), folder.join("a.partial.jsonl"));
    let rows = answers(&test);
    let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
    partial.append(&rows[..4], 1.5).unwrap();
    let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
    partial.append(&rows[4..8], 0.5).unwrap();
    partial.append(&rows[8..], 0.25).unwrap();
    (test, std::fs::read(path).unwrap())
}

fn bits(rows: &[Prediction]) -> Vec<u32> {
    let all = rows.iter().flat_map(|row| row.log_probs.iter().flatten());
    all.map(|p| p.to_bits()).collect()
}

#[test]
fn what_was_closed_comes_back_with_sessions_and_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (test, bytes) = written(folder.path());
    let path = folder.path().join("b");
    std::fs::write(&path, &bytes).unwrap();
    let partial = PartialPredictions::open(&path, RUN, &test).unwrap();
    assert_eq!(partial.complete().unwrap(), answers(&test));
    assert_eq!(bits(partial.rows()), bits(&answers(&test)));
    assert_eq!((partial.sessions(), partial.eval_seconds()), (3, 2.25));
    assert!(std::fs::read(&path).unwrap().starts_with(&bytes));
}

/// Wherever a kill cuts the file, whole batches remain, and what is written then is what would have been.
#[test]
fn every_beginning_of_a_file_gives_whole_batches_and_can_be_continued() {
    let folder = tempfile::tempdir().unwrap();
    let (test, bytes) = written(folder.path());
    let rows = answers(&test);
    let mut counts = std::collections::BTreeMap::new();
    for cut in 0..=bytes.len() {
        let (known, trouble) = Known::read(&bytes[..cut], RUN, &test);
        assert_eq!(trouble, None, "cut at {cut}");
        assert!(known.length <= cut && [0, 4, 8, 11].contains(&known.rows.len()));
        assert_eq!(known.rows, rows[..known.rows.len()]);
        *counts.entry(known.rows.len()).or_insert(0) += 1;
        if cut.is_multiple_of(97) {
            let path = folder.path().join("cut");
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut partial = PartialPredictions::open(&path, RUN, &test).unwrap();
            let done = partial.rows().len();
            for batch in rows[done..].chunks(4) {
                partial.append(batch, 1.0).unwrap();
            }
            let again = PartialPredictions::open(&path, RUN, &test).unwrap();
            assert_eq!(again.complete().unwrap(), rows);
        }
    }
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 4, 8, 11], "{counts:?}");
    assert_eq!(counts[&11], 1, "the last batch counts with its last byte");
}

/// No changed byte is ever trusted: what is kept are whole batches before it.
#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (test, bytes) = written(folder.path());
    let rows = answers(&test);
    for at in 0..bytes.len() {
        for flip in [1u8, 0x20] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let (known, trouble) = Known::read(&damaged, RUN, &test);
            // The very last byte is as if it had never been written.
            assert!(
                trouble.is_some() || at + 1 == bytes.len(),
                "byte {at} of {}",
                bytes.len()
            );
            assert!(known.length <= at, "byte {at}");
            assert_eq!(known.rows, rows[..known.rows.len()]);
        }
    }
}

#[test]
fn another_cell_other_images_and_moved_batches_are_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (test, bytes) = written(folder.path());
    let trouble = |bytes: &[u8], run: &str, test: &[LabelledImage]| {
        let (known, trouble) = Known::read(bytes, run, test);
        (known.rows.len(), trouble.unwrap())
    };
    assert_eq!(trouble(&bytes, "f123456789abcdef", &test).0, 0);
    assert_eq!(trouble(b"no newline", RUN, &test).0, 0);
    let mut swapped = test.clone();
    swapped.swap(5, 6);
    let (kept, reason) = trouble(&bytes, RUN, &swapped);
    assert!(
        kept == 4 && reason.contains("t/005.png") && reason.contains("t/006.png"),
        "{reason}"
    );
    assert!(trouble(&bytes, RUN, &test[..9]).1.contains("too many"));
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    // Header, session, four rows and their end, session, four rows and their end, …
    let without_second = [&lines[..8], &lines[13..]].concat().concat();
    assert_eq!(trouble(&without_second, RUN, &test).0, 4);
    let without_session = [&lines[..7], &lines[8..]].concat().concat();
    assert_eq!(trouble(&without_session, RUN, &test).0, 4);
    // The damage is cut off when the file is opened, and what is missing is told.
    let path = folder.path().join("c");
    std::fs::write(&path, without_second).unwrap();
    let partial = PartialPredictions::open(&path, RUN, &test).unwrap();
    assert_eq!((partial.missing().len(), partial.sessions()), (7, 3));
    assert!(partial.complete().unwrap_err().to_string().contains("7 of 11"));
}

#[test]
fn an_answer_about_another_image_or_without_a_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let test = images(3);
    let mut partial = PartialPredictions::open(&folder.path().join("a"), RUN, &test).unwrap();
    let rows = answers(&test);
    assert!(partial.append(&rows[1..], 1.0).is_err());
    for p in [f32::NAN, f32::INFINITY] {
        assert!(partial.append(&[answer(&test[0], Some(vec![p]))], 1.0).is_err());
    }
    partial.append(&rows, 1.0).unwrap();
    assert!(partial.append(&rows[..1], 1.0).is_err());
    assert_eq!(partial.complete().unwrap(), rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn log_probabilities_come_back_to_the_bit(numbers in prop::collection::vec(any::<u32>(), 1..60)) {
        let log_probs: Vec<f32> = numbers.into_iter().map(f32::from_bits).collect();
        let log_probs: Vec<f32> = log_probs.into_iter().filter(|p| !p.is_nan() && *p != f32::INFINITY).collect();
        let rows = [answer(&images(1)[0], Some([log_probs, vec![f32::NEG_INFINITY, -0.0]].concat()))];
        let folder = tempfile::tempdir().unwrap();
        let (path, test) = (folder.path().join("a"), images(1));
        PartialPredictions::open(&path, RUN, &test).unwrap().append(&rows, 1.0).unwrap();
        let again = PartialPredictions::open(&path, RUN, &test).unwrap();
        prop_assert_eq!(bits(again.rows()), bits(&rows));
    }
}
