//! Figures and tables.

pub mod anchor;
pub mod figure;
pub mod summary;
pub mod table;
