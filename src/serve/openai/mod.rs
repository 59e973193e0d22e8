//! OpenAI's calls, under `/v1` and `/oai/api/v1`: base models, checkpoints of samplers (also of runs that still train) and
//! adapter folders answer.

mod answer;
mod fields;
mod question;

use std::sync::Arc;

use serde_json::{Value, json};

use super::exchange::{Reply, Request};
use super::refusal::Refusal;
use super::service::Service;
use super::tinker_path::Kind;
use question::{ChatRequest, CompletionRequest, subject};

type Answer = Result<Reply, Refusal>;

fn entry(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 0, "owned_by": "kshot"})
}

/// `GET models`
pub(super) fn models(service: &Arc<Service>, _: &Request) -> Answer {
    let mut ids: Vec<String> = service.bases.iter().map(|base| base.name().to_owned()).collect();
    ids.extend(service.adapters.iter().map(|adapter| adapter.name.clone()));
    for run in service.checkpoints.runs() {
        let checkpoints = service.checkpoints.of_run(&run.id);
        let paths = checkpoints.iter().map(|checkpoint| checkpoint.path());
        ids.extend(
            paths
                .filter(|path| path.kind == Kind::SamplerWeights)
                .map(|path| path.to_string()),
        );
    }
    let data: Vec<Value> = ids.iter().map(|id| entry(id)).collect();
    Ok(Reply::Json(json!({"object": "list", "data": data})))
}

/// `GET models/{id}`
pub(super) fn model(service: &Arc<Service>, request: &Request) -> Answer {
    subject(service, request.place(0))?;
    Ok(Reply::Json(entry(request.place(0))))
}

/// `POST chat/completions`
pub(super) fn chat(service: &Arc<Service>, request: &Request) -> Answer {
    let asked = ChatRequest::of(&request.json()?)?;
    answer::answer(service, asked.read(service)?)
}

/// `POST completions`
pub(super) fn complete(service: &Arc<Service>, request: &Request) -> Answer {
    let asked = CompletionRequest::of(&request.json()?)?;
    answer::answer(service, asked.read(service)?)
}
