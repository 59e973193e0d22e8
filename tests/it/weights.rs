//! Checkpoints that are wrong in one way each, as a user meets them: file, tensors and remedy are named.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use candle_core::{DType, Device, Tensor};
use kshot::checkpoint::weights::Weights;
use safetensors::tensor::{Dtype, TensorView, View as _};
use serde_json::Value;

use crate::support::{Sandbox, copy, root, stderr};

pub const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
pub const SECOND: &str = "model-00002-of-00002.safetensors";

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

    /// Asks the model about a picture.
    fn ask(&self) -> Output {
        let image = image().to_str().unwrap().to_owned();
        if self.fixture.starts_with("qwen") {
            self.sandbox
                .run(&["predict", "--model", "model", "--labels", "names.txt", &image])
        } else {
            self.sandbox.run(&["embed", "--model", "model", &image])
        }
    }

    /// Asks where it must not come to an answer; gives what is said.
    fn refused(&self) -> String {
        let output = self.ask();
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

pub fn committed(fixture: &str) -> PathBuf {
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
    for other in ["llama", "bert", "qwen2_vl", "vit"] {
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
    // One that is supported, but not where it was named.
    let model = Model::of("dinov2");
    model.config(|config| config["model_type"] = "clip".into());
    model.refused_with(&["config.json", "model_type is `clip`", "`dinov2`"], "");
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

#[test]
fn more_experts_in_the_config_than_in_the_weights_are_told() {
    // The dense fixture with four experts in place of each MLP, as the hub has them.
    let (experts, width) = (4, 24);
    let model = Model::of("qwen3vl-tied");
    let mut hidden = 0;
    model.tensors(SINGLE, |tensors| {
        hidden = tensors["model.language_model.norm.weight"].1[0];
        tensors.retain(|name, _| !(name.contains("language_model") && name.contains(".mlp.")));
        for layer in 0..2 {
            for (end, shape) in [
                ("gate.weight", vec![experts, hidden]),
                ("experts.gate_up_proj", vec![experts, hidden, 2 * width]),
                ("experts.down_proj", vec![experts, width, hidden]),
            ] {
                let bytes = 0.01f32.to_le_bytes().repeat(shape.iter().product());
                let name = format!("model.language_model.layers.{layer}.mlp.{end}");
                tensors.insert(name, (Dtype::F32, shape, bytes));
            }
        }
    });
    let with = |count: usize| {
        model.config(|config| {
            config["model_type"] = "qwen3_vl_moe".into();
            let text = &mut config["text_config"];
            text["num_experts"] = count.into();
            text["num_experts_per_tok"] = 2.into();
            text["moe_intermediate_size"] = width.into();
            text["norm_topk_prob"] = true.into();
            text["decoder_sparse_step"] = 1.into();
            text["mlp_only_layers"] = Value::Array(Vec::new());
        });
    };
    with(experts);
    let output = model.ask();
    assert!(output.status.success(), "{}", stderr(&output));
    with(6);
    let layer = "model.language_model.layers.0.mlp";
    model.refused_with(
        &[
            SINGLE,
            &format!("`{layer}.gate.weight` has shape [4, {hidden}], the config asks for [6, {hidden}]"),
            &format!(
                "`{layer}.experts.gate_up_proj` has shape [4, {hidden}, 48], the config asks for [6, {hidden}, 48]"
            ),
        ],
        "of one model",
    );
}
