//! GET requests: one agent, redirects followed here so that the token goes nowhere else.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderName, Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, ResponseExt as _};

use crate::error::{Cause, Error, Result};
use crate::fetch::remote::{Remote, RetryAfter, Token};

/// Redirects followed before a server is taken to lead nowhere.
const REDIRECTS: usize = 10;

/// Header in which the hub names the exact fault.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// Most bytes of an answer that is read whole: lists of 1,000 files take 0.3 MB, the largest configs and indices 10 MB.
const DOCUMENT: u64 = 64 << 20;

/// Makes requests; shared by threads.
pub(super) struct Client {
    agent: Agent,
    /// Host that may see the token, and the header that holds it.
    token: Option<(Origin, String)>,
    pub remote: Remote,
}

/// Scheme, host and port.
#[derive(Debug, PartialEq, Eq)]
struct Origin(String, String, u16);

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_lowercase();
        let port = uri.port_u16().or(match scheme.as_str() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        })?;
        Some(Self(scheme, uri.host()?.to_lowercase(), port))
    }
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) struct Trouble {
    pub reason: String,
    pub status: Option<StatusCode>,
    /// The hub's fault code, more exact than the status: `X-Error-Code`.
    pub code: Option<String>,
    /// Worth another attempt; else this address will not give it.
    pub passes: bool,
    /// The wait that the server asks for.
    pub after: Option<RetryAfter>,
}

impl Trouble {
    /// Its cause.
    pub(crate) fn cause(&self) -> Cause {
        let status = self.status.map(|status| status.as_u16());
        status.map_or(Cause::Network, Cause::of_status)
    }

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
            code: None,
            passes: false,
            after: None,
        }
    }
}

impl Client {
    /// Proxies as `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say; roots of `SSL_CERT_FILE`, else Mozilla's.
    pub(crate) fn new(remote: &Remote) -> Result<Self> {
        let Remote { hub, policy, .. } = remote;
        let mut tls = TlsConfig::builder();
        if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
            let pem = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates.collect())));
        }
        let config = Agent::config_builder()
            .user_agent(concat!("kshot/", env!("CARGO_PKG_VERSION")))
            // Ranges count the bytes of the file itself.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(policy.connect))
            .timeout_connect(Some(policy.connect))
            .timeout_recv_response(Some(policy.answer))
            .timeout_per_read(Some(policy.silence))
            .timeout_per_write(Some(policy.silence))
            .proxy(ureq::Proxy::try_from_env().filter(|_| policy.proxies))
            .tls_config(tls.build())
            .build();
        let endpoint = hub.endpoint.parse().ok().as_ref().and_then(Origin::of);
        let token = hub.token.as_ref().map(Token::header);
        Ok(Self {
            agent: config.into(),
            token: endpoint.zip(token),
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
    ) -> Result<Response<Body>, Trouble> {
        let no_address = |_| Trouble::lasting("this is no address");
        let mut uri: Uri = url.parse().map_err(no_address)?;
        for _ in 0..REDIRECTS {
            let left = end.map(|end| {
                end.saturating_duration_since(Instant::now())
                    .max(Duration::from_millis(1))
            });
            let mut request = self.agent.get(&uri).config().timeout_global(left).build();
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some((origin, token)) = &self.token
                && Origin::of(&uri).as_ref() == Some(origin)
            {
                request = request.header(AUTHORIZATION, token);
            }
            tracing::debug!("GET {}", shown(&uri.to_string()));
            let response = request.call().map_err(|e| match e {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Trouble::lasting("this is no address"),
                e => self.broken(&e, &uri),
            })?;
            let status = response.status();
            match status.as_u16() {
                200..=299 => return Ok(response),
                300..=399 => {
                    let to = header(&response, LOCATION)
                        .ok_or_else(|| Trouble::lasting(format!("{status} without an address")))?;
                    let next: Uri = join(&uri, &to).parse().map_err(no_address)?;
                    if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                        return Err(Trouble::lasting("redirects from https to something else"));
                    }
                    uri = next;
                }
                number => {
                    return Err(Trouble {
                        reason: status.to_string(),
                        status: Some(status),
                        code: header(&response, ERROR_CODE),
                        passes: matches!(number, 408 | 425 | 429 | 500 | 502 | 503 | 504),
                        after: header(&response, RETRY_AFTER).and_then(|value| RetryAfter::parse(&value)),
                    });
                }
            }
        }
        Err(Trouble::lasting(format!("more than {REDIRECTS} redirects")))
    }

    /// A small document and its `Link` header, tried again as the policy says.
    pub(crate) fn document(&self, url: &str) -> Result<(Vec<u8>, Option<String>), Trouble> {
        self.small(url, &[])
    }

    /// The bytes of a file from an offset on, tried again as the policy says.
    pub(crate) fn from(&self, url: &str, offset: u64) -> Result<Vec<u8>, Trouble> {
        let range = (ureq::http::header::RANGE, format!("bytes={offset}-"));
        Ok(self.small(url, &[range])?.0)
    }

    /// The failure that broke a request off, in words that name the server.
    fn broken(&self, error: &ureq::Error, uri: &Uri) -> Trouble {
        let host = uri.authority().map_or("the server", |authority| authority.as_str());
        let host = host.rsplit('@').next().unwrap_or(host);
        match error {
            ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::RecvResponse) => Trouble::passing(format!(
                "{host} is too slow: no whole answer in {} s",
                self.remote.policy.answer.as_secs_f64()
            )),
            ureq::Error::BodyExceedsLimit(_) => Trouble::lasting(format!(
                "{host} sends more than {} MiB where a small answer belongs",
                DOCUMENT >> 20
            )),
            other => Trouble::passing(other.to_string()),
        }
    }

    fn small(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<(Vec<u8>, Option<String>), Trouble> {
        let mut attempt = 0;
        loop {
            let end = Instant::now() + self.remote.policy.answer;
            let outcome = self.get(url, headers, Some(end)).and_then(|mut response| {
                if !headers.is_empty() && response.status().as_u16() != 206 {
                    return Err(Trouble::lasting("it gives no parts of files"));
                }
                let link = header(&response, ureq::http::header::LINK);
                let body = response.body_mut().with_config().limit(DOCUMENT).read_to_vec();
                let uri = response.get_uri().clone();
                Ok((body.map_err(|e| self.broken(&e, &uri))?, link))
            });
            match outcome {
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
}

/// A header's value, if it is text.
pub(super) fn header(response: &Response<Body>, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
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

/// The address that a reference found at `base` stands for (RFC 3986, 5.2, without dot segments).
pub(super) fn join(base: &Uri, reference: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let before_query = reference.split(['?', '#']).next().unwrap_or(reference);
    if before_query.contains("://") {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{}{reference}", base.path())
    } else {
        let folder = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
        format!("{scheme}://{authority}{folder}{reference}")
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
        let base: Uri = "http://a:8/b/c?d".parse().unwrap();
        for (reference, wanted) in [
            ("https://e/f?x=http://g", "https://e/f?x=http://g"),
            ("//e/f", "http://e/f"),
            ("/f?x=http://g", "http://a:8/f?x=http://g"),
            ("f", "http://a:8/b/f"),
            ("?y", "http://a:8/b/c?y"),
        ] {
            assert_eq!(join(&base, reference), wanted);
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
        let origin = |url: &str| Origin::of(&url.parse().unwrap());
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443/y"));
        for other in [
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://hub.example.evil/",
        ] {
            assert_ne!(origin("https://hub.example"), origin(other), "{other}");
        }
    }
}
