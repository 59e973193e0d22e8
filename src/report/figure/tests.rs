use crate::comparison::curve::IntervalKind;
use crate::config::Shots;
use crate::prediction::Reading;
use crate::report::figure::*;
use crate::statistics::metric::Headline;

#[test]
fn the_csv_beside_it_draws_it_again() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &sample(&FIVE)).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let points = curve::from_csv(Path::new("accuracy.csv"), &read("accuracy.csv")).unwrap();
    assert_eq!(svg(&points).unwrap().into_bytes(), read("accuracy.svg"));
    assert!(read("accuracy.png").starts_with(b"\x89PNG"));
}

/// 16 shots of a dataset are only so many.
fn cap(points: &mut [Point], dataset: &str, k: u32) {
    let capped = points.iter_mut().filter(|p| p.dataset == dataset && p.shots == 16);
    capped.for_each(|p| p.capped = Some(k));
}

#[test]
fn fewer_shots_than_asked_for_have_their_own_place_and_mark() {
    let mut points = sample(&FIVE[..2]);
    let before = svg(&points).unwrap();
    points.iter_mut().for_each(|p| p.protocol = Protocol::Tinker);
    cap(&mut points, FIVE[0].0, 10);
    let drawing = svg(&points).unwrap();
    let (_, boxes) = export::tests::text_boxes(&drawing);
    let text: Vec<&str> = boxes.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(text.iter().filter(|text| **text == "10*").count(), 1, "{text:?}");
    let text = text.join(" ");
    assert_eq!(text.matches("protocol tinker ·").count(), 2, "{text}");
    assert!(text.contains("mini-caltech101 10 in place of 16."), "{text}");
    // The markers of five learners in one panel have moved to the left.
    let of = |drawing: &str| -> Vec<String> { drawing.lines().map(str::to_owned).collect() };
    let (old, new) = (of(&before), of(&drawing));
    assert!(new.iter().filter(|line| !old.contains(line)).count() > 10);
    assert!(!before.contains("10*") && !before.contains("in place of"));

    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &points).unwrap();
    let table = std::fs::read(folder.path().join("accuracy.csv")).unwrap();
    assert_eq!(curve::from_csv(Path::new("accuracy.csv"), &table).unwrap(), points);
}

#[test]
fn no_text_is_small_or_cut_or_on_other_text() {
    let many: Vec<_> = (0..7)
        .map(|i| format!("a dataset with quite a long name, number {i}"))
        .collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "novel", 8)).collect();
    let sets = [&FIVE[..1], &FIVE[..2], &FIVE[..3], &FIVE[..4], &FIVE, &many[..6], &many];
    for (datasets, all) in sets.into_iter().flat_map(|set| [(set, false), (set, true)]) {
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
        if all {
            points = whole(points);
        }
        if datasets.len() == 3 {
            cap(&mut points, datasets[0].0, 10);
            cap(&mut points, datasets[1].0, 8);
        }
        let drawing = svg(&points).unwrap();
        let sizes = drawing
            .split("font-size=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap());
        let smallest = sizes.map(|size| size.parse::<f64>().unwrap()).fold(f64::MAX, f64::min);
        assert!(smallest >= 110.0, "tenths of a pixel: {smallest}");

        let (sheet, boxes) = export::tests::text_boxes(&drawing);
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
    let (_, boxes) = export::tests::text_boxes(&drawing);
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
        "Zero-shot (k = 0): no examples, one run, 95 % interval over test images, those of one drawing together.",
        "mini-cars 14.0 [10.0, 19.0];",
        MICRO_CAVEAT,
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    // The level is drawn in the learner's colour, straight across.
    let without: Vec<Point> = points.iter().filter(|p| p.shots > 0).cloned().collect();
    let strokes = |drawing: &str| drawing.matches("#DC5500").count();
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
        let (_, boxes) = export::tests::text_boxes(&svg(&points).unwrap());
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

/// Colours of the lines as wide as curves, and of those as wide as the line of guessing.
fn line_colours(drawing: &str) -> Vec<canvas::Rgb> {
    let mut colours: Vec<canvas::Rgb> = Vec::new();
    for line in drawing.split("<polyline ").skip(1) {
        let value = |name: &str| {
            line.split_once(&format!("{name}=\""))
                .unwrap()
                .1
                .split('"')
                .next()
                .unwrap()
        };
        let is_data = ["20", "16", "12"].contains(&value("stroke-width"));
        let channel = |at: usize| u8::from_str_radix(&value("stroke")[at..at + 2], 16).unwrap();
        let colour = canvas::Rgb(channel(1), channel(3), channel(5));
        if is_data && !colours.contains(&colour) {
            colours.push(colour);
        }
    }
    colours
}

/// The figure of the committed reference, from the table beside it.
#[test]
fn the_reference_figure_is_legible_in_grey() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/reference/mini-full/figures");
    let table = folder.join("accuracy.csv");
    let points = curve::from_csv(&table, &std::fs::read(&table).unwrap()).unwrap();
    let drawing = svg(&points).unwrap();
    assert!(
        drawing == std::fs::read_to_string(folder.join("accuracy.svg")).unwrap(),
        "drawn otherwise"
    );

    let sizes = drawing.split("font-size=\"").skip(1);
    let sizes: Vec<f64> = sizes
        .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
        .collect();
    assert!(
        sizes.len() > 50 && sizes.iter().all(|tenths| *tenths >= 110.0),
        "{sizes:?}"
    );

    let colours = line_colours(&drawing);
    // Every learner and guessing.
    assert_eq!(colours.len(), learners(&points).len() + 1, "{colours:?}");
    for (i, &a) in colours.iter().enumerate() {
        assert!(canvas::vision::contrast(a, canvas::PAPER) >= 3.0, "{a:?}");
        for &b in &colours[..i] {
            let contrast = canvas::vision::contrast(a, b);
            assert!(contrast >= 1.25, "{a:?} and {b:?}: {contrast}");
        }
    }
}

#[test]
fn full_data_is_a_level_of_the_learners_in_question() {
    let points = whole(sample_with_writer(&FIVE, "Qwen3-VL LoRA"));
    let (_, boxes) = export::tests::text_boxes(&svg(&points).unwrap());
    let count = |text: &str| boxes.iter().filter(|(own, _)| own == text).count();
    // Two learners in five panels and the mean.
    assert_eq!((count("full data"), count("zero-shot")), (12, 6));
    assert_eq!(
        (count("DINOv2 LoRA, full data"), count("Qwen3-VL LoRA, full data")),
        (1, 1)
    );
    assert_eq!(count("DINOv2 k-NN, full data"), 0);
    assert_eq!(
        (
            count("mean of 5 datasets"),
            count("cost"),
            count("device-seconds per cell")
        ),
        (1, 1, 1)
    );
    let text: Vec<&str> = boxes.iter().map(|(text, _)| text.as_str()).collect();
    let text = text.join(" ");
    for told in [
        "Full data (k = all): the whole training pool, seed 0, 95 % Wilson interval over test images.",
        "Mean: datasets weigh the same",
        "Measured on cpu, 2 threads.",
        MICRO_CAVEAT,
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn names_of_levels_stay_clear_of_markers() {
    // A level that meets the last marker of a curve: the name goes elsewhere.
    let mut points = sample_with_writer(&FIVE[..1], "Qwen3-VL LoRA");
    let last = points.iter().find(|p| p.learner.starts_with("raw") && p.shots == 16);
    let level = last.unwrap().mean - 0.02;
    points.iter_mut().filter(|p| p.shots == 0).for_each(|p| p.mean = level);
    let drawing = svg(&points).unwrap();
    let (_, boxes) = export::tests::text_boxes(&drawing);
    let (_, name) = boxes.iter().find(|(text, _)| text == "zero-shot").unwrap();
    let circles = drawing.split("<circle ").skip(1).map(|circle| {
        let value = |key: &str| -> f32 {
            let rest = circle.split_once(&format!("{key}=\"")).unwrap().1;
            rest.split('"').next().unwrap().parse::<f32>().unwrap() / 10.0
        };
        (value("cx"), value("cy"))
    });
    let polygons = drawing.matches("<polygon ").count();
    assert!(circles.clone().count() >= 10 && polygons > 20);
    for (x, y) in circles {
        let inside = x > name.left() - 3.0 && x < name.right() + 3.0 && y > name.top() - 2.0 && y < name.bottom() + 2.0;
        assert!(!inside, "marker at {x}, {y} under {name:?}");
    }
}

#[test]
fn a_red_control_strikes_the_point_out() {
    let mut points = whole(sample_with_writer(&FIVE[..2], "Qwen3-VL LoRA"));
    let caveat = "a sanity control is red";
    let before = svg(&points).unwrap();
    assert!(!before.contains(caveat) && !before.contains("(red)"));
    let red = points
        .iter_mut()
        .filter(|p| p.panel == Panel::Dataset && p.learner == "Qwen3-VL LoRA");
    red.filter(|p| p.shots == 4 || p.shots == 0).for_each(|p| p.red = true);
    let drawing = svg(&points).unwrap();
    assert!(drawing.contains(caveat));
    assert_eq!(drawing.matches("zero-shot (red)").count(), 2);
    // Two strokes and the paper inside the outline, for one marker in each of two panels.
    let ink = |drawing: &str| drawing.matches(r##"stroke="#222222""##).count();
    assert_eq!(ink(&drawing), ink(&before) + 4);
    assert_eq!(
        drawing.matches("<circle ").count(),
        before.matches("<circle ").count() + 2
    );
}

#[test]
fn published_results_are_shown_only_where_they_compare() {
    let table = "dataset,protocol,metric,model,method,shots,accuracy,source,verified\n\
        pets,clean,top1,CLIP,linear probe,4,71.2,a paper,read\n\
        pets,clean,top1,CLIP,linear probe,16,85.3,a paper,read\n\
        pets,clean,top1,CLIP,zero-shot,0,89.1,another paper,read\n\
        pets,clean,top1,CLIP,linear probe,64,91.0,a paper,read\n";
    let anchors = anchor::parse(table).unwrap();
    let mut points = sample(&[("pets", "novel", 37)]);
    points.iter_mut().for_each(|p| (p.micro, p.regime) = (false, None));
    let grey = |points: &[Point], anchors: &[Anchor]| draw(points, anchors).unwrap().matches("#777777").count();
    // A ring each; what lies beyond the axis has none.
    assert_eq!(grey(&points, &anchors), 3);
    let (_, boxes) = export::tests::text_boxes(&draw(&points, &anchors).unwrap());
    let text: Vec<&str> = boxes.iter().map(|(text, _)| text.as_str()).collect();
    let text = text.join(" ");
    for told in [
        "Grey rings: published results",
        "1: CLIP, linear probe (a paper)",
        "2: CLIP, zero-shot (another",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let changed = |change: &dyn Fn(&mut Point)| {
        let mut points = points.clone();
        points.iter_mut().for_each(change);
        grey(&points, &anchors)
    };
    assert_eq!(changed(&|p| p.metric = Some(Headline::MeanPerClass)), 0);
    assert_eq!(changed(&|p| p.dataset = "mini-pets".into()), 0);
    assert_eq!(changed(&|p| p.micro = true), 0);
    let other = table.replace(",clean,", ",coop,");
    assert_eq!(grey(&points, &anchor::parse(&other).unwrap()), 0);
    // Of the real table only what is of the same protocol is shown: the eleven numbers of CoOp's on Stanford Cars.
    points.iter_mut().for_each(|p| p.dataset = "stanford-cars".into());
    for (protocol, rings) in [(Protocol::Clean, 0), (Protocol::Tinker, 0), (Protocol::Coop, 11)] {
        points.iter_mut().for_each(|p| p.protocol = protocol);
        assert_eq!(grey(&points, &anchor::anchors().unwrap()), rings, "{protocol}");
    }
}

#[test]
fn the_table_alone_draws_all_three_forms_again() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &whole(sample_with_writer(&FIVE, "Qwen3-VL LoRA"))).unwrap();
    let there = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    std::fs::write(folder.path().join("again.csv"), there("accuracy.csv")).unwrap();
    redraw(&folder.path().join("again.csv")).unwrap();
    for kind in ["csv", "svg", "png", "pdf"] {
        assert!(
            there(&format!("again.{kind}")) == there(&format!("accuracy.{kind}")),
            "{kind}"
        );
    }
    let missing = redraw(&folder.path().join("nothing.csv")).unwrap_err();
    assert!(missing.to_string().contains("nothing.csv"), "{missing}");
}

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
                    panel: Panel::Dataset,
                    dataset: (*dataset).into(),
                    protocol: Protocol::Clean,
                    regime: Some((*regime).into()),
                    micro: true,
                    metric: Some(if dataset.contains("caltech") {
                        Headline::MeanPerClass
                    } else {
                        Headline::Top1
                    }),
                    chance: rounded(1.0 / *classes as f64),
                    learner: name.into(),
                    reading: None,
                    subject: name == "DINOv2 LoRA",
                    shots: shots.into(),
                    seeds: "0 1 2 3 4".into(),
                    n_test: classes * 24,
                    mean: rounded(mean),
                    low: rounded(mean - half),
                    high: rounded(mean + half),
                    interval: IntervalKind::SeedsImages,
                    t_low: Some(rounded(mean - 1.2 * half)),
                    t_high: Some(rounded(mean + 1.2 * half)),
                    red: false,
                    device_seconds: None,
                    device: String::new(),
                    capped: None,
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
            interval: IntervalKind::Images,
            t_low: None,
            t_high: None,
            ..own[0].clone()
        });
        for point in &mut own {
            point.learner = name.into();
            point.reading = Some(Reading::Free);
            point.subject = true;
            if point.shots > 0 {
                point.mean = (point.mean * 1.2 * 1e6).round() / 1e6;
            }
        }
        points.extend(own);
    }
    points
}

/// `points` with full data of every learner, the means of all datasets and what everything took.
fn whole(mut points: Vec<Point>) -> Vec<Point> {
    let largest: Vec<Point> = points.iter().filter(|p| p.shots == 16).cloned().collect();
    points.extend(largest.into_iter().map(|p| Point {
        shots: Shots::All,
        seeds: "0".into(),
        mean: (p.mean + 0.06).min(1.0),
        interval: IntervalKind::Wilson,
        ..p
    }));
    let datasets = distinct(&points, |p| p.dataset.clone());
    let (first, count) = (datasets[0].clone(), datasets.len() as f64);
    for (index, point) in points.iter_mut().enumerate() {
        point.device_seconds = Some([0.002, 0.31, 4.9, 57.0][index % 4] + f64::from(point.shots.any()));
        point.device = "cpu, 2 threads".into();
    }
    let mean = |one: &Point| {
        let own = |p: &&Point| p.learner == one.learner && p.shots == one.shots;
        let over = |number: fn(&Point) -> f64| points.iter().filter(own).map(number).sum::<f64>() / count;
        Point {
            panel: Panel::Mean,
            dataset: format!("mean of {count} datasets"),
            regime: None,
            metric: None,
            mean: over(|p| p.mean),
            low: over(|p| p.low),
            high: over(|p| p.high),
            interval: IntervalKind::Datasets,
            ..one.clone()
        }
    };
    let means: Vec<Point> = points.iter().filter(|p| p.dataset == first).map(mean).collect();
    points.extend(means.into_iter().filter(|_| datasets.len() > 1));
    points
}

const FIVE: [(&str, &str, usize); 5] = [
    ("mini-caltech101", "known", 10),
    ("mini-cars", "novel", 8),
    ("mini-fashion", "novel", 10),
    ("mini-flowers", "known", 8),
    ("mini-pets", "known", 12),
];
