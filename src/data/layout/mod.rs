//! Layouts of datasets: each turns unpacked archives and label files into class names, pool, validation and test images.
//! `docs/adding-a-dataset.md` adds one.

pub mod coop;
pub mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use names::listed;

use super::files::DatasetFiles;
use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::manifest::{Form, Layout, Manifest, layouts};

/// Makes the modules of the list of layouts, and finds what each says of itself.
macro_rules! modules {
    ($($module:ident: $layout:ident;)+) => {
        $(pub mod $module;)+

        impl Layout {
            fn description(self) -> Description {
                match self {
                    $(Self::$layout => $module::LAYOUT,)+
                }
            }
        }
    };
}

layouts!(modules);

/// The files of a layout, and how they are read.
#[derive(Clone, Copy)]
pub(crate) struct Description {
    /// Roles that a `[[file]]` may have.
    pub roles: &'static [Role],
    /// Roles of which one will do.
    pub alternatives: &'static [&'static str],
    /// Class names and sides as their makers published them.
    pub read: fn(&Unpacked) -> Result<Listing>,
    /// True if a class name of this layout and CoOp's name, in this order, mean the same class: the protocol `coop` takes
    /// its sides from CoOp's split file. `None` where `read` does so itself.
    pub coop: Option<fn(&str, &str) -> bool>,
}

impl Description {
    /// A layout without files, whose names differ from CoOp's at most in upper and lower case.
    pub(crate) const fn new(read: fn(&Unpacked) -> Result<Listing>) -> Self {
        Self {
            roles: &[],
            alternatives: &[],
            read,
            coop: Some(coop::same_but_for_case),
        }
    }
}

/// The use of a file of a layout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    pub name: &'static str,
    pub required: bool,
    /// Unpacked; label files are read where they lie.
    pub is_archive: bool,
}

impl Role {
    const fn archive(name: &'static str) -> Self {
        Self {
            name,
            required: true,
            is_archive: true,
        }
    }

    const fn labels(name: &'static str) -> Self {
        Self {
            is_archive: false,
            ..Self::archive(name)
        }
    }

    const fn optional(self) -> Self {
        Self {
            required: false,
            ..self
        }
    }
}

impl Layout {
    /// Roles a `[[file]]` may have.
    pub(crate) fn roles(self) -> &'static [Role] {
        self.description().roles
    }

    /// Roles of which one will do.
    pub(crate) fn alternatives(self) -> &'static [&'static str] {
        self.description().alternatives
    }
}

/// Contents of the label files; that the images are there is checked later, for every layout alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Images that shots may be drawn from.
    pub pool: Vec<Item>,
    /// Images that a protocol sets aside for validation.
    pub val: Vec<Item>,
    /// Images that are only ever predicted.
    pub test: Vec<Item>,
}

impl Listing {
    /// A listing in which nothing is set aside for validation.
    fn new(classes: Vec<String>, pool: Vec<Item>, test: Vec<Item>) -> Self {
        let val = Vec::new();
        Self {
            classes,
            pool,
            val,
            test,
        }
    }

    /// The images of all sides.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.pool.iter().chain(&self.val).chain(&self.test)
    }

    /// Takes classes out by name, with their images.
    ///
    /// # Errors
    /// When there is no class of such a name.
    fn leave_out(&mut self, classes: &[String]) -> Result<(), String> {
        if let Some(unknown) = classes.iter().find(|name| !self.classes.contains(name)) {
            return Err(format!("`skip_classes` names `{unknown}`, which is no class"));
        }
        self.keep(&|_, name| !classes.iter().any(|skipped| skipped == name));
        Ok(())
    }

    /// Takes out classes without an image to learn from or without one to test on, and says which: files from elsewhere
    /// name classes that they do not use.
    fn prune(&mut self) -> Vec<String> {
        let with_images = |side: &[Item]| side.iter().map(|item| item.class).collect::<BTreeSet<u32>>();
        let (pool, test) = (with_images(&self.pool), with_images(&self.test));
        // Nothing but one side is a fault of another kind, which is told as such.
        if pool.is_empty() || test.is_empty() {
            return Vec::new();
        }
        let (mut unused, mut one_sided) = (Vec::new(), Vec::new());
        for (class, name) in (0..).zip(&self.classes) {
            match (pool.contains(&class), test.contains(&class)) {
                (true, true) => {}
                (false, false) => unused.push(format!("`{name}`")),
                (true, false) => one_sided.push(format!("`{name}` (no test image)")),
                (false, true) => one_sided.push(format!("`{name}` (no training image)")),
            }
        }
        self.keep(&|class, _| pool.contains(&class) && test.contains(&class));
        let note = |names: Vec<String>, one: &str, many: &str| match names.len() {
            0 => None,
            1 => Some(format!("1 {one} is left out: {}", listed(&names))),
            count => Some(format!("{count} {many} are left out: {}", listed(&names))),
        };
        [
            note(unused, "class name that no image has", "class names that no image has"),
            note(one_sided, "class", "classes"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Classes in the order and spelling of the manifest: what two sources give differs in case, and in order.
    ///
    /// # Errors
    /// Which name the source has and the manifest has not, or the other way round.
    fn as_named(&mut self, names: &[String]) -> Result<(), String> {
        let plain = |name: &String| name.trim_end_matches('?').replace('_', " ").to_lowercase();
        let wanted: BTreeMap<String, u32> = names.iter().map(plain).zip(0..).collect();
        let mut order = Vec::new();
        for name in &self.classes {
            let class = wanted.get(&plain(name));
            order.push(*class.ok_or_else(|| format!("class `{name}` is not in the manifest's `class_names`"))?);
        }
        let found: BTreeSet<u32> = order.iter().copied().collect();
        if let Some((_, name)) = (0..).zip(names).find(|(class, _)| !found.contains(class)) {
            return Err(format!(
                "class `{name}` of the manifest's `class_names` is not in its labels"
            ));
        }
        self.renumber(&order);
        self.classes = names.to_vec();
        Ok(())
    }

    /// Keeps classes and their images; a label out of range stays one.
    fn keep(&mut self, is_kept: &dyn Fn(u32, &str) -> bool) {
        const GONE: u32 = u32::MAX;
        let mut numbers = Vec::new();
        let mut kept = Vec::new();
        for (class, name) in (0..).zip(std::mem::take(&mut self.classes)) {
            if is_kept(class, &name) {
                numbers.push(kept.len() as u32);
                kept.push(name);
            } else {
                numbers.push(GONE);
            }
        }
        self.classes = kept;
        for side in [&mut self.pool, &mut self.val, &mut self.test] {
            side.retain(|item| numbers.get(item.class as usize) != Some(&GONE));
        }
        self.renumber(&numbers);
    }

    /// Gives each image the class of this number in `order`; a label out of range stays one.
    fn renumber(&mut self, order: &[u32]) {
        for item in [&mut self.pool, &mut self.val, &mut self.test].into_iter().flatten() {
            item.class = order.get(item.class as usize).copied().unwrap_or(u32::MAX);
        }
    }
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Path inside the dataset, with `/`.
    pub id: String,
    /// Path of the image below the root of the unpacked files, if not `id`.
    pub file: Option<String>,
    /// Index into [`Listing::classes`].
    pub class: u32,
}

impl Item {
    fn new(id: impl Into<String>, class: u32) -> Self {
        Self {
            id: id.into(),
            file: None,
            class,
        }
    }
}

/// A dataset's files, unpacked and ready to be read.
pub(crate) struct Unpacked<'a> {
    pub source: &'a DatasetFiles<'a>,
    /// Folder that all archives were unpacked into, or the folder that the manifest names.
    pub root: &'a Path,
}

impl Unpacked<'_> {
    fn manifest(&self) -> &Manifest {
        self.source.manifest
    }

    /// Path of a label file that stands beside the archives.
    fn label_file(&self, role: &str) -> Option<PathBuf> {
        self.source.file(role).map(|file| file.path.clone())
    }

    fn required(&self, role: &str) -> Result<PathBuf> {
        self.label_file(role)
            .ok_or_else(|| self.fail(format!("no file has the role `{role}`")))
    }

    /// Error of a dataset whose parts do not fit together.
    fn fail(&self, reason: impl Into<String>) -> Error {
        self.manifest().fail(reason)
    }

    /// Images that may have come without a test side, which the manifest's `holdout` makes then. `lacking`: what would have
    /// said which images are tested.
    fn with_test(
        &self,
        classes: Vec<String>,
        learned: Vec<Item>,
        test: Option<Vec<Item>>,
        lacking: &str,
    ) -> Result<Listing> {
        let (pool, test) = match (test, self.manifest().holdout) {
            (Some(test), _) => (learned, test),
            (None, Some(share)) => names::split(learned, share, &self.manifest().skip),
            (None, None) => {
                return Err(self.fail(format!("{lacking}, and the manifest gives no `holdout` to split by")));
            }
        };
        Ok(Listing::new(classes, pool, test))
    }
}

/// Reads the labels of a dataset in its layout, with the classes and sides that a protocol has.
pub(crate) fn read(unpacked: &Unpacked) -> Result<Listing> {
    let (source, manifest) = (unpacked.source, unpacked.manifest());
    let is_lenient = source.is_lenient();
    let fail = |reason| unpacked.fail(reason);
    let layout = manifest.layout.description();
    let mut listing = match (source.form, layout.coop) {
        (Form::Hub, _) => parquet::read(unpacked)?,
        (Form::Archive, Some(same_name)) if source.protocol == Protocol::Coop => {
            coop::listing(unpacked, &(layout.read)(unpacked)?, same_name)?
        }
        (Form::Archive, _) => (layout.read)(unpacked)?,
    };
    listing.leave_out(&manifest.skip_classes).map_err(fail)?;
    // Under the other protocols names and order are part of the protocol.
    if source.protocol == Protocol::Clean {
        if !manifest.class_names.is_empty() {
            listing.as_named(&manifest.class_names).map_err(fail)?;
        }
        // Which labels there are in parquet files is known once they are unpacked.
        listing.classes = names::renamed(listing.classes, &manifest.rename, !is_lenient).map_err(fail)?;
    }
    if is_lenient {
        for note in listing.prune() {
            tracing::warn!("dataset `{}`: {note}", manifest.name);
        }
        if listing.classes.len() < 2 {
            return Err(unpacked.fail("fewer than two classes have images to learn from and images to test on"));
        }
    }
    Ok(listing)
}

/// Error of a label file.
pub(crate) fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::Labels {
        path: path.into(),
        reason: reason.into(),
    }
}

/// A one-based label or index that a MATLAB file stores as a double: zero-based, below `end`.
fn zero_based(value: f64, end: usize) -> Option<u32> {
    let whole = value.fract() == 0.0 && value >= 1.0 && value <= end as f64;
    whole.then_some(value as u32 - 1)
}

// The worked example of `docs/adding-a-dataset.md` is compiled and tested as any layout.
#[cfg(test)]
#[path = "../../../docs/examples/food101/mod.rs"]
mod food101_example;
