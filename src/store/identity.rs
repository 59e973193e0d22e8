//! Identity of a cell: the key that results are compared by, and the hash that they are stored under.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::{Protocol, Shots};
use crate::fs::hash::hex;

/// Version of the records and prediction files of cells; raised when a field changes its meaning.
pub const SCHEMA: u32 = 3;

/// The place of a cell in a sweep. Results are compared by this key, never by [`Identity::run_id`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellKey {
    /// Name of the dataset's manifest.
    pub dataset: String,
    /// Protocol by which shots and test images were chosen.
    pub protocol: Protocol,
    /// Label of the learner.
    pub learner: String,
    /// Labelled examples per class.
    pub shots: Shots,
    /// Seed of the draw and of the training run.
    pub seed: u64,
}

impl std::fmt::Display for CellKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            dataset,
            protocol,
            learner,
            shots,
            seed,
        } = self;
        let plural = if *shots == Shots::K(1) { "" } else { "s" };
        write!(
            f,
            "{dataset} · {protocol} · {learner} · {shots} shot{plural} · seed {seed}"
        )
    }
}

/// Everything that may change a cell's numbers, and nothing else: no paths, device, threads or dates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Identity {
    /// The cell.
    pub key: CellKey,
    /// Hyper-parameters of the learner, without its label and its model's path, and without those of the training where there is
    /// none.
    pub hyper_parameters: Value,
    /// Training images in order: id and SHA-256.
    pub train: Vec<(String, String)>,
    /// Test images in order: id and SHA-256.
    pub test: Vec<(String, String)>,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Fingerprint of the base model's weights and preprocessing; `None` for a learner without one.
    pub weights: Option<String>,
    /// Number format of the computation, e.g. "f32".
    pub dtype: String,
    /// Kind of backend, e.g. "local".
    pub backend: String,
    /// Raised by hand when a change of the code may change numbers.
    pub recipe: u32,
}

impl Identity {
    /// First 16 hex digits of the SHA-256 of this identity as canonical JSON (no white space, keys sorted); the lists of
    /// images are in it by their [`digest`], and up to recipe 2 as they are.
    #[must_use]
    pub fn run_id(&self) -> String {
        self.run_id_with(&digest(&self.train))
    }

    /// The same from recipe [`DIGESTS`] on, where of the training images no more than their [`digest`] is known.
    #[must_use]
    pub fn run_id_with(&self, train_sha256: &str) -> String {
        let (train, test) = if self.recipe < DIGESTS {
            (serde_json::json!(self.train), serde_json::json!(self.test))
        } else {
            (train_sha256.into(), digest(&self.test).into())
        };
        let value = serde_json::json!({
            "key": self.key, "hyper_parameters": self.hyper_parameters, "train": train, "test": test,
            "classes": self.classes, "weights": self.weights, "dtype": self.dtype, "backend": self.backend,
            "recipe": self.recipe,
        });
        canonical_sha256(&value)[..16].to_owned()
    }
}

/// The first recipe whose identities hold digests of the lists of images: a record can then be proved without its split.
pub const DIGESTS: u32 = 3;

/// Lower-case hex SHA-256 of ids and hashes of images in order, as canonical JSON.
#[must_use]
pub fn digest(images: &[(String, String)]) -> String {
    canonical_sha256(&serde_json::json!(images))
}

/// Lower-case hex SHA-256 of a value as canonical JSON: no white space, keys sorted.
#[must_use]
pub(super) fn canonical_sha256(value: &Value) -> String {
    let mut canonical = String::new();
    write_canonical(value, &mut canonical);
    hex(&Sha256::digest(canonical.as_bytes()))
}

/// JSON whose bytes depend on the content only: object keys sorted at every depth.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (i, (name, field)) in fields.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(field, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                write_canonical(item, out);
            }
            out.push(']');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    fn identity() -> Identity {
        Identity {
            key: CellKey {
                dataset: "mini-pets".into(),
                protocol: Protocol::Clean,
                learner: "DINOv2 LoRA".into(),
                shots: Shots::K(4),
                seed: 0,
            },
            hyper_parameters: json!({"rank": 16, "adapter_lr": 1e-3}),
            train: vec![("a.png".into(), "00".into()), ("b.png".into(), "01".into())],
            test: vec![("c.png".into(), "02".into())],
            classes: vec!["cat".into(), "dog".into()],
            weights: Some("ff".into()),
            dtype: "f32".into(),
            backend: "local".into(),
            recipe: 1,
        }
    }

    #[test]
    fn run_id_is_pinned() {
        // printf '%s' '{"backend":"local",…}' | sha256sum | cut -c1-16, the JSON as in the next test.
        assert_eq!(identity().run_id(), "47daa5a31e43bf27");
    }

    #[test]
    fn from_recipe_3_on_digests_stand_for_the_images() {
        let mut new = identity();
        new.recipe = DIGESTS;
        let of_lists = new.run_id();
        // printf '%s' '[["a.png","00"],["b.png","01"]]' | sha256sum
        let train = digest(&new.train);
        assert_eq!(
            train,
            "accd710b7c0cc7f8d77415efaa56c8b09d0cea245f85031ea644d2036afcebf1"
        );
        new.train.clear();
        assert_eq!(new.run_id_with(&train), of_lists);
        assert_ne!(new.run_id(), of_lists);
    }

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let mut out = String::new();
        write_canonical(&json!({"b": [{"d": 1, "c": "é\n"}], "a": 0.001}), &mut out);
        assert_eq!(out, r#"{"a":0.001,"b":[{"c":"é\n","d":1}]}"#);
    }

    #[test]
    fn everything_that_may_change_numbers_changes_the_run_id() {
        let changes: [fn(&mut Identity); 12] = [
            |i| i.key.dataset.push('x'),
            |i| i.key.learner.push('x'),
            |i| i.key.shots = Shots::All,
            |i| i.key.seed += 1,
            |i| i.hyper_parameters["rank"] = json!(17),
            |i| i.train.swap(0, 1),
            |i| i.test[0].1.push('0'),
            |i| i.classes.swap(0, 1),
            |i| i.weights = None,
            |i| i.dtype.push('x'),
            |i| i.backend.push('x'),
            |i| i.recipe += 1,
        ];
        let mut seen = HashSet::from([identity().run_id()]);
        for (n, change) in changes.iter().enumerate() {
            let mut changed = identity();
            change(&mut changed);
            assert!(seen.insert(changed.run_id()), "change {n} went unnoticed");
        }
    }

    #[test]
    fn display_of_a_key() {
        assert_eq!(
            identity().key.to_string(),
            "mini-pets · clean · DINOv2 LoRA · 4 shots · seed 0"
        );
    }
}
