//! Fixtures (tiny random checkpoints) and goldens (what transformers and peft make of them).
//!
//! Layout and origin: `tests/fixtures/oracle/README.md`. `KSHOT_GOLDENS` names another folder of
//! the same layout, with whatever seeds and sizes.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{DType, Tensor};
use kshot::nn::DeviceSpec;

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
pub fn place() -> DeviceSpec {
    static PLACE: LazyLock<DeviceSpec> = LazyLock::new(|| DeviceSpec {
        dtype: DType::F32,
        ..DeviceSpec::best().unwrap()
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

/// Largest absolute value.
pub fn largest(tensor: &Tensor) -> f64 {
    values(tensor).into_iter().map(f64::abs).fold(0.0, f64::max)
}

/// The gradients of one golden, and how exactly they are known.
///
/// Where the true gradient of a tensor is nothing but what rounding leaves of zero, nothing is defined relative to it: two
/// programs that round otherwise differ by its whole size. Such a tensor is compared absolutely, by the noise that the
/// reference itself has in f32.
pub struct Gradients<'a> {
    exact: HashMap<&'a str, &'a Tensor>,
    /// Largest relative difference that is borne.
    relative: f64,
    /// Norm below which a gradient is all rounding.
    rounding: f64,
}

impl<'a> Gradients<'a> {
    /// Those under `f64.grad.`, with what the notes say of the reference's f32 noise; `base` as in [`tolerance`].
    pub fn of(expected: &'a Tensors, notes: &serde_json::Value, base: f64) -> Self {
        let under = |prefix: &'static str| {
            let named = |(name, tensor): (&'a String, &'a Tensor)| Some((name.strip_prefix(prefix)?, tensor));
            expected.iter().filter_map(named).collect::<HashMap<_, _>>()
        };
        let (exact, single) = (under("f64.grad."), under("grad."));
        let norm = |tensor: &Tensor| values(tensor).iter().map(|x| x * x).sum::<f64>().sqrt();
        let whole = exact.values().map(|tensor| norm(tensor).powi(2)).sum::<f64>().sqrt();
        let rounding = 8.0 * notes["noise_grad_rel_global"].as_f64().unwrap() * whole;
        // The notes' worst tensor may be one that is all rounding, which says nothing of the others.
        let sound = |name: &str| norm(exact[name]) > rounding;
        let noise = if exact.keys().all(|name| sound(name)) {
            notes["noise_grad_rel_worst_tensor"].as_f64().unwrap()
        } else {
            let of = |(name, tensor): (&&str, &&Tensor)| sound(name).then(|| relative_norm(tensor, exact[*name]));
            single.iter().filter_map(of).fold(0.0, f64::max)
        };
        Self {
            exact,
            relative: base.max(8.0 * noise),
            rounding,
        }
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.exact.len()
    }

    /// Demands that a gradient is the golden one as far as that is defined.
    pub fn assert_close(&self, golden: &str, name: &str, found: &Tensor) {
        self.compare(golden, name, (found, self.exact[name]), self.relative);
    }

    /// Demands that two ways to compute a gradient give the same, but for the order of some sums.
    pub fn assert_same(&self, golden: &str, name: &str, one: &Tensor, other: &Tensor) {
        self.compare(golden, name, (one, other), 1e-6);
    }

    fn compare(&self, golden: &str, name: &str, pair: (&Tensor, &Tensor), relative: f64) {
        let differ = self.differ(pair, relative);
        assert!(differ.is_none(), "{golden}: gradient of {name}: {differ:?}");
    }

    fn differ(&self, (found, expected): (&Tensor, &Tensor), relative: f64) -> Option<String> {
        assert_eq!(found.dims(), expected.dims());
        let (found, expected) = (values(found), values(expected));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        let allowed = if size > self.rounding {
            relative * size
        } else {
            self.rounding
        };
        (difference > allowed).then(|| format!("differs by {difference:e}, its norm is {size:e}"))
    }

    /// Demands that trained values are the golden ones: each whose gradient says where Adam goes, to within `allowed`;
    /// one whose gradient is all rounding goes by chance, but not further than `steps` of the learning rate each way.
    pub fn assert_trained(
        &self,
        golden: &str,
        name: &str,
        (found, expected): (&Tensor, &Tensor),
        allowed: f64,
        steps: f64,
    ) {
        let gradient = self.exact[name];
        let floor = (1e-3 * largest(gradient)).max(self.rounding / (gradient.elem_count() as f64).sqrt());
        let (mut defined, mut worst) = (0, 0.0_f64);
        for ((gradient, a), b) in values(gradient).iter().zip(values(found)).zip(values(expected)) {
            let difference = (a - b).abs();
            if gradient.abs() > floor {
                defined += 1;
                worst = worst.max(difference);
            } else {
                assert!(difference <= 2.0 * steps, "{golden}: {name} went {difference:e}");
            }
        }
        assert!(worst <= allowed, "{golden}: {name} differs by {worst:e}");
        let all_rounding = largest(gradient) <= floor;
        assert!(
            defined * 2 > found.elem_count() || all_rounding,
            "{golden}: {name}: {defined} compared"
        );
    }
}

/// Why the experts that were chosen are not those of the reference; `None` when they are, as far as that is defined:
/// where routers give two experts the same, any order is right, and at the end of the list either of them. Rows of
/// logits, chosen experts and their weights; the tolerance is one of the logits and of the weights.
pub fn experts_differ(
    logits: &[f64],
    (found, found_weights): (&[usize], &[f64]),
    (expected, expected_weights): (&[usize], &[f64]),
    tolerance: f64,
) -> Option<String> {
    let sorted = |weights: &[f64]| {
        let mut weights = weights.to_vec();
        weights.sort_by(|a, b| b.total_cmp(a));
        weights
    };
    if found.len() != expected.len() || found.iter().collect::<std::collections::HashSet<_>>().len() != found.len() {
        return Some(format!("{found:?} are not {} experts", expected.len()));
    }
    let last = expected.iter().map(|&e| logits[e]).fold(f64::INFINITY, f64::min);
    if let Some(wrong) = found.iter().find(|&&e| logits[e] < last - tolerance) {
        return Some(format!("expert {wrong} of {found:?} is not among {expected:?}"));
    }
    let of = |expert: usize| expected.iter().position(|&e| e == expert).map(|i| expected_weights[i]);
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= tolerance;
    let alike = found
        .iter()
        .zip(found_weights)
        .all(|(&e, w)| of(e).is_none_or(|expected| close((w, &expected))));
    if !alike || !sorted(found_weights).iter().zip(&sorted(expected_weights)).all(close) {
        return Some(format!(
            "weights {found_weights:?} of {found:?}, not {expected_weights:?}"
        ));
    }
    None
}

#[test]
fn experts_are_compared_as_far_as_they_are_defined() {
    let logits = [1.0, 3.0, 3.0, 2.0, 2.0, 0.0];
    let weights = [0.4, 0.4, 0.2];
    let differ = |found: &[usize], weights: &[f64; 3]| {
        experts_differ(&logits, (found, weights), (&[1, 2, 3], &[0.4, 0.4, 0.2]), 1e-5).is_some()
    };
    assert!(!differ(&[1, 2, 3], &weights));
    assert!(!differ(&[2, 1, 3], &weights), "a tie has no order");
    assert!(!differ(&[2, 1, 4], &weights), "nor has one at the end of the list");
    assert!(
        !differ(&[3, 2, 1], &[0.2, 0.4, 0.4]),
        "the order of a sum does not matter"
    );
    assert!(differ(&[1, 2, 0], &weights), "expert 0 is none of the best");
    assert!(differ(&[1, 2, 5], &weights));
    assert!(differ(&[1, 1, 3], &weights));
    assert!(differ(&[1, 2, 3], &[0.4, 0.3, 0.3]));
    assert!(differ(&[1, 2, 3], &[0.4, 0.2, 0.4]), "the weights of others");
}

#[test]
fn a_gradient_of_rounding_is_compared_absolutely() {
    let tensor = |values: &[f64]| Tensor::new(values, &candle_core::Device::Cpu).unwrap();
    let expected = Tensors::from([
        ("f64.grad.a".to_owned(), tensor(&[3.0, 4.0])),
        ("f64.grad.zero".to_owned(), tensor(&[1e-17, -1e-17])),
        ("grad.a".to_owned(), tensor(&[3.0, 4.000_01])),
        ("grad.zero".to_owned(), tensor(&[2e-7, 3e-7])),
    ]);
    let notes = serde_json::json!({ "noise_grad_rel_global": 1e-6, "noise_grad_rel_worst_tensor": 3e10 });
    let gradients = Gradients::of(&expected, &notes, 1e-4);
    let differs = |name: &str, values: &[f64]| {
        let found = tensor(values);
        gradients
            .differ((&found, gradients.exact[name]), gradients.relative)
            .is_some()
    };
    assert!(!differs("zero", &[-4e-7, 1e-7]), "rounding of another order of sums");
    assert!(differs("zero", &[0.0, 1e-3]), "a gradient where there is none");
    assert!(!differs("a", &[3.0, 4.0001]));
    assert!(
        differs("a", &[3.0, 4.001]),
        "the noise of the other tensor is not borne here"
    );
}
