//! Bad input: exit code 2, a message that names the thing and the remedy, nothing half-written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Sandbox, contents, copy, datasets, model, root, stderr};

/// Runs `sweep --config tiny.toml` with overrides and demands a refusal that says all of `words`.
fn refuses(sandbox: &Sandbox, set: &[&str], words: &[&str]) {
    let mut arguments = vec!["sweep", "--config", "tiny.toml"];
    for assignment in set {
        arguments.extend(["--set", assignment]);
    }
    check(&sandbox.run(&arguments), words);
    assert!(contents(&sandbox.path("results")).is_empty(), "something was written");
}

fn check(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: ") || said.contains("\nerror: "), "{said}");
    assert!(said.contains("\nhint: "), "no remedy: {said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn unknown_config_key() {
    refuses(&Sandbox::new(), &["shotss=[1]"], &["shotss"]);
    refuses(&Sandbox::new(), &["learner.0.rnk=4"], &["rnk"]);
}

#[test]
fn missing_config_file() {
    let sandbox = Sandbox::new();
    check(&sandbox.run(&["sweep", "--config", "nowhere.toml"]), &["nowhere.toml"]);
}

#[test]
fn unknown_dataset() {
    refuses(
        &Sandbox::new(),
        &["datasets=['mini-pests']"],
        &["mini-pests", "mini-pets"],
    );
}

#[test]
fn too_many_shots() {
    refuses(
        &Sandbox::new(),
        &["shots=[1, 1000]"],
        &["1000", "class `", "mini-pets", "at most"],
    );
}

/// A home of its own with the mini datasets, to be damaged.
fn damaged_home(sandbox: &Sandbox, damage: impl FnOnce(&Path)) -> PathBuf {
    let home = sandbox.path("home");
    copy(&datasets(), &home.join("datasets"));
    damage(&home.join("datasets"));
    home
}

fn run_in(sandbox: &Sandbox, home: &Path) -> Output {
    sandbox
        .kshot(&["sweep", "--config", "tiny.toml"])
        .env("KSHOT_HOME", home)
        .env("KSHOT_CACHE", sandbox.path("cache"))
        .output()
        .unwrap()
}

fn nothing_left(sandbox: &Sandbox) {
    assert!(
        contents(&sandbox.path("cache")).is_empty(),
        "half-unpacked data is left in the cache"
    );
    assert!(contents(&sandbox.path("results")).is_empty(), "results were written");
}

#[test]
fn truncated_archive() {
    let sandbox = Sandbox::new();
    let home = damaged_home(&sandbox, |datasets| {
        let archive = datasets.join("mini/mini-pets/images.tar.gz");
        let bytes = fs::read(&archive).unwrap();
        fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    });
    check(&run_in(&sandbox, &home), &["images.tar.gz", "size"]);
    nothing_left(&sandbox);
}

#[test]
fn wrong_hash() {
    let sandbox = Sandbox::new();
    let home = damaged_home(&sandbox, |datasets| {
        let archive = datasets.join("mini/mini-pets/images.tar.gz");
        let mut bytes = fs::read(&archive).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&archive, bytes).unwrap();
    });
    check(&run_in(&sandbox, &home), &["images.tar.gz", "sha256"]);
    nothing_left(&sandbox);
}

#[test]
fn corrupt_image() {
    let sandbox = Sandbox::new();
    let own = sandbox.path("own");
    for (role, count) in [("train", 2), ("test", 2)] {
        for class in ["circle", "square"] {
            let folder = own.join(role).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                image::RgbImage::from_pixel(16, 16, image::Rgb([i * 90, 7, 200]))
                    .save(folder.join(format!("{i}.png")))
                    .unwrap();
            }
        }
    }
    let home = sandbox.path("home");
    fs::create_dir_all(home.join("datasets")).unwrap();
    let manifest = format!(
        "name = 'own'\ntitle = 'own'\nlayout = 'folders'\nlicence = 'none'\ncitation = 'none'\ndirectory = '{}'\n\
         [expect]\nclasses = 2\npool = 4\ntest = 4\n",
        own.display()
    );
    fs::write(home.join("datasets/own.toml"), manifest).unwrap();
    let sweep = |sandbox: &Sandbox| {
        let model = format!("learner.0.model='{}'", model().display());
        sandbox
            .kshot(&[
                "sweep",
                "--config",
                "tiny.toml",
                "--set",
                "datasets=['own']",
                "--set",
                &model,
            ])
            .env("KSHOT_HOME", &home)
            .env("KSHOT_CACHE", sandbox.path("cache"))
            .output()
            .unwrap()
    };
    let bad = own.join("train/square/1.png");
    let whole = fs::read(&bad).unwrap();
    fs::write(&bad, b"\xff\xd8\xff\xe0 this is no JPEG").unwrap();
    check(&sweep(&sandbox), &["train/square/1.png"]);
    nothing_left(&sandbox);

    // The same folder is fine once the file is.
    fs::write(&bad, whole).unwrap();
    let output = sweep(&sandbox);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A copy of the micro model, damaged, as the learner's model.
fn refuses_model(damage: impl FnOnce(&Path), words: &[&str]) {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("model");
    copy(&model(), &folder);
    damage(&folder);
    refuses(&sandbox, &["learner.0.model=model"], words);
}

#[test]
fn model_folder_without_weights() {
    refuses_model(
        |m| fs::remove_file(m.join("model.safetensors")).unwrap(),
        &["model", "safetensors"],
    );
}

#[test]
fn model_folder_that_is_not_there() {
    refuses(&Sandbox::new(), &["learner.0.model=no/such/model"], &["no/such/model"]);
}

#[test]
fn model_with_a_mis_shaped_tensor() {
    refuses_model(
        |m| {
            let config = fs::read_to_string(m.join("config.json")).unwrap();
            let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
            config["image_size"] = 96.into();
            fs::write(m.join("config.json"), config.to_string()).unwrap();
        },
        &["position_embeddings"],
    );
}

#[test]
fn truncated_model_weights() {
    refuses_model(
        |m| {
            let file = m.join("model.safetensors");
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        },
        &["model.safetensors"],
    );
}

/// Runs a shell line as root of a mount namespace of its own, so that mounts vanish with it.
fn with_mounts(sandbox: &Sandbox, script: &str) -> Output {
    let user = Command::new("id").arg("-u").output().unwrap();
    let namespace = if user.stdout == b"0\n" {
        "--mount"
    } else {
        "--map-root-user"
    };
    Command::new("unshare")
        .args([namespace, "--mount", "sh", "-ec", script])
        .current_dir(sandbox.path(""))
        .env("KSHOT", env!("CARGO_BIN_EXE_kshot"))
        .env("KSHOT_HOME", root())
        .env("KSHOT_CACHE", crate::support::cache())
        .output()
        .unwrap()
}

#[test]
fn full_disk() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("small")).unwrap();
    // Room for the first cells, not for all of them.
    let output = with_mounts(
        &sandbox,
        "mount -t tmpfs -o size=96k tmpfs small && \"$KSHOT\" sweep --config tiny.toml --results small/tiny || code=$?
         cp -r small/tiny kept; exit ${code:-0}",
    );
    check(&output, &["No space left on device", "small/tiny", "free some space"]);
    // What was finished before the disk was full is whole: with room, only the rest is run.
    let again = sandbox.run(&["sweep", "--config", "tiny.toml", "--results", "kept"]);
    assert!(again.status.success(), "{}", stderr(&again));
}

#[test]
fn read_only_results_folder() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("fixed")).unwrap();
    let output = with_mounts(
        &sandbox,
        "mount -t tmpfs tmpfs fixed && mount -o remount,ro fixed && exec \"$KSHOT\" sweep --config tiny.toml --results fixed/tiny",
    );
    check(&output, &["Read-only file system", "fixed/tiny", "--results"]);
}
