//! kshot as a service: a server that Tinker's SDK trains and samples on, and any OpenAI client asks.
//!
//! Handlers (`native`, `openai`) check a request and hand its work to threads: those of `lanes` train, in the order of each
//! client's operations; those of `generation` continue prompts of all clients side by side. Results are promises that a client
//! asks for. What is saved lies in the state folder (`checkpoints`). See `docs/serving.md`.

mod archive;
mod base;
mod body;
mod budget;
mod checkpoints;
mod exchange;
mod generation;
mod held;
mod http;
mod input;
mod lanes;
mod limits;
mod metrics;
mod native;
mod openai;
mod promise;
mod refusal;
mod routes;
mod service;
mod tinker_path;
mod training;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Base;
use checkpoints::Checkpoints;
use held::HeldFolder;
use service::{Adapter, Service};

use crate::engine::Settings;
use crate::error::{Cause, Error, Result};
use crate::nn::DeviceSpec;

/// First letters of a key that Tinker's SDK accepts.
const KEY_PREFIX: &str = "tml-";

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base models: hub-layout folders, or `owner/name` of the hub's cache.
    pub models: Vec<PathBuf>,
    /// PEFT folders that OpenAI clients can name by their folders' names.
    pub adapters: Vec<PathBuf>,
    /// The folder of relative model folders besides the working folder.
    pub home: PathBuf,
    /// The address.
    pub bind: SocketAddr,
    /// Folder of the checkpoints.
    pub state: PathBuf,
    /// The key that clients have to send; needed for an address that others can reach.
    pub key: Option<String>,
    /// A session that is silent for so long ends.
    pub session_timeout: Duration,
    /// Device and type of the weights.
    pub device: DeviceSpec,
    /// Memory and speed.
    pub settings: Settings,
}

/// Loads the models and serves until the process is told to stop (SIGTERM, Ctrl-C); `ready` is called with the address once
/// requests are answered.
///
/// # Errors
/// [`Error::Config`] when others could reach the server without a key, or the key is none that clients can send; those of loading a
/// model; [`Error::Io`], [`Error::State`] of the state folder and the address.
pub fn run(options: &Options, ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    check_key(options)?;
    // Models take their time to load: an address that is taken is told before. It is free again until they are.
    drop(http::listen(options.bind)?);
    let checkpoints = Checkpoints::open(&options.state)?;
    let mut bases = Vec::new();
    for model in &options.models {
        let base = Base::load(model, &options.home, &options.device, options.settings)?;
        tracing::info!("`{}` is loaded", base.name());
        bases.push(Arc::new(base));
    }
    base::check_names(&bases)?;
    let adapters = options
        .adapters
        .iter()
        .map(|folder| adapter(folder, &bases))
        .collect::<Result<_>>()?;
    let service = Service::start(bases, adapters, checkpoints, options.session_timeout)?;
    http::serve(service, options.bind, options.key.as_deref(), ready)
}

/// The adapter of a folder, on the first base that it fits.
///
/// # Errors
/// That of the only base, or the last one's.
fn adapter(folder: &Path, bases: &[Arc<Base>]) -> Result<Adapter> {
    let folder = folder.canonicalize().map_err(Error::io("read", folder))?;
    let name = folder
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut refused = None;
    for base in bases {
        match base.engine.saved(&folder) {
            Ok(_) => {
                let base = base.name().to_owned();
                let folder = HeldFolder::lasting(folder);
                return Ok(Adapter { name, base, folder });
            }
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::config("--adapter", "there is no model to put it on")))
}

fn check_key(options: &Options) -> Result<()> {
    let origin = "TINKER_API_KEY";
    match &options.key {
        Some(key) if !key.starts_with(KEY_PREFIX) || key.len() < KEY_PREFIX.len() + 8 => {
            let reason =
                format!("a key has to begin with `{KEY_PREFIX}`, as Tinker's SDK demands, and 8 characters more");
            Err(Error::config(origin, reason).because(Cause::ServerKey))
        }
        None if !options.bind.ip().is_loopback() => {
            let reason = format!(
                "is not set: whoever reaches {} could train and read checkpoints",
                options.bind
            );
            Err(Error::config(origin, reason).because(Cause::ServerKey))
        }
        _ => Ok(()),
    }
}
