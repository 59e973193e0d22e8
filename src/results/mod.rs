//! Predictions → records → statistics → tables and figures.
//!
//! Imports nothing that needs a tensor: every number can be computed again from stored predictions.
//!
//! ```text
//! predictions ─▶ metric ─▶ record ─▶ store ─▶ series ─▶ curve ─▶ figure · table
//!                                   (disk)      ├────▶ comparison ─▶ micro gate · table
//!                                     │         ├────▶ saved images ─▶ table
//!                                     │         ├────▶ reliability ─▶ figure
//!                                     │         └────▶ zero shot ─▶ table
//!                                     └─▶ compact (the same, to be committed) ─▶ gate
//! ```
//!
//! Many processes may write one store: [`claim`] says who runs which cell. [`verify`] computes everything again.

pub mod anchor;
pub mod calibration;
pub mod claim;
pub mod compact;
pub mod comparison;
pub mod control;
pub mod curve;
pub mod figure;
pub mod file;
pub mod gate;
pub mod identity;
pub mod ledger;
pub mod leftovers;
pub mod metric;
pub mod micro_gate;
pub mod normalisation;
pub mod partial;
pub mod predictions;
pub mod record;
pub mod reliability;
pub mod replacement;
pub mod saved;
pub mod series;
pub mod spreadsheet;
pub mod statistics;
pub mod store;
pub mod table;
pub mod verify;
pub mod zero_shot;
