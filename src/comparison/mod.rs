//! Series of cells beside each other: curves, paired differences, labelled images saved.

pub mod between;
pub mod curve;
pub mod paired;
pub mod reliability;
pub mod saved;
pub mod series;
