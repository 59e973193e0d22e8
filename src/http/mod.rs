//! Requests to servers: the one HTTP client.
//!
//! Calls block. One thread of the process drives all connections, so that a caller needs no runtime and may be anywhere, in a
//! thread of another runtime too. The bytes are those that the server sends: nothing is asked for compressed and nothing is
//! unpacked, as hashes and ranges count the bytes of the file itself. No cookie is kept and no redirect followed: whoever
//! asks decides what the next server may see.

mod failure;
mod tls;

use std::io;
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::environment::Variable;
use crate::error::{Error, Result};
pub use crate::http::failure::Failure;

/// Time that servers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To find a host, to connect and to agree on keys.
    pub connect: Duration,
    /// To begin an answer.
    pub answer: Duration,
    /// Without a byte of a body.
    pub silence: Duration,
}

/// Makes requests and keeps connections for the next ones; shared by threads.
#[derive(Debug)]
pub struct Client {
    agent: reqwest::Client,
    runtime: &'static Runtime,
    patience: Patience,
}

impl Client {
    /// Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` if `proxies` is true; the authorities that
    /// servers are known by are those of the file `SSL_CERT_FILE`, else Mozilla's.
    ///
    /// # Errors
    /// [`Error::Io`] when `SSL_CERT_FILE` cannot be read or a thread cannot be started, [`Error::Malformed`] when the file
    /// holds no certificate.
    pub fn new(patience: Patience, proxies: bool) -> Result<Self> {
        let start = |source| Error::io("start", "the HTTP client")(source);
        let runtime = RUNTIME
            .as_ref()
            .map_err(|e| start(io::Error::new(e.kind(), e.to_string())))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut agent = reqwest::Client::builder()
            .user_agent(concat!("kshot/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.connect)
            .tls_backend_preconfigured(tls::settings()?);
        if !proxies || none_by_proxy() {
            agent = agent.no_proxy();
        }
        Ok(Self {
            agent: agent.build().map_err(|e| start(io::Error::other(e)))?,
            runtime,
            patience,
        })
    }

    /// Sends a GET request and waits for the head of the answer, whatever its status is. `end`: when the whole answer has to
    /// be there, its body too.
    ///
    /// # Errors
    /// A [`Failure`] when no answer begins.
    pub fn get(&self, url: &Url, headers: HeaderMap, end: Option<Instant>) -> Result<Response, Failure> {
        let of = |e| Failure::of(e, self.patience.connect);
        let request = self.agent.get(url.clone()).headers(headers).build().map_err(of)?;
        let whole = Whole {
            host: authority(url),
            end,
            within: self.patience.answer,
        };
        let answer = timeout_of(whole.left(self.patience.answer), self.agent.execute(request));
        let mut response = match wait(self.runtime, answer)? {
            Some(response) => response.map_err(of)?,
            None => return Err(whole.missed()),
        };
        Ok(Response {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: Some(response),
            runtime: self.runtime,
            patience: self.patience,
            whole,
        })
    }
}

/// The head of an answer, and its body as it comes.
#[derive(Debug)]
pub struct Response {
    /// Status of the answer.
    pub status: StatusCode,
    headers: HeaderMap,
    /// None after its last byte, and after a failure.
    body: Option<reqwest::Response>,
    runtime: &'static Runtime,
    patience: Patience,
    whole: Whole,
}

impl Response {
    /// A header's value, if it is text.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?.as_bytes()).ok()
    }

    /// Host, and port where the address names one, that answers.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.whole.host
    }

    /// The next bytes of the body, as they arrive; `None` after the last.
    ///
    /// # Errors
    /// A [`Failure`] when the connection breaks, brings nothing for too long, or ends before the body does.
    pub fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(mut body) = self.body.take() else {
            return Ok(None);
        };
        let silence = self.patience.silence;
        let next = timeout_of(self.whole.left(silence), async move {
            let bytes = body.chunk().await;
            (body, bytes)
        });
        match wait(self.runtime, next)? {
            Some((body, Ok(Some(bytes)))) => {
                self.body = Some(body);
                Ok(Some(bytes))
            }
            Some((_, Ok(None))) => Ok(None),
            Some((_, Err(e))) => Err(Failure::of(e, self.patience.connect)),
            None if self.whole.left(silence) < silence => Err(self.whole.missed()),
            None => Err(Failure::Silent(silence)),
        }
    }
}

/// When the whole of an answer has to be there, and who is to be named if it is not.
#[derive(Debug)]
struct Whole {
    host: String,
    end: Option<Instant>,
    /// The time there was for it.
    within: Duration,
}

impl Whole {
    /// Time left, `most` at the most.
    fn left(&self, most: Duration) -> Duration {
        let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(most, |left| left.min(most))
    }

    fn missed(&self) -> Failure {
        Failure::Slow {
            host: self.host.clone(),
            within: self.within,
        }
    }
}

/// True if `NO_PROXY` has a `*`, which the library takes for every name and no number.
fn none_by_proxy() -> bool {
    let exceptions = Variable::NoProxy.text().or_else(|| Variable::SmallNoProxy.text());
    exceptions.is_some_and(|list| list.split(',').any(|exception| exception.trim() == "*"))
}

/// The thread that drives the connections of this process; it begins with the first client and never ends, so that nobody has
/// to wait for a name that is still looked up.
static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("http")
        .enable_io()
        .enable_time()
        .build()
});

async fn timeout_of<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    timeout(time, future).await.ok()
}

/// Waits for a future that `runtime` drives. `Runtime::block_on` would panic in a thread that drives futures of another one.
fn wait<T: Send + 'static>(runtime: &Runtime, future: impl Future<Output = T> + Send + 'static) -> Result<T, Failure> {
    let (done, outcome) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits any more where the receiver is gone.
        let _ = done.send(future.await);
    });
    // The task ends without an outcome only where it panics.
    outcome.recv().map_err(|e| Failure::Broken(e.to_string()))
}

/// Host and port of an address, where it names a port.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
