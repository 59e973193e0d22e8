//! One integration binary: every further one would link candle again.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is a failed test"
)]
#![expect(unreachable_pub, reason = "test modules are seen from this binary only")]

mod adapters;
mod architecture;
mod backend;
mod backend_support;
mod bad_input;
mod bench;
mod bf16;
mod calibration;
mod claims;
mod cli;
mod containers;
mod control_verb;
mod controls;
mod data;
mod dinov2;
mod disk;
mod doorway;
mod dry_run;
mod engine;
mod feature_cache;
mod fetch;
mod first_minutes;
mod forty;
mod gate;
mod gate_simulation;
mod goldens;
mod gradients;
mod hints;
mod hostile;
mod image_cache;
mod image_major;
mod images;
mod import;
mod kill;
mod ledger;
mod merge;
mod model_folder;
mod packing;
mod planted;
mod predict;
mod processor;
mod promote;
mod protocols;
mod qwen;
mod qwen_checkpointing;
mod qwen_input;
mod qwen_lora;
mod qwen_moe;
mod qwen_moe_adapter;
mod qwen_support;
mod reading;
mod reading_local;
mod reading_tree;
mod real_shape;
mod refusals;
mod report;
mod results;
mod resume;
mod serve;
mod serve_faults;
mod serve_lifecycle;
mod serve_openai;
mod serve_support;
mod support;
mod sweep;
mod tables;
mod tokenizer;
mod transformers5;
mod verbs;
mod verify;
mod weights;
mod weights_taken;
mod writing;
mod zero_shot;
