//! `kshot doctor`: what this machine has of what a sweep needs.

use std::fmt::Write as _;
use std::path::Path;

use candle_core::Device;
use clap::Args;

use super::{listed, output, version};
use crate::data;
use crate::environment::Variable;
use crate::error::Result;
use crate::experiment::plan::Places;
use crate::fetch::HubSettings;
use crate::fs::{free_space, is_writable};
use crate::manifest;
use crate::nn::{DeviceSpec, memory};

/// Look at device, memory, disk, caches, keys and datasets, and say what would not work. Makes no connection and changes nothing.
///
/// Exit code 1 when something that a sweep needs is missing. Of keys it says that they are set, not what they are.
#[derive(Debug, Args)]
#[command(after_help = "Example: kshot doctor")]
pub(super) struct Arguments {}

/// Room below which unpacking and results may not fit.
const LITTLE: u64 = 1_000_000_000;

pub(super) fn run(_: &Arguments) -> Result<bool> {
    let mut found = Found {
        text: version::text(),
        wrong: Vec::new(),
    };
    found.device();
    let (places, hub) = (Places::from_env(), HubSettings::from_env());
    found.folder("results", Path::new("results"));
    found.folder("cache", &places.cache);
    found.folder("hub cache", &hub.cache);
    found.datasets(&places, &hub)?;
    found.environment(&hub);
    for wrong in &found.wrong {
        let _ = writeln!(found.text, "WRONG: {wrong}");
    }
    found.text += match found.wrong.len() {
        0 => "nothing is missing: `kshot sweep` runs here\n",
        _ => "",
    };
    output(&found.text)?;
    Ok(found.wrong.is_empty())
}

/// What is said, and what of it stands in the way.
struct Found {
    text: String,
    wrong: Vec<String>,
}

impl Found {
    fn line(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name:9} {value}");
    }

    fn device(&mut self) {
        let free = |device: &Device| match memory::free(device) {
            Ok(Some(bytes)) => gigabytes(bytes),
            _ => "unknown".into(),
        };
        let host = free(&Device::Cpu);
        self.line("memory", &format!("{host} free"));
        match DeviceSpec::best() {
            Ok(place) if !place.device.is_cpu() => {
                let name = format!("{} free on {}", free(&place.device), place.device_name());
                self.line("gpu", &name);
            }
            Ok(_) => {}
            Err(error) => self.wrong.push(error.to_string()),
        }
    }

    fn folder(&mut self, name: &str, folder: &Path) {
        let writable = is_writable(folder);
        let free = free_space(folder);
        let room = free.as_ref().map_or("unknown".to_owned(), |bytes| gigabytes(*bytes));
        self.line(name, &format!("{} ({room} free)", folder.display()));
        if !writable {
            self.wrong.push(format!("`{}` cannot be written", folder.display()));
        }
        if free.is_ok_and(|bytes| bytes < LITTLE) {
            self.wrong
                .push(format!("`{}` has less than 1 GB of room", folder.display()));
        }
    }

    fn datasets(&mut self, places: &Places, hub: &HubSettings) -> Result<()> {
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for manifest in manifest::list(&places.datasets)? {
            match manifest {
                Ok(manifest) => {
                    let presence = data::presence(&manifest.name, &places.datasets, &places.cache, hub)?;
                    let side = if presence.forms.is_empty() {
                        &mut absent
                    } else {
                        &mut there
                    };
                    side.push(manifest.name);
                }
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
        self.line("datasets", &listed(there.into_iter()));
        if !absent.is_empty() {
            let absent = listed(absent.into_iter());
            self.line("", &format!("not fetched: {absent}"));
        }
        Ok(())
    }

    fn environment(&mut self, hub: &HubSettings) {
        let token = if hub.token.is_some() { "a token" } else { "no token" };
        let offline = if hub.offline { "offline" } else { "connections allowed" };
        self.line("hub", &format!("{}, {token}, {offline}", hub.endpoint));
        let of_the_system = [
            Variable::UserHome,
            Variable::Temporary,
            Variable::Threads,
            Variable::CandleThreads,
            Variable::PurgeDelay,
        ];
        let set = Variable::ALL
            .iter()
            .filter(|variable| variable.is_set() && !of_the_system.contains(variable));
        let set = listed(set.map(|variable| variable.name().to_owned()));
        if !set.is_empty() {
            self.line("set", &set);
        }
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
