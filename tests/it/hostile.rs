//! Files that nobody vouches for: refused with a clear error, within bounds of memory and disk, and without a trace
//! outside the folder they are read into.
#![allow(clippy::print_stdout, reason = "children tell their test what they saw")]

mod archives;
mod bombs;
pub mod fuzz;
mod images;
mod labels;
mod limited;
pub mod made;
