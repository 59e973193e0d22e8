//! `predict` and `embed` on many images: in constant memory, and on again after a kill.

#![allow(clippy::print_stdout, reason = "what was measured is told")]
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use serde_json::Value;

use crate::forty::Running;
use crate::support::{Sandbox, contents, model, root, stderr, writing_model};

/// Set by the slow suite: images of the long runs.
const IMAGES: &str = "KSHOT_PREDICT_IMAGES";
/// Images of a folder.
const FOLDER: usize = 1000;
/// How far resident memory may move once this many images were seen.
const SETTLED: usize = 1000;
const FLAT: f64 = 0.05;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// So many small photographs, no two alike, in folders.
fn photographs(folder: &Path, count: usize) {
    for first in (0..count).step_by(FOLDER) {
        fs::create_dir_all(folder.join(format!("{:04}", first / FOLDER))).unwrap();
    }
    (0..count).into_par_iter().for_each(|number| {
        let path = folder.join(format!("{:04}/{number:07}.jpg", number / FOLDER));
        let mut bytes = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut bytes, 80);
        photograph(number as u32).write_with_encoder(encoder).unwrap();
        fs::write(path, bytes).unwrap();
    });
}

/// Blocks whose colours write the number down, on a gradient.
fn photograph(number: u32) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let block = y / 16 * 4 + x / 16;
        let digit = (number >> (2 * block)) & 3;
        Rgb([(60 * digit) as u8, (3 * x) as u8, (2 * y + x) as u8])
    })
}

/// A DINOv2 adapter in the sandbox's folder `pets`.
fn adapter(sandbox: &Sandbox) {
    let model = model();
    let train = [
        "train",
        "--model",
        text(&model),
        "--dataset",
        "mini-pets",
        "--shots",
        "1",
        "--out",
        "pets",
    ];
    sandbox.succeed(&[&train[..], &["--set", "images_per_class=8"]].concat());
}

/// What a process said of batches: from which image to which it answered.
fn answered(lines: &[String]) -> Vec<(usize, usize)> {
    let one = |line: &String| {
        let (from, to) = line.split_once("answered ")?.1.split_once(" to ")?;
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    lines.iter().filter_map(one).collect()
}

fn last(lines: &[String]) -> usize {
    answered(lines).last().map_or(0, |&(_, to)| to)
}

/// A line of a process's status, KiB.
fn resident(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Runs to the end; the file's bytes. Memory is flat after [`SETTLED`] images, or a third of them: in no tenth of the time is
/// it far from the mean of all looks. (A single look may find a few MiB that a batch or the allocator holds for a moment.)
fn undisturbed(sandbox: &Sandbox, command: &[&str], images: usize) -> Vec<u8> {
    let arguments = [command, &["--out", "whole.jsonl"]].concat();
    let mut running = Running::start(sandbox.kshot(&arguments));
    let (id, settled) = (running.id(), SETTLED.min(images / 3));
    let mut sizes = Vec::new();
    // A process that has ended has no size.
    while let Some(size) = resident(id) {
        let seen = last(&running.lines());
        if seen == images {
            break;
        }
        if seen >= settled {
            sizes.push(size / 1024.0);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let (status, lines) = running.end();
    assert!(status.success(), "{}", lines.join("\n"));
    assert_eq!(last(&lines), images);
    let mean_of = |sizes: &[f64]| sizes.iter().sum::<f64>() / sizes.len() as f64;
    let mean = mean_of(&sizes);
    let tenths = sizes.chunks(sizes.len().div_ceil(10).max(1)).map(mean_of);
    let (least, most) = tenths.fold((f64::INFINITY, 0.0_f64), |(least, most), size| {
        (least.min(size), most.max(size))
    });
    let told = format!(
        "resident MiB from image {settled} to {images}, {} looks: {least:.1} to {most:.1}, mean {mean:.1}",
        sizes.len()
    );
    println!("{told}");
    assert!(sizes.len() >= 10, "{told}");
    assert!(most <= (1.0 + FLAT) * mean && least >= (1.0 - FLAT) * mean, "{told}");
    fs::read(sandbox.path("whole.jsonl")).unwrap()
}

/// Runs the same with kills between, and demands the same bytes, with no more than a batch done twice each time.
fn killed(sandbox: &Sandbox, command: &[&str], images: usize, batch: usize, expected: &[u8]) {
    let arguments = [command, &["--out", "killed.jsonl"]].concat();
    let file = sandbox.path("killed.jsonl");
    let kills = 4;
    let (mut before, mut alive, mut repeated) = (0, 0, 0);
    for kill in 1..=kills {
        let mut running = Running::start(sandbox.kshot(&arguments));
        running.until(|lines| last(lines) >= images * kill / (kills + 1));
        thread::sleep(Duration::from_micros(3001 * kill as u64));
        let (was_alive, lines) = running.kill();
        alive += usize::from(was_alive);
        repeated += went_on(&lines, before, batch);
        before = last(&lines).max(before);
        let whole = fs::read(&file).unwrap();
        let whole = &whole[..whole.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)];
        assert!(
            expected.starts_with(whole),
            "kill {kill}: other bytes than those of an undisturbed run"
        );
        let lines = whole.iter().filter(|&&byte| byte == b'\n').count();
        assert!(
            lines + batch >= before,
            "of {before} answers only {lines} were on the disk"
        );
        // What a kill in the middle of a write would leave.
        fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"{\"image\":\"torn")
            .unwrap();
        if kill == 2 && whole.len() < expected.len() {
            let torn = fs::read(&file).unwrap();
            let half = expected[whole.len()..].iter().position(|&byte| byte == b'\n').unwrap() / 2;
            fs::write(&file, [whole, &expected[whole.len()..whole.len() + half]].concat()).unwrap();
            assert!(torn.len() > whole.len());
        }
    }
    let lines = Running::start(sandbox.kshot(&arguments)).succeed();
    repeated += went_on(&lines, before, batch);
    assert!(
        fs::read(&file).unwrap() == expected,
        "the file is another than that of an undisturbed run"
    );
    assert!(alive >= kills / 2, "only {alive} of {kills} found it alive");
    println!("{alive} kills of {images} images, {repeated} answered twice, in batches of {batch}");
}

/// Where a process began, given how far those before it had come; how many images it answered again.
fn went_on(lines: &[String], before: usize, batch: usize) -> usize {
    let Some(&(first, _)) = answered(lines).first() else {
        return 0;
    };
    assert!(
        first.is_multiple_of(batch) && first <= before,
        "began with image {first} after {before}"
    );
    assert!(
        before - first <= batch,
        "{} images again, a batch has {batch}",
        before - first
    );
    before - first
}

fn images(fast: usize) -> usize {
    std::env::var(IMAGES).map_or(fast, |images| images.parse().unwrap())
}

#[test]
fn a_vision_model_answers_any_number_of_images_in_constant_memory_and_after_kills() {
    let sandbox = Sandbox::new();
    let count = images(3000);
    photographs(&sandbox.path("photographs"), count);
    adapter(&sandbox);
    let model = model();
    let command = ["predict", "--model", text(&model), "--adapter", "pets", "photographs"];
    let expected = undisturbed(&sandbox, &command, count);
    killed(&sandbox, &command, count, 64, &expected);
}

#[test]
fn a_model_that_writes_answers_any_number_of_images_in_constant_memory_and_after_kills() {
    let sandbox = Sandbox::new();
    let count = images(320);
    photographs(&sandbox.path("photographs"), count);
    let (model, names) = (writing_model(), root().join("tests/fixtures/predict/names.txt"));
    let mut command = vec![
        "predict",
        "--model",
        text(&model),
        "--labels",
        text(&names),
        "photographs",
    ];
    if std::env::var(IMAGES).is_ok() {
        command.extend(["--set", "readings=['likelihood']", "--set", "reading='likelihood'"]);
    }
    let expected = undisturbed(&sandbox, &command, count);
    killed(&sandbox, &command, count, 32, &expected);
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn images_that_cannot_be_read_stand_in_their_place_and_stop_nothing() {
    let sandbox = Sandbox::new();
    adapter(&sandbox);
    photographs(&sandbox.path("all"), 130);
    for (name, bytes) in [
        ("all/0000/0000003.jpg", &b"no image"[..]),
        ("all/0000/0000100.jpg", b""),
    ] {
        fs::write(sandbox.path(name), bytes).unwrap();
    }
    fs::write(sandbox.path("all/0000/notes.txt"), "of another kind").unwrap();
    let whole = fs::read(sandbox.path("all/0000/0000064.jpg")).unwrap();
    fs::write(sandbox.path("all/0000/0000064.jpg"), &whole[..whole.len() / 2]).unwrap();
    let model = model();
    let predict = ["predict", "--model", text(&model), "--adapter", "pets"];
    let with = |more: &[&str]| sandbox.run(&[&predict[..], more].concat());
    let output = with(&["--json", "all"]);
    assert!(
        output.status.success() && stderr(&output).contains("3 of 130"),
        "{}",
        stderr(&output)
    );
    let rows = lines(&output.stdout);
    assert_eq!(rows.len(), 130);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row["image"], format!("all/0000/{number:07}.jpg"));
        let failed = [3, 64, 100].contains(&number);
        assert_eq!(
            (row["error"].is_string(), row["class"].is_string()),
            (failed, !failed),
            "{row}"
        );
    }
    let plain = String::from_utf8(with(&["all"]).stdout).unwrap();
    let marked: Vec<&str> = plain.lines().filter(|line| line.ends_with("\t!")).collect();
    assert_eq!((plain.lines().count(), marked.len()), (130, 3));
    // From a list, on standard input and to a file: the same lines. A list may name what is not there.
    let list: String = (0..130).map(|number| format!("all/0000/{number:07}.jpg\n")).collect();
    fs::write(sandbox.path("list.txt"), &list).unwrap();
    assert_eq!(with(&["--json", "--from", "list.txt"]).stdout, output.stdout);
    let mut asked = sandbox.kshot(&[&predict[..], &["--out", "listed.jsonl", "-"]].concat());
    let mut asked = asked.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    asked.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    assert!(asked.wait().unwrap().success());
    assert_eq!(fs::read(sandbox.path("listed.jsonl")).unwrap(), output.stdout);
    fs::write(sandbox.path("none.txt"), "absent.jpg\nall/0000/0000003.jpg\n").unwrap();
    let none = with(&["--json", "--from", "none.txt"]);
    assert_eq!((none.status.code(), lines(&none.stdout).len()), (Some(2), 2));
    assert!(stderr(&none).contains("none of 2 images"), "{}", stderr(&none));
    assert_eq!(with(&["all/0000/0000003.jpg"]).status.code(), Some(2));
}

#[test]
fn answers_are_gone_on_with_only_if_they_fit() {
    let sandbox = Sandbox::new();
    photographs(&sandbox.path("all"), 70);
    let (model, names) = (writing_model(), root().join("tests/fixtures/predict/names.txt"));
    let predict = [
        "predict",
        "--model",
        text(&model),
        "--set",
        "readings=['likelihood']",
        "--set",
        "reading='likelihood'",
    ];
    let with = |more: &[&str]| sandbox.run(&[&predict[..], more].concat());
    let labels = ["--labels", text(&names)];
    let out = ["--out", "a.jsonl"];
    let ask = |more: &[&str]| with(&[&labels[..], &out, more].concat());
    let (file, settings) = (sandbox.path("a.jsonl"), sandbox.path("a.jsonl.settings"));
    // Some of them, then all of them, then once more: what is there is kept.
    assert!(ask(&["all/0000/0000000.jpg", "all/0000/0000001.jpg"]).status.success());
    assert_eq!(lines(&fs::read(&file).unwrap()).len(), 2);
    assert!(ask(&["all"]).status.success());
    let whole = fs::read(&file).unwrap();
    assert_eq!(lines(&whole).len(), 70);
    let before = contents(&sandbox.path("."));
    assert!(ask(&["all"]).status.success());
    assert_eq!(contents(&sandbox.path(".")), before);

    let refused = |output: std::process::Output, reason: &str| {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("a.jsonl") && said.contains(reason) && said.contains("hint: "),
            "{said}"
        );
        assert_eq!(fs::read(&file).unwrap(), whole, "a refused run changed the answers");
    };
    refused(
        ask(&["all/0000/0000001.jpg", "all/0000/0000000.jpg"]),
        "line 1 is about",
    );
    refused(ask(&["all/0000/0000000.jpg"]), "more answers than the 1 images");
    refused(ask(&["--set", "longest_side=40", "all"]), "another learner");
    fs::write(sandbox.path("other.txt"), "cat\ndog\n").unwrap();
    refused(
        with(&["--labels", "other.txt", "--out", "a.jsonl", "all"]),
        "another list of labels",
    );
    let kept = fs::read(&settings).unwrap();
    fs::remove_file(&settings).unwrap();
    refused(ask(&["all"]), "a.jsonl.settings` is not there");
    fs::write(&settings, kept).unwrap();
    let mut command = sandbox.kshot(&[&predict[..], &labels, &out, &["-"]].concat());
    command.stdin(Stdio::piped());
    let mut busy = Running::start(command);
    assert!(busy.until(|lines| lines.iter().any(|line| line.contains("`a.jsonl` is open"))));
    refused(ask(&["all"]), "another process");
    assert!(busy.kill().0);
    // A line in the middle that is none is nobody's torn end.
    let mut damaged = whole.clone();
    damaged[1] = b'!';
    fs::write(&file, &damaged).unwrap();
    let said = stderr(&ask(&["all"]));
    assert!(said.contains("line 1 is no answer"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), damaged);
}

#[test]
fn features_of_a_folder_are_those_of_its_images() {
    let sandbox = Sandbox::new();
    photographs(&sandbox.path("all"), 70);
    let model = model();
    let embed = ["embed", "--model", text(&model)];
    let rows = lines(sandbox.succeed(&[&embed[..], &["all"]].concat()).as_bytes());
    assert_eq!(rows.len(), 70);
    assert!(
        sandbox
            .succeed(&[&embed[..], &["all", "--npy", "all.npy"]].concat())
            .is_empty()
    );
    let array = candle_core::Tensor::read_npy(sandbox.path("all.npy"))
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    for (row, array) in rows.iter().zip(&array) {
        let both = [&row["cls"], &row["mean_patch"]]
            .into_iter()
            .flat_map(|part| part.as_array().unwrap());
        let values: Vec<f32> = both.map(|value| value.as_f64().unwrap() as f32).collect();
        assert_eq!(&values, array);
    }
    fs::write(sandbox.path("all/0000/0000050.jpg"), "no image").unwrap();
    let output = sandbox.run(&[&embed[..], &["all", "--npy", "torn.npy"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("0000050.jpg"));
    let left: Vec<_> = contents(&sandbox.path("."))
        .into_keys()
        .filter(|path| text(path).contains("torn"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
