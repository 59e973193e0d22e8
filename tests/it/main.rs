//! Integration tests: one binary, because each one links the whole crate again.

mod data;
