//! Fixtures (tiny random checkpoints) and goldens (what transformers and peft make of them).
//!
//! Layout and origin: `tests/fixtures/oracle/README.md`. `KSHOT_GOLDENS` names another folder of
//! the same layout, with whatever seeds and sizes.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{DType, Tensor};
use kshot::nn::Place;

/// One fixture with its goldens.
pub struct Golden {
    pub name: String,
    /// The checkpoint.
    pub model: PathBuf,
    /// The folder of expected values.
    pub expected: PathBuf,
}

/// Tensors by name.
pub type Tensors = HashMap<String, Tensor>;

/// Where the models under test are: on the CPU, or on the GPU where the tests were built for one; f32.
pub fn place() -> Place {
    static PLACE: LazyLock<Place> = LazyLock::new(|| Place {
        dtype: DType::F32,
        ..Place::best().unwrap()
    });
    PLACE.clone()
}

/// Whether operations are those of the CPU, which promise the same bits in places where others do not.
pub fn fused() -> bool {
    place().device.is_cpu() && std::env::var_os("KSHOT_FUSED").is_none_or(|value| value != "0")
}

/// The fixtures of the repository. cargo names its folder; so does a script that carries these tests elsewhere.
fn committed() -> PathBuf {
    let repository = std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    repository.join("tests/fixtures/oracle")
}

/// Every DINOv2 fixture there is.
pub fn dinov2() -> Vec<Golden> {
    of_kind("DINOv2", |model_type| model_type.starts_with("dinov2"))
}

/// Every dense Qwen3-VL fixture there is.
pub fn qwen3_vl() -> Vec<Golden> {
    of_kind("dense Qwen3-VL", |model_type| model_type == "qwen3_vl")
}

/// Every Qwen3-VL fixture with a mixture of experts there is.
pub fn qwen3_vl_moe() -> Vec<Golden> {
    of_kind("Qwen3-VL with experts", |model_type| model_type == "qwen3_vl_moe")
}

/// Every Qwen3-VL fixture there is, dense ones first.
pub fn every_qwen3_vl() -> Vec<Golden> {
    qwen3_vl().into_iter().chain(qwen3_vl_moe()).collect()
}

/// The dense Qwen3-VL fixtures of the repository, whatever `KSHOT_GOLDENS` names.
pub fn committed_qwen3_vl() -> Vec<Golden> {
    let mut all = all_in(&committed());
    all.retain(|golden| golden.config()["model_type"] == "qwen3_vl");
    all
}

/// Every fixture of one kind of model. A folder that `KSHOT_GOLDENS` names may be about other kinds only: then the
/// committed fixtures stand in for this one.
///
/// # Panics
/// When the folder has no fixture at all, or the committed one none of this kind: a golden test that compares
/// nothing must not pass.
fn of_kind(kind: &str, is_it: fn(&str) -> bool) -> Vec<Golden> {
    let root = std::env::var_os("KSHOT_GOLDENS").map_or(committed(), PathBuf::from);
    let fixtures = all_in(&root);
    assert!(!fixtures.is_empty(), "no fixture in {}", root.display());
    let of_it = |golden: &Golden| is_it(golden.config()["model_type"].as_str().unwrap());
    let mut chosen: Vec<Golden> = fixtures.into_iter().filter(of_it).collect();
    if chosen.is_empty() {
        chosen = all_in(&committed()).into_iter().filter(of_it).collect();
    }
    assert!(!chosen.is_empty(), "no {kind} fixture in {}", root.display());
    chosen
}

/// Fixtures of every kind in a folder, by name.
fn all_in(root: &Path) -> Vec<Golden> {
    let mut all: Vec<Golden> = std::fs::read_dir(root.join("fixtures"))
        .expect("a folder of fixtures")
        .map(|entry| {
            let model = entry.unwrap().path();
            let name = model.file_name().unwrap().to_str().unwrap().to_owned();
            Golden {
                expected: root.join("goldens").join(&name),
                name,
                model,
            }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

impl Golden {
    /// `config.json`.
    pub fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.model.join("config.json")).unwrap()).unwrap()
    }

    /// The adapters that it has goldens for: `r8`, and with experts `experts`.
    pub fn adapters(&self) -> Vec<&'static str> {
        let there = |tag: &&str| self.expected.join(format!("adapter_{tag}")).exists();
        let tags: Vec<_> = ["r8", "experts"].into_iter().filter(there).collect();
        assert!(!tags.is_empty(), "{} has no adapter", self.name);
        tags
    }

    /// The tensors of one golden file, as the scripts write it or compressed by gzip.
    pub fn tensors(&self, file: &str) -> Tensors {
        let plain = self.expected.join(file);
        if plain.exists() {
            return candle_core::safetensors::load(plain, &place().device).unwrap();
        }
        let packed = std::fs::File::open(self.expected.join(format!("{file}.gz"))).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        candle_core::safetensors::load_buffer(&bytes, &place().device).unwrap()
    }

    /// `goldens.json`.
    pub fn notes(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.expected.join("goldens.json")).unwrap()).unwrap()
    }
}

/// All values as f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .detach()
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Largest absolute difference.
pub fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.elem_count(), expected.elem_count());
    values(found)
        .iter()
        .zip(values(expected))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// Largest absolute difference over the largest absolute expected value.
pub fn relative_to_max(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    distance(found, expected) / values(expected).into_iter().map(f64::abs).fold(0.0, f64::max)
}

/// Norm of the difference over the norm of what is expected.
pub fn relative_norm(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (values(found), values(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// The tolerance, or eight times the reference's own f32 noise if that is larger.
pub fn tolerance(base: f64, noise: &serde_json::Value) -> f64 {
    base.max(8.0 * noise.as_f64().unwrap())
}
