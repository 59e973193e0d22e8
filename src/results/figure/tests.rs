use super::*;
use crate::prediction::Reading;
use crate::results::curve::IntervalKind;
use crate::results::metric::Headline;

/// Plausible curves of five learners on `datasets`.
fn sample(datasets: &[(&str, &str, usize)]) -> Vec<Point> {
    let learners = [
        ("DINOv2 LoRA", 0.30, 0.47),
        ("DINOv2 k-NN", 0.27, 0.26),
        ("DINOv2 logistic regression", 0.28, 0.36),
        ("DINOv2 nearest mean", 0.28, 0.30),
        ("raw pixels 1-NN", 0.15, 0.17),
    ];
    let mut points = Vec::new();
    for (d, (dataset, regime, classes)) in datasets.iter().enumerate() {
        for (name, start, rise) in learners {
            for (step, shots) in [1, 2, 4, 8, 16].into_iter().enumerate() {
                let rounded = |share: f64| (share * 1e6).round() / 1e6;
                let share = step as f64 / 4.0;
                let mean = start
                    + 0.05 * (d as f64 * 1.7).sin()
                    + rise * share.powf(0.8)
                    + 0.012 * (shots as f64 + d as f64).cos();
                let half = 0.06 - 0.03 * share;
                points.push(Point {
                    dataset: (*dataset).into(),
                    protocol: Protocol::Clean,
                    regime: Some((*regime).into()),
                    micro: true,
                    metric: if dataset.contains("caltech") {
                        Headline::MeanPerClass
                    } else {
                        Headline::Top1
                    },
                    chance: rounded(1.0 / *classes as f64),
                    learner: name.into(),
                    reading: None,
                    shots: shots.into(),
                    seeds: "0 1 2 3 4".into(),
                    n_test: classes * 24,
                    mean: rounded(mean),
                    low: rounded(mean - half),
                    high: rounded(mean + half),
                    interval: IntervalKind::BootstrapSeedsImages,
                    t_low: Some(rounded(mean - 1.2 * half)),
                    t_high: Some(rounded(mean + 1.2 * half)),
                });
            }
        }
    }
    points
}

/// [`sample`] with a writing learner and its result without examples.
fn sample_with_writer(datasets: &[(&str, &str, usize)], name: &str) -> Vec<Point> {
    let mut points = sample(datasets);
    for (d, (dataset, regime, _)) in datasets.iter().enumerate() {
        let mut own: Vec<Point> = points
            .iter()
            .filter(|p| p.dataset == *dataset && p.learner == "DINOv2 k-NN")
            .cloned()
            .collect();
        let level = if *regime == "known" { 0.3 } else { 0.12 } + 0.02 * d as f64;
        own.push(Point {
            shots: 0.into(),
            seeds: String::new(),
            mean: level,
            low: level - 0.04,
            high: level + 0.05,
            interval: IntervalKind::BootstrapImages,
            t_low: None,
            t_high: None,
            ..own[0].clone()
        });
        for point in &mut own {
            point.learner = name.into();
            point.reading = Some(Reading::Free);
            if point.shots > 0 {
                point.mean = (point.mean * 1.2 * 1e6).round() / 1e6;
            }
        }
        points.extend(own);
    }
    points
}

const FIVE: [(&str, &str, usize); 5] = [
    ("mini-caltech101", "known", 10),
    ("mini-cars", "novel", 8),
    ("mini-fashion", "novel", 10),
    ("mini-flowers", "known", 8),
    ("mini-pets", "known", 12),
];

#[test]
fn the_csv_beside_it_draws_it_again() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &sample(&FIVE)).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let points = curve::from_csv(Path::new("accuracy.csv"), &read("accuracy.csv")).unwrap();
    assert_eq!(svg(&points).unwrap().into_bytes(), read("accuracy.svg"));
    assert!(read("accuracy.png").starts_with(b"\x89PNG"));
}

#[test]
fn no_text_is_small_or_cut_or_on_other_text() {
    let many: Vec<_> = (0..7)
        .map(|i| format!("a dataset with quite a long name, number {i}"))
        .collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "novel", 8)).collect();
    for datasets in [&FIVE[..1], &FIVE[..2], &FIVE[..3], &FIVE[..4], &FIVE, &many[..6], &many] {
        let mut points = if datasets.len() % 2 == 0 {
            sample(datasets)
        } else {
            sample_with_writer(datasets, "Qwen3-VL LoRA")
        };
        if datasets.len() > 5 {
            points
                .iter_mut()
                .for_each(|p| p.learner.push_str(", with a long name as well"));
        }
        let drawing = svg(&points).unwrap();
        let sizes = drawing
            .split("font-size=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap());
        let smallest = sizes.map(|size| size.parse::<f64>().unwrap()).fold(f64::MAX, f64::min);
        assert!(smallest >= 110.0, "tenths of a pixel: {smallest}");

        let (sheet, boxes) = raster::text_boxes(&drawing);
        assert!(boxes.len() > 10 * datasets.len());
        for (i, (text, own)) in boxes.iter().enumerate() {
            let inside =
                own.left() > 0.0 && own.top() > 0.0 && own.right() < sheet.width() && own.bottom() < sheet.height();
            assert!(inside, "`{text}` leaves the sheet of {} datasets", datasets.len());
            for (other_text, other) in &boxes[..i] {
                let apart = own.left() > other.right()
                    || other.left() > own.right()
                    || own.top() > other.bottom()
                    || other.top() > own.bottom();
                assert!(
                    apart,
                    "`{text}` touches `{other_text}` with {} datasets",
                    datasets.len()
                );
            }
        }
    }
}

#[test]
fn captions_say_what_the_numbers_are() {
    let mut points = sample(&FIVE[..1]);
    let drawing = svg(&points).unwrap();
    for text in [
        MICRO_CAVEAT,
        "known concepts · mean per class · n = 240",
        "Protocol clean. Mean over seeds 0, 1, 2, 3, 4",
    ] {
        assert!(drawing.contains(text), "{text}");
    }
    points.iter_mut().for_each(|p| {
        p.micro = false;
        p.seeds = "3".into();
        p.interval = IntervalKind::Wilson;
    });
    let drawing = svg(&points).unwrap();
    assert!(
        !drawing.contains(MICRO_CAVEAT) && drawing.contains("Seed 3;"),
        "{drawing}"
    );
    assert!(drawing.contains("Wilson"));
}

#[test]
fn odd_tables_are_drawn_too() {
    let mut single = sample(&FIVE[..2]);
    single.retain(|p| p.shots == 4 || p.learner.starts_with("raw"));
    svg(&single).unwrap();
    svg(&single[..1]).unwrap();
    let mut crowded = sample(&FIVE[..1]);
    crowded[1].shots = 5.into();
    crowded[2].shots = 6.into();
    svg(&crowded).unwrap();
    assert!(svg(&[]).is_err());
}

#[test]
fn a_level_without_examples_is_a_line_and_no_place_on_the_axis() {
    let points = sample_with_writer(&FIVE, "Qwen3-VL LoRA");
    let drawing = svg(&points).unwrap();
    let (_, boxes) = raster::text_boxes(&drawing);
    let count = |text: &str| boxes.iter().filter(|(own, _)| own == text).count();
    // Once a panel, with ticks 0 % of the accuracy axis only.
    assert_eq!((count("zero-shot"), count("0"), count("16")), (5, 5, 5));
    assert_eq!(
        (count("Qwen3-VL LoRA (free text)"), count("Qwen3-VL LoRA, zero-shot")),
        (1, 1)
    );
    assert_eq!((count("mini-flowers (known)"), count("mini-cars (novel)")), (1, 1));
    let text: Vec<&str> = boxes.iter().map(|(text, _)| text.as_str()).collect();
    let text = text.join(" ");
    for told in [
        "Mean over seeds 0, 1, 2, 3, 4;",
        "Zero-shot (k = 0): no examples, one run, 95 % bootstrap over groups of dependent test images.",
        "mini-cars 14.0 [10.0, 19.0];",
        MICRO_CAVEAT,
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    // The level is drawn in the learner's colour, straight across.
    let without: Vec<Point> = points.iter().filter(|p| p.shots > 0).cloned().collect();
    let strokes = |drawing: &str| drawing.matches("#D55E00").count();
    assert!(strokes(&drawing) > strokes(&svg(&without).unwrap()) + 5 * 10);
}

#[test]
fn levels_side_by_side_keep_their_names_apart() {
    let mut points = sample_with_writer(&FIVE[..2], "Qwen3-VL LoRA");
    for name in ["another", "a third"] {
        let own: Vec<Point> = points
            .iter()
            .filter(|p| p.learner == "Qwen3-VL LoRA")
            .cloned()
            .collect();
        points.extend(own.into_iter().map(|p| Point {
            learner: name.into(),
            ..p
        }));
    }
    for level in [0.0, 0.5, 1.0] {
        points.iter_mut().filter(|p| p.shots == 0).for_each(|p| p.mean = level);
        let (_, boxes) = raster::text_boxes(&svg(&points).unwrap());
        for (i, (text, own)) in boxes.iter().enumerate() {
            for (other, there) in &boxes[..i] {
                let apart = own.left() > there.right()
                    || there.left() > own.right()
                    || own.top() > there.bottom()
                    || there.top() > own.bottom();
                assert!(apart, "`{text}` touches `{other}` at {level}");
            }
        }
    }
}

#[test]
fn levels_alone_are_drawn() {
    let mut points = sample_with_writer(&FIVE[..2], "Qwen3-VL LoRA");
    points.retain(|p| p.shots == 0);
    let drawing = svg(&points).unwrap();
    assert!(drawing.contains("zero-shot") && !drawing.contains("Bands") && !drawing.contains("Mean over"));
}
