//! The one integration binary: every extra one would link everything again.

mod results;
