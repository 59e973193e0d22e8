//! Figures, tables, and the page that shows both with the answers behind them.

pub mod anchor;
pub mod figure;
pub mod page;
pub mod summary;
pub mod table;
