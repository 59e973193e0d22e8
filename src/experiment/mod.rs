//! The story: a config becomes cells, a cell becomes a record, a sweep becomes a figure.

pub mod adapter;
pub mod bench;
mod calibration;
pub mod cell;
pub mod config;
pub mod control;
pub mod estimate;
pub mod event;
pub mod outline;
pub mod plan;
pub mod shard;
pub mod sweep;
pub mod verify;
