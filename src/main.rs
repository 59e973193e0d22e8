//! The `kshot` binary.
fn main() {}
