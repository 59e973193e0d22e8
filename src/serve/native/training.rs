//! Training clients: made, loaded, trained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::engine::Objective;
use crate::serve::checkpoints::LoraInfo;
use crate::serve::exchange::{Reply, Request};
use crate::serve::input::InputReader;
use crate::serve::promise::{Outcome, Resolver};
use crate::serve::refusal::Refusal;
use crate::serve::service::{RequestHash, Run, Service, hash_json, new_run, seed_of};
use crate::serve::{training, wire};

type Answer = Result<Reply, Refusal>;

/// The update of an adapter is scaled by alpha / rank; the wire has no alpha.
const ALPHA: f64 = 32.0;
/// The largest rank.
const MOST_RANK: usize = 1024;
/// A client that asks for a result waits so long before it is told to ask again: its own limit is 45 s.
const PATIENCE: Duration = Duration::from_secs(25);

const PROTOBUF: &str = "application/x-protobuf";

/// The answer to a submit.
pub(in crate::serve) fn submitted(request_id: &str, model_id: &str) -> Reply {
    Reply::Json(json!({"request_id": request_id, "model_id": model_id}))
}

#[derive(Debug, Default, Deserialize)]
pub(in crate::serve) struct OptimizerConfig {
    #[serde(rename = "type", default)]
    kind: String,
}

impl OptimizerConfig {
    /// # Errors
    /// A refusal of all but AdamW.
    pub(in crate::serve) fn check(config: Option<&Self>) -> Result<(), Refusal> {
        match config.map_or("", |config| config.kind.as_str()) {
            "" | "adamw" => Ok(()),
            other => {
                let other: String = other.chars().take(40).collect();
                Err(Refusal::bad(format!(
                    "optimiser `{other}` is not supported here; `adamw` is"
                )))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoraConfig {
    rank: i64,
    seed: Option<i64>,
    #[serde(default = "yes")]
    train_unembed: bool,
    #[serde(default = "yes")]
    train_mlp: bool,
    #[serde(default = "yes")]
    train_attn: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct CreateModel {
    session_id: String,
    model_seq_id: u32,
    base_model: String,
    user_metadata: Option<BTreeMap<String, String>>,
    lora_config: Option<LoraConfig>,
    optimizer_config: Option<OptimizerConfig>,
}

/// `POST create_model`
pub(in crate::serve) fn create_model(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: CreateModel = request.json()?;
    service.touch(&asked.session_id)?;
    OptimizerConfig::check(asked.optimizer_config.as_ref())?;
    let (base, _) = service.model(&asked.base_model)?;
    let lora = asked.lora_config;
    let lora = lora.ok_or_else(|| Refusal::bad("lora_config is missing: only LoRA is trained here"))?;
    let rank = usize::try_from(lora.rank)
        .ok()
        .filter(|rank| (1..=MOST_RANK).contains(rank));
    let rank =
        rank.ok_or_else(|| Refusal::bad(format!("lora_config.rank is {}, not from 1 to {MOST_RANK}", lora.rank)))?;
    let id = format!("{}:train:{}", asked.session_id, asked.model_seq_id);
    let lora = LoraInfo {
        rank,
        alpha: ALPHA,
        seed: lora.seed.map_or_else(|| seed_of(&id), |seed| seed as u64),
        train_attn: lora.train_attn,
        train_mlp: lora.train_mlp,
        train_unembed: lora.train_unembed && base.has_unembed(),
    };
    if !(lora.train_attn || lora.train_mlp || lora.train_unembed) {
        return Err(Refusal::bad(
            "nothing would be trained: set train_attn, train_mlp or, where it is not tied, train_unembed",
        ));
    }
    let mut info = new_run(id.clone(), &base, lora, asked.user_metadata.unwrap_or_default());
    info.base_model = asked.base_model;
    let hash = hash_json("create_model", &text);
    let model_id = id.clone();
    let request_id = service.create_run(info, base, hash, move |service, run, resolver| {
        let info = run.info();
        let made = run.base.engine.add(&run.base.adapter(&info.lora)).and_then(|adapter| {
            run.adopt(adapter);
            service.checkpoints.note_run(&info)
        });
        match made {
            Ok(()) => resolver.keep(Outcome::Json(json!({"model_id": model_id, "type": "create_model"}))),
            Err(error) => resolver.keep(error),
        }
    })?;
    Ok(submitted(&request_id, &id))
}

#[derive(Deserialize)]
struct OfModel {
    model_id: String,
}

/// `POST get_info`
pub(in crate::serve) fn get_info(service: &Arc<Service>, request: &Request) -> Answer {
    let OfModel { model_id } = request.json()?;
    let run = service.run(&model_id)?;
    let info = run.info();
    Ok(Reply::Json(json!({
        "type": "get_info", "model_id": model_id, "is_lora": true, "lora_rank": info.lora.rank, "model_name": info.base_model,
        "model_data": {"arch": "qwen3_vl", "model_name": info.base_model, "tokenizer_id": info.base_model},
        "optimizer_config": {"type": "adamw"},
    })))
}

/// `POST unload_model`
pub(in crate::serve) fn unload(service: &Arc<Service>, request: &Request) -> Answer {
    let OfModel { model_id } = request.json()?;
    service.run(&model_id)?;
    service.unload(&model_id);
    let (request_id, resolver) = service.promises.open();
    resolver.keep(Outcome::Json(json!({"model_id": model_id, "type": "unload_model"})));
    Ok(submitted(&request_id, &model_id))
}

/// The number of an operation, from 1.
///
/// # Errors
/// A refusal when it is missing or below.
pub(in crate::serve) fn number(seq_id: Option<i64>) -> Result<u64, Refusal> {
    let number = seq_id
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| *number >= 1);
    number.ok_or_else(|| {
        Refusal::bad("seq_id is missing or below 1: operations of a training client are numbered from 1")
    })
}

/// Reads a request with `read` and submits what it asks for; a refused number is not waited for.
pub(in crate::serve) fn operation<W>(
    service: &Arc<Service>,
    model_id: &str,
    seq_id: Option<i64>,
    hash: RequestHash,
    read: impl FnOnce(&Arc<Run>) -> Result<W, Refusal>,
) -> Answer
where
    W: FnOnce(&Service, &Run, Resolver) + Send + 'static,
{
    let run = service.run(model_id)?;
    let number = number(seq_id)?;
    match read(&run) {
        Ok(work) => {
            let request_id = service.submit(&run, number, hash, work)?;
            Ok(submitted(&request_id, model_id))
        }
        Err(refusal) => {
            // After 429 it comes again under its number.
            if refusal.status != 429 {
                service.refuse(model_id, number);
            }
            Err(refusal)
        }
    }
}

/// `POST forward_backward`, in protobuf or JSON.
pub(in crate::serve) fn forward_backward(service: &Arc<Service>, request: &Request) -> Answer {
    train(service, request, false)
}

/// `POST forward`, as SDKs before 0.25 send it.
pub(in crate::serve) fn forward(service: &Arc<Service>, request: &Request) -> Answer {
    train(service, request, true)
}

fn train(service: &Arc<Service>, request: &Request, forward_only: bool) -> Answer {
    let body = &request.body;
    let kind = request.header("content-type").unwrap_or_default();
    let mut asked = if kind.starts_with(PROTOBUF) {
        wire::ForwardBackwardRequest::decode(body.as_slice())
            .map_err(|e| Refusal::bad(format!("the body is no ForwardBackwardRequest: {e}")))?
    } else {
        request.json::<training::JsonForwardBackward>()?.wire()?
    };
    asked.forward_only |= forward_only;
    let hash: RequestHash = Sha256::digest(asked.encode_to_vec()).into();
    operation(service, &asked.model_id, asked.seq_id.map(i64::from), hash, |run| {
        let mut reader = InputReader::new(&run.base.renderer, &run.base.limits);
        let examples = training::read(&asked, &mut reader)?;
        let charge = service.images.take(reader.bytes())?;
        service.metrics.add("examples", examples.data.len());
        Ok(move |_: &Service, run: &Run, resolver: Resolver| {
            let objective = Objective {
                loss: examples.loss,
                policy: &examples.policy,
                all_logprobs: true,
            };
            let engine = &run.base.engine;
            let result = run.adapter().and_then(|id| match examples.forward_only {
                true => engine.forward_with(id, &examples.data, &objective),
                false => engine.forward_backward_with(id, &examples.data, &objective),
            });
            drop((examples, charge));
            match result {
                Ok(result) => resolver.keep(Outcome::ForwardBackward(training::output(&result))),
                Err(error) => resolver.keep(error),
            }
        })
    })
}

#[derive(Deserialize)]
struct OptimStep {
    model_id: String,
    seq_id: Option<i64>,
    #[serde(default)]
    adam_params: training::JsonAdam,
    optimizer_params: Option<Value>,
}

/// `POST optim_step`
pub(in crate::serve) fn optim_step(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: OptimStep = request.json()?;
    let hash = hash_json("optim_step", &text);
    operation(service, &asked.model_id, asked.seq_id, hash, |_| {
        if asked.optimizer_params.is_some() {
            return Err(Refusal::bad(
                "optimizer_params are of another optimiser than adamw, which is not supported here",
            ));
        }
        let params = asked.adam_params.params()?;
        Ok(move |_: &Service, run: &Run, resolver: Resolver| {
            let stepped = run.adapter().and_then(|id| run.base.engine.optim_step(id, &params));
            match stepped {
                Ok(norm) => resolver.keep(Outcome::Json(
                    json!({"metrics": {"grad_norm": norm}, "type": "optim_step"}),
                )),
                Err(error) => resolver.keep(error),
            }
        })
    })
}

#[derive(Deserialize)]
struct RetrieveFuture {
    request_id: String,
}

/// `POST retrieve_future`: waits for a result.
pub(in crate::serve) fn retrieve_future(service: &Arc<Service>, request: &Request) -> Answer {
    let RetrieveFuture { request_id } = request.json()?;
    let protobuf = request.header("accept").is_some_and(|accept| accept.contains(PROTOBUF));
    let service = service.clone();
    Ok(Reply::Later(Box::pin(async move {
        let Some(outcome) = service.promises.wait(&request_id, PATIENCE).await? else {
            let body = json!({"type": "try_again", "request_id": request_id, "queue_state": "active"});
            return Ok(Reply::Status(408, body));
        };
        Ok(match &*outcome {
            Outcome::Json(value) => Reply::Json(value.clone()),
            Outcome::Failed { message, user } => {
                let category = if *user { "user" } else { "server" };
                Reply::Json(json!({"error": message, "category": category}))
            }
            Outcome::ForwardBackward(output) if protobuf => Reply::Protobuf(output.encode_to_vec()),
            Outcome::Sample(output) if protobuf => Reply::Protobuf(output.encode_to_vec()),
            Outcome::ForwardBackward(output) => Reply::Json(training::output_json(output)),
            Outcome::Sample(output) => Reply::Json(super::sampling::output_json(output)),
        })
    })))
}
