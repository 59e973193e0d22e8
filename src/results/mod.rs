//! Predictions → records → statistics → tables and figures.
//!
//! Imports nothing that needs a tensor: every number can be computed again from stored predictions.
//!
//! ```text
//! predictions ─▶ metric ─▶ record ─▶ store ─▶ statistics ─▶ curve ─▶ figure · table
//!                                    (disk)        └──────▶ comparison ─▶ gate
//! ```

pub mod file;
pub mod identity;
pub mod ledger;
pub mod metric;
pub mod predictions;
pub mod record;
pub mod statistics;
pub mod store;
