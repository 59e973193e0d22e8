//! One thread pool, not two that get in each other's way.

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

/// Replaces this process by itself with the variables set, unless they are: a process cannot safely change its
/// own environment once it has threads. Returns only if there is nothing to do or it cannot be done, and then
/// the work is merely slower.
pub(super) fn settle() {
    if env::var_os(CANDLE).is_none() || env::var_os(RAYON).is_none() {
        let Err(error) = again();
        tracing::debug!("cannot start again with {CANDLE} and {RAYON}: {error}");
    }
}

fn again() -> Result<Infallible, io::Error> {
    let threads = thread::available_parallelism()?;
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1));
    for (name, value) in [(CANDLE, "1".to_owned()), (RAYON, threads.to_string())] {
        if env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    Err(command.exec())
}
