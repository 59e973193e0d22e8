//! What a sweep ends with, and `kshot plot` makes again: figure on disk, tables as text.

use crate::error::Result;
use crate::results::record::Record;
use crate::results::series::Series;
use crate::results::store::Store;
use crate::results::table::{self, Table};
use crate::results::{comparison, curve, figure, micro_gate};

/// Draws the figure of `records` into the store and gives the tables: accuracy, paired differences between
/// the trained learner and the others, and for micro datasets the bar they have to clear.
pub(super) fn draw(store: &Store, records: &[Record]) -> Result<Vec<Table>> {
    let series = Series::load(store, records)?;
    let points = curve::points(&series);
    figure::write(&store.figures(), &points)?;
    let mut tables = vec![table::accuracy(&points)];
    if let Some(learner) = comparison::subject(&series) {
        let differences = comparison::against_others(&series, learner)?;
        if !differences.is_empty() {
            tables.push(table::differences(&differences));
        }
        let micro: Vec<Series> = series.iter().filter(|s| s.is_micro()).cloned().collect();
        let gates = micro_gate::micro_gates(&micro, learner)?;
        if !gates.is_empty() {
            tables.push(table::micro_gates(&gates));
        }
    }
    Ok(tables)
}

/// Tables one below the other, for a terminal.
pub(super) fn plain(tables: &[Table]) -> String {
    tables.iter().map(Table::plain).collect::<Vec<_>>().join("\n")
}

/// Tables one below the other, as Markdown.
pub(super) fn markdown(tables: &[Table]) -> String {
    tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n")
}
