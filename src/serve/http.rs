//! The server: connections, keys, bounds, ids of requests.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request as HttpRequest, Response};
use axum::serve::ListenerExt as _;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::body::decompressed;
use super::exchange::{Request, json_response};
use super::refusal::Refusal;
use super::routes::{Dialect, Route, decoded, dialect, find, routes};
use super::service::Service;
use crate::error::{Cause, Error, Result};

/// Time between two rounds of tidying.
const TIDY: Duration = Duration::from_secs(5);
/// Time for answers that are on their way when the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Time for a client to send its body.
const BODY: Duration = Duration::from_secs(60);

struct App {
    service: Arc<Service>,
    routes: Vec<Route>,
    /// SHA-256 of the key, if one is needed.
    key: Option<[u8; 32]>,
    next: AtomicU64,
}

/// Serves until the process is told to stop; then lets saving operations end.
///
/// # Errors
/// [`Error::Io`] when the address cannot be had.
pub(super) fn serve(
    service: Service,
    bind: SocketAddr,
    key: Option<&str>,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .map_err(Error::io("start", "the threads of the server"))?;
    let service = Arc::new(service);
    let app = Arc::new(App {
        service: service.clone(),
        routes: routes(),
        key: key.map(|key| Sha256::digest(key.as_bytes()).into()),
        next: AtomicU64::new(0),
    });
    let served = runtime.block_on(async {
        let listener = listen(bind)?;
        let bound = listener
            .local_addr()
            .map_err(Error::io("listen at", bind.to_string()))?;
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = listener.map_err(Error::io("listen at", bind.to_string()))?;
        // Pieces of a stream go out as they are written.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        ready(bound)?;
        let tidying = tokio::spawn(tidy(service.clone()));
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let router = Router::new().fallback(answer).with_state(app);
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            // The sender lives until it has sent.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let server = tokio::spawn(server.into_future());
        told_to_stop().await;
        tracing::info!("told to stop");
        // What runs ends first, while clients can still ask for its result; then connections do. Told twice, nothing is waited for.
        let stopping = service.clone();
        let operations = tokio::task::spawn_blocking(move || stopping.stop());
        let ended = first_of(operations, told_to_stop()).await;
        stop.send_replace(true);
        if ended {
            // Whoever keeps a connection open is not waited for.
            first_of(tokio::time::timeout(GRACE, server), told_to_stop()).await;
        }
        tidying.abort();
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Listens at an address.
///
/// # Errors
/// [`Error::Io`] when it is taken, or none of this machine.
pub(super) fn listen(bind: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(bind).map_err(Error::io("listen at", bind.to_string()));
    listener.map_err(|error| error.because(Cause::Address))
}

/// Waits for a signal to stop.
async fn told_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(first_of(interrupt, terminate.recv()).await),
        Err(_) => drop(interrupt.await),
    }
}

/// Waits for either; true if it was the first of the two.
async fn first_of(one: impl Future, other: impl Future) -> bool {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        other.as_mut().poll(context).map(|_| false)
    })
    .await
}

async fn tidy(service: Arc<Service>) {
    loop {
        tokio::time::sleep(TIDY).await;
        let service = service.clone();
        let _ = tokio::task::spawn_blocking(move || service.tidy()).await;
    }
}

/// Answers one request.
async fn answer(State(app): State<Arc<App>>, request: HttpRequest<Body>) -> Response<Body> {
    let begun = Instant::now();
    let number = app.next.fetch_add(1, Ordering::Relaxed);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let found = find(&app.routes, &method, &path);
    let route = found.as_ref().map_or("none", |(route, _)| route.pattern);
    let answered = match found {
        Ok((route, places)) => handle(&app, route, places, request).await,
        Err(refusal) => {
            // A request to nowhere needs a key too: what is there is nobody's business.
            let allowed = allow(&app, request.headers());
            Err(allowed.err().unwrap_or(refusal))
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        tracing::debug!("request {number} refused: {refusal}");
        match dialect(&path) {
            Dialect::Tinker => json_response(refusal.status, &refusal.detail()),
            Dialect::OpenAi => json_response(refusal.status, &refusal.openai_error()),
        }
    });
    let (status, time) = (response.status().as_u16(), begun.elapsed());
    if status == 401 {
        response
            .headers_mut()
            .insert("www-authenticate", HeaderValue::from_static("Bearer"));
    }
    if status == 429 {
        response
            .headers_mut()
            .insert("retry-after", HeaderValue::from_static("1"));
    }
    if let Ok(id) = HeaderValue::from_str(&format!("req-{number}")) {
        response.headers_mut().insert("x-request-id", id);
    }
    app.service.metrics.answered(route, status, time);
    tracing::info!(
        "request {number}: {method} {route} {status} {:.1} ms",
        time.as_secs_f64() * 1e3
    );
    response
}

async fn handle(
    app: &Arc<App>,
    route: &Route,
    places: Vec<String>,
    request: HttpRequest<Body>,
) -> Result<Response<Body>, Refusal> {
    if !route.open {
        allow(app, request.headers())?;
    }
    let (parts, body) = request.into_parts();
    let most = app.service.bases.iter().map(|base| base.limits.body).max().unwrap_or(0);
    let length = parts
        .headers
        .get("content-length")
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_large = || Refusal::too_large(format!("the body has more than {most} bytes"));
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY, to_bytes(body, most)).await;
    let body = body.map_err(|_| Refusal::bad("the body did not arrive in time"))?;
    let body = body.map_err(|_| too_large())?.to_vec();
    let mut request = Request {
        places,
        query: query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: Vec::new(),
    };
    let (service, handler) = (app.service.clone(), route.handler);
    let work = move || {
        request.body = decompressed(body, request.header("content-encoding"), most)?;
        handler(&service, &request)
    };
    let done = tokio::task::spawn_blocking(work).await;
    let reply = done.map_err(|_| Refusal::fault("a fault of the server: please report it with the request"))?;
    reply?.response().await
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(name, value)| Some((decoded(name)?, decoded(&value.replace('+', " "))?)))
        .collect()
}

/// Compares the key of a request with the server's, in a time that does not depend on where they differ. Without a key this machine's
/// programs are let in, and web pages are not.
fn allow(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(key) = &app.key else {
        return check_page(text("host"), text("origin"));
    };
    let bearer = text("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let given = text("x-api-key").or(bearer).unwrap_or_default();
    let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
    let differing = key.iter().zip(given).fold(0, |differing, (a, b)| differing | (a ^ b));
    if std::hint::black_box(differing) == 0 {
        return Ok(());
    }
    let places = "in X-API-Key, or as a Bearer token in Authorization";
    Err(Refusal::new(
        401,
        format!("the server's key (its TINKER_API_KEY) is needed, {places}"),
    ))
}

/// A web page in a browser of this machine reaches servers that only this machine reaches: by its own requests, which name the page
/// in `Origin`, or under a name of its own that leads here (DNS rebinding), which `Host` names then.
///
/// # Errors
/// A refusal of both.
fn check_page(host: Option<&str>, origin: Option<&str>) -> Result<(), Refusal> {
    let remedy = "start the server with TINKER_API_KEY and send the key";
    let host = host.unwrap_or_default().to_ascii_lowercase();
    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, port)| {
        if port.chars().all(|c| c.is_ascii_digit()) {
            name
        } else {
            &host
        }
    });
    let is_address = |name: &str| name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_local = |name: &str| !name.contains('.') || name.ends_with(".localhost") || is_address(name);
    if !is_local(name) {
        let reason = format!("without a key the server answers to no name such as that in `Host`; {remedy}");
        return Err(Refusal::new(403, reason));
    }
    let Some(origin) = origin.map(str::to_ascii_lowercase) else {
        return Ok(());
    };
    let own = origin.split_once("://").is_some_and(|(_, origin)| origin == host);
    match own {
        true => Ok(()),
        false => {
            let reason = format!("without a key the server takes nothing from web pages (`Origin`); {remedy}");
            Err(Refusal::new(403, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_this_machine_come_in_and_web_pages_do_not() {
        let status =
            |host: &str, origin: Option<&str>| check_page(Some(host), origin).map_err(|refusal| refusal.status);
        for host in [
            "127.0.0.1:8000",
            "localhost:8000",
            "LocalHost",
            "[::1]:8000",
            "[::ffff:127.0.0.1]:8000",
            "kshot",
            "a.localhost:1",
            "10.0.0.1",
        ] {
            assert_eq!(status(host, None), Ok(()), "{host}");
            assert_eq!(status(host, Some(&format!("http://{host}"))), Ok(()), "{host}");
            for page in ["http://example.com", "null", "", "http://127.0.0.1:9999", "file://"] {
                assert_eq!(status(host, Some(page)), Err(403), "{host} {page}");
            }
        }
        for host in ["example.com:8000", "127.0.0.1.example.com", "example.com."] {
            assert_eq!(status(host, None), Err(403), "{host}");
        }
        assert_eq!(check_page(None, None), Ok(()));
    }
}
