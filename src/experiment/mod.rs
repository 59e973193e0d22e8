//! The story: a config becomes cells, a cell becomes a record, a sweep becomes a figure.

pub mod adapter;
pub mod bench;
pub mod cell;
pub mod config;
pub mod control;
pub mod estimate;
pub mod folder;
pub mod plan;
pub mod sweep;
pub mod verify;
