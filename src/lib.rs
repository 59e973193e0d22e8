//! kshot: how well does a fine-tuned vision-language model classify images with k labelled
//! examples per class, next to a pure vision model?
//!
//! The modules stand in floor order: a module imports only from modules listed above it
//! (`tests/it/architecture.rs` enforces it). The data's way through them:
//!
//! ```text
//! datasets/*.toml ─▶ data ──▶ example ──▶ method ──▶ prediction ──▶ results ──▶ figures
//!  (manifests)     fetch,    pixels,      │   ▲      one row an    records,
//!                  verify,   prompts      ▼   │      image         statistics
//!                  split               backend: local
//!                                         engine
//!                                       models · nn
//!                  └────────────── experiment: cell, sweep ──────────────┘
//! ```

// floor 0: words; each stands on those above it
pub mod error;
pub mod prediction;
pub mod process;
pub mod seed;

pub mod config;
// floor 1: data
pub mod data;
// floor 2: example
pub mod example;
// floor 3: differentiable pieces
pub mod nn;
// floor 4: models
pub mod models;
// floor 5: one frozen base, many adapters
pub mod engine;
// floor 6: where it runs
pub mod backend;
// floor 7: how one learns
pub mod method;
// floor 8: what came out
pub mod results;
// floor 9: the story
pub mod experiment;
// floor 10: faces
pub mod cli;
