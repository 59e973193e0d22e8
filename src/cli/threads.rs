//! One thread pool, not two that get in each other's way; and memory that does not creep up over a million images.

use std::convert::Infallible;
use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

/// candle's own pool waits by spinning, beside rayon's, which does the products: on two cores it made
/// training four times slower. It can be switched off only by this variable, before candle is first used.
const CANDLE: &str = "CANDLE_NUM_THREADS";
/// Without it candle reads /proc/cpuinfo at every product.
const RAYON: &str = "RAYON_NUM_THREADS";

/// Milliseconds for which the allocator keeps freed memory before it gives it back to the system; -1: for ever. Every batch wants
/// the same again: kept, what is resident is the same from the first batches on, and nothing waits for the kernel to clear
/// pages. Given back at once it jumps with every batch and the work takes three times as long; by default it creeps up.
const MIMALLOC: &str = "MIMALLOC_PURGE_DELAY";
/// Verbs through which any number of images stream.
const STREAMS: [&str; 2] = ["predict", "embed"];

/// Replaces this process by itself with the variables set, unless they are: a process cannot safely change its
/// own environment once it has threads. Returns only if there is nothing to do or it cannot be done, and then
/// the work is merely slower.
pub(super) fn settle() {
    let mut wanted = vec![CANDLE, RAYON];
    if env::args_os().any(|word| STREAMS.iter().any(|verb| word == *verb)) {
        wanted.push(MIMALLOC);
    }
    wanted.retain(|name| env::var_os(name).is_none());
    if !wanted.is_empty() {
        let Err(error) = again(&wanted);
        tracing::debug!("cannot start again with {}: {error}", wanted.join(", "));
    }
}

fn again(wanted: &[&str]) -> Result<Infallible, io::Error> {
    let threads = thread::available_parallelism()?.to_string();
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1));
    for &name in wanted {
        let value = match name {
            CANDLE => "1",
            RAYON => &threads,
            _ => "-1",
        };
        command.env(name, value);
    }
    Err(command.exec())
}
