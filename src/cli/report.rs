//! `kshot report`: stored results as one page to look at, with the images behind them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;

use super::output;
use crate::config::Protocol;
use crate::data;
use crate::data::LabelledImage;
use crate::error::{Error, Result};
use crate::example::{ImageCache, thumbnail};
use crate::experiment::plan::Places;
use crate::fs::file;
use crate::report::page;
use crate::report::page::{Budget, Thumbnails, Wanted};
use crate::store::Store;

/// Reasons for missing thumbnails that are printed; the page has all of them.
const REASONS: usize = 5;

/// Write one HTML page of results folders: figure and tables, accuracy by class, confusions, wrong answers with their images,
/// the shots, reliability, cost, data and hashes.
///
/// The page holds everything itself and asks nothing of the network. Images come from the datasets on this machine, as thumbnails of
/// at most 64 pixels a side and up to a bound that the page states; one that cannot be read is named there with the reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kshot report results/quickstart                   results/quickstart/report.html
  kshot report results/nightly results/reference/nightly --out nightly.html")]
pub(super) struct Arguments {
    /// Results folders, as `kshot sweep` or `kshot promote` writes them.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// File of the page [default: report.html in the first folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut folders = Vec::new();
    for folder in &arguments.results {
        folders.push((folder.display().to_string(), Store::open_existing(folder)?));
    }
    let default = || folders.first().map(|(_, store)| store.folder().join("report.html"));
    let path = arguments
        .out
        .clone()
        .or_else(default)
        .unwrap_or_else(|| "report.html".into());
    let page = page::page(&folders, &mut Datasets::new(Places::from_env()))?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    }
    file::replace_if_changed(&path, page.html.as_bytes())?;
    for reason in page.budget.reasons.iter().take(REASONS) {
        tracing::warn!("images without a thumbnail: {reason}");
    }
    let megabytes = page.html.len() as f64 / 1e6;
    output(&format!(
        "{}: {megabytes:.1} MB, {}\n",
        path.display(),
        thumbnails(&page.budget)
    ))
}

fn thumbnails(budget: &Budget) -> String {
    let mut text = format!("thumbnails of {} of {} images", budget.thumbnails, budget.images);
    if budget.unreadable > 0 {
        text += &format!(", {} could not be read", budget.unreadable);
    }
    if budget.left > 0 {
        text += &format!(", {} are beyond the bound", budget.left);
    }
    text
}

/// Images of a dataset by their ids, or why there are none.
type Opened = std::result::Result<HashMap<String, LabelledImage>, String>;

/// Thumbnails of the datasets on this machine, each opened when it is first asked for.
struct Datasets {
    places: Places,
    cache: Option<ImageCache>,
    opened: BTreeMap<(String, Protocol), Opened>,
}

impl Datasets {
    fn new(places: Places) -> Self {
        Self {
            cache: places.image_cache(),
            places,
            opened: BTreeMap::new(),
        }
    }

    fn open(&self, name: &str, protocol: Protocol) -> Opened {
        let dataset = data::open_as_indexed(name, protocol, &self.places.datasets, &self.places.cache);
        let dataset = dataset.map_err(|error| error.to_string())?;
        let images = [dataset.pool, dataset.val, dataset.test].into_iter().flatten();
        Ok(images.map(|image| (image.id.clone(), image)).collect())
    }

    fn thumbnail(&self, wanted: &Wanted) -> Result<Vec<u8>> {
        let failed = |reason: String| Error::Dataset {
            dataset: wanted.dataset.clone(),
            reason,
        };
        let images = match self.opened.get(&(wanted.dataset.clone(), wanted.protocol)) {
            Some(Ok(images)) => images,
            Some(Err(reason)) => return Err(failed(format!("its images cannot be shown: {reason}"))),
            None => return Err(failed("it was not opened".into())),
        };
        match images.get(&wanted.id) {
            Some(image) if image.sha256 == wanted.sha256 => thumbnail(self.cache.as_ref(), image),
            Some(_) => Err(failed(format!(
                "image `{}` is not the one that these results are of",
                wanted.id
            ))),
            None => Err(failed(format!("image `{}` is not in it any more", wanted.id))),
        }
    }
}

impl Thumbnails for Datasets {
    fn make(&mut self, wanted: &[&Wanted]) -> Vec<Result<Vec<u8>>> {
        for image in wanted {
            let key = (image.dataset.clone(), image.protocol);
            if !self.opened.contains_key(&key) {
                let opened = self.open(&key.0, key.1);
                self.opened.insert(key, opened);
            }
        }
        let this = &*self;
        wanted.par_iter().map(|image| this.thumbnail(image)).collect()
    }
}
