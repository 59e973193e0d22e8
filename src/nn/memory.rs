//! Memory of the machine and of this process, and batches in passes that it suffices for.

use std::fs;
use std::path::Path;

use candle_core::Device;

use crate::error::{Error, Result};

/// Bytes that may still be allocated on a device: on the CPU, what the kernel calls available, or what the control group
/// of this process leaves if that is less; `None` where nothing tells.
///
/// # Errors
/// When the driver of a GPU does not answer.
pub fn free(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let told = device.cuda_stream().context().mem_get_info();
        let (free, _) = told.map_err(candle_core::Error::wrap)?;
        return Ok(Some(free as u64));
    }
    let _ = device;
    Ok(host(Path::new("/")))
}

/// Bytes of main memory that this process has now, files that are mapped among them; `None` where nothing tells.
#[must_use]
pub fn resident() -> Option<u64> {
    of_process("VmRSS:")
}

/// The most that [`resident`] was since the process began, or since [`reset_peak`].
#[must_use]
pub fn peak() -> Option<u64> {
    of_process("VmHWM:")
}

fn of_process(name: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// Lets [`peak`] begin anew; says whether the kernel did.
pub fn reset_peak() -> bool {
    // `proc(5)`: 5 resets the peak resident set size.
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Below `root`, which is `/` but for tests.
fn host(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let available = read("proc/meminfo").and_then(|text| kilobytes(&text, "MemAvailable:"));
    [available, group(root)].into_iter().flatten().min()
}

/// Memory that the control groups of this process, version 2 or 1, leave: files in the page cache that are not in use give way.
fn group(root: &Path) -> Option<u64> {
    let lines = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left: Option<u64> = None;
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, limit, used) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        // In a container the group's own path may not be there; its files are then those of the root.
        let mut folder = Path::new(path.trim_start_matches('/')).to_path_buf();
        loop {
            let at = root.join(base).join(&folder);
            let number = |name: &str| fs::read_to_string(at.join(name)).ok()?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(used)) = (number(limit), number(used)) {
                let stat = fs::read_to_string(at.join("memory.stat")).unwrap_or_default();
                let idle = field(&stat, "inactive_file").or_else(|| field(&stat, "total_inactive_file"));
                let room = limit.saturating_sub(used.saturating_sub(idle.unwrap_or(0)));
                left = Some(left.map_or(room, |left| left.min(room)));
            }
            if !folder.pop() {
                break;
            }
        }
    }
    left
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    Some(1024 * field(text, name)?)
}

/// The size of a pass of gradient accumulation. It is halved once when the device is out of memory.
#[derive(Debug, Clone)]
pub struct MicroBatches {
    size: usize,
    halved_to: Option<usize>,
    /// Examples of a pass that there is memory for.
    #[cfg(test)]
    pub(crate) memory_for: Option<usize>,
}

impl MicroBatches {
    /// Passes of so many examples, at least one.
    #[must_use]
    pub fn of(size: usize) -> Self {
        Self {
            size: size.max(1),
            halved_to: None,
            #[cfg(test)]
            memory_for: None,
        }
    }

    /// Examples of a pass, at least one.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Examples of a pass since the device was out of memory, if it was.
    #[must_use]
    pub fn halved_to(&self) -> Option<usize> {
        self.halved_to
    }

    /// Tells whether a batch of `count` examples that ended with this error is to be tried again, in passes of half the size.
    /// `pass` is what a warning calls the examples of a pass.
    pub fn halve(&mut self, error: &Error, count: usize, pass: &str) -> bool {
        let size = self.size.min(count);
        if !error.is_out_of_memory() || size <= 1 || self.halved_to.is_some() {
            return false;
        }
        let half = size.div_ceil(2);
        tracing::warn!("{error}: out of memory with {size} {pass}, going on with {half}");
        (self.size, self.halved_to) = (half, Some(half));
        true
    }

    /// Fails as a device that is out of memory does, where a test says that there is memory for less.
    ///
    /// # Errors
    /// In tests alone.
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(crate) fn check_memory(&self, _examples: usize) -> Result<()> {
        #[cfg(test)]
        if _examples > self.memory_for.unwrap_or(usize::MAX) {
            return Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into()).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_least_of_machine_and_groups() {
        let meminfo = ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n");
        assert_eq!(host(machine(&[meminfo]).path()), Some(4_096_000));
        let second = [
            meminfo,
            ("proc/self/cgroup", "0::/job/step\n"),
            ("sys/fs/cgroup/job/memory.max", "3000000\n"),
            ("sys/fs/cgroup/job/memory.current", "2500000\n"),
            ("sys/fs/cgroup/job/memory.stat", "anon 5\ninactive_file 500000\n"),
            ("sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("sys/fs/cgroup/job/step/memory.current", "7\n"),
        ];
        assert_eq!(host(machine(&second).path()), Some(1_000_000));
        let first = [
            meminfo,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/not/here\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
        ];
        assert_eq!(host(machine(&first).path()), Some(500_000));
        assert_eq!(host(machine(&[]).path()), None);
    }

    #[test]
    fn a_peak_is_forgotten() {
        let (resident, before) = (resident().unwrap(), peak().unwrap());
        assert!(before >= resident && resident > 1 << 20);
        let large = vec![1u8; 64 << 20];
        std::hint::black_box(&large);
        let with = peak().unwrap();
        assert!(with >= before);
        drop(large);
        if reset_peak() {
            assert!(peak().unwrap() <= with);
        }
        assert!(free(&Device::Cpu).unwrap().unwrap() > 0);
    }
}
