//! `kshot diff`: two results folders beside each other.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use toml::{Table, Value};

use super::{output, output_json};
use crate::comparison::between::{Between, Comparison, between};
use crate::comparison::series::Series;
use crate::error::Result;
use crate::report::table;
use crate::store::Store;

/// Compare two results folders: what their configs differ in, and the gain of the second over the first.
///
/// Series of the same learner on the same dataset with as many examples are compared by seed and image, with the interval and the p
/// value that the tables have, where both were tested on the same images; else their accuracies stand beside each other, with the
/// reason.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot diff results/rank-4 results/rank-8")]
pub(super) struct Arguments {
    /// A results folder.
    first: PathBuf,
    /// Another one.
    second: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let series = |folder: &Path| -> Result<Vec<Series>> {
        let store = Store::open_existing(folder)?;
        Series::load(&store, &store.records()?)
    };
    let (first, second) = (series(&arguments.first)?, series(&arguments.second)?);
    let found = between(&first, &second);
    let settings = settings(&arguments.first, &arguments.second);
    if arguments.json {
        return output_json(&as_json(&found, &settings));
    }
    output(&text(&found, &settings))
}

/// Settings of the configs that differ: the path, the first's value, the second's.
type Setting = (String, Option<Value>, Option<Value>);

/// Those of two folders; none where one has no config that can be read.
fn settings(first: &Path, second: &Path) -> Vec<Setting> {
    let read = |folder: &Path| -> Option<Value> {
        let text = fs::read_to_string(folder.join("sweep.toml")).ok()?;
        toml::from_str::<Table>(&text).ok().map(Value::Table)
    };
    let mut found = Vec::new();
    if let (Some(first), Some(second)) = (read(first), read(second)) {
        compare("", Some(&first), Some(&second), &mut found);
    }
    found
}

fn compare(path: &str, first: Option<&Value>, second: Option<&Value>, found: &mut Vec<Setting>) {
    let inside = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match (first, second) {
        (Some(Value::Table(a)), Some(Value::Table(b))) => {
            let more = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(more) {
                compare(&inside(name), a.get(name), b.get(name), found);
            }
        }
        // Lists of tables; lists of plain values are one value.
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.iter().chain(b).any(Value::is_table) => {
            for place in 0..a.len().max(b.len()) {
                compare(&inside(&place.to_string()), a.get(place), b.get(place), found);
            }
        }
        (a, b) if a != b => found.push((path.to_owned(), a.cloned(), b.cloned())),
        _ => {}
    }
}

fn text(found: &Comparison, settings: &[Setting]) -> String {
    let mut text = String::new();
    let shown = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), ToString::to_string);
    for (path, first, second) in settings {
        let _ = writeln!(text, "config: {path}: {} → {}", shown(first), shown(second));
    }
    for (folder, alone) in ["first", "second"].iter().zip(&found.alone) {
        for series in alone {
            let _ = writeln!(text, "in the {folder} alone: {series}");
        }
    }
    if found.both.is_empty() {
        return text + "they have no series of the same dataset, learner and number of examples\n";
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text += &table::between(&found.both).plain();
    for one in &found.both {
        if let Err(reason) = &one.gain {
            let Between {
                dataset,
                learner,
                shots,
                ..
            } = one;
            let _ = writeln!(text, "not paired: {dataset} · {learner} · k = {shots}: {reason}");
        }
    }
    let same = found.both.iter().filter(|one| one.same).count();
    text + &format!(
        "{same} of {} series have the same answers to every image\n",
        found.both.len()
    )
}

fn as_json(found: &Comparison, settings: &[Setting]) -> serde_json::Value {
    let series = |one: &Between| {
        let gain = one.gain.as_ref().ok().map(|difference| {
            let gain = &difference.gain;
            json!({
                "mean": gain.mean, "low": gain.interval.low, "high": gain.interval.high,
                "p": gain.components.p_value(), "seeds": difference.seeds,
            })
        });
        json!({
            "dataset": one.dataset, "protocol": one.protocol, "learner": one.learner, "shots": one.shots, "micro": one.micro,
            "accuracy": one.accuracies, "seeds": one.seeds, "gain": gain, "not_paired": one.gain.as_ref().err(),
            "same_answers": one.same,
        })
    };
    let setting = |(path, first, second): &Setting| json!({"path": path, "first": first, "second": second});
    json!({
        "config": settings.iter().map(setting).collect::<Vec<_>>(),
        "first_alone": found.alone[0], "second_alone": found.alone[1],
        "series": found.both.iter().map(series).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_named_by_their_paths() {
        let read = |text: &str| Value::Table(toml::from_str(text).unwrap());
        let first = read("shots = [1, 2]\nexif = true\n[[learner]]\nrank = 4\nname = 'x'\n");
        let second = read("shots = [1]\nexif = true\n[[learner]]\nrank = 8\nname = 'x'\n[[learner]]\nname = 'y'\n");
        let mut found = Vec::new();
        compare("", Some(&first), Some(&second), &mut found);
        let paths: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["learner.0.rank", "learner.1", "shots"]);
        assert_eq!(found[0].2, Some(Value::Integer(8)));
    }
}
