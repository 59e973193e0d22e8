//! The network: its settings from the environment, patience with servers, and GET requests, whose redirects are followed here
//! so that the token goes nowhere else.

use std::env;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::NaiveDateTime;
use rand::Rng as _;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{StatusCode, Url};

use crate::environment::Variable;
use crate::error::{Cause, Result};
use crate::http::{self, Failure, Patience, Response};
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

    fn header(&self) -> String {
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
        let home = folder(Variable::HubHome).unwrap_or_else(|| {
            folder(Variable::CacheHome)
                .or_else(|| folder(Variable::UserHome).map(|home| home.join(".cache")))
                .unwrap_or_else(env::temp_dir)
                .join("huggingface")
        });
        let token_file = folder(Variable::HubTokenFile).unwrap_or_else(|| home.join("token"));
        let token = Variable::HubToken
            .text()
            .or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = Variable::HubEndpoint
            .text()
            .unwrap_or_else(|| "https://huggingface.co".into());
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: folder(Variable::HubCache)
                .or_else(|| folder(Variable::OldHubCache))
                .unwrap_or_else(|| home.join("hub")),
            token: token.as_deref().and_then(Token::new),
            offline: Variable::Offline.is_yes() || Variable::HubOffline.is_yes(),
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
            mirror: Variable::Mirror
                .text()
                .map(|mirror| mirror.trim_end_matches('/').into()),
            hub: HubSettings::from_env(),
            policy: Policy::default(),
        }
    }
}

/// A folder or file that a variable names; `~/` is the user's home as in Python.
fn folder(variable: Variable) -> Option<PathBuf> {
    let path = variable.path()?;
    match (path.strip_prefix("~"), Variable::UserHome.path()) {
        (Ok(inside), Some(home)) => Some(home.join(inside)),
        _ => Some(path),
    }
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
    fn parse(value: &str) -> Option<Self> {
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

/// Redirects followed before a server is taken to lead nowhere.
const REDIRECTS: usize = 10;

/// Header in which the hub names the exact fault.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// Most bytes of an answer that is read whole: lists of 1,000 files take 0.3 MB, the largest configs and indices 10 MB.
const DOCUMENT: usize = 64 << 20;

/// Makes requests; shared by threads.
pub(super) struct Client {
    http: http::Client,
    /// The address that may see the token, with those of the same scheme, host and port.
    endpoint: Option<Url>,
    pub remote: Remote,
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) struct Trouble {
    pub reason: String,
    pub status: Option<StatusCode>,
    pub cause: Cause,
    /// The hub's fault code, more exact than the status: `X-Error-Code`.
    pub code: Option<String>,
    /// Worth another attempt; else this address will not give it.
    pub passes: bool,
    /// The wait that the server asks for.
    pub after: Option<RetryAfter>,
}

impl Trouble {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self {
            passes: true,
            ..Self::lasting(reason)
        }
    }

    pub(crate) fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            status: None,
            cause: Cause::Network,
            code: None,
            passes: false,
            after: None,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let cause = match failure {
            Failure::Certificate(_) => Cause::Certificate,
            _ => Cause::Network,
        };
        Self {
            passes: failure.passes(),
            cause,
            ..Self::lasting(failure.to_string())
        }
    }
}

impl Client {
    /// As [`http::Client::new`], with the patience of the policy.
    pub(crate) fn new(remote: &Remote) -> Result<Self> {
        let policy = &remote.policy;
        let patience = Patience {
            connect: policy.connect,
            answer: policy.answer,
            silence: policy.silence,
        };
        Ok(Self {
            http: http::Client::new(patience, policy.proxies)?,
            endpoint: Url::parse(&remote.hub.endpoint).ok(),
            remote: remote.clone(),
        })
    }

    /// One request; redirects are followed, refusals are troubles. The whole answer, body and redirects too, has to be there at
    /// `end`.
    pub(crate) fn get(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
        end: Option<Instant>,
    ) -> Result<Response, Trouble> {
        let mut url = Url::parse(url).map_err(|_| Failure::Address)?;
        for _ in 0..REDIRECTS {
            tracing::debug!("GET {}", shown(url.as_str()));
            let response = self.http.get(&url, self.sent(&url, headers)?, end)?;
            let status = response.status;
            match status.as_u16() {
                200..=299 => return Ok(response),
                300..=399 => {
                    let to = response
                        .header(&LOCATION)
                        .ok_or_else(|| Trouble::lasting(format!("{status} without an address")))?;
                    let next = url.join(to).map_err(|_| Failure::Address)?;
                    if url.scheme() == "https" && next.scheme() != "https" {
                        return Err(Trouble::lasting("redirects from https to something else"));
                    }
                    url = next;
                }
                number => {
                    return Err(Trouble {
                        status: Some(status),
                        cause: Cause::of_status(number),
                        code: response.header(&ERROR_CODE).map(str::to_owned),
                        passes: matches!(number, 408 | 425 | 429 | 500 | 502 | 503 | 504),
                        after: response.header(&RETRY_AFTER).and_then(RetryAfter::parse),
                        ..Trouble::lasting(status.to_string())
                    });
                }
            }
        }
        Err(Trouble::lasting(format!("more than {REDIRECTS} redirects")))
    }

    /// The headers of a request, with the token where it may be seen.
    fn sent(&self, url: &Url, headers: &[(HeaderName, String)]) -> Result<HeaderMap, Trouble> {
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|_| Trouble::lasting(format!("its answer has no good value for `{name}`")))?;
            sent.insert(name, value);
        }
        if let (Some(endpoint), Some(token)) = (&self.endpoint, &self.remote.hub.token)
            && url.origin() == endpoint.origin()
        {
            let value = HeaderValue::from_str(&token.header());
            let mut value = value.map_err(|_| Trouble::lasting("the token has a character that no token has"))?;
            value.set_sensitive(true);
            sent.insert(AUTHORIZATION, value);
        }
        Ok(sent)
    }

    /// A small document and its `Link` header, tried again as the policy says.
    pub(crate) fn document(&self, url: &str) -> Result<(Vec<u8>, Option<String>), Trouble> {
        self.small(url, &[])
    }

    /// The bytes of a file from an offset on, tried again as the policy says.
    pub(crate) fn from(&self, url: &str, offset: u64) -> Result<Vec<u8>, Trouble> {
        let range = (RANGE, format!("bytes={offset}-"));
        Ok(self.small(url, &[range])?.0)
    }

    fn small(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<(Vec<u8>, Option<String>), Trouble> {
        let mut attempt = 0;
        loop {
            match self.small_once(url, headers) {
                Err(trouble) if trouble.passes => {
                    attempt += 1;
                    if attempt >= self.remote.policy.tries {
                        return Err(trouble);
                    }
                    thread::sleep(self.remote.policy.wait(url, attempt - 1, trouble.after));
                }
                other => return other,
            }
        }
    }

    fn small_once(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<(Vec<u8>, Option<String>), Trouble> {
        let end = Instant::now() + self.remote.policy.answer;
        let mut response = self.get(url, headers, Some(end))?;
        if !headers.is_empty() && response.status != StatusCode::PARTIAL_CONTENT {
            return Err(Trouble::lasting("it gives no parts of files"));
        }
        if let Some(encoding) = response.header(&CONTENT_ENCODING).filter(|name| *name != "identity") {
            return Err(Trouble::lasting(format!(
                "answers in `{encoding}`, which was not asked for"
            )));
        }
        let link = response.header(&LINK).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk()? {
            if body.len() + bytes.len() > DOCUMENT {
                return Err(Trouble::lasting(format!(
                    "{} sends more than {} MiB where a small answer belongs",
                    response.host(),
                    DOCUMENT >> 20
                )));
            }
            body.extend_from_slice(&bytes);
        }
        Ok((body, link))
    }
}

/// An address without the secrets it may hold: user, password and query.
pub(super) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            format!("{scheme}://{host}{path}")
        }
        None => plain.to_owned(),
    }
}

/// One part of a path, as it stands in an address.
pub(super) fn encoded(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

/// A path with `/`, as it stands in an address.
pub(super) fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined_as_the_specification_says() {
        let base = Url::parse("http://a:8/b/c?d").unwrap();
        for (reference, wanted) in [
            ("https://e/f?x=http://g", "https://e/f?x=http://g"),
            ("//e/f", "http://e/f"),
            ("../f", "http://a:8/f"),
            ("/f?x=http://g", "http://a:8/f?x=http://g"),
            ("f", "http://a:8/b/f"),
            ("?y", "http://a:8/b/c?y"),
        ] {
            assert_eq!(base.join(reference).unwrap().as_str(), wanted);
        }
    }

    #[test]
    fn addresses_are_shown_without_their_secrets() {
        assert_eq!(
            shown("https://me:secret@host:8/a/b?token=secret#x"),
            "https://host:8/a/b"
        );
        assert_eq!(shown("https://host?signature=secret"), "https://host");
        assert_eq!(shown("/a/folder"), "/a/folder");
    }

    #[test]
    fn parts_of_paths_are_encoded() {
        assert_eq!(encoded("refs/convert/parquet"), "refs%2Fconvert%2Fparquet");
        assert_eq!(encoded_path("data/ä b?.parquet"), "data/%C3%A4%20b%3F.parquet");
    }

    #[test]
    fn only_the_same_scheme_host_and_port_is_the_same_origin() {
        let origin = |url: &str| Url::parse(url).unwrap().origin();
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443/y"));
        for other in [
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://hub.example.evil/",
        ] {
            assert_ne!(origin("https://hub.example"), origin(other), "{other}");
        }
    }

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
