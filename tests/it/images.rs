//! Images as people have them: turned by the camera, replaced behind a result's back, far longer than wide, in a mode of their
//! own. Right values: `tests/fixtures/images/make.py`, transformers 5.24 with Pillow 13.0.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::support::{Sandbox, root, stderr};

const VISION: &str = "datasets/mini/models/micro-dinov2";
const WRITING: &str = "datasets/mini/models/micro-qwen3-vl";

fn fixture(name: &str) -> String {
    root().join("tests/fixtures/images").join(name).display().to_string()
}

fn model(name: &str) -> String {
    root().join(name).display().to_string()
}

/// The class in red, the number of the image in green and blue.
fn picture(class: u32, number: u32) -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| {
        Rgb([
            (60 + 120 * class) as u8,
            (x * 5 + number * 13) as u8,
            (y * 7 + number * 29) as u8,
        ])
    })
}

pub(super) fn make(folder: &Path, images: u32) {
    for (class, name) in (0..).zip(["ash", "oak"]) {
        fs::create_dir_all(folder.join(name)).unwrap();
        for number in 0..images {
            picture(class, number)
                .save(folder.join(name).join(format!("{number}.png")))
                .unwrap();
        }
    }
}

/// A sandbox whose manifests and cache are its own.
fn own() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("datasets")).unwrap();
    sandbox
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> (Option<i32>, String, String) {
    let home = sandbox.path("");
    let output = sandbox
        .kshot(arguments)
        .env("KSHOT_HOME", &home)
        .env("KSHOT_CACHE", sandbox.path("cache"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
    (output.status.code(), out, err)
}

/// Other pixels in a file of the same size and name, with the time of change that it had.
fn replace(path: &Path) {
    let changed = fs::metadata(path).unwrap().modified().unwrap();
    let mut image = image::load_from_memory(&fs::read(path).unwrap()).unwrap().into_rgb8();
    image.pixels_mut().for_each(|pixel| pixel.0.reverse());
    let before = fs::metadata(path).unwrap().len();
    fs::write(path, bmp(&image)).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), before);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(changed)
        .unwrap();
}

fn bmp(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

/// Whether two objects of log-probabilities are there and agree.
fn near(a: &Value, b: &Value) -> bool {
    let all = |value: &Value| -> Vec<f64> {
        value
            .as_object()
            .unwrap()
            .values()
            .map(|x| x.as_f64().unwrap())
            .collect()
    };
    all(a).iter().zip(all(b)).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// CLS and mean patch of each image.
fn features(sandbox: &Sandbox, more: &[&str]) -> Vec<Vec<f64>> {
    let model = model(VISION);
    let text = sandbox.succeed(&[&["embed", "--model", &model], more].concat());
    let of = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        ["cls", "mean_patch"]
            .iter()
            .flat_map(|part| row[part].as_array().unwrap().clone())
            .map(|x| x.as_f64().unwrap())
            .collect()
    };
    text.lines().map(of).collect()
}

/// Exit code, answers and stderr of the micro Qwen3-VL about images, with the class names in `names.txt`.
fn answers(sandbox: &Sandbox, images: &[&str]) -> (Option<i32>, String, String) {
    let writing = model(WRITING);
    let command = ["predict", "--model", &writing, "--labels", "names.txt", "--json"];
    run(sandbox, &[&command[..], images].concat())
}

#[test]
fn a_photograph_on_its_side_has_the_features_that_transformers_gives_it() {
    let sandbox = Sandbox::new();
    let right: BTreeMap<String, Vec<f64>> =
        serde_json::from_slice(&fs::read(fixture("features.json")).unwrap()).unwrap();
    let names = [
        "upright.jpg",
        "phone.jpg",
        "upright.png",
        "phone.png",
        "upright.webp",
        "phone.webp",
    ];
    let files = names.map(fixture);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    for exif in ["true", "false"] {
        let found = features(&sandbox, &[&["--exif", exif], &files[..]].concat());
        for (name, row) in names.iter().zip(found) {
            let right = &right[&format!("{name} {exif}")];
            let far = row.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(row.len() == right.len() && far < 1e-4, "{name}, exif {exif}: {far}");
        }
    }
    // As before, without a word: lying on its side it is far from itself.
    let apart = right["phone.png false"]
        .iter()
        .zip(&right["upright.png true"])
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(apart > 0.1, "{apart}");
}

#[test]
fn a_model_that_writes_gives_both_the_same_log_probabilities() {
    let sandbox = own();
    fs::write(sandbox.path("names.txt"), "ash\noak\n").unwrap();
    let answers = |exif: &str| -> Vec<Value> {
        let files = ["upright.png", "phone.png"].map(fixture);
        let text = sandbox.succeed(&[
            "predict",
            "--model",
            &model(WRITING),
            "--labels",
            "names.txt",
            "--json",
            "--exif",
            exif,
            &files[0],
            &files[1],
        ]);
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["log_probs"].clone())
            .collect()
    };
    let turned = answers("true");
    assert!(near(&turned[0], &turned[1]), "{turned:?}");
    let stored = answers("false");
    assert!(
        near(&stored[0], &turned[0]) && !near(&stored[1], &turned[1]),
        "{stored:?}"
    );
}

#[test]
fn a_sweep_says_how_it_reads_and_orientations_are_counted() {
    let sandbox = own();
    make(&sandbox.path("trees"), 6);
    for name in ["ash", "oak"] {
        fs::copy(fixture("phone.png"), sandbox.path("trees").join(name).join("9.png")).unwrap();
    }
    fs::write(
        sandbox.path("c.toml"),
        "name='c'\ndatasets=['trees']\nshots=[1]\n[[learner]]\nmethod='pixels'\n",
    )
    .unwrap();
    assert_eq!(
        run(&sandbox, &["data", "import", "trees", "--name", "trees"]).0,
        Some(0)
    );
    let (code, text, _) = run(&sandbox, &["data", "verify", "trees"]);
    assert!(
        code == Some(0) && text.contains("2 images have an EXIF or XMP orientation (2 with 6)"),
        "{text}"
    );
    let (_, json, _) = run(&sandbox, &["data", "verify", "trees", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["orientations"]["6"], 2);
    // Upright, 48 wide and 32 high; all others are 40 x 30.
    assert_eq!(
        (&json[0]["widths"][2], &json[0]["heights"][2]),
        (&48.into(), &32.into())
    );
    for (set, folder) in [
        (&["--set", "exif=true"][..], "a"),
        (&["--set", "exif=false"], "b"),
        (&[], "c"),
    ] {
        let (code, _, err) = run(
            &sandbox,
            &[&["sweep", "--config", "c.toml", "--results", folder], set].concat(),
        );
        assert_eq!(code, Some(0), "{err}");
    }
    let ids = |folder: &str| -> Vec<String> {
        let cells = fs::read_dir(sandbox.path(folder).join("c/cells"))
            .or_else(|_| fs::read_dir(sandbox.path(folder).join("cells")));
        cells
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(ids("a"), ids("c"));
    assert_ne!(ids("a"), ids("b"));
}

/// Own folders and images of before with the same names, sizes and times: nothing is computed under an old identity.
#[test]
fn images_replaced_behind_a_result_are_found() {
    let sandbox = own();
    make(&sandbox.path("trees"), 8);
    // Files that are of one size whatever is in them.
    for class in ["ash", "oak"] {
        for number in 0..8 {
            let path = sandbox.path("trees").join(class).join(format!("{number}.png"));
            let image = image::open(&path).unwrap().into_rgb8();
            fs::write(&path, bmp(&image)).unwrap();
        }
    }
    fs::write(
        sandbox.path("c.toml"),
        "name='c'\ndatasets=['trees']\nshots=[2]\n[[learner]]\nmethod='pixels'\n",
    )
    .unwrap();
    assert_eq!(
        run(&sandbox, &["data", "import", "trees", "--name", "trees"]).0,
        Some(0)
    );
    assert_eq!(run(&sandbox, &["sweep", "--config", "c.toml"]).0, Some(0));
    assert_eq!(run(&sandbox, &["promote", "results/c", "compact"]).0, Some(0));
    for folder in ["results/c", "compact"] {
        let (code, text, err) = run(&sandbox, &["verify", folder, "--images"]);
        assert!(
            code == Some(0) && text.contains("images behind them were hashed again"),
            "{text}{err}"
        );
    }
    // The name of the one record.
    let record = || {
        let mut records = fs::read_dir(sandbox.path("results/c/cells")).unwrap();
        let name = records.next().unwrap().unwrap().file_name();
        assert!(records.next().is_none());
        name
    };
    record();
    let split = contents_of(&sandbox.path("results/c/splits"));
    let split: Value = serde_json::from_str(&split).unwrap();
    for side in ["train", "test"] {
        let id = split[side][0]["id"].as_str().unwrap();
        let path = sandbox.path("trees").join(id);
        let kept = fs::read(&path).unwrap();
        replace(&path);
        for folder in ["results/c", "compact"] {
            let (code, text, err) = run(&sandbox, &["verify", folder, "--images"]);
            assert!(
                code == Some(1) && text.contains(&format!("image `{id}`")),
                "{side} {folder}: {text}{err}"
            );
        }
        // The sweep is another one now: it says why, and takes the place of the old one only when it is told to.
        let (code, _, err) = run(&sandbox, &["sweep", "--config", "c.toml"]);
        assert!(
            code == Some(2) && err.contains(id) && err.contains("other images") && err.contains("--replace"),
            "{side}: {err}"
        );
        let before = record();
        assert_eq!(
            run(&sandbox, &["sweep", "--config", "c.toml", "--replace"]).0,
            Some(0),
            "{side}"
        );
        assert!(record() != before, "{side}: another `run_id`");
        fs::write(&path, kept).unwrap();
        assert_eq!(
            run(&sandbox, &["verify", "compact", "--images"]).0,
            Some(0),
            "{side}, put back"
        );
    }
    // Two images that change places: each file is whole, and each is another.
    let [a, b] = [0, 1].map(|i| sandbox.path("trees").join(split["test"][i]["id"].as_str().unwrap()));
    let aside = sandbox.path("aside");
    for (from, to) in [(&a, &aside), (&b, &a), (&aside, &b)] {
        fs::rename(from, to).unwrap();
    }
    let (code, text, _) = run(&sandbox, &["verify", "compact", "--images"]);
    assert!(code == Some(1) && text.matches("image `").count() == 2, "{text}");
}

fn contents_of(folder: &Path) -> String {
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    fs::read_to_string(file).unwrap()
}

#[test]
fn an_unpacked_image_that_was_replaced_is_unpacked_again() {
    let sandbox = own();
    let home = root().display().to_string();
    fs::write(
        sandbox.path("c.toml"),
        "name='c'\ndatasets=['mini-pets']\nshots=[1]\n[[learner]]\nmethod='pixels'\n",
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let output = sandbox
            .kshot(arguments)
            .env("KSHOT_HOME", &home)
            .env("KSHOT_CACHE", sandbox.path("cache"))
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout.clone()).unwrap(),
            stderr(&output),
        )
    };
    assert_eq!(run(&["sweep", "--config", "c.toml"]).0, Some(0));
    let split: Value = serde_json::from_str(&contents_of(&sandbox.path("results/c/splits"))).unwrap();
    let id = split["test"][3]["id"].as_str().unwrap();
    let dataset = fs::read_dir(sandbox.path("cache/datasets/mini-pets")).unwrap();
    let files = dataset
        .map(|entry| entry.unwrap().path().join("files"))
        .find(|files| files.is_dir())
        .unwrap();
    let path = files.join(id);
    let whole = fs::read(&path).unwrap();
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&path, other).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(changed)
        .unwrap();
    let (code, text, _) = run(&["verify", "results/c", "--images"]);
    assert!(code == Some(1) && text.contains(&format!("image `{id}`")), "{text}");
    let (code, _, err) = run(&["sweep", "--config", "c.toml"]);
    assert!(
        code == Some(0) && err.contains("unpacked again") && err.contains(id),
        "{err}"
    );
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(run(&["verify", "results/c", "--images"]).0, Some(0));
}

#[test]
fn an_image_far_longer_than_wide_is_named_before_anything_is_trained() {
    let sandbox = own();
    make(&sandbox.path("trees"), 6);
    RgbImage::from_pixel(1000, 3, Rgb([9, 99, 200]))
        .save(sandbox.path("trees/ash/long.png"))
        .unwrap();
    let (code, _, err) = run(&sandbox, &["data", "import", "trees", "--name", "trees"]);
    assert!(
        code == Some(0) && err.contains("`ash/long.png` is refused by Qwen3-VL") && err.contains("1000 × 3 pixels"),
        "{err}"
    );
    let learners = format!(
        "[[learner]]\nmethod='qwen3-vl-lora'\nmodel='{}'\nimages_per_class=2\nbatch=2\n[[learner]]\nmethod='nearest-mean'\nmodel='{}'\n",
        model(WRITING),
        model(VISION)
    );
    fs::write(
        sandbox.path("c.toml"),
        format!("name='c'\ndatasets=['trees']\nshots=[1]\n{learners}"),
    )
    .unwrap();
    let (code, _, err) = run(&sandbox, &["sweep", "--config", "c.toml"]);
    assert!(code == Some(0) && err.contains("`ash/long.png`"), "{err}");
    for entry in fs::read_dir(sandbox.path("results/c/cells")).unwrap() {
        let record: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        assert_eq!(record["card"]["refused"], serde_json::json!(["ash/long.png"]));
    }
    assert_eq!(run(&sandbox, &["verify", "results/c", "--images"]).0, Some(0));
    // Alone, a learner that takes it is asked about it; features are those of an ordinary image.
    fs::write(sandbox.path("names.txt"), "ash\noak\n").unwrap();
    let long = sandbox.path("trees/ash/long.png").display().to_string();
    let (code, _, _) = run(&sandbox, &["embed", "--model", &model(VISION), &long]);
    assert_eq!(code, Some(0));
    let (code, text, _) = answers(&sandbox, &[&long, &fixture("phone.png")]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        code == Some(0) && lines[0].contains("long.png") && lines[0].contains("200 times"),
        "{text}"
    );
    assert!(lines[1].contains("log_probs"), "{text}");
}

#[test]
fn one_gif_without_a_screen_takes_no_other_image_along() {
    let sandbox = own();
    fs::write(sandbox.path("names.txt"), "ash\noak\n").unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(0, 1).write_to(&mut bytes, image::ImageFormat::Gif).unwrap();
    let mut bytes = bytes.into_inner();
    fs::write(sandbox.path("whole.gif"), &bytes).unwrap();
    bytes[6..10].fill(0);
    fs::write(sandbox.path("screen.gif"), &bytes).unwrap();
    let frame = bytes
        .windows(9)
        .position(|w| w[0] == b',' && w[5..9] == [40, 0, 30, 0])
        .unwrap();
    bytes[frame + 5..frame + 9].fill(0);
    fs::write(sandbox.path("nothing.gif"), &bytes).unwrap();
    let files = ["whole.gif", "screen.gif", "nothing.gif"].map(|name| sandbox.path(name).display().to_string());
    let phone = fixture("phone.jpg");
    let (code, text, err) = answers(&sandbox, &[&files[0], &files[1], &files[2], &phone]);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(code == Some(0) && rows.len() == 4, "{err}");
    assert!(near(&rows[0]["log_probs"], &rows[1]["log_probs"]), "{text}");
    assert!(rows[2]["error"].as_str().unwrap().contains("nothing.gif"), "{text}");
    assert!(rows[3]["log_probs"].is_object(), "{text}");
}
