//! The routes: method, pattern, and what answers there. `{}` stands for one part of a path.

use std::sync::Arc;

use axum::http::Method;
use serde_json::json;

use super::exchange::{Reply, Request};
use super::native::{sampling, session, training, weights};
use super::openai;
use super::refusal::Refusal;
use super::service::Service;

/// Answers a request; may block.
pub(super) type Handler = fn(&Arc<Service>, &Request) -> Result<Reply, Refusal>;

/// The form of errors that clients of a route read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Tinker,
    OpenAi,
}

/// A route.
pub(super) struct Route {
    method: Method,
    pub(super) pattern: &'static str,
    pub(super) handler: Handler,
    /// True if it is answered without a key.
    pub(super) open: bool,
}

/// The routes of a server.
pub(super) fn routes() -> Vec<Route> {
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let native: [(&Method, &'static str, Handler); 44] = [
        (&post, "client/config", session::config),
        (&post, "client/dynamic_config", session::dynamic_config),
        (&get, "get_server_capabilities", session::capabilities),
        (&post, "create_session", session::create),
        (&post, "session_heartbeat", session::heartbeat),
        (&post, "telemetry", session::telemetry),
        (&get, "sessions", session::list),
        (&post, "sessions/search", session::search),
        (&get, "sessions/{}", session::get),
        (&post, "sessions/{}/finish", session::finish),
        (&put, "sessions/{}/project", session::assign),
        (&get, "sessions/{}/trace_export", weights::not_offered),
        (&post, "create_model", training::create_model),
        (&post, "unload_model", training::unload),
        (&post, "get_info", training::get_info),
        (&post, "forward_backward", training::forward_backward),
        (&post, "forward", training::forward),
        (&post, "optim_step", training::optim_step),
        (&post, "retrieve_future", training::retrieve_future),
        (&post, "retrieve_futures", weights::not_offered),
        (&post, "cancel_future", weights::not_offered),
        (&post, "save_weights", weights::save),
        (&post, "load_weights", weights::load),
        (&post, "save_weights_for_sampler", weights::save_for_sampler),
        (&post, "save_weights_external", weights::save_external),
        (&post, "copy_weights", weights::not_offered),
        (&post, "create_custom_loss", weights::not_offered),
        (&post, "weights_info", weights::info),
        (&get, "training_runs", weights::runs),
        (&get, "training_runs/{}", weights::run),
        (&get, "training_runs/{}/checkpoints", weights::of_run),
        (&delete, "training_runs/{}/checkpoints/{}/{}", weights::delete),
        (&post, "training_runs/{}/checkpoints/{}/{}/publish", weights::publish),
        (
            &delete,
            "training_runs/{}/checkpoints/{}/{}/publish",
            weights::unpublish,
        ),
        (&put, "training_runs/{}/checkpoints/{}/{}/ttl", weights::ttl),
        (&get, "training_runs/{}/checkpoints/{}/{}/archive", weights::archive),
        (
            &get,
            "training_runs/{}/checkpoints/{}/{}/external_weights_urls",
            weights::not_offered,
        ),
        (&get, "checkpoints", weights::all),
        (&post, "create_sampling_session", sampling::create),
        (&post, "join_sampling_session", weights::not_offered),
        (&get, "samplers/{}", sampling::get),
        (&post, "asample", sampling::sample),
        (&get, "healthz", health),
        (&post, "auth/token", weights::not_offered),
    ];
    let chat: [(&Method, &'static str, Handler); 4] = [
        (&get, "models", openai::models),
        (&get, "models/{}", openai::model),
        (&post, "chat/completions", openai::chat),
        (&post, "completions", openai::complete),
    ];
    let mut routes = Vec::new();
    let mut add = |method: &Method, pattern: String, handler: Handler, open: bool| {
        routes.push(Route {
            method: method.clone(),
            // A handful, for the life of the process.
            pattern: Box::leak(pattern.into_boxed_str()),
            handler,
            open,
        });
    };
    for (method, pattern, handler) in native {
        add(method, format!("/api/v1/{pattern}"), handler, false);
    }
    for prefix in ["/v1", "/oai/api/v1"] {
        for (method, pattern, handler) in chat {
            add(method, format!("{prefix}/{pattern}"), handler, false);
        }
    }
    add(&get, "/healthz".into(), health, true);
    add(&get, "/metrics".into(), metrics, false);
    routes
}

/// The error dialect of a path, also where there is no route.
pub(super) fn dialect(path: &str) -> Dialect {
    match path.starts_with("/v1/") || path.starts_with("/oai/") {
        true => Dialect::OpenAi,
        false => Dialect::Tinker,
    }
}

/// The route of a request and what stands in the places of its pattern.
///
/// # Errors
/// A refusal when there is none, or none with this method.
pub(super) fn find<'r>(routes: &'r [Route], method: &Method, path: &str) -> Result<(&'r Route, Vec<String>), Refusal> {
    let mut other = false;
    for route in routes {
        let Some(places) = places(route.pattern, path) else {
            continue;
        };
        if route.method == method {
            return Ok((route, places));
        }
        other = true;
    }
    let shown: String = path.chars().take(120).collect();
    if other {
        return Err(Refusal::new(405, format!("`{shown}` is not asked by {method}")));
    }
    Err(Refusal::unknown_url(format!(
        "there is nothing at `{shown}`: docs/serving.md lists the calls"
    )))
}

fn places(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut places = Vec::new();
    let mut parts = path.split('/');
    let mut wanted = pattern.split('/').peekable();
    while let Some(want) = wanted.next() {
        let part = parts.next()?;
        if want != "{}" {
            if want != part {
                return None;
            }
            continue;
        }
        let mut place = decoded(part)?;
        // A model's name may have slashes.
        if pattern.ends_with("/models/{}") && wanted.peek().is_none() {
            for more in parts.by_ref() {
                place = format!("{place}/{}", decoded(more)?);
            }
        }
        if place.is_empty() {
            return None;
        }
        places.push(place);
    }
    parts.next().is_none().then_some(places)
}

/// Text without `%xx`.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// `GET healthz`: the server is there once its models are.
fn health(_: &Arc<Service>, _: &Request) -> Result<Reply, Refusal> {
    Ok(Reply::Json(json!({"status": "ok"})))
}

/// `GET /metrics`
fn metrics(service: &Arc<Service>, _: &Request) -> Result<Reply, Refusal> {
    let text = service.metrics.text(&service.gauges());
    Ok(Reply::Text("text/plain; version=0.0.4", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_list_what_is_not_offered() {
        let docs = include_str!("../../docs/serving.md");
        let (_, docs) = docs.split_once("Not offered:").unwrap();
        let mut count = 0;
        for route in routes() {
            if std::ptr::fn_addr_eq(route.handler, weights::not_offered as Handler) {
                let call = route
                    .pattern
                    .trim_start_matches("/api/v1/")
                    .rsplit("{}/")
                    .next()
                    .unwrap();
                assert!(docs.contains(&format!("`{call}`")), "{call}");
                count += 1;
            }
        }
        assert_eq!(count, 8);
    }

    #[test]
    fn paths_lead_to_their_routes() {
        let routes = routes();
        let found = |method: &Method, path: &str| {
            find(&routes, method, path)
                .map(|(route, places)| (route.pattern, places))
                .map_err(|refusal| refusal.status)
        };
        let run = "/api/v1/training_runs/a:train:0/checkpoints/weights/000004";
        let places = vec!["a:train:0".to_owned(), "weights".into(), "000004".into()];
        assert_eq!(
            found(&Method::DELETE, run),
            Ok(("/api/v1/training_runs/{}/checkpoints/{}/{}", places.clone()))
        );
        assert_eq!(found(&Method::PUT, &format!("{run}/ttl")).unwrap().1, places);
        assert_eq!(found(&Method::GET, run), Err(405));
        assert_eq!(found(&Method::GET, "/api/v1/none"), Err(404));
        assert_eq!(found(&Method::GET, "/v1/models/a%2Fb").unwrap().1, ["a/b"]);
        assert_eq!(found(&Method::GET, "/v1/models/a/b").unwrap().1, ["a/b"]);
        assert_eq!(found(&Method::GET, "/api/v1/samplers/"), Err(404));
        assert_eq!(decoded("%2"), None);
        assert_eq!(decoded("a%3Ab").as_deref(), Some("a:b"));
    }
}
