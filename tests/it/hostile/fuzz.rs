//! Every reader on damaged files: 20,000 each, or as many as `KSHOT_FUZZ_ITERATIONS` says. A reader may refuse, but
//! not panic, not take much memory, not run on and on, and not leave anything behind.
//!
//! Each reader works in a child of this binary with bounds that the kernel enforces. A failure names the iteration
//! and keeps its file; `KSHOT_FUZZ_FIRST=N KSHOT_FUZZ_ITERATIONS=1` with the same test runs it alone.

#![allow(clippy::print_stdout, reason = "says what was done or skipped")]

mod lists;
mod models;
pub mod mutate;
mod readers;
mod results;

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::limited::{self, Bounds, said};
use mutate::{Random, mutate};
use readers::{READERS, Reader};

const ITERATIONS: u64 = 20_000;
/// Readers of whole models, which take a tenth of the files: each is milliseconds of work.
const SLOW: [&str; 6] = [
    "model_config",
    "tokenizer",
    "image_processor",
    "nested_processor",
    "adapter_config",
    "adapter_weights",
];
const SEED: u64 = 0x6b73_686f_7400;

/// Two decoded images of the largest size that is accepted (400 MiB), and what a process has anyway.
const MEBIBYTES: u64 = 1500;

/// Time for one file, however busy the machine is.
const MOST: Duration = Duration::from_secs(10);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn iterations(name: &str) -> u64 {
    let share = if SLOW.contains(&name) { 10 } else { 1 };
    number("KSHOT_FUZZ_ITERATIONS", ITERATIONS / share)
}

fn reader(name: &str) -> &'static Reader {
    READERS.iter().find(|reader| reader.name == name).unwrap()
}

/// The damaged file of an iteration.
fn damaged(reader: &Reader, seeds: &[Vec<u8>], iteration: u64) -> Vec<u8> {
    let mut random = Random::of(SEED, iteration);
    let mut bytes = mutate(seeds, &mut random);
    if random.below(2) == 0 {
        (reader.repair)(&mut bytes);
    }
    bytes
}

fn fuzz(name: &str) {
    // In memory where that can be had: files are made and removed by the hundred thousand.
    let shared = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(shared).or_else(|_| tempfile::tempdir()).unwrap();
    let count = iterations(name);
    let bounds = Bounds {
        mebibytes: MEBIBYTES,
        seconds: if SLOW.contains(&name) {
            600 + count / 2
        } else {
            120 + count / 50
        },
        file_mebibytes: 100,
    };
    let at = folder.path().join("at");
    fs::write(&at, u64::MAX.to_le_bytes()).unwrap();
    let argument = format!("{name} {}", folder.path().display());
    let output = limited::run("hostile::fuzz::worker", "KSHOT_FUZZ", &argument, &bounds);
    let said = said(&output);
    if output.status.success() && said.contains(&format!("{count} damaged files")) {
        println!("{}", said.lines().find(|line| line.contains("damaged files")).unwrap());
        return;
    }
    let bytes = fs::read(&at).unwrap();
    let iteration = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{iteration}"));
    let reader = reader(name);
    fs::write(&kept, damaged(reader, &(reader.seeds)(), iteration)).unwrap();
    panic!(
        "reader {name}, iteration {iteration} (KSHOT_FUZZ_FIRST={iteration} KSHOT_FUZZ_ITERATIONS=1), its file is `{}`: {said}",
        kept.display()
    );
}

thread_local! {
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

#[test]
#[ignore = "run by the tests of each reader, with bounds"]
fn worker() {
    let Ok(argument) = std::env::var("KSHOT_FUZZ") else {
        return;
    };
    let (name, folder) = argument.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let reader = reader(name);
    let seeds = (reader.seeds)();
    let scratch = folder.join("above/scratch");
    fs::create_dir_all(&scratch).unwrap();
    let at = File::options().write(true).open(folder.join("at")).unwrap();
    // A decoder's own panic that becomes an error is no failure; kept for the message, not printed.
    std::panic::set_hook(Box::new(|panic| {
        PANICKED.with_borrow_mut(|kept| *kept = panic.to_string());
    }));
    for seed in &seeds {
        let readable = (reader.read)(seed, &scratch);
        let mut repaired = seed.clone();
        (reader.repair)(&mut repaired);
        assert!(
            readable || (reader.read)(&repaired, &scratch),
            "a valid file is refused"
        );
    }
    let listing = || [folder, &folder.join("above"), &scratch].map(|folder| fs::read_dir(folder).unwrap().count());
    let before = listing();
    let (first, count) = (number("KSHOT_FUZZ_FIRST", 0), iterations(name));
    let mut accepted = 0_u64;
    for iteration in first..first + count {
        at.write_all_at(&iteration.to_le_bytes(), 0).unwrap();
        let bytes = damaged(reader, &seeds, iteration);
        let clock = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| (reader.read)(&bytes, &scratch)));
        let took = clock.elapsed();
        assert!(took < MOST, "one file took {took:?}");
        match read {
            Ok(readable) => accepted += u64::from(readable),
            Err(_) => {
                println!("panicked: {}", PANICKED.with_borrow(Clone::clone));
                std::process::exit(3);
            }
        }
        if iteration % 16 == 0 {
            assert_eq!(listing(), before, "something is left behind");
        }
    }
    println!("{name}: {count} damaged files, {accepted} of them were accepted");
}

/// What the tests of the readers rest on: that too much memory, and no end, are the end of a child.
#[test]
fn bounds_hold() {
    for what in ["memory", "time"] {
        let bounds = Bounds {
            mebibytes: MEBIBYTES,
            seconds: 2,
            file_mebibytes: 1,
        };
        let output = limited::run("hostile::fuzz::runaway", "KSHOT_RUNAWAY", what, &bounds);
        assert!(!output.status.success(), "{what}: {}", said(&output));
    }
}

#[test]
#[ignore = "run by `bounds_hold`, with bounds"]
fn runaway() {
    match std::env::var("KSHOT_RUNAWAY").as_deref() {
        Ok("memory") => drop(std::hint::black_box(vec![0_u8; (MEBIBYTES as usize) << 20])),
        Ok(_) => while std::hint::black_box(true) {},
        Err(_) => {}
    }
}

macro_rules! fuzzed {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_reader_has_its_test() {
            let names: Vec<_> = READERS.iter().map(|reader| reader.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

fuzzed! { mat tar tar_gz zip tar_gz_in_zip jpeg png gif bmp webp table_csv table_parquet manifest provenance hub_parquet
coop_split few_shot_index dataset_index claim config config_override ledger curve_table noise model_config tokenizer
image_processor nested_processor adapter_config adapter_weights }
