//! Checkpoints that are wrong in one way each, as a user meets them: file, tensors and remedy are named.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use kshot::error::Error;
use kshot::models::weights::Weights;
use kshot::nn::Place;
use safetensors::tensor::{Dtype, TensorView, View as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{Sandbox, copy, root, stderr};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SECOND: &str = "model-00002-of-00002.safetensors";

/// A copy of a committed fixture, and the built binary.
struct Model {
    sandbox: Sandbox,
    fixture: &'static str,
}

impl Model {
    fn of(fixture: &'static str) -> Self {
        let sandbox = Sandbox::new();
        copy(&committed(fixture), &sandbox.path("model"));
        let tokenizer = committed("qwen3vl-tied");
        if fixture.starts_with("qwen") {
            for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.json"] {
                fs::copy(tokenizer.join(name), sandbox.path("model").join(name)).unwrap();
            }
        }
        fs::write(sandbox.path("names.txt"), "cat\ndog\n").unwrap();
        Self { sandbox, fixture }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.sandbox.path("model").join(file)
    }

    fn config(&self, change: impl FnOnce(&mut Value)) -> &Self {
        self.json("config.json", change)
    }

    fn json(&self, file: &str, change: impl FnOnce(&mut Value)) -> &Self {
        let mut json: Value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.path(file), json.to_string()).unwrap();
        self
    }

    /// Writes a file's tensors anew, with changes to their types, shapes and bytes.
    fn tensors(&self, file: &str, change: impl FnOnce(&mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) -> &Self {
        let path = self.path(file);
        let loaded = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let stored = |tensor: &Tensor| (tensor.dtype(), tensor.dims().to_vec(), tensor.data().into_owned());
        let mut tensors = HashMap::new();
        for (name, tensor) in &loaded {
            let (_, shape, bytes) = stored(tensor);
            tensors.insert(name.clone(), (safetensors::tensor::View::dtype(tensor), shape, bytes));
        }
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        self
    }

    /// Asks the model about a picture: it must not come to that. Gives what is said.
    fn refused(&self) -> String {
        let image = image().to_str().unwrap().to_owned();
        let output = if self.fixture.starts_with("qwen") {
            self.sandbox
                .run(&["predict", "--model", "model", "--labels", "names.txt", &image])
        } else {
            self.sandbox.run(&["embed", "--model", "model", &image])
        };
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }

    /// The refusal's first line names all of these, and its hint this.
    #[track_caller]
    fn refused_with(&self, named: &[&str], hint: &str) {
        let said = self.refused();
        let (error, rest) = said.split_once('\n').unwrap();
        for part in named {
            assert!(error.contains(part), "`{part}` is not named in: {error}");
        }
        let (_, told) = rest.split_once("\nhint: ").unwrap();
        assert!(told.contains(hint), "`{hint}` is not advised in: {told}");
    }
}

fn committed(fixture: &str) -> PathBuf {
    root().join("tests/fixtures/oracle/fixtures").join(fixture)
}

fn image() -> PathBuf {
    root().join("tests/fixtures/predict/drawing-1.png")
}

#[test]
fn a_truncated_shard_is_told_with_its_bytes_and_tensors() {
    let model = Model::of("qwen3vl-untied");
    let whole = fs::read(model.path(SECOND)).unwrap();
    let cut = whole.len() - 5;
    fs::write(model.path(SECOND), &whole[..cut]).unwrap();
    let (found, wanted) = (format!("it has {cut} bytes"), format!("instead of {}", whole.len()));
    let header = Weights::from_files(Path::new("x"), &[committed("qwen3vl-untied").join(SECOND)]).unwrap();
    let last = last_tensor(&whole);
    assert!(header.shapes().any(|(name, _)| name == last));
    model.refused_with(
        &[SECOND, "truncated", &found, &wanted, &format!("`{last}`")],
        "fetch or copy `model-00002",
    );
    // Inside the header, before it, and nothing at all.
    for length in [200, 5, 0] {
        fs::write(model.path(SECOND), &whole[..length]).unwrap();
        model.refused_with(
            &[SECOND, "truncated", &format!("it has {length} bytes")],
            "fetch or copy",
        );
    }
    let longer = [whole.as_slice(), b"x"].concat();
    fs::write(model.path(SECOND), &longer).unwrap();
    let (found, wanted) = (
        format!("has {} bytes", longer.len()),
        format!("instead of {}", whole.len()),
    );
    model.refused_with(&[SECOND, &found, &wanted], "fetch or copy");
    fs::write(
        model.path(SECOND),
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    )
    .unwrap();
    model.refused_with(&[SECOND, "git's large file storage"], "fetch or copy");
    fs::write(model.path(SECOND), vec![b'x'; 99]).unwrap();
    model.refused_with(&[SECOND, "not a safetensors file"], "fetch or copy");
}

/// The tensor whose bytes are the last of a file.
fn last_tensor(bytes: &[u8]) -> String {
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    header.offset_keys().pop().unwrap()
}

#[test]
fn an_index_that_names_what_is_not_there_is_told() {
    let model = Model::of("qwen3vl-untied");
    let of_second = {
        let index: Value = serde_json::from_slice(&fs::read(model.path(INDEX)).unwrap()).unwrap();
        let map = index["weight_map"].as_object().unwrap().clone();
        let names = map.into_iter().filter(|(_, file)| file == SECOND);
        names.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let second = fs::read(model.path(SECOND)).unwrap();
    fs::remove_file(model.path(SECOND)).unwrap();
    let more = format!("and {} more", of_second.len() - 8);
    model.refused_with(
        &[
            INDEX,
            &format!("`{SECOND}`, which is not there"),
            &format!("`{}`", of_second[0]),
            &more,
        ],
        "fetch or copy",
    );
    // As an interrupted download leaves it in the hub's cache.
    std::os::unix::fs::symlink("../../blobs/0a1b", model.path(SECOND)).unwrap();
    model.refused_with(&[SECOND, "`../../blobs/0a1b`, which is not there"], "fetch or copy");
    fs::remove_file(model.path(SECOND)).unwrap();
    fs::write(model.path(SECOND), second).unwrap();
    // A tensor that is in the other shard, and one that is in none.
    let moved = of_second[0].clone();
    model.json(INDEX, |index| {
        index["weight_map"][&moved] = "model-00001-of-00002.safetensors".into();
    });
    let first = "model-00001-of-00002.safetensors";
    model.refused_with(
        &[INDEX, &format!("`{first}` holds `{moved}`, which it does not")],
        "fetch or copy",
    );
    model.json(INDEX, |index| {
        index["weight_map"][&moved] = SECOND.into();
        index["weight_map"]["lost.weight"] = SECOND.into();
    });
    model.refused_with(&[INDEX, SECOND, "`lost.weight`, which it does not"], "fetch or copy");
}

#[test]
fn in_a_snapshot_of_the_hub_the_remedy_is_the_command_that_mends_it() {
    let model = Model::of("dinov2");
    let snapshot = model.sandbox.path("hub/models--facebook--dinov2-small/snapshots/0a");
    copy(&model.sandbox.path("model"), &snapshot);
    fs::write(snapshot.join(SINGLE), b"").unwrap();
    let image = image();
    let arguments = ["embed", "--model", snapshot.to_str().unwrap(), image.to_str().unwrap()];
    let said = stderr(&model.sandbox.run(&arguments));
    assert!(
        said.contains("hint: `kshot model fetch facebook/dinov2-small` "),
        "{said}"
    );
}

#[test]
fn one_value_that_is_not_finite_is_found_in_every_type() {
    let name = "model.language_model.layers.1.mlp.up_proj.weight";
    for (dtype, not_finite) in [
        (DType::F32, f32::NAN.to_le_bytes().to_vec()),
        (DType::F32, f32::NEG_INFINITY.to_le_bytes().to_vec()),
        (DType::BF16, vec![0x80, 0x7f]),
        (DType::BF16, vec![0x81, 0xff]),
        (DType::F16, vec![0x00, 0x7c]),
        (DType::F64, f64::NAN.to_le_bytes().to_vec()),
    ] {
        let model = Model::of("qwen3vl-untied");
        let mut file = "";
        for shard in ["model-00001-of-00002.safetensors", SECOND] {
            let tensors = candle_core::safetensors::load(model.path(shard), &Device::Cpu).unwrap();
            if let Some(tensor) = tensors.get(name) {
                file = shard;
                let tensor = tensor.to_dtype(dtype).unwrap();
                model.tensors(shard, |tensors| {
                    let mut bytes = tensor.data().into_owned();
                    let end = bytes.len();
                    bytes[end - not_finite.len()..].copy_from_slice(&not_finite);
                    let dtype = safetensors::tensor::View::dtype(&tensor);
                    tensors.insert(name.into(), (dtype, tensor.dims().to_vec(), bytes));
                });
            }
        }
        let named = format!("`{name}` in `{file}` holds values that are not finite");
        model.refused_with(&[&named], "the checkpoint is damaged");
    }
}

#[test]
fn types_that_are_not_supported_are_named() {
    for (dtype, size) in [
        (Dtype::I8, 1),
        (Dtype::F8_E4M3, 1),
        (Dtype::F8_E5M2, 1),
        (Dtype::I64, 8),
    ] {
        let model = Model::of("dinov2");
        let name = "encoder.layer.1.mlp.fc1.weight";
        model.tensors(SINGLE, |tensors| {
            let shape = tensors[name].1.clone();
            let bytes = vec![1; size * shape.iter().product::<usize>()];
            tensors.insert(name.into(), (dtype, shape, bytes));
        });
        let named = format!("`{name}` has type {dtype:?}");
        model.refused_with(&[SINGLE, &named], "not quantised");
    }
}

#[test]
fn long_lists_are_cut_with_a_count_for_each_kind_of_fault() {
    let model = Model::of("qwen3vl-tied");
    model.tensors(SINGLE, |tensors| {
        for i in 0..11 {
            tensors.insert(format!("surplus.{i:02}"), (Dtype::F32, vec![1], vec![0; 4]));
        }
        let (_, shape, _) = tensors.get_mut("model.language_model.norm.weight").unwrap();
        *shape = vec![shape[0] / 2, 2];
    });
    // 11 tensors a decoder layer.
    model.config(|config| config["text_config"]["num_hidden_layers"] = 6.into());
    model.refused_with(
        &[
            SINGLE,
            "`model.language_model.layers.2.",
            "and 36 more are missing",
            "`model.language_model.norm.weight` has shape [16, 2], the config asks for [32]",
            "`surplus.00` [1] is not part of this model",
            "`surplus.07`",
            "and 3 more are not part of this model",
        ],
        "of one model",
    );
    assert!(!model.refused().contains("surplus.08"));
}

#[test]
fn configs_of_other_architectures_are_told_with_what_is_supported() {
    for other in ["llama", "bert", "clip", "qwen2_vl", "vit"] {
        for fixture in ["dinov2", "qwen3vl-tied"] {
            let model = Model::of(fixture);
            model.config(|config| config["model_type"] = other.into());
            let said = model.refused();
            let (error, hint) = said.split_once("\nhint: ").unwrap();
            assert!(
                error.contains("config.json`") && error.contains(&format!("`{other}`")),
                "{error}"
            );
            assert!(hint.contains("`qwen3_vl`") && hint.contains("`dinov2`"), "{hint}");
        }
    }
    let model = Model::of("qwen3vl-tied");
    model.config(|config| {
        config.as_object_mut().unwrap().remove("model_type");
    });
    model.refused_with(&["config.json", "there is no model_type"], "qwen3_vl");
    fs::write(model.path("config.json"), "{").unwrap();
    model.refused_with(&["config.json", "JSON"], "");
    fs::remove_file(model.path("config.json")).unwrap();
    model.refused_with(&["config.json", "cannot be read"], "");
}

#[test]
fn an_unknown_rope_type_is_named() {
    for kind in ["yarn", "linear", "llama3"] {
        let model = Model::of("qwen3vl-tied");
        model.config(|config| config["text_config"]["rope_scaling"]["rope_type"] = kind.into());
        model.refused_with(&["config.json", "rope_type", &format!("`{kind}`")], "");
    }
}

/// One file of random tensors of several types.
fn file_of(tensors: &[(&str, Tensor)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SINGLE);
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, t)| ((*name).to_owned(), t.clone()))
        .collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    (folder, path)
}

#[test]
fn each_type_comes_out_as_each_other_one_to_the_bit() {
    let numbers = Tensor::randn(0.0, 100.0, (13, 7), &Device::Cpu).unwrap();
    for from in [DType::BF16, DType::F16, DType::F32, DType::F64] {
        let stored = numbers.to_dtype(from).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (_folder, path) = file_of(&[("a", stored.clone())]);
            let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
            let place = Place { dtype, ..Place::cpu() };
            let taken = weights.take("a", &[13, 7], &place).unwrap();
            weights.finish().unwrap();
            let expected = stored.to_dtype(dtype).unwrap();
            assert_eq!((taken.dtype(), taken.dims()), (dtype, expected.dims()));
            assert_eq!(taken.data(), expected.data(), "{from:?} as {dtype:?}");
        }
    }
}

#[test]
fn what_a_type_cannot_hold_is_refused() {
    let large = Tensor::new(&[1.0f32, 70_000.0], &Device::Cpu).unwrap();
    let (_folder, path) = file_of(&[("a", large)]);
    let take = |dtype| {
        let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
        let place = Place { dtype, ..Place::cpu() };
        weights.take("a", &[2], &place).unwrap();
        weights.finish()
    };
    take(DType::BF16).unwrap();
    let error = take(DType::F16).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }));
    assert!(
        error.to_string().contains("`a` holds values that f16 cannot hold"),
        "{error}"
    );
}

/// Kilobytes of a file's maps that are in this process's memory.
fn mapped(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut sum, mut found) = (0, false);
    let mut inside = false;
    for line in maps.lines() {
        if line.split_whitespace().count() > 3 && line.contains('-') && !line.contains("kB") {
            inside = line.ends_with(path.to_str().unwrap());
            found |= inside;
        } else if let (true, Some(rss)) = (inside, line.strip_prefix("Rss:")) {
            sum += rss.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap();
        }
    }
    assert!(found, "{} is not mapped", path.display());
    sum
}

#[test]
fn taken_tensors_leave_the_map() {
    let one = Tensor::zeros((512, 1024), DType::BF16, &Device::Cpu).unwrap();
    let names: Vec<String> = (0..12).map(|i| format!("t{i}")).collect();
    let tensors: Vec<(&str, Tensor)> = names.iter().map(|name| (name.as_str(), one.clone())).collect();
    let (_folder, path) = file_of(&tensors);
    let path = path.canonicalize().unwrap();
    let mut weights = Weights::from_files(&path, std::slice::from_ref(&path)).unwrap();
    for name in &names {
        weights.take(name, &[512, 1024], &Place::cpu()).unwrap();
        let left = mapped(&path);
        assert!(left < 1024, "{left} kB of the file stay in memory after {name}");
    }
    weights.finish().unwrap();
}

#[test]
fn the_fingerprint_is_that_of_all_earlier_records() {
    let config = b"{}";
    let digest = |parts: &[&[u8]]| Sha256::digest(parts.concat()).to_vec();
    let of = |files: &[PathBuf]| {
        let weights = Weights::from_files(Path::new("x"), files).unwrap();
        weights.fingerprint(config).unwrap()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let dir = committed("qwen3vl-untied");
    let files = [dir.join("model-00001-of-00002.safetensors"), dir.join(SECOND)];
    let hashes = files.each_ref().map(|file| digest(&[&fs::read(file).unwrap()]));
    assert_eq!(of(&files[..1]), hex(&digest(&[config, &hashes[0]])));
    let both = digest(&[&hashes[0], &hashes[1]]);
    assert_eq!(of(&files), hex(&digest(&[config, &both])));
}
