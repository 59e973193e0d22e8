//! State of a running server: its models, sessions, training clients and samplers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::base::{Base, named};
use super::budget::Budget;
use super::checkpoints::{Checkpoints, LoraInfo, Moment, RunInfo};
use super::generation::{Generation, Weights};
use super::held::HeldFolder;
use super::lanes::{Job, Lanes};
use super::metrics::Metrics;
use super::promise::{Promises, Resolver};
use super::refusal::Refusal;
use super::tinker_path::TinkerPath;
use crate::engine::AdapterId;
use crate::error::{Error, Result};

/// Submits of one client that are known by their numbers, so that one that is sent again is not done again.
const REMEMBERED: usize = 10_000;
/// An adapter is put away after this part of the time after which a silent session ends.
const IDLE: u32 = 6;
/// A finished session is listed for so long.
const LISTED: Duration = Duration::from_secs(24 * 3600);
/// Archives that are written at once: each has a thread.
const ARCHIVES: usize = 8;
/// Bytes of decoded images that wait at once.
const IMAGES: usize = 2 << 30;

/// Hash of a request, to tell the same request sent again from another one under the same number.
pub(super) type RequestHash = [u8; 32];

/// A connected client.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) created: Moment,
    pub(super) seen: Instant,
    pub(super) tags: Vec<String>,
    pub(super) user_metadata: BTreeMap<String, String>,
    pub(super) display_name: Option<String>,
    pub(super) project: Option<String>,
    /// Once it has said that it is done, or was silent for too long: the reason.
    pub(super) ended: Option<String>,
}

/// A training client: one adapter.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) base: Arc<Base>,
    info: Mutex<RunInfo>,
    /// The adapter in the engine, once it was made.
    adapter: Mutex<Option<AdapterId>>,
    submits: Mutex<BTreeMap<u64, (RequestHash, String)>>,
    /// When it was last asked for anything; `None` once its adapter was put away since.
    used: Mutex<Option<Instant>>,
    /// Weights of the samplers that follow this run.
    pub(super) inflight: Arc<Mutex<Weights>>,
}

impl Run {
    /// The notes about it.
    pub(super) fn info(&self) -> RunInfo {
        lock(&self.info).clone()
    }

    /// Its adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when it could not be made.
    pub(super) fn adapter(&self) -> Result<AdapterId> {
        lock(&self.adapter).ok_or(Error::NoAdapter { id: 0 })
    }

    /// Takes an adapter that was just made.
    pub(super) fn adopt(&self, id: AdapterId) {
        *lock(&self.adapter) = Some(id);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(id) = lock(&self.adapter).take() {
            self.base.engine.remove(id);
        }
    }
}

/// Weights that answer prompts of one client.
#[derive(Debug)]
pub(super) struct Sampler {
    pub(super) id: String,
    pub(super) generation: Arc<Generation>,
    pub(super) base_model: String,
    pub(super) path: Option<TinkerPath>,
    weights: Arc<Mutex<Weights>>,
    submits: Mutex<BTreeMap<u64, (RequestHash, String)>>,
}

impl Sampler {
    /// The weights as they are now.
    pub(super) fn weights(&self) -> Weights {
        lock(&self.weights).clone()
    }
}

/// A PEFT folder that OpenAI clients can name.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    pub(super) name: String,
    pub(super) base: String,
    pub(super) folder: Arc<HeldFolder>,
}

/// The state of a server.
pub(super) struct Service {
    pub(super) bases: Vec<Arc<Base>>,
    pub(super) adapters: Vec<Adapter>,
    generations: Vec<Arc<Generation>>,
    pub(super) checkpoints: Checkpoints,
    pub(super) promises: Promises,
    lanes: Lanes,
    pub(super) metrics: Metrics,
    /// Memory of decoded images that wait: small files can hold many pixels.
    pub(super) images: Budget,
    pub(super) archives: Budget,
    /// Locked before `runs` and `samplers` by who adds to these: what a session that ends must not leave behind is there when its
    /// end looks for it, or is not added.
    sessions: Mutex<HashMap<String, Session>>,
    runs: Mutex<HashMap<String, Arc<Run>>>,
    samplers: Mutex<HashMap<String, Arc<Sampler>>>,
    timeout: Duration,
    /// Set while `runs` is locked: no operation is taken afterwards.
    stopping: AtomicBool,
}

/// The session that a training client or a sampler belongs to, by its id.
fn session_of(id: &str) -> &str {
    id.split_once(':').map_or(id, |(session, _)| session)
}

/// # Errors
/// A refusal when there is no session of this id, or it has ended.
fn open<'s>(sessions: &'s mut HashMap<String, Session>, id: &str) -> Result<&'s mut Session, Refusal> {
    let shown: String = id.chars().take(60).collect();
    let Some(session) = sessions.get_mut(id) else {
        return Err(Refusal::not_found(format!(
            "there is no session `{shown}`: make a new ServiceClient"
        )));
    };
    if let Some(reason) = &session.ended {
        return Err(Refusal::gone(format!("session `{shown}` has ended: {reason}")));
    }
    Ok(session)
}

/// A panic elsewhere leaves nothing half done here: values are replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Starts the threads that train and generate. A session that is silent for `timeout` ends.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no thread or no random numbers.
    pub(super) fn start(
        bases: Vec<Arc<Base>>,
        adapters: Vec<Adapter>,
        checkpoints: Checkpoints,
        timeout: Duration,
    ) -> Result<Self> {
        let lanes = Lanes::start(4).map_err(Error::io("start", "a thread that trains"))?;
        let generations = bases.iter().map(|base| Generation::start(base.clone()).map(Arc::new));
        Ok(Self {
            generations: generations.collect::<Result<_>>()?,
            bases,
            adapters,
            checkpoints,
            promises: Promises::new(random_id()?.replace('-', "")),
            lanes,
            metrics: Metrics::default(),
            images: Budget::new(IMAGES, "the images of requests that wait take too much memory"),
            archives: Budget::new(ARCHIVES, "too many archives are being downloaded"),
            sessions: Mutex::default(),
            runs: Mutex::default(),
            samplers: Mutex::default(),
            timeout,
            stopping: AtomicBool::new(false),
        })
    }

    /// The base of a name, and its generation.
    ///
    /// # Errors
    /// A refusal that lists the models served.
    pub(super) fn model(&self, name: &str) -> Result<(Arc<Base>, Arc<Generation>), Refusal> {
        let base = named(&self.bases, name)?;
        let index = self
            .bases
            .iter()
            .position(|other| Arc::ptr_eq(other, base))
            .unwrap_or(0);
        Ok((base.clone(), self.generations[index].clone()))
    }

    // === Sessions ===

    /// A new session.
    ///
    /// # Errors
    /// A refusal when there are too many.
    pub(super) fn open_session(&self, session: Session) -> Result<String, Refusal> {
        let most = self.bases.first().map_or(0, |base| base.limits.sessions);
        let mut sessions = lock(&self.sessions);
        if sessions.values().filter(|session| session.ended.is_none()).count() >= most {
            return Err(Refusal::busy(format!("{most} sessions are open; close one first")));
        }
        let id = random_id()?;
        sessions.insert(id.clone(), session);
        Ok(id)
    }

    /// Notes that a session is alive.
    ///
    /// # Errors
    /// A refusal when there is none of this id, or it has ended.
    pub(super) fn touch(&self, id: &str) -> Result<(), Refusal> {
        open(&mut lock(&self.sessions), id)?.seen = Instant::now();
        Ok(())
    }

    /// Ends a session: its adapters and samplers go, its checkpoints stay. Work that was not begun is dropped.
    ///
    /// # Errors
    /// A refusal when there is none of this id.
    pub(super) fn end_session(&self, id: &str, reason: &str) -> Result<(), Refusal> {
        {
            let mut sessions = lock(&self.sessions);
            let session = sessions.get_mut(id);
            let session = session.ok_or_else(|| Refusal::not_found("there is no such session"))?;
            session.ended.get_or_insert_with(|| reason.to_owned());
        }
        self.drop_members(|session| session == id);
        Ok(())
    }

    /// Frees the training clients and samplers of sessions.
    fn drop_members(&self, which: impl Fn(&str) -> bool) {
        let of = |id: &String| which(session_of(id));
        let runs: Vec<String> = lock(&self.runs).keys().filter(|id| of(id)).cloned().collect();
        for run in runs {
            self.unload(&run);
        }
        let samplers: Vec<_> = lock(&self.samplers).extract_if(|id, _| of(id)).collect();
        drop(samplers); // not under the lock: folders go with them
    }

    /// All sessions with their ids, the newest first.
    pub(super) fn sessions(&self) -> Vec<(String, Session)> {
        let sessions = lock(&self.sessions);
        let mut all: Vec<_> = sessions
            .iter()
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect();
        all.sort_by(|a, b| (b.1.created, &b.0).cmp(&(a.1.created, &a.0)));
        all
    }

    /// Puts a session into a project.
    ///
    /// # Errors
    /// A refusal when there is none of this id.
    pub(super) fn assign_project(&self, id: &str, project: String) -> Result<(), Refusal> {
        let mut sessions = lock(&self.sessions);
        let session = sessions
            .get_mut(id)
            .ok_or_else(|| Refusal::not_found("there is no such session"))?;
        session.project = Some(project);
        Ok(())
    }

    /// Runs and samplers of a session.
    pub(super) fn members(&self, session: &str) -> (Vec<String>, Vec<String>) {
        let prefix = format!("{session}:");
        let of = |keys: Vec<String>| {
            let mut keys: Vec<String> = keys.into_iter().filter(|key| key.starts_with(&prefix)).collect();
            keys.sort();
            keys
        };
        (
            of(lock(&self.runs).keys().cloned().collect()),
            of(lock(&self.samplers).keys().cloned().collect()),
        )
    }

    // === Training clients ===

    /// A new training client of a session, with the operation that makes its adapter: the id of that request. The same
    /// request again gives the same id.
    ///
    /// # Errors
    /// A refusal when the number was given to another request, or the session has ended.
    pub(super) fn create_run(
        self: &Arc<Self>,
        info: RunInfo,
        base: Arc<Base>,
        hash: RequestHash,
        make: impl FnOnce(&Self, &Run, Resolver) + Send + 'static,
    ) -> Result<String, Refusal> {
        let id = info.id.clone();
        let mut sessions = lock(&self.sessions);
        open(&mut sessions, session_of(&id))?;
        let mut runs = lock(&self.runs);
        self.check_running()?;
        if let Some(run) = runs.get(&id) {
            let first = lock(&run.submits).get(&0).cloned();
            return match first {
                Some((same, request)) if same == hash => Ok(request),
                _ => Err(Refusal::bad(format!("`{id}` was created already by another request"))),
            };
        }
        let (request, resolver) = self.promises.open();
        let run = Arc::new(Run {
            base,
            info: Mutex::new(info),
            adapter: Mutex::default(),
            submits: Mutex::new(BTreeMap::from([(0, (hash, request.clone()))])),
            used: Mutex::new(Some(Instant::now())),
            inflight: Arc::new(Mutex::new(Weights::Base)),
        });
        runs.insert(id.clone(), run.clone());
        let service = self.clone();
        self.lanes
            .push(&id, 0, Box::new(move || make(&service, &run, resolver)));
        Ok(request)
    }

    /// The training client of a model id, which is alive then.
    ///
    /// # Errors
    /// A refusal when there is none, or its session has ended.
    pub(super) fn run(&self, id: &str) -> Result<Arc<Run>, Refusal> {
        let session = session_of(id);
        let found = lock(&self.runs).get(id).cloned();
        let shown: String = id.chars().take(80).collect();
        let Some(run) = found else {
            let known = lock(&self.sessions).contains_key(session);
            if known {
                self.touch(session)?;
            }
            let remedy = "create it, or load it from a checkpoint";
            return Err(Refusal::not_found(format!("model `{shown}` is not loaded: {remedy}")));
        };
        self.touch(session)?;
        lock(&run.info).last_request = Moment::now();
        *lock(&run.used) = Some(Instant::now());
        Ok(run)
    }

    /// The notes about a run, of this process or an earlier one.
    pub(super) fn run_info(&self, id: &str) -> Option<RunInfo> {
        let loaded = lock(&self.runs).get(id).map(|run| run.info());
        loaded.or_else(|| self.checkpoints.run(id))
    }

    /// Gives an operation to a training client: the id of its request. The same request again gives the same id.
    ///
    /// # Errors
    /// A refusal when the number was given to another request, too much waits, or the client was unloaded meanwhile.
    pub(super) fn submit(
        self: &Arc<Self>,
        run: &Arc<Run>,
        number: u64,
        hash: RequestHash,
        work: impl FnOnce(&Self, &Run, Resolver) + Send + 'static,
    ) -> Result<String, Refusal> {
        let id = lock(&run.info).id.clone();
        let runs = lock(&self.runs);
        self.check_running()?;
        if !runs.get(&id).is_some_and(|known| Arc::ptr_eq(known, run)) {
            return Err(Refusal::gone(format!("`{id}` was unloaded meanwhile")));
        }
        let mut submits = lock(&run.submits);
        if let Some((same, request)) = submits.get(&number) {
            if *same == hash {
                return Ok(request.clone());
            }
            return Err(Refusal::bad(format!(
                "seq_id {number} of `{id}` was used already by another request"
            )));
        }
        let most = run.base.limits.queued_operations;
        if self.lanes.waiting(&id) >= most {
            return Err(Refusal::busy(format!("{most} operations of `{id}` wait already")));
        }
        let (request, resolver) = self.promises.open();
        submits.insert(number, (hash, request.clone()));
        while submits.len() > REMEMBERED {
            submits.pop_first();
        }
        let (service, run) = (self.clone(), run.clone());
        let job: Job = Box::new(move || work(&service, &run, resolver));
        self.lanes.push(&id, number, job);
        Ok(request)
    }

    /// To be asked while `runs` is locked.
    ///
    /// # Errors
    /// A refusal when the server was told to stop.
    fn check_running(&self) -> Result<(), Refusal> {
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(Refusal::gone("the server is stopping")),
            false => Ok(()),
        }
    }

    /// Counts a number as done whose request was refused.
    pub(super) fn refuse(&self, id: &str, number: u64) {
        self.lanes.skip(id, number);
    }

    /// Frees a training client; work that was not begun is dropped.
    pub(super) fn unload(&self, id: &str) -> bool {
        let run = lock(&self.runs).remove(id);
        self.lanes.remove(id);
        run.is_some()
    }

    // === Samplers ===

    /// A sampler of this id. The same weights again give the same sampler.
    ///
    /// # Errors
    /// A refusal when the id was given to other weights, or its session has ended.
    pub(super) fn open_sampler(
        &self,
        id: String,
        base_model: &str,
        path: Option<TinkerPath>,
        weights: Arc<Mutex<Weights>>,
    ) -> Result<(), Refusal> {
        let (_, generation) = self.model(base_model)?;
        let sampler = Sampler {
            id: id.clone(),
            generation,
            base_model: base_model.to_owned(),
            path,
            weights,
            submits: Mutex::default(),
        };
        let mut sessions = lock(&self.sessions);
        open(&mut sessions, session_of(&id))?;
        let mut samplers = lock(&self.samplers);
        if let Some(known) = samplers.get(&id) {
            // The checkpoint of a path may have been replaced since: the sampler keeps the weights that it was made with.
            let same = known.path == sampler.path
                && known.base_model == base_model
                && (known.path.is_some() || known.weights() == sampler.weights());
            return if same {
                Ok(())
            } else {
                Err(Refusal::bad(format!(
                    "sampler `{id}` was created already with other weights"
                )))
            };
        }
        samplers.insert(id, Arc::new(sampler));
        Ok(())
    }

    /// # Errors
    /// A refusal when there was a sampler of this id: its weights are not written over.
    pub(super) fn check_new_sampler(&self, id: &str) -> Result<(), Refusal> {
        if lock(&self.samplers).contains_key(id) {
            return Err(Refusal::bad(format!(
                "sampler `{id}` was created already: sampling_session_seq_id has to be a new one"
            )));
        }
        Ok(())
    }

    /// The sampler of an id, which is alive then.
    ///
    /// # Errors
    /// A refusal when there is none, or its session has ended.
    pub(super) fn sampler(&self, id: &str) -> Result<Arc<Sampler>, Refusal> {
        let session = session_of(id);
        if lock(&self.sessions).contains_key(session) {
            self.touch(session)?;
        }
        let found = lock(&self.samplers).get(id).cloned();
        found.ok_or_else(|| {
            let shown: String = id.chars().take(80).collect();
            Refusal::not_found(format!("there is no sampling session `{shown}`"))
        })
    }

    /// A request to a sampler: a new promise with its id, or the id alone where this request was made before.
    ///
    /// # Errors
    /// A refusal when the number was given to another request.
    pub(super) fn submit_sample(
        &self,
        sampler: &Sampler,
        number: u64,
        hash: RequestHash,
    ) -> Result<(String, Option<Resolver>), Refusal> {
        let mut submits = lock(&sampler.submits);
        if let Some((same, request)) = submits.get(&number) {
            if *same == hash {
                return Ok((request.clone(), None));
            }
            let id = &sampler.id;
            return Err(Refusal::bad(format!(
                "seq_id {number} of `{id}` was used already by another request"
            )));
        }
        let (request, resolver) = self.promises.open();
        submits.insert(number, (hash, request.clone()));
        while submits.len() > REMEMBERED {
            submits.pop_first();
        }
        Ok((request, Some(resolver)))
    }

    /// Forgets a request to a sampler that was not taken after all.
    pub(super) fn forget_sample(&self, sampler: &Sampler, number: u64) {
        lock(&sampler.submits).remove(&number);
    }

    /// Weights of a saved checkpoint with its base model's name.
    ///
    /// # Errors
    /// A refusal when it is not there, or its base is not served.
    pub(super) fn saved(&self, path: &TinkerPath) -> Result<(String, Weights), Refusal> {
        let (checkpoint, folder) = self.checkpoints.hold(path)?;
        let base = self.base_of(&checkpoint.run)?;
        Ok((base.name().to_owned(), Weights::Adapter(folder)))
    }

    /// The base that a run's checkpoints belong to.
    ///
    /// # Errors
    /// A refusal when it is not served.
    pub(super) fn base_of(&self, run: &RunInfo) -> Result<Arc<Base>, Refusal> {
        let found = self.bases.iter().find(|base| base.engine.fingerprint() == run.base);
        found.cloned().ok_or_else(|| {
            let name = &run.base_model;
            Refusal::not_found(format!(
                "the checkpoint's base model `{name}` is not served here with the same weights"
            ))
        })
    }

    // === Now and then ===

    /// Ends silent sessions, drops what ended ones have left, old results and expired checkpoints.
    pub(super) fn tidy(&self) {
        let silent: Vec<String> = {
            let mut sessions = lock(&self.sessions);
            sessions.retain(|_, session| session.ended.is_none() || session.seen.elapsed() < LISTED);
            let silent = sessions
                .iter()
                .filter(|(_, session)| session.ended.is_none() && session.seen.elapsed() > self.timeout);
            silent.map(|(id, _)| id.clone()).collect()
        };
        for id in silent {
            tracing::info!("session `{id}` was silent for {} s and ends", self.timeout.as_secs());
            let reason = format!("it was silent for {} s", self.timeout.as_secs());
            if let Err(refusal) = self.end_session(&id, &reason) {
                tracing::warn!("{refusal}");
            }
        }
        let ended: HashSet<String> = {
            let sessions = lock(&self.sessions);
            let ended = sessions.iter().filter(|(_, session)| session.ended.is_some());
            ended.map(|(id, _)| id.clone()).collect()
        };
        self.drop_members(|session| ended.contains(session));
        self.put_away();
        self.promises.tidy();
        self.checkpoints.remove_expired();
        self.checkpoints
            .remove_empty_runs(|id| lock(&self.runs).contains_key(id));
    }

    /// Moves adapters that nobody uses from the device to the disk; they come back when they are used.
    fn put_away(&self) {
        let runs: Vec<(String, Arc<Run>)> = lock(&self.runs)
            .iter()
            .map(|(id, run)| (id.clone(), run.clone()))
            .collect();
        for (id, run) in runs {
            let idle = lock(&run.used).is_some_and(|used| used.elapsed() > self.timeout / IDLE);
            if !idle || self.lanes.waiting(&id) > 0 {
                continue;
            }
            let Ok(adapter) = run.adapter() else { continue };
            match run.base.engine.evict(adapter, &self.checkpoints.passing(&id)) {
                Ok(()) => {
                    *lock(&run.used) = None;
                    self.metrics.add("adapters_put_away", 1);
                }
                Err(error) => tracing::warn!("the adapter of `{id}` stays on the device: {error}"),
            }
        }
    }

    /// Numbers for [`Metrics`]: sessions, training clients, samplers, operations that wait or run, prompts that do.
    pub(super) fn gauges(&self) -> [(&'static str, usize); 6] {
        let open = lock(&self.sessions)
            .values()
            .filter(|session| session.ended.is_none())
            .count();
        [
            ("sessions", open),
            ("training_clients", lock(&self.runs).len()),
            ("samplers", lock(&self.samplers).len()),
            ("operations_unfinished", self.lanes.unfinished()),
            (
                "prompts_unfinished",
                self.generations.iter().map(|all| all.unfinished()).sum(),
            ),
            ("results_pending", self.promises.pending()),
        ]
    }

    /// Waits for operations that run, so that nothing that is being saved is lost, and drops the others.
    pub(super) fn stop(&self) {
        {
            let _runs = lock(&self.runs);
            self.stopping.store(true, Ordering::Relaxed);
        }
        self.lanes.stop();
        for generation in &self.generations {
            generation.stop();
        }
    }
}

/// Identity of a JSON request, whatever the order of its fields.
pub(super) fn hash_json(call: &str, request: &Value) -> RequestHash {
    let text = request.to_string();
    Sha256::new()
        .chain_update(call)
        .chain_update([0])
        .chain_update(text)
        .finalize()
        .into()
}

/// A new id in the form of a UUID.
///
/// # Errors
/// [`Error::Io`] when the system gives no random numbers.
pub(super) fn random_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    let path = "/dev/urandom";
    let mut file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::fs::hash::hex(&bytes);
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

/// The info of a new run.
pub(super) fn new_run(id: String, base: &Base, lora: LoraInfo, user_metadata: BTreeMap<String, String>) -> RunInfo {
    let now = Moment::now();
    RunInfo {
        id,
        base_model: base.name().to_owned(),
        base: base.engine.fingerprint().to_owned(),
        lora,
        user_metadata,
        created: now,
        last_request: now,
    }
}

/// A number that a text always gives.
pub(super) fn seed_of(text: &str) -> u64 {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
