//! Counters for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets of request times, in seconds.
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By route and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    times: BTreeMap<&'static str, Times>,
    /// By name.
    events: BTreeMap<&'static str, u64>,
}

/// Counts since the server started.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counts: Mutex<Counts>,
}

impl Metrics {
    /// Counts an answered request.
    pub(super) fn answered(&self, route: &'static str, status: u16, time: Duration) {
        let mut counts = self.lock();
        *counts.requests.entry((route, status)).or_default() += 1;
        let times = counts.times.entry(route).or_default();
        let seconds = time.as_secs_f64();
        times.count += 1;
        times.seconds += seconds;
        for (bucket, bound) in times.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// Adds to a counter.
    pub(super) fn add(&self, name: &'static str, count: usize) {
        *self.lock().events.entry(name).or_default() += count as u64;
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self, gauges: &[(&'static str, usize)]) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text, gauges);
        text
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, text: &mut String, gauges: &[(&'static str, usize)]) -> std::fmt::Result {
        let counts = self.lock();
        writeln!(text, "# TYPE kshot_requests_total counter")?;
        for ((route, status), count) in &counts.requests {
            writeln!(
                text,
                "kshot_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}"
            )?;
        }
        writeln!(text, "# TYPE kshot_request_seconds histogram")?;
        for (route, times) in &counts.times {
            for (bound, count) in BUCKETS.iter().zip(times.buckets) {
                writeln!(
                    text,
                    "kshot_request_seconds_bucket{{route=\"{route}\",le=\"{bound}\"}} {count}"
                )?;
            }
            let Times { count, seconds, .. } = times;
            writeln!(
                text,
                "kshot_request_seconds_bucket{{route=\"{route}\",le=\"+Inf\"}} {count}"
            )?;
            writeln!(text, "kshot_request_seconds_sum{{route=\"{route}\"}} {seconds}")?;
            writeln!(text, "kshot_request_seconds_count{{route=\"{route}\"}} {count}")?;
        }
        for (name, count) in &counts.events {
            writeln!(text, "# TYPE kshot_{name}_total counter\nkshot_{name}_total {count}")?;
        }
        for (name, value) in gauges {
            writeln!(text, "# TYPE kshot_{name} gauge\nkshot_{name} {value}")?;
        }
        Ok(())
    }
}
