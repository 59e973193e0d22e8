//! Checkpoints: saved, loaded, listed, published, deleted, downloaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::training::{OptimizerConfig, operation, submitted};
use crate::engine::AdapterId;
use crate::error::{Error, Result as Done};
use crate::serve::archive;
use crate::serve::base::Base;
use crate::serve::checkpoints::{Checkpoint, LoraInfo, Moment, RunInfo, Saving};
use crate::serve::exchange::{Reply, Request};
use crate::serve::generation::Weights;
use crate::serve::held::HeldFolder;
use crate::serve::promise::{Outcome, Resolver};
use crate::serve::refusal::Refusal;
use crate::serve::service::{Run, Service, hash_json, lock, new_run};
use crate::serve::tinker_path::{Kind, TinkerPath, check_name};

type Answer = Result<Reply, Refusal>;

/// Longest time to live of a checkpoint, in seconds: 100 years.
const LONGEST: i64 = 100 * 366 * 24 * 3600;

/// # Errors
/// A refusal of a time to live that is none.
fn check_ttl(ttl_seconds: Option<i64>) -> Result<Option<i64>, Refusal> {
    match ttl_seconds {
        Some(seconds) if !(1..=LONGEST).contains(&seconds) => Err(Refusal::bad(format!(
            "ttl_seconds is {seconds}, not from 1 to {LONGEST}"
        ))),
        checked => Ok(checked),
    }
}

#[derive(Deserialize)]
struct SaveWeights {
    model_id: String,
    seq_id: Option<i64>,
    path: Option<String>,
    ttl_seconds: Option<i64>,
    #[serde(default)]
    overwrite: bool,
    user_metadata: Option<BTreeMap<String, String>>,
    sampling_session_seq_id: Option<u64>,
    kind: Option<String>,
}

impl SaveWeights {
    fn saving(&self) -> Result<Saving, Refusal> {
        Ok(Saving {
            ttl_seconds: check_ttl(self.ttl_seconds)?,
            overwrite: self.overwrite,
            user_metadata: self.user_metadata.clone().unwrap_or_default(),
        })
    }

    /// The path of a checkpoint of this name.
    fn path(&self, kind: Kind) -> Result<TinkerPath, Refusal> {
        let name = self.path.as_deref().unwrap_or_default();
        check_name(name)?;
        Ok(TinkerPath {
            run: self.model_id.clone(),
            kind,
            name: name.to_owned(),
        })
    }
}

/// `POST save_weights`
pub(in crate::serve) fn save(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: SaveWeights = request.json()?;
    let hash = hash_json("save_weights", &text);
    operation(service, &asked.model_id, asked.seq_id, hash, |_| {
        let (path, saving) = (asked.path(Kind::Weights)?, asked.saving()?);
        Ok(move |service: &Service, run: &Run, resolver: Resolver| {
            let saved = run.adapter().and_then(|id| {
                let save = |folder: &Path| run.base.engine.save_state(id, folder);
                service.checkpoints.save(&path, &run.info(), &saving, save)
            });
            kept(
                saved,
                resolver,
                || json!({"path": path.to_string(), "type": "save_weights"}),
            );
        })
    })
}

fn kept(result: Done<()>, resolver: Resolver, value: impl FnOnce() -> Value) {
    match result {
        Ok(()) => resolver.keep(Outcome::Json(value())),
        Err(error) => resolver.keep(error),
    }
}

/// `POST save_weights_for_sampler`: by name, or for a new sampling session.
pub(in crate::serve) fn save_for_sampler(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: SaveWeights = request.json()?;
    let hash = hash_json("save_weights_for_sampler", &text);
    let inflight = match asked.kind.as_deref() {
        None | Some("snapshot") => false,
        Some("inflight") => true,
        Some(_) => return Err(Refusal::bad("kind is neither `snapshot` nor `inflight`")),
    };
    let Some(number) = asked.sampling_session_seq_id else {
        return operation(service, &asked.model_id, asked.seq_id, hash, |_| {
            let (path, saving) = (asked.path(Kind::SamplerWeights)?, asked.saving()?);
            Ok(move |service: &Service, run: &Run, resolver: Resolver| {
                let saved = run.adapter().and_then(|id| {
                    let save = |folder: &Path| run.base.engine.save_weights_for_sampler(id, folder);
                    service.checkpoints.save(&path, &run.info(), &saving, save)
                });
                kept(
                    saved,
                    resolver,
                    || json!({"path": path.to_string(), "type": "save_weights_for_sampler"}),
                );
            })
        });
    };
    let session = asked.model_id.split(':').next().unwrap_or_default().to_owned();
    operation(service, &asked.model_id, asked.seq_id, hash, |_| {
        let sampler = format!("{session}:sample:{number}");
        Ok(move |service: &Service, run: &Run, resolver: Resolver| {
            let free = service.check_new_sampler(&sampler);
            let opened = free.map_err(|refusal| Outcome::refused(&refusal)).and_then(|()| {
                let id = run.adapter().map_err(Outcome::from)?;
                let folder = service.checkpoints.passing(&sampler);
                let saved = run.base.engine.save_weights_for_sampler(id, &folder);
                saved.map_err(Outcome::from)?;
                // It goes with the sampler, or with the last prompt that was given to it.
                Ok(Weights::Adapter(HeldFolder::passing(folder)))
            });
            let opened = opened.and_then(|new| {
                let weights = if inflight {
                    let last = std::mem::replace(&mut *lock(&run.inflight), new);
                    drop(last); // not under the lock: its folder goes with it
                    run.inflight.clone()
                } else {
                    Arc::new(std::sync::Mutex::new(new))
                };
                let opened = service.open_sampler(sampler.clone(), &run.info().base_model, None, weights);
                opened.map_err(|refusal| Outcome::refused(&refusal))
            });
            resolver.keep(match opened {
                Ok(()) => Outcome::Json(json!({"sampling_session_id": sampler, "type": "save_weights_for_sampler"})),
                Err(outcome) => outcome,
            });
        })
    })
}

#[derive(Deserialize)]
struct LoadWeights {
    model_id: Option<String>,
    seq_id: Option<i64>,
    path: String,
    #[serde(default)]
    optimizer: bool,
    session_id: Option<String>,
    model_seq_id: Option<u32>,
    base_model: Option<String>,
    user_metadata: Option<BTreeMap<String, String>>,
    optimizer_config: Option<OptimizerConfig>,
}

/// Takes the weights of a checkpoint into an adapter, with their optimiser or a fresh one.
fn load_into(base: &Base, adapter: AdapterId, folder: &Path, optimizer: bool) -> Done<()> {
    match optimizer {
        true => base.engine.load_state(adapter, folder),
        false => base.engine.load_weights(adapter, folder),
    }
}

/// The checkpoint of a path with its folder; one of a sampler has no optimiser.
fn to_load(service: &Service, text: &str, optimizer: bool) -> Result<(Checkpoint, Arc<HeldFolder>), Refusal> {
    let path = TinkerPath::parse(text)?;
    if optimizer && path.kind != Kind::Weights {
        return Err(Refusal::bad(format!(
            "`{path}` has no optimiser: load it without, or load one of weights/"
        )));
    }
    service.checkpoints.hold(&path)
}

/// `POST load_weights`: into a training client, or into a new one.
pub(in crate::serve) fn load(service: &Arc<Service>, request: &Request) -> Answer {
    let text: Value = request.json()?;
    let asked: LoadWeights = request.json()?;
    let hash = hash_json("load_weights", &text);
    let Some(model_id) = asked.model_id.clone() else {
        return create_from(service, asked, hash);
    };
    let id = model_id.clone();
    operation(service, &model_id, asked.seq_id, hash, |_| {
        // One of its own may be saved by an operation that is still to run.
        if TinkerPath::parse(&asked.path)?.run != id {
            to_load(service, &asked.path, asked.optimizer)?;
        }
        Ok(move |service: &Service, run: &Run, resolver: Resolver| {
            let found = to_load(service, &asked.path, asked.optimizer);
            let loaded = found
                .map_err(|refusal| Outcome::refused(&refusal))
                .and_then(|(checkpoint, folder)| {
                    let (of, own) = (&checkpoint.run, run.info());
                    let same = |lora: &LoraInfo| (lora.rank, lora.train_attn, lora.train_mlp, lora.train_unembed);
                    if of.base != own.base || same(&of.lora) != same(&own.lora) {
                        return Err(Outcome::refused(&Refusal::bad(format!(
                            "`{}` is of another base model or LoRA shape (rank {}) than this model (rank {})",
                            asked.path, of.lora.rank, own.lora.rank
                        ))));
                    }
                    load_into(&run.base, run.adapter()?, folder.path(), asked.optimizer)?;
                    Ok(())
                });
            resolver.keep(match loaded {
                Ok(()) => Outcome::Json(json!({"path": asked.path, "model_id": id, "type": "load_weights"})),
                Err(outcome) => outcome,
            });
        })
    })
}

/// A new training client that begins with a checkpoint.
fn create_from(service: &Arc<Service>, asked: LoadWeights, hash: [u8; 32]) -> Answer {
    let (Some(session), Some(number)) = (&asked.session_id, asked.model_seq_id) else {
        return Err(Refusal::bad(
            "either model_id and seq_id, or session_id and model_seq_id are needed",
        ));
    };
    service.touch(session)?;
    OptimizerConfig::check(asked.optimizer_config.as_ref())?;
    let (checkpoint, folder) = to_load(service, &asked.path, asked.optimizer)?;
    let base = service.base_of(&checkpoint.run)?;
    if let Some(name) = &asked.base_model
        && !base.names().contains(name)
        && *name != checkpoint.run.base_model
    {
        let own = &checkpoint.run.base_model;
        return Err(Refusal::bad(format!("the checkpoint is of base model `{own}`")));
    }
    let id = format!("{session}:train:{number}");
    let metadata = asked.user_metadata.unwrap_or_default();
    let mut info = new_run(id.clone(), &base, checkpoint.run.lora.clone(), metadata);
    info.base_model = asked.base_model.unwrap_or(checkpoint.run.base_model);
    let (path, optimizer, model_id) = (asked.path, asked.optimizer, id.clone());
    let request_id = service.create_run(info, base, hash, move |service, run, resolver| {
        let info = run.info();
        let made = run.base.engine.add(&run.base.adapter(&info.lora)).and_then(|adapter| {
            run.adopt(adapter);
            load_into(&run.base, adapter, folder.path(), optimizer)?;
            service.checkpoints.note_run(&info)
        });
        kept(
            made,
            resolver,
            || json!({"path": path, "model_id": model_id, "type": "load_weights"}),
        );
    })?;
    Ok(submitted(&request_id, &id))
}

/// `POST save_weights_external`
pub(in crate::serve) fn save_external(service: &Arc<Service>, request: &Request) -> Answer {
    #[derive(Deserialize)]
    struct Asked {
        model_id: String,
        seq_id: Option<i64>,
    }
    let asked: Asked = request.json()?;
    let refuse =
        || Refusal::bad("external weights are not kept here; save_weights_for_sampler, then download the archive");
    operation(service, &asked.model_id, asked.seq_id, [0; 32], |_| {
        Err::<fn(&Service, &Run, Resolver), _>(refuse())
    })
}

/// `POST weights_info`
pub(in crate::serve) fn info(service: &Arc<Service>, request: &Request) -> Answer {
    #[derive(Deserialize)]
    struct Asked {
        tinker_path: String,
    }
    let Asked { tinker_path } = request.json()?;
    let checkpoint = service.checkpoints.find(&TinkerPath::parse(&tinker_path)?)?;
    let RunInfo { base_model, lora, .. } = checkpoint.run;
    Ok(Reply::Json(json!({
        "base_model": base_model, "is_lora": true, "lora_rank": lora.rank, "train_unembed": lora.train_unembed,
        "train_mlp": lora.train_mlp, "train_attn": lora.train_attn, "optimizer_config": {"type": "adamw"},
    })))
}

fn run_json(service: &Service, run: &RunInfo) -> Value {
    let checkpoints = service.checkpoints.of_run(&run.id);
    let last = |kind: Kind| {
        checkpoints
            .iter()
            .find(|one| one.path().kind == kind)
            .map(Checkpoint::json)
    };
    json!({
        "training_run_id": run.id, "base_model": run.base_model, "model_owner": "local", "is_lora": true, "corrupted": false,
        "lora_rank": run.lora.rank, "last_request_time": run.last_request, "last_checkpoint": last(Kind::Weights),
        "last_sampler_checkpoint": last(Kind::SamplerWeights), "user_metadata": run.user_metadata,
    })
}

/// `GET training_runs`
pub(in crate::serve) fn runs(service: &Arc<Service>, request: &Request) -> Answer {
    let (offset, limit) = (request.number("offset", 0)?, request.number("limit", 20)?);
    let runs = service.checkpoints.runs();
    let page = runs.iter().skip(offset).take(limit);
    let page: Vec<Value> = page
        .map(|run| run_json(service, &service.run_info(&run.id).unwrap_or_else(|| run.clone())))
        .collect();
    let cursor = json!({"offset": offset, "limit": limit, "total_count": runs.len()});
    Ok(Reply::Json(json!({"training_runs": page, "cursor": cursor})))
}

fn known_run(service: &Service, id: &str) -> Result<RunInfo, Refusal> {
    let shown: String = id.chars().take(80).collect();
    service
        .run_info(id)
        .ok_or_else(|| Refusal::not_found(format!("there is no training run `{shown}`")))
}

/// `GET training_runs/{id}`
pub(in crate::serve) fn run(service: &Arc<Service>, request: &Request) -> Answer {
    let run = known_run(service, request.place(0))?;
    Ok(Reply::Json(run_json(service, &run)))
}

/// `GET training_runs/{id}/checkpoints`
pub(in crate::serve) fn of_run(service: &Arc<Service>, request: &Request) -> Answer {
    let run = known_run(service, request.place(0))?;
    let all: Vec<Value> = service
        .checkpoints
        .of_run(&run.id)
        .iter()
        .map(Checkpoint::json)
        .collect();
    Ok(Reply::Json(json!({"checkpoints": all})))
}

/// `GET checkpoints`
pub(in crate::serve) fn all(service: &Arc<Service>, request: &Request) -> Answer {
    let (offset, limit) = (request.number("offset", 0)?, request.number("limit", 100)?);
    let runs = service.checkpoints.runs();
    let all: Vec<Value> = runs
        .iter()
        .flat_map(|run| service.checkpoints.of_run(&run.id))
        .map(|checkpoint| checkpoint.json())
        .collect();
    let cursor = json!({"offset": offset, "limit": limit, "total_count": all.len()});
    let page: Vec<Value> = all.into_iter().skip(offset).take(limit).collect();
    Ok(Reply::Json(json!({"checkpoints": page, "cursor": cursor})))
}

fn path_of(request: &Request) -> Result<TinkerPath, Refusal> {
    TinkerPath::of(request.place(0), &format!("{}/{}", request.place(1), request.place(2)))
}

/// `DELETE training_runs/{id}/checkpoints/{kind}/{name}`
pub(in crate::serve) fn delete(service: &Arc<Service>, request: &Request) -> Answer {
    service.checkpoints.delete(&path_of(request)?)?;
    Ok(Reply::Json(json!({})))
}

/// `POST …/publish`
pub(in crate::serve) fn publish(service: &Arc<Service>, request: &Request) -> Answer {
    service.checkpoints.publish(&path_of(request)?, true)?;
    Ok(Reply::Json(json!({})))
}

/// `DELETE …/publish`
pub(in crate::serve) fn unpublish(service: &Arc<Service>, request: &Request) -> Answer {
    service.checkpoints.publish(&path_of(request)?, false)?;
    Ok(Reply::Json(json!({})))
}

/// `PUT …/ttl`
pub(in crate::serve) fn ttl(service: &Arc<Service>, request: &Request) -> Answer {
    #[derive(Deserialize)]
    struct Ttl {
        ttl_seconds: Option<i64>,
    }
    let Ttl { ttl_seconds } = request.json()?;
    let expires_at = check_ttl(ttl_seconds)?.map(|seconds| Moment::now().after(seconds));
    service.checkpoints.expire(&path_of(request)?, expires_at)?;
    Ok(Reply::Json(json!({})))
}

/// `GET …/archive`: the folder of a checkpoint as a tar file.
pub(in crate::serve) fn archive(service: &Arc<Service>, request: &Request) -> Answer {
    let (_, folder) = service.checkpoints.hold(&path_of(request)?)?;
    let body = archive::body(folder, service.archives.take(1)?);
    let body = body.map_err(Error::io("start", "a thread"))?;
    Ok(Reply::Stream("application/x-tar", body))
}

/// Calls that this server does not offer.
pub(in crate::serve) fn not_offered(_: &Arc<Service>, _: &Request) -> Answer {
    Err(Refusal::new(
        404,
        "this call is not offered here: docs/serving.md lists those that are",
    ))
}
