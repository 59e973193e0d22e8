//! `kshot serve`: a server for Tinker's SDK and OpenAI clients.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::output;
use crate::engine::Settings;
use crate::environment::Variable;
use crate::error::Result;
use crate::experiment::plan::Places;
use crate::nn::DeviceSpec;
use crate::serve::{self, Options};

/// Serve base models to Tinker's SDK (training and sampling) and to OpenAI clients (chat and completions).
///
/// Clients train LoRA adapters on the models and sample from them; checkpoints are kept in the state folder. See docs/serving.md.
/// TINKER_API_KEY is the key that clients have to send; without one the server can be reached from this machine only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot serve --model datasets/mini/models/micro-qwen3-vl
  TINKER_API_KEY=tml-0123456789 kshot serve --model Qwen/Qwen3-VL-2B-Instruct --bind 0.0.0.0:8000 --state /data/kshot

  export TINKER_BASE_URL=http://127.0.0.1:8000 TINKER_API_KEY=tml-local-key   # for the SDK and the cookbook
  curl http://127.0.0.1:8000/v1/models")]
pub(super) struct Arguments {
    /// Qwen3-VL: a hub-layout folder, or owner/name of one that `kshot model fetch` got; may be given several times.
    #[arg(long, value_name = "DIR|ID", required = true)]
    model: Vec<PathBuf>,
    /// An adapter folder, as kshot or PEFT saves it, that OpenAI clients can name by its folder's name; may be given several
    /// times.
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
    /// The address to listen at, e.g. localhost:8000; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000", value_parser = address)]
    bind: SocketAddr,
    /// Folder of the checkpoints; one server at a time has it.
    #[arg(long, value_name = "DIR", default_value = "kshot-state")]
    state: PathBuf,
    /// A client that is silent for so long loses its adapters; saved checkpoints stay.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    session_timeout: u64,
    /// Sequences that go through the model at once.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    micro_batch: u32,
    /// Run each layer twice in training and keep only the states between layers: less memory, same gradients.
    #[arg(long)]
    checkpointing: bool,
}

/// The address of a host and a port; of a name that has several, one of IPv4.
fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    let all = text.to_socket_addrs();
    let all: Vec<SocketAddr> = all
        .map_err(|e| format!("{e}; HOST:PORT is needed, e.g. 127.0.0.1:8000"))?
        .collect();
    let found = all.iter().find(|address| address.is_ipv4()).or(all.first());
    found.copied().ok_or_else(|| "the name has no address".to_owned())
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let options = Options {
        models: arguments.model.clone(),
        adapters: arguments.adapter.clone(),
        home: Places::from_env().home,
        bind: arguments.bind,
        state: arguments.state.clone(),
        key: Variable::ServerKey.text(),
        session_timeout: Duration::from_secs(arguments.session_timeout),
        device: DeviceSpec::best()?,
        settings: Settings {
            micro_batch: arguments.micro_batch as usize,
            checkpointing: arguments.checkpointing,
            ..Settings::default()
        },
    };
    serve::run(&options, |address| output(&format!("listening at http://{address}\n")))
}
