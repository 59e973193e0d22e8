//! The report of a benchmark, with the hardware it ran on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Work;
use crate::nn::DeviceSpec;

/// All of it; as JSON in `results/bench/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// Name of the shape.
    pub shape: String,
    /// Layers kept; absent: all.
    pub layers: Option<usize>,
    /// Numbers of the model.
    pub parameters: u64,
    /// Numbers of its adapters.
    pub trained: u64,
    /// Type of the frozen weights.
    pub dtype: String,
    /// Images a step.
    pub batch: usize,
    /// Whose sizes photographs and names have.
    pub dataset: String,
    /// Tokens of a picture; of the text around it; of an answer (mean).
    pub tokens: [f64; 3],
    /// Speed of a large product on the same device in the same run.
    pub product_flops_per_second: f64,
    /// Resident memory of the process before the model was loaded.
    pub baseline_bytes: Option<u64>,
    /// Memory of a GPU that was taken between before loading and the end.
    pub device_bytes: Option<u64>,
    /// Measured phases, in order.
    pub phases: Vec<Phase>,
    /// Its hardware.
    pub hardware: Hardware,
    /// When it ended, RFC 3339 in UTC.
    pub date: String,
    /// Commit of the source tree, where known.
    pub commit: Option<String>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// Model of the CPU.
    pub cpu: Option<String>,
    /// Its physical cores.
    pub cores: Option<usize>,
    /// Those that the system counts.
    pub logical_cores: usize,
    /// Threads used.
    pub threads: usize,
    /// Main memory.
    pub memory_bytes: Option<u64>,
    /// The GPU it ran on, if it ran on one.
    pub gpu: Option<String>,
    /// Load average over the minute before the end: more than `threads` means that others were at work.
    pub load: Option<f64>,
}

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

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Of each repetition.
    pub seconds: Vec<f64>,
    /// Their median.
    pub median_seconds: f64,
    /// By the median.
    pub images_per_second: f64,
    /// Tokens that the model reads, by the median.
    pub tokens_per_second: f64,
    /// Operations by formula (forward and backward through a frozen base, adapters, head at answers) over the median.
    pub tflops: f64,
    /// Of the speed of a large product.
    pub share_of_product: f64,
    /// Seconds that the operations would take at that speed.
    pub floor_seconds: f64,
    /// Most resident memory in this phase.
    pub peak_bytes: Option<u64>,
    /// Beyond what the process had before the model was loaded.
    pub excess_bytes: Option<u64>,
    /// The same by the estimate.
    pub estimated_bytes: Option<u64>,
    /// Estimate over excess.
    pub estimate_over_measured: Option<f64>,
}

impl Phase {
    pub(super) fn loading(seconds: f64, baseline: Option<u64>, peak: Option<u64>) -> Self {
        Self::new("load", vec![seconds], &Work::default(), 1.0, baseline, peak)
    }

    pub(super) fn new(
        name: &str,
        seconds: Vec<f64>,
        work: &Work,
        speed: f64,
        baseline: Option<u64>,
        peak: Option<u64>,
    ) -> Self {
        let median = median(&seconds);
        let floor = work.operations / speed;
        let excess = peak.zip(baseline).map(|(peak, baseline)| peak.saturating_sub(baseline));
        let ratio = |(estimate, excess): (u64, u64)| estimate as f64 / excess.max(1) as f64;
        Self {
            name: name.to_owned(),
            seconds,
            median_seconds: median,
            images_per_second: work.images as f64 / median,
            tokens_per_second: work.tokens / median,
            tflops: work.operations / median / 1e12,
            share_of_product: floor / median,
            floor_seconds: floor,
            peak_bytes: peak,
            excess_bytes: excess,
            estimated_bytes: work.estimate,
            estimate_over_measured: work.estimate.zip(excess).map(ratio),
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let gigabytes =
            |bytes: Option<u64>| bytes.map_or("–".to_owned(), |bytes| format!("{:.2}", bytes as f64 / 1e9));
        let mut line = format!("{:<22} {:>9.3} s", self.name, self.median_seconds);
        if self.images_per_second > 0.0 {
            line += &format!("  {:>9.2} images/s", self.images_per_second);
        }
        if self.tflops > 0.0 {
            line += &format!(
                "  {:>9.0} tokens/s  {:>7.3} TFLOP/s  {:>5.1} % of a product's  floor {:.3} s",
                self.tokens_per_second,
                self.tflops,
                100.0 * self.share_of_product,
                self.floor_seconds
            );
        }
        line += &format!("  memory +{} GB", gigabytes(self.excess_bytes));
        if let Some(ratio) = self.estimate_over_measured {
            line += &format!(", estimated {} ({ratio:.2}x)", gigabytes(self.estimated_bytes));
        }
        line
    }
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let layers = self.layers.map_or(String::new(), |layers| format!(", {layers} layers"));
        let hardware = &self.hardware;
        let mut text = format!(
            "{}{layers}: {:.1} M numbers {} ({:.2} M trained), batch {}, {} ({:.0} + {:.0} tokens)\n{}{}, {} threads; products {:.3} \
             TFLOP/s\n",
            self.shape,
            self.parameters as f64 / 1e6,
            self.dtype,
            self.trained as f64 / 1e6,
            self.batch,
            self.dataset,
            self.tokens[0],
            self.tokens[1],
            hardware.gpu.as_ref().map_or(String::new(), |gpu| format!("{gpu}, ")),
            hardware.cpu.as_deref().unwrap_or("unknown CPU"),
            hardware.threads,
            self.product_flops_per_second / 1e12,
        );
        for phase in &self.phases {
            text += &phase.line();
            text.push('\n');
        }
        text
    }
}

/// The middle one, or the mean of the two; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(upper), 0) => (upper + sorted.get(middle.saturating_sub(1)).unwrap_or(upper)) / 2.0,
        (Some(value), _) => *value,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_median_and_the_floor_by_the_product() {
        let work = Work {
            images: 8,
            tokens: 800.0,
            operations: 4e12,
            estimate: Some(3_000),
        };
        let phase = Phase::new("train", vec![9.0, 2.0, 1.0], &work, 4e12, Some(1_000), Some(3_500));
        assert_eq!(
            (phase.median_seconds, phase.images_per_second, phase.tflops),
            (2.0, 4.0, 2.0)
        );
        assert_eq!((phase.floor_seconds, phase.share_of_product), (1.0, 0.5));
        assert_eq!(
            (phase.excess_bytes, phase.estimate_over_measured),
            (Some(2_500), Some(1.2))
        );
        assert!(phase.line().contains("50.0 % of a product's"));
        assert_eq!(median(&[1.0, 4.0]), 2.5);
        assert!(Phase::loading(1.0, None, None).estimate_over_measured.is_none());
    }
}
