//! Tinker's calls, under `/api/v1`.

pub(super) mod sampling;
pub(super) mod session;
pub(super) mod training;
pub(super) mod weights;
