//! Sessions, and what a client asks before and after its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::serve::checkpoints::Moment;
use crate::serve::exchange::{Reply, Request};
use crate::serve::refusal::Refusal;
use crate::serve::service::{Service, Session};

type Answer = Result<Reply, Refusal>;

/// Samples that a client may have in flight: each holds a connection.
const CONCURRENT_SAMPLES: usize = 128;

/// `POST client/config`: settings of the SDK.
pub(in crate::serve) fn config(_: &Arc<Service>, _: &Request) -> Answer {
    Ok(Reply::Json(json!({
        "pjwt_auth_enabled": false, "credential_default_source": "api_key", "proto_compress_fwdbwd": true,
        "parallel_fwdbwd_chunks": true, "sample_max_concurrent_requests": CONCURRENT_SAMPLES,
        "sample_use_retrieve_futures": false, "custom_loss_server_side": false, "sample_join_sampling_session": false,
    })))
}

/// `POST client/dynamic_config`
pub(in crate::serve) fn dynamic_config(_: &Arc<Service>, _: &Request) -> Answer {
    Ok(Reply::Json(json!({
        "refresh_interval_sec": 300, "sample_cancel_enabled": false, "sample_cancel_max_batch_size": 64,
    })))
}

/// `GET get_server_capabilities`
pub(in crate::serve) fn capabilities(service: &Arc<Service>, _: &Request) -> Answer {
    let mut models = Vec::new();
    for base in &service.bases {
        for name in base.listed_names() {
            models.push(json!({
                "model_name": name, "max_context_length": base.limits.positions, "trainable": true, "sampleable": true,
            }));
        }
    }
    Ok(Reply::Json(json!({"supported_models": models})))
}

#[derive(Deserialize)]
struct CreateSession {
    #[serde(default)]
    tags: Vec<String>,
    user_metadata: Option<BTreeMap<String, String>>,
    sdk_version: Option<String>,
    project_id: Option<String>,
    display_name: Option<String>,
}

/// `POST create_session`
pub(in crate::serve) fn create(service: &Arc<Service>, request: &Request) -> Answer {
    let asked: CreateSession = request.json()?;
    let id = service.open_session(Session {
        created: Moment::now(),
        seen: Instant::now(),
        tags: asked.tags,
        user_metadata: asked.user_metadata.unwrap_or_default(),
        display_name: asked.display_name,
        project: asked.project_id,
        ended: None,
    })?;
    tracing::info!("session {id} opened by SDK {}", asked.sdk_version.unwrap_or_default());
    Ok(Reply::Json(json!({"session_id": id, "type": "create_session"})))
}

#[derive(Deserialize)]
struct OfSession {
    session_id: String,
}

/// `POST session_heartbeat`
pub(in crate::serve) fn heartbeat(service: &Arc<Service>, request: &Request) -> Answer {
    let OfSession { session_id } = request.json()?;
    service.touch(&session_id)?;
    Ok(Reply::Json(json!({"type": "session_heartbeat"})))
}

/// `POST telemetry`: taken and dropped.
pub(in crate::serve) fn telemetry(_: &Arc<Service>, request: &Request) -> Answer {
    let _: Value = request.json()?;
    Ok(Reply::Json(json!({"status": "accepted"})))
}

/// `POST sessions/{id}/finish`
pub(in crate::serve) fn finish(service: &Arc<Service>, request: &Request) -> Answer {
    #[derive(Deserialize)]
    struct Finish {
        #[serde(default)]
        reason: Value,
    }
    let Finish { reason } = request.json()?;
    let kind = reason.get("type").and_then(Value::as_str).unwrap_or("success");
    if !matches!(kind, "success" | "errored" | "interrupted") {
        return Err(Refusal::bad(
            "the reason is none of `success`, `errored` and `interrupted`",
        ));
    }
    service.end_session(request.place(0), &format!("its client finished ({kind})"))?;
    Ok(Reply::Json(json!({"type": "finish_session"})))
}

/// `GET sessions`
pub(in crate::serve) fn list(service: &Arc<Service>, request: &Request) -> Answer {
    let (offset, limit) = (request.number("offset", 0)?, request.number("limit", 20)?);
    let ids = service.sessions().into_iter().map(|(id, _)| id);
    Ok(Reply::Json(
        json!({"sessions": ids.skip(offset).take(limit).collect::<Vec<_>>()}),
    ))
}

fn found(service: &Service, id: &str) -> Result<Session, Refusal> {
    let found = service.sessions().into_iter().find(|(known, _)| known == id);
    found
        .map(|(_, session)| session)
        .ok_or_else(|| Refusal::not_found("there is no such session"))
}

/// `GET sessions/{id}`
pub(in crate::serve) fn get(service: &Arc<Service>, request: &Request) -> Answer {
    let session = found(service, request.place(0))?;
    let (runs, samplers) = service.members(request.place(0));
    Ok(Reply::Json(json!({
        "training_run_ids": runs, "sampler_ids": samplers, "user_metadata": session.user_metadata,
        "display_name": session.display_name,
    })))
}

/// `PUT sessions/{id}/project`
pub(in crate::serve) fn assign(service: &Arc<Service>, request: &Request) -> Answer {
    #[derive(Deserialize)]
    struct Assign {
        project_id: String,
    }
    let Assign { project_id } = request.json()?;
    service.assign_project(request.place(0), project_id)?;
    Ok(Reply::Json(json!({})))
}

/// `POST sessions/search`: all sessions; there is nobody else's to leave out.
pub(in crate::serve) fn search(service: &Arc<Service>, _: &Request) -> Answer {
    let summary = |(id, session): (String, Session)| {
        let status = match &session.ended {
            None => json!({"type": "active"}),
            Some(_) => json!({"type": "client_finished", "reason": {"type": "success"}}),
        };
        let (runs, _) = service.members(&id);
        let checkpoints: usize = runs.iter().map(|run| service.checkpoints.of_run(run).len()).sum();
        json!({
            "session_id": id, "created_at": session.created, "owner": "local",
            "project_id": session.project.unwrap_or_default(), "status": status, "checkpoints_count": checkpoints,
            "display_name": session.display_name, "user_metadata": session.user_metadata, "tags": session.tags,
        })
    };
    let sessions: Vec<Value> = service.sessions().into_iter().map(summary).collect();
    Ok(Reply::Json(json!({"sessions": sessions, "next_cursor": null})))
}
