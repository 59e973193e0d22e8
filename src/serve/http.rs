//! The server: connections, keys, bounds, ids of requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request as HttpRequest, Response};
use axum::serve::ListenerExt as _;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::exchange::{Request, json_response};
use super::refusal::Refusal;
use super::routes::{Dialect, Route, decoded, dialect, find, routes};
use super::service::Service;
use crate::error::{Error, Result};

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
        let address = bind.to_string();
        let listener = TcpListener::bind(bind)
            .await
            .map_err(Error::io("listen at", &address))?;
        let bound = listener.local_addr().map_err(Error::io("listen at", &address))?;
        // Pieces of a stream go out as they are written.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        ready(bound)?;
        let tidying = tokio::spawn(tidy(service.clone()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let router = Router::new().fallback(answer).with_state(app);
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            told_to_stop().await;
            tracing::info!("told to stop");
            stop.send_replace(true);
        });
        let server = tokio::spawn(server.into_future());
        let mut stopped = stopped;
        // The sender lives until the server has ended.
        let _ = stopped.wait_for(|stop| *stop).await;
        let stopping = service.clone();
        let operations = tokio::task::spawn_blocking(move || stopping.stop());
        // Whoever keeps a connection open is not waited for.
        let _ = tokio::time::timeout(GRACE, server).await;
        let _ = operations.await;
        tidying.abort();
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn told_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            let terminate = terminate.recv();
            tokio::pin!(interrupt, terminate);
            std::future::poll_fn(|context| {
                use std::future::Future as _;
                let told = interrupt.as_mut().poll(context).is_ready() || terminate.as_mut().poll(context).is_ready();
                if told {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
        }
        Err(_) => {
            let _ = interrupt.await;
        }
    }
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
    let body = body.map_err(|_| too_large())?;
    let request = Request {
        places,
        query: query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: body.to_vec(),
    };
    let (service, handler) = (app.service.clone(), route.handler);
    let done = tokio::task::spawn_blocking(move || handler(&service, &request)).await;
    let reply = done.map_err(|_| Refusal::fault("a fault of the server: please report it with the request"))?;
    reply?.response().await
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(name, value)| Some((decoded(name)?, decoded(&value.replace('+', " "))?)))
        .collect()
}

/// Compares the key of a request with the server's, in a time that does not depend on where they differ.
fn allow(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(key) = &app.key else {
        return Ok(());
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
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
