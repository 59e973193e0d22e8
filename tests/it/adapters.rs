//! Adapters that PEFT made: the numbers of `PeftModel.from_pretrained`, or a refusal that names the field.
//!
//! `tests/fixtures/peft/*` were made by `tests/slow/peft_configurations.py --write` (versions in each `expected.json`).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::support::{Sandbox, model, root, stderr, writing_model};

/// Largest difference of a log-probability.
const TOLERANCE: f64 = 6e-5;

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/peft")
}

fn images(expected: &Value) -> Vec<String> {
    let names = expected["images"].as_array().unwrap().iter();
    let path = |name: &Value| root().join("tests/fixtures/predict").join(name.as_str().unwrap());
    names.map(|name| path(name).display().to_string()).collect()
}

fn predict(sandbox: &Sandbox, model: &Path, adapter: &Path, names: &[String], images: &[String]) -> Output {
    let labels = sandbox.path("names.txt");
    fs::write(&labels, names.join("\n")).unwrap();
    let mut arguments = vec!["predict", "--json", "--model"];
    let paths = [model, adapter, &labels].map(|path| path.display().to_string());
    arguments.extend([paths[0].as_str(), "--adapter", &paths[1], "--labels", &paths[2]]);
    arguments.extend(images.iter().map(String::as_str));
    sandbox.run(&arguments)
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn log_probabilities_are_those_of_peft() {
    let sandbox = Sandbox::new();
    let mut seen = Vec::new();
    for entry in fs::read_dir(fixtures()).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(folder.join("expected.json")) else {
            continue;
        };
        let expected: Value = serde_json::from_str(&text).unwrap();
        let base = root()
            .join("datasets/mini/models")
            .join(expected["model"].as_str().unwrap());
        let names = strings(&expected["names"]);
        let output = predict(&sandbox, &base, &folder, &names, &images(&expected));
        assert!(output.status.success(), "{}: {}", folder.display(), stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), expected["log_probs"].as_array().unwrap().len());
        for (line, wanted) in text.lines().zip(expected["log_probs"].as_array().unwrap()) {
            let found: Value = serde_json::from_str(line).unwrap();
            for (name, wanted) in names.iter().zip(wanted.as_array().unwrap()) {
                let off = (found["log_probs"][name].as_f64().unwrap() - wanted.as_f64().unwrap()).abs();
                assert!(off <= TOLERANCE, "{} {name}: {off:e}", folder.display());
            }
        }
        seen.push(folder.file_name().unwrap().to_string_lossy().into_owned());
    }
    seen.sort();
    assert_eq!(seen, ["alpha-pattern-one", "olora", "pissa", "vision-model-pissa"]);
}

/// A copy of a fixture with its config or tensors changed.
fn changed(sandbox: &Sandbox, name: &str, change: impl FnOnce(&mut Value, &mut HashMap<String, Tensor>)) -> PathBuf {
    let (from, to) = (fixtures().join(name), sandbox.path("changed"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    let file = "adapter_model.safetensors";
    let mut tensors = candle_core::safetensors::load(from.join(file), &Device::Cpu).unwrap();
    change(&mut config, &mut tensors);
    fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(&tensors, to.join(file)).unwrap();
    to
}

/// The message of a refusal, which has a hint.
fn refused(sandbox: &Sandbox, model: &Path, adapter: &Path) -> String {
    let drawing = vec![
        root()
            .join("tests/fixtures/predict/drawing-1.png")
            .display()
            .to_string(),
    ];
    let output = predict(sandbox, model, adapter, &["tulip".into(), "cactus".into()], &drawing);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("hint:") && output.stdout.is_empty(), "{text}");
    text
}

const PLAIN: &str = "alpha-pattern-one";
const V: &str = "base_model.model.model.language_model.layers.1.self_attn.v_proj";

#[test]
fn what_changes_the_function_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let fields = [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1, 2])),
        ("trainable_token_indices", json!([3])),
        ("layer_replication", json!([[0, 2], [1, 4]])),
        ("megatron_config", json!({"a": 1})),
        ("arrow_config", json!({"top_k": 2})),
        ("kasa_config", json!({"beta": 0.1})),
        ("monteclora_config", json!({"num_samples": 4})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("velora_config", json!({"num_groups": 4})),
        ("modules_to_save", json!(["merger"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("something_new")),
        ("r", json!(0)),
        ("r", json!(1_000_000_000_000_000u64)),
        ("r", json!("two")),
        ("rank_pattern", json!({"v_proj": 9_000_000_000u64})),
        ("rank_pattern", json!({"v_proj": 3})),
        ("rank_pattern", json!({"(": 3})),
        ("alpha_pattern", json!({"v_proj": "x"})),
        ("lora_alpha", json!("x")),
        ("target_modules", json!("((")),
        ("target_modules", json!(["q_proj", "k_proj", "v_proj"])),
        ("target_modules", json!(["q_proj"])),
        ("layers_to_transform", json!([2])),
        ("a_field_of_tomorrow", json!("on")),
        ("a_field_of_tomorrow", json!(3)),
    ];
    for (field, value) in fields {
        let adapter = changed(&sandbox, PLAIN, |config, _| config[field] = value.clone());
        let text = refused(&sandbox, &writing_model(), &adapter);
        let named = match field {
            "layers_to_transform" => "target_modules",
            field => field,
        };
        assert!(
            text.contains(named) || field == "target_modules" && text.contains("targets modules"),
            "{field}: {text}"
        );
    }
    for method in [
        "IA3",
        "LOHA",
        "LOKR",
        "ADALORA",
        "VERA",
        "OFT",
        "BOFT",
        "RANDLORA",
        "XLORA",
        "PROMPT_TUNING",
    ] {
        let adapter = changed(&sandbox, PLAIN, |config, _| config["peft_type"] = method.into());
        let text = refused(&sandbox, &writing_model(), &adapter);
        assert!(text.contains(&format!("`{method}`")), "{text}");
    }
}

#[test]
fn what_changes_nothing_is_passed_over() {
    let sandbox = Sandbox::new();
    let expected: Value =
        serde_json::from_slice(&fs::read(fixtures().join(PLAIN).join("expected.json")).unwrap()).unwrap();
    let (names, images) = (strings(&expected["names"]), images(&expected));
    let ask = |adapter: &Path| {
        let output = predict(&sandbox, &writing_model(), adapter, &names, &images);
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let plain = ask(&fixtures().join(PLAIN));
    let adapter = changed(&sandbox, PLAIN, |config, _| {
        for (field, value) in [
            ("a_field_of_tomorrow", Value::Null),
            ("another", json!(false)),
            ("lora_dropout", json!(0.3)),
            ("eva_config", json!({"rho": 2.0})),
            ("loftq_config", json!({"loftq_bits": 4})),
            ("init_lora_weights", json!("orthogonal")),
            ("fan_in_fan_out", json!(true)),
            ("exclude_modules", json!(["k_proj"])),
            ("base_model_name_or_path", json!("Qwen/Qwen3-VL-2B-Instruct")),
            ("task_type", json!("CAUSAL_LM")),
            ("alora_invocation_tokens", json!([])),
        ] {
            config[field] = value;
        }
        config.as_object_mut().unwrap().remove("peft_version");
    });
    assert!(ask(&adapter) == plain, "a neutral field changes what is computed");
}

#[test]
fn tensors_without_a_use_and_missing_ones_are_named() {
    let sandbox = Sandbox::new();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let surplus: [(&str, &[usize]); 6] = [
        ("lora_magnitude_vector.weight", &[64]),
        ("lora_B.bias", &[64]),
        ("lora_embedding_A", &[2, 64]),
        ("base_layer.weight", &[64, 128]),
        ("base_layer.weight", &[64, 127]),
        ("strange", &[1]),
    ];
    for (end, shape) in surplus {
        let name = format!("{V}.{end}");
        let adapter = changed(&sandbox, PLAIN, |_, tensors| {
            drop(tensors.insert(name.clone(), zeros(shape)));
        });
        let text = refused(&sandbox, &writing_model(), &adapter);
        assert!(text.contains(name.trim_start_matches("base_model.model.")), "{text}");
    }
    let other = changed(&sandbox, PLAIN, |_, tensors| {
        drop(tensors.insert("v_proj.lora_A.weight".into(), zeros(&[2, 128])));
    });
    assert!(refused(&sandbox, &writing_model(), &other).contains("`v_proj.lora_A.weight`"));
    for end in ["lora_A.weight", "lora_B.weight"] {
        let adapter = changed(&sandbox, PLAIN, |_, tensors| {
            drop(tensors.remove(&format!("{V}.{end}")).unwrap());
        });
        let text = refused(&sandbox, &writing_model(), &adapter);
        assert!(text.contains("layers.1.self_attn.v_proj"), "{text}");
    }
    // Of another model: a LoRA of the language model over a DINOv2, and the other way round.
    assert!(refused(&sandbox, &model(), &fixtures().join(PLAIN)).contains("self_attn"));
    assert!(refused(&sandbox, &writing_model(), &fixtures().join("vision-model-pissa")).contains("classifier"));
    let pickled = changed(&sandbox, PLAIN, |_, _| ());
    fs::rename(
        pickled.join("adapter_model.safetensors"),
        pickled.join("adapter_model.bin"),
    )
    .unwrap();
    assert!(refused(&sandbox, &writing_model(), &pickled).contains("adapter_model.bin"));
}

#[test]
fn a_classifier_wants_as_many_class_names() {
    let sandbox = Sandbox::new();
    let text = refused(&sandbox, &model(), &fixtures().join("vision-model-pissa"));
    assert!(text.contains("classes") && text.contains("2 class names"), "{text}");
}

#[test]
fn a_merged_pissa_adapter_computes_the_same_and_so_does_one_for_peft() {
    let sandbox = Sandbox::new();
    for name in ["pissa", "olora"] {
        let adapter = fixtures().join(name);
        let expected: Value = serde_json::from_slice(&fs::read(adapter.join("expected.json")).unwrap()).unwrap();
        let (names, images) = (strings(&expected["names"]), images(&expected));
        // A base in f32, so that the sum is not rounded.
        let base = sandbox.path("base");
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        for entry in fs::read_dir(writing_model()).unwrap() {
            let path = entry.unwrap().path();
            let to = base.join(path.file_name().unwrap());
            if path.extension().is_some_and(|end| end == "safetensors") {
                let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
                tensors
                    .values_mut()
                    .for_each(|tensor| *tensor = tensor.to_dtype(DType::F32).unwrap());
                candle_core::safetensors::save(&tensors, to).unwrap();
            } else {
                fs::copy(&path, to).unwrap();
            }
        }
        let (merged, again) = (
            sandbox.path(&format!("merged-{name}")),
            sandbox.path(&format!("again-{name}")),
        );
        for (out, option) in [(&merged, None), (&again, Some("--for-peft"))] {
            let paths = [&base, &adapter, out].map(|path| path.display().to_string());
            let mut arguments = vec![
                "merge",
                "--model",
                &paths[0],
                "--adapter",
                &paths[1],
                "--out",
                &paths[2],
            ];
            arguments.extend(option);
            let output = sandbox.run(&arguments);
            assert!(output.status.success(), "{}", stderr(&output));
        }
        let with_adapter = predict(&sandbox, &base, &again, &names, &images);
        let labels = sandbox.path("names.txt").display().to_string();
        let folder = merged.display().to_string();
        let mut arguments = vec!["predict", "--json", "--model", &folder, "--labels", &labels];
        arguments.extend(images.iter().map(String::as_str));
        for output in [with_adapter, sandbox.run(&arguments)] {
            assert!(output.status.success(), "{}", stderr(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            for (line, wanted) in text.lines().zip(expected["log_probs"].as_array().unwrap()) {
                let found: Value = serde_json::from_str(line).unwrap();
                for (name, wanted) in names.iter().zip(wanted.as_array().unwrap()) {
                    let off = (found["log_probs"][name].as_f64().unwrap() - wanted.as_f64().unwrap()).abs();
                    assert!(off <= 1e-4, "{name}: {off:e}");
                }
            }
        }
    }
}
