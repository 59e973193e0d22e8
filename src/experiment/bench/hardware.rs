//! The hardware of a measurement.

use std::collections::BTreeSet;

use super::report::Hardware;
use crate::nn::DeviceSpec;

/// This machine.
pub(super) fn here(place: &DeviceSpec) -> Hardware {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let of = |name: &'static str| info.lines().filter(move |line| line.starts_with(name));
    let cores: BTreeSet<(String, String)> = of("physical id")
        .filter_map(value)
        .zip(of("core id").filter_map(value))
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemTotal:")?.split_whitespace().next()?;
        kilobytes.parse::<u64>().ok()
    });
    Hardware {
        cpu: of("model name").find_map(value),
        cores: (!cores.is_empty()).then_some(cores.len()),
        logical_cores: threads,
        threads: rayon::current_num_threads(),
        memory_bytes: total.map(|kilobytes| 1024 * kilobytes),
        gpu: gpu(place),
        load: std::fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok()),
    }
}

#[cfg(feature = "cuda")]
fn gpu(place: &DeviceSpec) -> Option<String> {
    match &place.device {
        candle_core::Device::Cuda(device) => device.cuda_stream().context().name().ok(),
        _ => None,
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: &DeviceSpec) -> Option<String> {
    None
}
