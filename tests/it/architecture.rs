//! The house stands on its floors: imports go down only.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Module name → its place in `lib.rs`.
fn floors() -> HashMap<String, usize> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(floor, module)| (module.to_owned(), floor))
        .collect()
}

/// Modules that a source text names as `crate::module`, grouped imports included.
fn imported(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            modules.push(word);
        } else {
            modules.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    modules
        .iter()
        .map(|m| m.trim().split("::").next().unwrap_or("").to_owned())
        .collect()
}

#[test]
fn imports_go_down_only() {
    let floors = floors();
    assert!(floors.len() >= 8, "lib.rs lists {floors:?}");
    let src = root().join("src");
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = floors.get(module) else {
            assert!(
                matches!(module, "lib" | "main"),
                "{} is not listed in lib.rs",
                inside.display()
            );
            continue;
        };
        for other in imported(&fs::read_to_string(&file).unwrap()) {
            let Some(floor) = floors.get(&other) else { continue };
            assert!(
                floor <= own,
                "{} ({module}) imports `{other}`, which is above it",
                inside.display()
            );
        }
    }
}

/// The rooms of results, and all that each may import: none of it touches a tensor. What the binary links is another
/// matter: the error type at the bottom wraps candle's.
const RESULTS: [(&str, &[&str]); 5] = [
    ("statistics", &["prediction", "seed"]),
    (
        "store",
        &[
            "config",
            "data",
            "error",
            "fs",
            "prediction",
            "process",
            "seed",
            "statistics",
        ],
    ),
    ("comparison", &["config", "error", "prediction", "statistics", "store"]),
    (
        "report",
        &[
            "comparison",
            "config",
            "error",
            "fs",
            "prediction",
            "statistics",
            "store",
        ],
    ),
    (
        "gate",
        &["config", "error", "fs", "prediction", "report", "statistics", "store"],
    ),
];

/// Crates of tensors and of what feeds them.
const TENSOR_CRATES: [&str; 6] = [
    "candle_core",
    "candle_nn",
    "candle_transformers",
    "gemm",
    "safetensors",
    "tokenizers",
];

#[test]
fn results_are_read_without_tensors() {
    let floors = floors();
    for (room, allowed) in RESULTS {
        for file in rust_files(&root().join("src").join(room)) {
            let text = fs::read_to_string(&file).unwrap();
            for other in imported(&text) {
                let is_allowed = other == room || allowed.contains(&other.as_str());
                assert!(
                    is_allowed || !floors.contains_key(&other),
                    "{} imports `{other}`: {room} may import {allowed:?}",
                    file.display()
                );
            }
            for name in TENSOR_CRATES {
                assert!(!text.contains(&format!("{name}::")), "{} uses {name}", file.display());
            }
        }
    }
}

#[test]
fn the_environment_is_asked_in_one_place() {
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let asks = ["env::var", "env::vars", "var_os(", "_from_env(\""]
            .iter()
            .any(|call| text.contains(call));
        assert_eq!(asks, file.ends_with("src/environment.rs"), "{}", file.display());
    }
}

#[test]
fn the_library_knows_no_checkout() {
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let program = text.split("#[cfg(test)]").next().unwrap();
        let is_test = file.ends_with("tests.rs") || file.ends_with("engine/micro.rs");
        assert!(is_test || !program.contains("CARGO_MANIFEST_DIR"), "{}", file.display());
    }
}

#[test]
fn the_import_reader_sees_grouped_and_plain_paths() {
    let text = "use crate::{data::{a, b}, nn};\nlet x = crate::results::y();";
    assert_eq!(imported(text), ["data", "nn", "results"]);
}

#[test]
fn every_test_file_is_run() {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).unwrap();
    for entry in fs::read_dir(root().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let listed = main.contains(&format!("mod {name};"));
        assert!(
            listed || name == "main" || path.is_dir(),
            "{} is not listed in main.rs",
            path.display()
        );
    }
}
