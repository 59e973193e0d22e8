//! kshot: how well does a fine-tuned vision-language model classify images with k labelled
//! examples per class, next to a pure vision model?
//!
//! The modules stand in floor order: a module imports only from modules listed above it
//! (`tests/it/architecture.rs` enforces it). The data's way through them:
//!
//! ```text
//! datasets/*.toml ─▶ manifest ─▶ fetch ─▶ data ──▶ example ──▶ learner ──▶ prediction ──▶ store ──▶ comparison ──▶ report
//!                    (formats)           splits    pixels,      │   ▲      one row an    records,   series,       figures,
//!                                                  prompts      ▼   │      image         claims     statistics    tables
//!                                                              backend                     └──────▶ gate
//!                                                              engine
//!                                                       models · checkpoint · nn
//!                                └─────────────────── experiment: cell, sweep ───────────────────┘
//! ```
//!
//! Results are read without any model, e.g. accuracy with its interval at each number of shots:
//!
//! ```
//! use std::path::Path;
//!
//! use kshot::comparison::{curve, series::Series};
//! use kshot::store::Store;
//!
//! let store = Store::open_existing(Path::new("results/reference/nightly"))?;
//! let series = Series::load(&store, &store.records()?)?;
//! for point in curve::points(&series) {
//!     assert!(point.low <= point.mean && point.mean <= point.high);
//! }
//! # Ok::<(), kshot::error::Error>(())
//! ```

// the bottom: words, processes, files
pub mod environment;
pub mod error;
pub mod prediction;
pub mod process;
pub mod seed;

pub mod config;
pub mod fs;
// what travels inside the binary
pub mod embedded;
// requests to servers
pub mod http;
// datasets and models arrive
pub mod formats;
pub mod manifest;

pub mod fetch;
// images and labels become splits; a user's own become a dataset
pub mod data;
pub mod import;
// images and prompts become pixels and tokens
pub mod example;
// differentiable pieces
pub mod nn;
// model folders and their weights
pub mod checkpoint;
// models
pub mod models;
// one frozen base, many adapters
pub mod engine;
// where it runs
pub mod backend;
// memory and operations of a model, before it is loaded
pub mod cost;
// learners
pub mod learner;
// numbers from answers
pub mod statistics;
// cells on disk
pub mod store;
// series of cells beside each other
pub mod comparison;
// figures, tables and a page
pub mod report;
// tonight beside a baseline
pub mod gate;
// the experiment
pub mod experiment;
// a server for Tinker's SDK and OpenAI clients
pub mod serve;
// the command line
pub mod cli;
