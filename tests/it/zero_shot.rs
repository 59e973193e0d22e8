//! CLIP and SigLIP against transformers, and as learners of a sweep.
//!
//! Origin of the fixtures: `tests/fixtures/zero_shot/make.py`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use kshot::data::LabelledImage;
use kshot::error::Error;
use kshot::example::{CaptionTokenizer, Padding};
use kshot::learner::zero_shot::{Pair, ZeroShotClassifier};
use kshot::models::contrastive::{Contrastive, Family};
use kshot::nn::DeviceSpec;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tempfile::TempDir;

use crate::goldens::{Tensors, relative_to_max, values};
use crate::support::{Sandbox, predict, root, stderr};

const FAMILIES: [(&str, Family, Padding); 2] = [
    ("clip", Family::Clip, Padding::Longest),
    ("siglip", Family::Siglip, Padding::MaxLength),
];
/// Share of the largest value of a tensor.
const TOLERANCE: f64 = 1e-5;

/// A fixture unpacked to a folder of its own.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        unpack(name, folder.path());
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn goldens(&self) -> (Tensors, Value) {
        let tensors = candle_core::safetensors::load(self.path().join("goldens.safetensors"), &Device::Cpu).unwrap();
        let notes = fs::read(self.path().join("goldens.json")).unwrap();
        (tensors, serde_json::from_slice(&notes).unwrap())
    }

    /// Changes a JSON file of the folder.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Changes the names and tensors of the weights.
    fn reweigh(&self, change: impl FnOnce(&mut Tensors)) {
        let path = self.path().join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }
}

fn unpack(name: &str, to: &Path) {
    for entry in fs::read_dir(root().join("tests/fixtures/zero_shot").join(name)).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(fs::File::open(&path).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        fs::write(to.join(path.file_stem().unwrap()), bytes).unwrap();
    }
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn texts(notes: &Value) -> Vec<String> {
    let templates = strings(&notes["templates"]);
    let of_class = |name: &String| templates.iter().map(|t| t.replace("{}", name)).collect::<Vec<_>>();
    strings(&notes["classes"]).iter().flat_map(of_class).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn images(notes: &Value) -> Vec<LabelledImage> {
    let image = |name: String| LabelledImage {
        sha256: sha256(&fs::read(root().join("tests/fixtures/predict").join(&name)).unwrap()),
        path: root().join("tests/fixtures/predict").join(&name),
        id: name,
        class: 0,
        ..LabelledImage::default()
    };
    strings(&notes["images"]).into_iter().map(image).collect()
}

fn pair(fixture: &Fixture, family: Family) -> Arc<Pair> {
    Arc::new(Pair::load(fixture.path(), family, &DeviceSpec::cpu()).unwrap())
}

#[test]
fn pixels_and_tokens_match() {
    for (name, family, fill) in FAMILIES {
        let fixture = Fixture::new(name);
        let (expected, notes) = fixture.goldens();
        let found = pair(&fixture, family).pixels(&images(&notes)).unwrap();
        assert_eq!(found.dims(), expected["pixel_values"].dims(), "{name}");
        // One step of 8 bits before normalisation, as for `BitImageProcessor`.
        let step = 1.01 / 255.0 / 0.26;
        let pairs = values(&found).into_iter().zip(values(&expected["pixel_values"]));
        let off: Vec<f64> = pairs.map(|(a, b)| (a - b).abs()).collect();
        assert!(off.iter().all(|off| *off <= 2.0 * step), "{name}");
        assert!(
            off.iter().filter(|off| **off > step).count() * 100 <= off.len(),
            "{name}"
        );

        let context = expected["input_ids"].dim(1).unwrap();
        let captions = CaptionTokenizer::load(fixture.path(), fill, 40).unwrap();
        let ids = captions.encode(&texts(&notes)).unwrap();
        let reference: Vec<f64> = values(&expected["input_ids"]);
        let end = reference.iter().copied().fold(0.0, f64::max) as u32;
        for (row, expected) in ids.iter().zip(reference.chunks(context)) {
            let mut expected: Vec<u32> = expected.iter().map(|id| *id as u32).collect();
            if fill == Padding::Longest {
                // transformers fills up with the end token, which changes nothing either.
                let length = expected.iter().position(|id| *id == end).unwrap() + 1;
                expected[length..].fill(0);
            }
            assert_eq!(row, &expected, "{name}");
        }
        assert_eq!(ids.len(), reference.len() / context);
    }
}

#[test]
fn features_and_logits_match() {
    for (name, family, fill) in FAMILIES {
        let fixture = Fixture::new(name);
        let (expected, notes) = fixture.goldens();
        let model = Contrastive::load(fixture.path(), family, &DeviceSpec::cpu()).unwrap();
        let near = |what: &str, found: &Tensor| {
            let error = relative_to_max(found, &expected[what]);
            assert!(error <= TOLERANCE, "{name}: {what} differs by {error:e}");
        };
        let image = model.image_features(&expected["pixel_values"]).unwrap();
        near("image_features", &image);
        let rows = CaptionTokenizer::load(fixture.path(), fill, 40)
            .unwrap()
            .encode(&texts(&notes))
            .unwrap();
        let ids = Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap();
        let text = model.text_features(&ids).unwrap();
        near("text_features", &text);
        let unit = |rows: &Tensor| kshot::models::contrastive::unit_rows(rows).unwrap();
        near("logits_per_image", &model.logits(&unit(&image), &unit(&text)).unwrap());
    }
}

#[test]
fn a_class_is_the_mean_of_its_templates() {
    for (name, family, _) in FAMILIES {
        let fixture = Fixture::new(name);
        let (expected, notes) = fixture.goldens();
        let (classes, templates) = (strings(&notes["classes"]), strings(&notes["templates"]));
        let mut classifier = ZeroShotClassifier::new(pair(&fixture, family), &classes, &templates);
        let images = images(&notes);
        let found = classifier.logits(&images).unwrap();
        let logits = Tensor::new(found.clone(), &Device::Cpu).unwrap();
        // Pixels may be off by one of 255 levels.
        let error = relative_to_max(&logits, &expected["ensembled_logits"]);
        assert!(error <= 2e-3, "{name}: logits differ by {error:e}");

        let rows = predict(&mut classifier, &images);
        for (row, logits) in rows.iter().zip(&found) {
            let log_probs = row.log_probs.as_ref().unwrap();
            let sum: f64 = log_probs.iter().map(|p| f64::from(*p).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-5);
            let best = (0..logits.len())
                .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
                .unwrap();
            assert_eq!(row.likelihood_class, Some(best as u32));
            // SigLIP's bias cancels.
            let gap = f64::from(log_probs[0] - log_probs[1]);
            assert!((gap - f64::from(logits[0] - logits[1])).abs() < 1e-4, "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let reason = |fixture: &Fixture, family| match Pair::load(fixture.path(), family, &DeviceSpec::cpu()) {
        Err(error @ (Error::Model { .. } | Error::Checkpoint { .. })) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("loaded"),
    };
    let check = |family, change: &dyn Fn(&Fixture), parts: &[&str]| {
        let fixture = Fixture::new(if family == Family::Clip { "clip" } else { "siglip" });
        change(&fixture);
        let reason = reason(&fixture, family);
        for part in parts {
            assert!(reason.contains(part), "`{part}` is not in: {reason}");
        }
    };
    let class = "vision_model.embeddings.class_embedding";
    // candle-transformers would make up a random one.
    check(
        Family::Clip,
        &|f| f.reweigh(|t| drop(t.remove(class))),
        &[class, "missing"],
    );
    check(
        Family::Clip,
        &|f| f.reweigh(|t| drop(t.remove("logit_scale"))),
        &["logit_scale"],
    );
    let extra = |f: &Fixture| {
        f.reweigh(|t| {
            t.insert(
                "extra".into(),
                Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap(),
            );
        });
    };
    check(Family::Siglip, &extra, &["`extra`", "not part"]);
    let nan = |f: &Fixture| {
        f.reweigh(|t| {
            let probe = t["vision_model.head.probe"].affine(0.0, f64::NAN).unwrap();
            t.insert("vision_model.head.probe".into(), probe);
        });
    };
    check(Family::Siglip, &nan, &["vision_model.head.probe", "not finite"]);
    let deeper = |f: &Fixture| f.edit("config.json", |c| c["text_config"]["num_hidden_layers"] = json!(3));
    check(Family::Clip, &deeper, &["text_model.encoder.layers.2."]);
    let act = |f: &Fixture| f.edit("config.json", |c| c["vision_config"]["hidden_act"] = json!("gelu"));
    check(Family::Clip, &act, &["config.json", "hidden_act", "quick_gelu"]);
    let other = |f: &Fixture| f.edit("config.json", |c| c["model_type"] = json!("blip"));
    check(Family::Clip, &other, &["config.json", "blip"]);
    let size = |f: &Fixture| {
        f.edit("preprocessor_config.json", |c| {
            c["size"] = json!({"height": 28, "width": 28});
        });
    };
    check(
        Family::Siglip,
        &size,
        &["preprocessor_config.json", "28 x 28", "30 x 30"],
    );
    let tokenizer = |f: &Fixture| fs::remove_file(f.path().join("tokenizer.json")).unwrap();
    check(Family::Siglip, &tokenizer, &["tokenizer.json", "save_pretrained"]);
    // The end token is no longer the highest id.
    let ends = |f: &Fixture| {
        f.edit("tokenizer.json", |t| {
            let steps = t["post_processor"]["sep"][1].as_u64().unwrap();
            t["post_processor"]["cls"][1] = json!(steps + 1);
        });
    };
    let fixture = Fixture::new("clip");
    ends(&fixture);
    let captions = CaptionTokenizer::load(fixture.path(), Padding::Longest, 40).unwrap();
    let refused = captions.encode(&["a cat".into()]).unwrap_err().to_string();
    assert!(refused.contains("highest"), "{refused}");
}

/// Copies of both fixtures in a sandbox, and a sweep of them beside one that learns.
fn sweep() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    for (name, ..) in FAMILIES {
        fs::create_dir_all(sandbox.path(name)).unwrap();
        unpack(name, &sandbox.path(name));
    }
    let config = "name = 'zero'\ndatasets = ['mini-pets']\nshots = [0, 1]\nseeds = [0, 1]\n\
        [[learner]]\nmethod = 'clip-zero-shot'\nmodel = 'clip'\n\
        [[learner]]\nmethod = 'siglip-zero-shot'\nmodel = 'siglip'\n\
        [[learner]]\nmethod = 'pixels'\n";
    let path = sandbox.path("zero.toml");
    fs::write(&path, config).unwrap();
    (sandbox, path)
}

#[test]
fn a_sweep_has_one_cell_of_each_and_draws_a_level() {
    let (sandbox, _) = sweep();
    let table = sandbox.succeed(&["sweep", "--config", "zero.toml"]);
    assert!(
        table.contains("CLIP zero-shot") && table.contains("SigLIP zero-shot"),
        "{table}"
    );
    let ledger = fs::read_to_string(sandbox.path("results/zero/ledger.csv")).unwrap();
    assert_eq!(ledger.matches("CLIP zero-shot").count(), 1, "{ledger}");
    assert_eq!(ledger.lines().count(), 1 + 4, "{ledger}");
    let figure = fs::read_to_string(sandbox.path("results/zero/figures/accuracy.svg")).unwrap();
    assert!(figure.contains("CLIP zero-shot"));
    let cells = sandbox.path("results/zero/cells");
    let records: Vec<Value> = fs::read_dir(cells)
        .unwrap()
        .map(|entry| serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap())
        .collect();
    let clip = records
        .iter()
        .find(|record| record["key"]["learner"] == "CLIP zero-shot")
        .unwrap();
    let published = json!(["a photo of a {}, a type of pet."]);
    assert_eq!(clip["hyper_parameters"]["templates"], published, "{clip}");
    assert!(clip["metrics"]["ece"].is_number() && clip["weights"].is_string());
    sandbox.succeed(&["verify", "results/zero"]);

    // Other templates are another cell.
    let again = [
        "sweep",
        "--config",
        "zero.toml",
        "--set",
        "learner.0.templates=['{}']",
        "--replace",
    ];
    let output = sandbox.run(&again);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("3 of 4 cells are finished already"),
        "{}",
        stderr(&output)
    );
}
