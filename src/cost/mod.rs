//! The cost of a model at work, before it is loaded: operations and memory that follow from its shape.

pub(crate) mod fit;
pub mod memory;
pub mod operations;
pub mod shape;
