//! Reads a results folder through the library: accuracy with its interval, and one learner against another.
//!
//! ```text
//! cargo run --release --example read_results -- results/reference/mini-full
//! ```

use std::path::PathBuf;

use kshot::comparison::series::Series;
use kshot::comparison::{curve, paired};
use kshot::error::Result;
use kshot::store::Store;

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| "results/reference/mini-full".into(), PathBuf::from);
    let store = Store::open_existing(&folder)?;
    // One series is one learner at one number of shots, over all seeds, with every answer.
    let series = Series::load(&store, &store.records()?)?;
    for point in curve::points(&series) {
        println!(
            "{} k={} {}: {:.1} % [{:.1}, {:.1}]",
            point.dataset,
            point.shots,
            point.learner,
            100.0 * point.mean,
            100.0 * point.low,
            100.0 * point.high
        );
    }
    // Paired by seed and image, corrected over datasets and shots.
    for test in paired::tests(&series, &paired::subjects(&series))? {
        let (difference, interval) = (&test.difference, &test.difference.gain.interval);
        println!(
            "{} k={} {} over {}: {:+.1} points [{:+.1}, {:+.1}], p {:.3} after Holm",
            difference.dataset,
            difference.learner.1,
            difference.learner.0,
            difference.other.0,
            100.0 * difference.gain.mean,
            100.0 * interval.low,
            100.0 * interval.high,
            test.holm
        );
    }
    Ok(())
}
