//! Tables for programs: CSV, one file a table, and JSON. Shares stand as they are, between 0 and 1 and with six
//! digits; ends of intervals have columns of their own.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::comparison::paired::SeedTest;
use crate::comparison::saved::Bounded;
use crate::error::{Error, Result};
use crate::report::table::text::significant;
use crate::report::table::{Kind, Row, Table, Value};
use crate::statistics::Interval;
use crate::store::ledger::cell;

/// Columns of every row before its own: what it is about.
const IDENTITY: [&str; 7] = ["dataset", "protocol", "metric", "regime", "n_test", "chance", "micro"];
/// Names the columns of a row whose sanity control is red.
const RED: &str = "red";
/// Names the columns of a row that are of fewer examples than were asked for, with their number; there where any are.
const CAPPED: &str = "capped";

impl Kind {
    /// Parts of a value: names added to that of the column, the first for the value itself.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Text | Self::Count | Self::Share | Self::P | Self::Nats => &[""],
            Self::Accuracy => &["", "low", "high", "t_low", "t_high"],
            Self::Gain => &["", "low", "high"],
            Self::SeedTests => &["by seed", "below 0.05", "against", "net wins"],
            Self::Examples => &["", "bound", "low", "low_bound", "high", "high_bound"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Count => "count",
            Self::Share => "share",
            Self::Accuracy => "share with interval",
            Self::Gain => "difference of shares with interval",
            Self::P => "p value",
            Self::Nats => "nats",
            Self::SeedTests => "p values by seed, and how many show the gain or its opposite",
            Self::Examples => "number of examples with interval",
        }
    }
}

impl Table {
    /// As CSV with a header; `path` is where it is to be written.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn csv(&self, path: &Path) -> Result<Vec<u8>> {
        let failed = |e: csv::Error| Error::io("write", path)(e.into());
        let mut table = csv::Writer::from_writer(Vec::new());
        let own = self.columns.iter().flat_map(|column| {
            let named = |part: &&str| format!("{} {part}", column.name).trim_end().to_owned();
            column.kind.parts().iter().map(named).collect::<Vec<_>>()
        });
        let header: Vec<String> = IDENTITY.map(String::from).into_iter().chain(own).collect();
        let header = header
            .iter()
            .map(String::as_str)
            .chain([RED])
            .chain(self.is_capped().then_some(CAPPED));
        table
            .write_record(header.map(|name| cell(name).into_owned()))
            .map_err(failed)?;
        for row in &self.rows {
            let mut fields: Vec<String> = identity(row).iter().map(|(_, value)| field(value)).collect();
            for (of, column) in row.cells.iter().zip(&self.columns) {
                fields.extend(of.value.raw(column.kind).iter().map(field));
            }
            fields.push(self.red(row).join("; "));
            fields.extend(self.is_capped().then(|| self.capped(row).join("; ")));
            let fields = fields.iter().map(|text| cell(text).into_owned());
            table.write_record(fields).map_err(failed)?;
        }
        table.into_inner().map_err(|e| failed(e.into_error().into()))
    }

    fn json(&self) -> Json {
        let columns = self.columns.iter();
        let columns = columns.map(|column| json!({ "name": column.name, "kind": column.kind.name() }));
        let rows = self.rows.iter().map(|row| {
            let mut fields: Map<String, Json> = identity(row)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            for (cell, column) in row.cells.iter().zip(&self.columns) {
                fields.insert(column.name.clone(), object(column.kind, cell.value.raw(column.kind)));
            }
            fields.insert(RED.to_owned(), json!(self.red(row)));
            if self.is_capped() {
                fields.insert(CAPPED.to_owned(), json!(self.capped(row)));
            }
            Json::Object(fields)
        });
        json!({
            "name": self.name,
            "title": self.title,
            "columns": columns.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "micro": self.is_micro(),
            "notes": self.notes(),
        })
    }

    fn capped(&self, row: &Row) -> Vec<String> {
        let cells = row.cells.iter().zip(&self.columns);
        cells
            .filter_map(|(cell, column)| cell.capped.map(|k| format!("{}: {k}", column.name)))
            .collect()
    }

    fn red(&self, row: &Row) -> Vec<String> {
        let red = row.cells.iter().zip(&self.columns).filter(|(cell, _)| cell.red);
        red.map(|(_, column)| column.name.clone()).collect()
    }
}

/// Tables as one JSON document.
#[must_use]
pub fn json(tables: &[Table]) -> String {
    let tables: Vec<Json> = tables.iter().map(Table::json).collect();
    format!("{:#}\n", json!({ "tables": tables }))
}

fn identity(row: &Row) -> [(&'static str, Json); IDENTITY.len()] {
    let about = row.group.about.as_ref();
    let values = [
        json!(row.group.dataset),
        json!(row.group.protocol),
        json!(about.map(|about| about.metric)),
        json!(about.and_then(|about| about.regime.clone())),
        json!(about.map(|about| about.n_test)),
        json!(about.map(|about| rounded(about.chance))),
        json!(row.micro),
    ];
    let mut names = IDENTITY.into_iter();
    values.map(|value| (names.next().unwrap_or_default(), value))
}

/// A value of one part as it is, one of several as an object, nothing as `null`.
fn object(kind: Kind, raw: Vec<Json>) -> Json {
    if raw.iter().all(Json::is_null) {
        return Json::Null;
    }
    let named = kind
        .parts()
        .iter()
        .map(|part| if part.is_empty() { "value" } else { part });
    let mut parts: Vec<(&str, Json)> = named.zip(raw).collect();
    if parts.len() == 1 {
        return parts.remove(0).1;
    }
    Json::Object(
        parts
            .into_iter()
            .map(|(part, value)| (part.to_owned(), value))
            .collect(),
    )
}

/// A field of a CSV file: no quotes, nothing for `null`, lists separated by spaces.
fn field(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().map(field).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

impl Value {
    /// The parts of the value, as [`Kind::parts`] names them.
    fn raw(&self, kind: Kind) -> Vec<Json> {
        let of = |interval: &Interval| [json!(rounded(interval.low)), json!(rounded(interval.high))];
        let mut parts = match self {
            Self::Missing => vec![],
            Self::Text(words) => vec![json!(words)],
            Self::Count(number) => vec![json!(number)],
            Self::Shots(shots) => vec![json!(shots)],
            Self::Share(number) | Self::Nats(number) => vec![json!(rounded(*number))],
            Self::P(p) => vec![json!(significant_digits(*p))],
            Self::Accuracy(mean, interval, over_seeds) => {
                let mut parts = vec![json!(rounded(*mean))];
                parts.extend(of(interval));
                parts.extend(over_seeds.iter().flat_map(of));
                parts
            }
            Self::Gain(mean, interval) => std::iter::once(json!(rounded(*mean))).chain(of(interval)).collect(),
            Self::SeedTests(tests, gain) => seed_tests(tests, *gain),
            Self::Examples {
                number,
                interval: (low, high),
                ..
            } => [number, low, high]
                .into_iter()
                .flat_map(|number| bounded(*number))
                .collect(),
        };
        parts.resize(kind.parts().len(), Json::Null);
        parts
    }
}

fn seed_tests(tests: &[SeedTest], gain: bool) -> Vec<Json> {
    let (agree, against) = significant(tests, gain);
    let p: Vec<f64> = tests.iter().map(|test| significant_digits(test.p)).collect();
    let net_wins: Vec<i64> = tests.iter().map(|test| test.net_wins).collect();
    vec![json!(p), json!(agree), json!(against), json!(net_wins)]
}

fn bounded(number: Bounded) -> [Json; 2] {
    let bound = match number {
        Bounded::AtMost(_) => "at most",
        Bounded::Known(_) => "known",
        Bounded::MoreThan(_) => "more than",
    };
    [json!(rounded(number.number())), json!(bound)]
}

/// To six digits after the point; never a negative zero.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6 + 0.0
}

/// To six digits, however small.
fn significant_digits(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}
