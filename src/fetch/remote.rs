//! Settings of the network: hub, token, mirror and offline mode from the environment; timeouts, retries and waits.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::NaiveDateTime;
use rand::Rng as _;

use crate::process::Process;
use crate::seed::rng;

/// Endpoint, cache and token of the hub, as Python's `huggingface_hub` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Folder that holds `datasets--<owner>--<name>/`.
    pub cache: PathBuf,
    /// Sent to the endpoint's host only.
    pub token: Option<Token>,
    /// No connection may be made.
    pub offline: bool,
}

/// Secret of the user's account; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Without white space around it; `None` if nothing is left.
    #[must_use]
    pub fn new(secret: &str) -> Option<Self> {
        let secret = secret.trim();
        (!secret.is_empty()).then(|| Self(secret.into()))
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubSettings {
    /// `HF_ENDPOINT`; `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in the platform's cache folder; `HF_TOKEN`, else
    /// the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`; `KSHOT_OFFLINE` or `HF_HUB_OFFLINE`.
    #[must_use]
    pub fn from_env() -> Self {
        let home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME")
                .or_else(|| folder("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(env::temp_dir)
                .join("huggingface")
        });
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            token: token.as_deref().and_then(Token::new),
            offline: ["KSHOT_OFFLINE", "HF_HUB_OFFLINE"].into_iter().any(is_set),
        }
    }
}

/// Everything that fetching needs to know of the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Base URL or folder that holds `<dataset>/<file>`: tried first.
    pub mirror: Option<String>,
    /// The hub, its cache, and whether connections are allowed at all.
    pub hub: HubSettings,
    /// When to try again.
    pub policy: Policy,
}

impl Remote {
    /// `KSHOT_MIRROR` and what [`HubSettings::from_env`] reads.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            mirror: variable("KSHOT_MIRROR").map(|mirror| mirror.trim_end_matches('/').into()),
            hub: HubSettings::from_env(),
            policy: Policy::default(),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// A folder or file that a variable names; `~/` is the user's home as in Python.
fn folder(name: &str) -> Option<PathBuf> {
    let path = env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    match (path.strip_prefix("~"), env::var_os("HOME")) {
        (Ok(inside), Some(home)) => Some(Path::new(&home).join(inside)),
        _ => Some(path),
    }
}

/// The values that Python's hub client takes for yes.
fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str()))
}

/// Patience with servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Attempts at one source without progress before the next source is taken.
    pub tries: u32,
    /// Wait after the first failed attempt; doubled after each further one.
    pub first_wait: Duration,
    /// Longest of these waits.
    pub longest_wait: Duration,
    /// Duration of a second of a `Retry-After` header.
    pub retry_after_second: Duration,
    /// Longest wait that a `Retry-After` header brings about.
    pub longest_retry_after: Duration,
    /// Time to find a host and to connect.
    pub connect: Duration,
    /// Time without a single byte after which a connection is dropped.
    pub silence: Duration,
    /// Time for a whole small answer, of however many bytes it is and however steadily they come: a list of files, a config.
    pub answer: Duration,
    /// A connection that brings fewer bytes in such a time is dropped too.
    pub slowest: (u64, Duration),
    /// True if the proxies are used that the environment names.
    pub proxies: bool,
    /// Files fetched at once.
    pub parallel: usize,
    /// Seed of the random part of waits.
    pub jitter: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(30),
            retry_after_second: Duration::from_secs(1),
            longest_retry_after: Duration::from_secs(300),
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            answer: Duration::from_secs(120),
            slowest: (60_000, Duration::from_secs(60)),
            proxies: true,
            parallel: 4,
            // Processes that were refused together do not come back together.
            jitter: u64::from_str_radix(&Process::this().token, 16).unwrap_or_default(),
        }
    }
}

impl Policy {
    /// Time to wait after the `attempt`-th failed attempt (from 0) at something.
    ///
    /// Exponential with half of it random; what the server asked for, when it did.
    #[must_use]
    pub fn wait(&self, what: &str, attempt: u32, asked: Option<RetryAfter>) -> Duration {
        if let Some(asked) = asked {
            let seconds = u32::try_from(asked.seconds(SystemTime::now())).unwrap_or(u32::MAX);
            return self
                .retry_after_second
                .saturating_mul(seconds)
                .min(self.longest_retry_after);
        }
        let full = self
            .first_wait
            .saturating_mul(2_u32.saturating_pow(attempt))
            .min(self.longest_wait);
        let share: f64 = rng(self.jitter, &format!("fetch/{what}/{attempt}")).random();
        full.mul_f64(0.5 + 0.5 * share)
    }
}

/// A `Retry-After` header (RFC 9110, 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So many seconds from now.
    Seconds(u64),
    /// At that time, in seconds since 1970.
    At(u64),
}

impl RetryAfter {
    pub(super) fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
            return Some(Self::Seconds(value.parse().unwrap_or(u64::MAX)));
        }
        http_date(value).map(Self::At)
    }

    fn seconds(self, now: SystemTime) -> u64 {
        match self {
            Self::Seconds(seconds) => seconds,
            Self::At(time) => {
                let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                time.saturating_sub(now)
            }
        }
    }
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7; the obsolete forms are
/// not sent any more). The name of the day says nothing that the date does not.
fn http_date(text: &str) -> Option<u64> {
    let (_, date) = text.split_once(", ")?;
    let time = NaiveDateTime::parse_from_str(date, "%d %b %Y %H:%M:%S GMT").ok()?;
    u64::try_from(time.and_utc().timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(Token::new(" \n"), None);
    }

    #[test]
    fn dates_are_those_of_the_specification() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(http_date("Mon, 01 Mar 2100 00:00:00 GMT"), Some(4_107_542_400));
        for wrong in [
            "",
            "soon",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nob 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "x, 0 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_the_server_asks_for_is_waited_within_bounds() {
        let policy = Policy {
            longest_retry_after: Duration::from_secs(10),
            ..Policy::default()
        };
        let wait = |header: &str| policy.wait("x", 0, RetryAfter::parse(header));
        assert_eq!(wait("3"), Duration::from_secs(3));
        assert_eq!(wait("99999999999999999999"), Duration::from_secs(10));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Duration::ZERO);
        assert_eq!(wait("Thu, 01 Jan 2170 00:00:00 GMT"), Duration::from_secs(10));
        assert_eq!(RetryAfter::parse("soon"), None);
    }

    #[test]
    fn waits_double_up_to_a_bound_and_never_vanish() {
        let policy = Policy::default();
        for attempt in 0..40 {
            let full = Duration::from_secs(1 << attempt.min(5)).min(policy.longest_wait);
            let wait = policy.wait("x", attempt, None);
            assert!(wait >= full / 2 && wait <= full, "{attempt}: {wait:?}");
        }
        assert_ne!(policy.wait("x", 3, None), policy.wait("y", 3, None));
        assert_eq!(policy.wait("x", 3, None), policy.wait("x", 3, None));
    }
}
