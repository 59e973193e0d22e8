//! Which process wrote a file, and whether that process is gone for certain.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data::hex;

/// A process, told from all others on all machines and across reboots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Name of the machine, to be shown.
    pub host: String,
    /// The kernel's random id of this boot (`/proc/sys/kernel/random/boot_id`); empty where there is none.
    pub boot: String,
    /// Inode of the PID namespace: the same number means other processes in another container.
    pub pid_namespace: u64,
    /// Number of the process in that namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot: numbers are used again, this pair is not.
    pub started: u64,
    /// User it runs as.
    pub user: u32,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Process> = OnceLock::new();
        THIS.get_or_init(|| {
            let line = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
            let stat = line("/proc/self/stat");
            let own = Stat::parse(&stat);
            Self {
                host: line("/proc/sys/kernel/hostname"),
                // Without a start time no process can be told from a later one of the same number.
                boot: own
                    .as_ref()
                    .map(|_| line("/proc/sys/kernel/random/boot_id"))
                    .unwrap_or_default(),
                pid_namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino()),
                pid: own.as_ref().map_or_else(std::process::id, |own| own.pid),
                started: own.map_or(0, |own| own.started),
                user: fs::metadata("/proc/self").map_or(0, |process| process.uid()),
            }
        })
    }

    /// Whether it has certainly ended: it ran on this boot in this PID namespace as this user (the processes of
    /// others may be hidden), and is no longer there or waits to be reaped. Of others nothing is known: `false`.
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

    fn place(&self) -> (&str, u64, u32) {
        (&self.boot, self.pid_namespace, self.user)
    }

    /// A word for file names: `<place>-<pid>-<started>`.
    #[must_use]
    pub fn tag(&self) -> String {
        let place = format!("{:?}", self.place());
        let place = hex(&Sha256::digest(place.as_bytes()));
        format!("{}-{}-{}", &place[..12], self.pid, self.started)
    }

    /// The process of a [`Process::tag`], if it belongs to this place.
    #[must_use]
    pub fn of_tag(tag: &str) -> Option<Self> {
        let this = Self::this();
        let (place, rest) = tag.split_once('-')?;
        let (pid, started) = rest.split_once('-')?;
        if !this.tag().starts_with(&format!("{place}-")) {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
            ..this.clone()
        })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// What `/proc/PID/stat` says, see proc_pid_stat(5).
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
