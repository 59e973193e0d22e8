//! `kshot --version`: which program this is, and where it would compute.

use std::fmt::Write as _;

use crate::embedded;
use crate::nn::DeviceSpec;

/// The commit that this program was built from, with `-dirty` where files differed from it; none if it was built outside of its
/// repository.
pub(super) const COMMIT: Option<&str> = option_env!("KSHOT_COMMIT");

/// Version, commit, features, device and embedded data, a line each.
pub(super) fn text() -> String {
    let features = if cfg!(feature = "cuda") {
        "cuda"
    } else {
        "none: CPU only"
    };
    let threads = rayon::current_num_threads();
    let device = match DeviceSpec::best() {
        Ok(place) if place.device.is_cpu() => format!("cpu, {threads} threads"),
        Ok(place) => place.device_name(),
        Err(error) => format!("none: {error}"),
    };
    let mut text = concat!("kshot ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    let mut fact = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:9} {value}");
    };
    fact("commit", COMMIT.unwrap_or("unknown"));
    fact("features", features);
    fact("device", &device);
    let (datasets, megabytes) = (embedded::datasets().count(), embedded::size() as f64 / 1e6);
    fact(
        "inside",
        &format!("{datasets} manifests, 5 miniature datasets and 2 micro models: {megabytes:.1} MB"),
    );
    text
}
