//! A folder of folders: `train/<class>/*` and `test/<class>/*` under their usual names, or `<class>/*` of which a share
//! is held out; in an archive or in place.

use std::io;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::names::{Side, same_class, sides};
use super::{Description, Item, Listing, Role, Unpacked};
use crate::error::{Error, Result};
use crate::formats::archive::plain_parts;
use crate::fs::file;

/// Folders around the folder that is meant, one within the other.
const WRAPPERS: usize = 8;

pub(crate) const LAYOUT: Description = Description {
    roles: &[Role::archive("archive").optional()],
    ..Description::new(read)
};

/// Pool = `train` and a validation folder, test = `test`; without a labelled test folder the manifest's `holdout` is
/// taken of each class. Classes are the folders' names in byte order.
fn read(unpacked: &Unpacked) -> Result<Listing> {
    let tree = Tree::read(unpacked.root, &|reason| unpacked.fail(reason))?;
    unpacked.with_test(tree.classes, tree.learned, tree.test, "no folders `train` and `test`")
}

/// Contents of a folder of folders.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Names of the class folders, in byte order.
    pub classes: Vec<String>,
    /// Images of `train` and of validation, or of everything where there is no split.
    pub learned: Vec<Item>,
    /// Images of `test`; `None` where there is no such folder, or none with labels.
    pub test: Option<Vec<Item>>,
    /// Files and folders that hold no image of a class.
    pub ignored: Vec<String>,
    /// Files and folders that cannot be taken, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

impl Tree {
    /// Hidden files, and files that are images neither by name nor by their first bytes, are left out. Links are
    /// followed.
    ///
    /// # Errors
    /// [`Error::Io`], or what `fail` makes of the reason when the folders are in another form.
    pub(crate) fn read(folder: &Path, fail: &dyn Fn(String) -> Error) -> Result<Self> {
        let (root, prefix) = root(folder)?;
        let top = Entries::of(&root)?;
        let sides = found(&root, &top)
            .map_err(|(one, other)| fail(format!("`{one}` and `{other}` may both be what is to be learned from")))?;
        let mut tree = Self {
            ignored: top.files,
            left_out: top.odd,
            ..Self::default()
        };
        if sides.is_empty() {
            let entries = Entries::of(&root)?;
            if entries.folders.is_empty() {
                return Err(fail("no folder of images: each class needs a folder of its own".into()));
            }
            tree.name_classes(&entries);
            tree.add(Side::Train, &root, &prefix, "", &entries, fail)?;
            return Ok(tree);
        }
        let is_side = |name: &String| sides.iter().any(|(_, side)| side == name);
        let others = top.folders.iter().filter(|name| !is_side(name));
        tree.ignored.extend(others.map(|name| format!("{name}/")));
        for (part, name) in &sides {
            let (below, entries) = tree.unwrapped(&root, name)?;
            if tree.classes.is_empty() {
                if entries.folders.is_empty() {
                    return Err(fail(format!(
                        "`{below}` holds no folder of images: each class needs one of its own"
                    )));
                }
                tree.name_classes(&entries);
            }
            tree.add(*part, &root, &prefix, &below, &entries, fail)?;
        }
        Ok(tree)
    }

    fn name_classes(&mut self, entries: &Entries) {
        let plain = entries.folders.iter().filter(|name| plain_parts(name).is_ok());
        self.classes = plain.cloned().collect();
    }

    /// The folder that the classes of a side lie in, with its path: within others perhaps, as in
    /// `seg_train/seg_train/<class>`.
    fn unwrapped(&self, root: &Path, side: &str) -> Result<(String, Entries)> {
        let mut below = format!("{side}/");
        let mut entries = Entries::of(&root.join(&below))?;
        for _ in 0..WRAPPERS {
            let [only] = entries.folders.as_slice() else { break };
            let inner = Entries::of(&root.join(&below).join(only))?;
            // The first side has no classes to go by: what holds folders is no class.
            let is_class = if self.classes.is_empty() {
                inner.folders.is_empty()
            } else {
                same_class(&self.classes, only).is_some()
            };
            if is_class {
                break;
            }
            below = format!("{below}{only}/");
            entries = inner;
        }
        Ok((below, entries))
    }

    /// The classes of one side. `below`: its path in `root`, with `/` at its end.
    fn add(
        &mut self,
        part: Side,
        root: &Path,
        prefix: &str,
        below: &str,
        entries: &Entries,
        fail: &dyn Fn(String) -> Error,
    ) -> Result<()> {
        let inside = |name: &str| format!("{below}{name}");
        if !below.is_empty() {
            let odd = entries.odd.iter().map(|(name, why)| (inside(name), why.clone()));
            self.left_out.extend(odd);
            if entries.folders.is_empty() {
                self.without_classes(below, entries);
                return Ok(());
            }
            self.ignored.extend(entries.files.iter().map(|file| inside(file)));
        }
        let side = below.trim_end_matches('/');
        let mut seen: Vec<(String, &str)> = Vec::new();
        for class in &entries.folders {
            if plain_parts(class).is_err() {
                self.left_out.push((inside(class) + "/", NO_NAME.into()));
                continue;
            }
            let Some(name) = same_class(&self.classes, class).cloned() else {
                return Err(fail(format!("class `{class}` is in `{side}` but not in `train`")));
            };
            if let Some((_, other)) = seen.iter().find(|(other, _)| *other == name) {
                return Err(fail(format!(
                    "`{other}` and `{class}` in `{side}` are both the class `{name}`"
                )));
            }
            seen.push((name, class));
        }
        // Validation may lack a class; what is to be tested may not.
        let is_seen = |class: &String| seen.iter().any(|(name, _)| name == class);
        let odd = self.classes.iter().find(|class| !is_seen(class));
        if let (Side::Test, Some(odd)) = (part, odd) {
            return Err(fail(format!("class `{odd}` is in `train` but not in `{side}`")));
        }
        let mut items = Vec::new();
        for (name, class) in seen {
            let label = self.classes.iter().position(|other| *other == name).unwrap_or_default();
            let images = match Entries::of(&root.join(inside(class))) {
                Err(Error::Io { source, .. }) => {
                    self.left_out.push((inside(class) + "/", source.to_string()));
                    continue;
                }
                other => other?,
            };
            if let Some(inner) = images.folders.first() {
                return Err(fail(format!(
                    "class folder `{below}{class}` holds the folder `{inner}`: class folders hold images only"
                )));
            }
            let within = |name: &str| format!("{below}{class}/{name}");
            let odd = images.odd.into_iter().map(|(name, why)| (within(&name), why));
            self.left_out.extend(odd);
            for image in images.files {
                let id = within(&image);
                if plain_parts(&id).is_err() {
                    self.left_out.push((id, NO_NAME.into()));
                    continue;
                }
                match is_image(&root.join(&id)) {
                    Ok(true) => items.push(Item {
                        file: Some(format!("{prefix}{id}")),
                        ..Item::new(id, label as u32)
                    }),
                    Ok(false) => self.ignored.push(id),
                    Err(Error::Io { source, .. }) => self.left_out.push((id, source.to_string())),
                    Err(error) => return Err(error),
                }
            }
        }
        match part {
            Side::Test => self.test.get_or_insert_default().extend(items),
            _ => self.learned.extend(items),
        }
        Ok(())
    }

    /// A side whose images stand in no class folders: unlabelled, as Kaggle's `test` is.
    fn without_classes(&mut self, below: &str, entries: &Entries) {
        self.notes.push(match entries.files.len() {
            0 => format!("`{below}` is empty: left out"),
            files => format!("`{below}` has {files} files in no class folders: unlabelled, left out"),
        });
    }
}

/// Why a file or folder of this name is left out: its id could not stand in a manifest.
const NO_NAME: &str = "its name has a backslash or no valid UTF-8";

/// The sides among a folder's folders.
fn found(root: &Path, top: &Entries) -> Result<Vec<(Side, String)>, (String, String)> {
    let is_tree = |name: &str| Entries::of(&root.join(name)).is_ok_and(|entries| !entries.folders.is_empty());
    sides(&top.folders, &is_tree)
}

/// The folder that classes or sides stand in: the one given, or the only one in it, and so on.
fn root(folder: &Path) -> Result<(PathBuf, String)> {
    let mut prefix = String::new();
    for _ in 0..WRAPPERS {
        let at = folder.join(&prefix);
        let top = Entries::of(&at)?;
        match top.folders.as_slice() {
            [only] if found(&at, &top).is_ok_and(|sides| sides.is_empty()) => {
                if Entries::of(&at.join(only))?.folders.is_empty() {
                    break;
                }
                prefix = format!("{prefix}{only}/");
            }
            _ => break,
        }
    }
    Ok((folder.join(&prefix), prefix))
}

/// Names in a folder, sorted; hidden ones are left out, and what macOS puts beside archives.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub folders: Vec<String>,
    pub files: Vec<String>,
    /// Items that cannot be taken, with the reason: links that lead nowhere, names that are not UTF-8.
    pub odd: Vec<(String, String)>,
}

impl Entries {
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let mut found = Self::default();
        for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
            let entry = entry.map_err(Error::io("list", folder))?;
            let os_name = entry.file_name();
            let Some(name) = os_name.to_str() else {
                let name = os_name.to_string_lossy().into_owned();
                found.odd.push((name, "its name is not UTF-8".into()));
                continue;
            };
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            // `metadata` follows links: a user's own folder may well hold some.
            match std::fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => found.folders.push(name.to_owned()),
                Ok(metadata) if metadata.is_file() => found.files.push(name.to_owned()),
                Ok(_) => found
                    .odd
                    .push((name.to_owned(), "it is neither file nor folder".into())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    found.odd.push((name.to_owned(), "a link that leads nowhere".into()));
                }
                Err(e) => found.odd.push((name.to_owned(), e.to_string())),
            }
        }
        found.folders.sort();
        found.files.sort();
        found.odd.sort();
        Ok(found)
    }
}

/// Endings of the names of images.
pub(crate) const ENDINGS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp"];

/// True if a file is an image by its name, or by its first bytes. One that has the name but not the bytes is
/// damaged, which is for the decoder to say.
pub(crate) fn is_image(path: &Path) -> Result<bool> {
    let ending = path.extension().and_then(|end| end.to_str());
    let ending = ending.map(str::to_ascii_lowercase);
    if ending.is_some_and(|end| ENDINGS.contains(&end.as_str())) {
        return Ok(true);
    }
    let (head, _) = file::first_bytes(path, 16)?;
    Ok(matches!(
        image::guess_format(&head),
        Ok(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::WebP)
    ))
}
