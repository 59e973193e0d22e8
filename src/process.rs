//! Which process wrote a file, whether that process is gone for certain, and names that no other process gives.
//!
//! A process number says little: in containers it is 1 everywhere. Neither do machine, boot and number together: all
//! containers of a machine have one boot id, and a pod that is tried again has the host name of the one before. So each
//! process draws a random token; and it takes another one for ended only where both look at the same processes.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A process, told from all others on all machines and across reboots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Name of the machine, to be shown.
    pub host: String,
    /// The kernel's random id of this boot (`/proc/sys/kernel/random/boot_id`); empty where there is none, and where
    /// `/proc` shows the processes of another PID namespace than the process's own.
    pub boot: String,
    /// Inode of the PID namespace: the same number means other processes in another container.
    pub pid_namespace: u64,
    /// Number of the process in that namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot by the clock of its time namespace: numbers are used again, this pair
    /// is not.
    pub started: u64,
    /// User it runs as.
    pub user: u32,
    /// Inode of the time namespace: in another one the same process has another `started`.
    #[serde(default)]
    pub time_namespace: u64,
    /// Inode of the user namespace: processes of another one may be hidden.
    #[serde(default)]
    pub user_namespace: u64,
    /// Random, 16 hex digits.
    #[serde(default)]
    pub token: String,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Process> = OnceLock::new();
        THIS.get_or_init(|| {
            let line = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            let stat = line("/proc/self/stat");
            let own = Stat::parse(&stat).filter(|own| own.pid == std::process::id());
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            // Without a start time no process can be told from a later one of the same number; and a `/proc` of another
            // PID namespace shows other processes under these numbers.
            let known = own.is_some() && shows_own_namespace(&status);
            let namespace = |name| fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |namespace| namespace.ino());
            Self {
                host: line("/proc/sys/kernel/hostname"),
                boot: if known {
                    line("/proc/sys/kernel/random/boot_id")
                } else {
                    String::new()
                },
                pid_namespace: namespace("pid"),
                pid: std::process::id(),
                started: own.map_or(0, |own| own.started),
                user: fs::metadata("/proc/self").map_or(0, |process| process.uid()),
                time_namespace: namespace("time"),
                user_namespace: namespace("user"),
                token: random_token(),
            }
        })
    }

    /// True if it has certainly ended: it ran on this machine and boot, in the PID, time and user namespaces of this
    /// process and as its user (the processes of others may be hidden), and is no longer there or waits to be reaped.
    /// Of others nothing is known: `false`.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let this = Self::this();
        if self.boot.is_empty() || self.place() != this.place() {
            return false;
        }
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => {
                Stat::parse(&stat).is_some_and(|now| now.started != self.started || matches!(now.state, 'Z' | 'X'))
            }
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn place(&self) -> (&str, &str, [u64; 4]) {
        let numbers = [
            self.pid_namespace,
            self.time_namespace,
            self.user_namespace,
            self.user.into(),
        ];
        (&self.host, &self.boot, numbers)
    }

    /// A word for file names: `<place>-<pid>-<started>-<token>`.
    #[must_use]
    pub fn tag(&self) -> String {
        let place = Sha256::digest(format!("{:?}", self.place()).as_bytes());
        let place: String = place.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{place}-{}-{}-{}", self.pid, self.started, self.token)
    }

    /// The process of a [`Process::tag`], if it belongs to this place.
    #[must_use]
    pub fn of_tag(tag: &str) -> Option<Self> {
        let this = Self::this();
        let (place, rest) = tag.split_once('-')?;
        let (pid, rest) = rest.split_once('-')?;
        let (started, token) = rest.split_once('-')?;
        if !this.tag().starts_with(&format!("{place}-")) {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
            token: token.into(),
            ..this.clone()
        })
    }
}

/// A name beside `path` that nobody else gives, neither another process nor this one again:
/// `<path>.<tag of the process>-<number>.<end>`.
#[must_use]
pub fn temporary(path: &Path, end: &str) -> PathBuf {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{number}.{end}", Process::this().tag()));
    name.into()
}

/// The process that gave a file its [`temporary`] name, if it belongs to this place.
#[must_use]
pub fn owner(name: &str, end: &str) -> Option<Process> {
    let stem = name.strip_suffix(end)?.strip_suffix('.')?;
    let (tag, _) = stem.rsplit_once('.')?.1.rsplit_once('-')?;
    Process::of_tag(tag)
}

/// Removes what processes that have ended had begun to write in a folder under [`temporary`] names of files whose names begin
/// with `begins`. It wastes space only: that it cannot be removed is no error.
pub fn remove_abandoned(folder: &Path, begins: &str, end: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(begins)) else {
            continue;
        };
        if owner(name, end).is_some_and(|owner| owner.is_gone()) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// 16 hex digits that no other call gives, here or elsewhere.
#[must_use]
pub fn random_token() -> String {
    // Seeded by the system.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// True if the numbers of this `/proc` are those that the process itself sees: in `/proc/self/status` the numbers in its
/// namespace and all above it stand, from that of the mount downwards.
fn shows_own_namespace(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() == 1)
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// The fields of `/proc/PID/stat` that are used, see proc_pid_stat(5).
struct Stat {
    pid: u32,
    state: char,
    started: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The second field is the program's name in brackets, which may hold blanks and brackets itself.
        let (before, after) = line.rsplit_once(')')?;
        let mut fields = after.split_whitespace();
        Some(Self {
            pid: before.split_whitespace().next()?.parse().ok()?,
            state: fields.next()?.chars().next()?,
            started: fields.nth(18)?.parse().ok()?, // field 22, the third being the first here
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_strange_program_name_does_not_shift_the_fields() {
        let line = "7 (a) b ) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 99 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.started), (7, 'S', 4242));
        assert!(Stat::parse("7 (a) S 1").is_none() && Stat::parse("").is_none());
    }

    #[test]
    fn this_process_is_here_and_another_start_time_or_an_ended_child_is_gone() {
        let this = Process::this();
        assert!(!this.boot.is_empty() && this.started > 0 && !this.is_gone());
        let earlier = Process {
            started: this.started - 1,
            ..this.clone()
        };
        assert!(earlier.is_gone());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let process = Process {
            pid: child.id(),
            started: Stat::parse(&stat).unwrap().started,
            ..this.clone()
        };
        assert!(!process.is_gone());
        child.kill().unwrap();
        // Killed but not reaped: it will never write again.
        while !process.is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn of_other_places_nothing_is_known() {
        let dead = |change: fn(&mut Process)| {
            let mut process = Process::this().clone();
            process.started -= 1;
            change(&mut process);
            process.is_gone()
        };
        assert!(dead(|_| {}));
        assert!(!dead(|p| p.boot.push('x')));
        assert!(!dead(|p| p.boot.clear()));
        assert!(!dead(|p| p.pid_namespace += 1));
        assert!(!dead(|p| p.user += 1));
        assert!(!dead(|p| p.time_namespace += 1));
        assert!(!dead(|p| p.user_namespace += 1));
        assert!(!dead(|p| p.host.push('x')));
    }

    #[test]
    fn a_proc_of_another_namespace_is_told_by_its_numbers() {
        assert!(shows_own_namespace("Name:\tx\nNSpid:\t7\nNSpgid:\t7\n"));
        assert!(!shows_own_namespace("NSpid:\t4242\t7\n"));
        assert!(!shows_own_namespace("Name:\tx\n"));
    }

    #[test]
    fn no_two_names_and_tokens_are_alike() {
        let path = Path::new("a/b.json");
        let names = [temporary(path, "tmp"), temporary(path, "tmp")];
        assert_ne!(names[0], names[1]);
        let name = names[0].file_name().unwrap().to_str().unwrap();
        assert_eq!(owner(name, "tmp").as_ref(), Some(Process::this()));
        assert_eq!((owner(name, "partial"), owner("b.json.tmp", "tmp")), (None, None));
        assert_ne!(random_token(), random_token());
    }

    #[test]
    fn a_tag_leads_back_to_its_process() {
        let this = Process::this();
        assert_eq!(Process::of_tag(&this.tag()).as_ref(), Some(this));
        let foreign = Process {
            boot: "another".into(),
            ..this.clone()
        };
        assert_eq!(Process::of_tag(&foreign.tag()), None);
        assert_eq!(Process::of_tag("x"), None);
    }
}
