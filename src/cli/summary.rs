//! What a sweep ends with, and `kshot plot` makes again: figure on disk, tables as text.

use std::path::Path;

use crate::error::Result;
use crate::results::curve::Panel;
use crate::results::record::Record;
use crate::results::series::Series;
use crate::results::store::Store;
use crate::results::table::{self, Table};
use crate::results::{comparison, curve, figure, micro_gate, zero_shot};

/// Draws the figure of `records` into the store and gives the tables that have rows: accuracy; for learners that
/// write their answers, accuracy by reading and without examples; paired differences between the trained learners
/// and the others; and for micro datasets the bar they have to clear.
pub(super) fn draw(store: &Store, records: &[Record]) -> Result<Vec<Table>> {
    let series = Series::load(store, records)?;
    let points = curve::points(&series);
    figure::write(&store.figures(), &curve::with_means(points.clone(), &series))?;

    let subjects = comparison::subjects(&series);
    let micro: Vec<Series> = series.iter().filter(|s| s.is_micro()).cloned().collect();
    let (mut gains, mut gates) = (Vec::new(), Vec::new());
    for learner in &subjects {
        if series.iter().any(|s| s.learner == *learner && s.reading().is_some()) {
            gains.extend(comparison::along_shots(&series, learner, &subjects)?);
        }
        gates.extend(micro_gate::micro_gates(&micro, learner)?);
    }
    gains.sort_by(|a, b| a.dataset.cmp(&b.dataset));
    gates.sort_by(|a, b| a.dataset.cmp(&b.dataset));
    let mut tables = vec![
        table::accuracy(&points),
        table::readings(&series),
        table::zero_shot(&zero_shot::zero_shots(&series)),
        table::differences(&comparison::against_others(&series, &subjects)?),
        table::along_shots(&gains),
        table::micro_gates(&gates),
    ];
    tables.retain(|table| !table.rows.is_empty());
    Ok(tables)
}

/// Draws the figure of a table that was left beside one, there, and gives the table of accuracies: all that such a
/// table holds.
pub(super) fn redraw(curves: &Path) -> Result<Vec<Table>> {
    let mut points = figure::redraw(curves)?;
    points.retain(|point| point.panel == Panel::Dataset);
    Ok(vec![table::accuracy(&points)])
}

/// Tables one below the other, for a terminal.
pub(super) fn plain(tables: &[Table]) -> String {
    tables.iter().map(Table::plain).collect::<Vec<_>>().join("\n")
}

/// Tables one below the other, as Markdown.
pub(super) fn markdown(tables: &[Table]) -> String {
    tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n")
}
