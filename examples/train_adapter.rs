//! Trains an adapter through the library and asks it about the test set: Qwen3-VL with LoRA on four shots per class.
//!
//! ```text
//! cargo run --release --example train_adapter -- /tmp/adapter
//! ```

use std::path::{Path, PathBuf};

use kshot::config::{Protocol, Shots};
use kshot::data::{self, split};
use kshot::error::Result;
use kshot::fs::cache_folder;
use kshot::learner::Learner;
use kshot::learner::base::Bases;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from);
    let (protocol, shots, seed) = (Protocol::Clean, Shots::K(4), 0);
    // Found, unpacked, hashed and decoded once; then a split that only seed and number of shots decide.
    let dataset = data::open_for("mini-flowers", protocol, Path::new("datasets"), &cache_folder())?;
    let split = split::draw(&dataset, protocol, shots, seed, None)?;
    // Settings that are not named are the defaults, as in a config.
    let learner = Learner::parse(
        "qwen3-vl-lora",
        Path::new("datasets/mini/models/micro-qwen3-vl"),
        &["learning_rate=4e-3".into(), "images_per_class=32".into()],
    )?
    .under(protocol, shots);
    let base = learner.load(&mut Bases::new(Path::new(".")))?;
    let mut classifier = base.classifier(&split.classes, seed)?;
    let fit = classifier.fit(&split.train_images(&dataset)?, None, &mut |step| {
        println!("step {} of {}: loss {:.3} nats", step.done, step.of, step.loss);
        Ok(())
    })?;
    let (mut right, mut asked) = (0, 0);
    classifier.predict(&split.test_images(&dataset)?, &mut |rows| {
        asked += rows.len();
        right += rows.iter().filter(|row| row.correct(learner.reading())).count();
        Ok(())
    })?;
    println!(
        "{} numbers trained; {right} of {asked} test images right, reading {:?}",
        fit.trainable_parameters,
        learner.reading()
    );
    if let Some(out) = out {
        // A PEFT folder: adapter_config.json and adapter_model.safetensors.
        classifier.save(&out)?;
    }
    Ok(())
}
