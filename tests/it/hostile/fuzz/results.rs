//! The readers of what lies in a results folder and of configs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kshot::comparison::curve;
use kshot::experiment::config::Sweep;
use kshot::gate::noise::Noise;
use kshot::store::claim::{ClaimOutcome, Claims};
use kshot::store::ledger;
use serde_json::json;

const CELL: &str = "0123456789abcdef";

/// Of another machine, and of this one.
pub fn claims() -> Vec<Vec<u8>> {
    let claim = |boot: &str, lease: f64| {
        json!({
            "schema": 1,
            "run_id": CELL,
            "owner": {
                "host": "node-7", "boot": boot, "pid_namespace": 4_026_531_836_u64, "pid": 7, "started": 4242, "user": 0,
                "time_namespace": 4_026_531_834_u64, "user_namespace": 4_026_531_837_u64, "token": "00c0ffee00c0ffee",
            },
            "token": "0123456789abcdef",
            "lease_seconds": lease,
            "beat": 3,
            "time": "2026-01-01T00:00:00Z",
        })
        .to_string()
        .into_bytes()
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    vec![claim("5cd8", 60.0), claim(boot.trim(), 3600.0)]
}

/// Whatever the file says, the cell is another's or ours at once: nobody waits within the call.
pub fn read_claim(bytes: &[u8], folder: &Path) -> bool {
    let results = folder.join("results");
    let lease = Duration::from_secs(60);
    let mut claims = Claims::open(&results, lease).unwrap();
    fs::write(results.join(format!("claims/{CELL}.0.json")), bytes).unwrap();
    let accepted = match claims.take(CELL).unwrap() {
        ClaimOutcome::Ours(_) => true,
        ClaimOutcome::Theirs(owner) => !owner.contains("unknown owner"),
    };
    fs::remove_dir_all(results).unwrap();
    accepted
}

pub fn configs() -> Vec<Vec<u8>> {
    [
        "quickstart.toml",
        "baselines.toml",
        "four-datasets.toml",
        "prompt-sensitivity.toml",
    ]
    .map(|name| fs::read(crate::support::root().join("configs").join(name)).unwrap())
    .to_vec()
}

pub fn read_config(bytes: &[u8], _: &Path) -> bool {
    Sweep::parse(&String::from_utf8_lossy(bytes), "fuzzed", &[]).is_ok()
}

/// The same as an override, which has a form of its own.
pub fn overrides() -> Vec<Vec<u8>> {
    ["learner.0.rank=4", "datasets=['a', \"b\"]", "shots=[1, 2]"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

pub fn read_override(bytes: &[u8], _: &Path) -> bool {
    let text = String::from_utf8_lossy(bytes).into_owned();
    Sweep::parse(crate::support::TINY, "fuzzed", &[text]).is_ok()
}

fn reference(inside: &str) -> Vec<u8> {
    fs::read(crate::support::root().join("results/reference/mini-full").join(inside)).unwrap()
}

/// A table's header and first rows.
fn head(bytes: &[u8], lines: usize) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.lines()
        .take(lines)
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .into_bytes()
}

pub fn ledgers() -> Vec<Vec<u8>> {
    vec![head(&reference("ledger.csv"), 4)]
}

pub fn read_ledger(bytes: &[u8], folder: &Path) -> bool {
    super::readers::from_disk(bytes, folder, "ledger.csv", ledger::listed)
}

pub fn curves() -> Vec<Vec<u8>> {
    vec![head(&reference("figures/accuracy.csv"), 5)]
}

pub fn read_curve(bytes: &[u8], _: &Path) -> bool {
    curve::from_csv(Path::new("fuzzed"), bytes).is_ok()
}

pub fn noises() -> Vec<Vec<u8>> {
    let cell = json!({
        "key": {"dataset": "a", "protocol": "clean", "learner": "b", "shots": 4, "seed": 0},
        "runs": 3, "changes": 1.5, "images": 0.7,
    });
    let noise = serde_json::from_value::<kshot::gate::noise::CellNoise>(cell.clone()).is_ok();
    assert!(noise, "the form of a cell's noise has changed");
    vec![json!({"schema": 1, "cells": [cell]}).to_string().into_bytes()]
}

pub fn read_noise(bytes: &[u8], folder: &Path) -> bool {
    super::readers::from_disk(bytes, folder, "noise.json", |_| match Noise::read(folder) {
        Ok(Some(_)) => Ok(()),
        _ => Err(()),
    })
}
