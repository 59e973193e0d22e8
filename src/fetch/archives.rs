//! Archives and label files of a dataset, into its folder of downloads.

use std::fs;

use crate::config::Protocol;
use crate::error::{Error, Result};
use crate::fetch::client::Client;
use crate::fetch::remote::Remote;
use crate::fetch::transfer::{Address, Download};
use crate::fetch::{FetchProgress, Fetched, claim, each, missing, not_fetchable, usable};
use crate::fs::space;
use crate::manifest::{Form, Manifest, SourceFile};

/// Fetches the files of a dataset that do not come with its manifest.
pub(super) fn fetch(
    manifest: &Manifest,
    remote: &Remote,
    client: &Client,
    progress: &dyn FetchProgress,
) -> Result<Fetched> {
    let folder = &manifest.downloads;
    let _lock = claim(manifest, progress)?;
    let files: Vec<(&SourceFile, Download)> = manifest
        .files
        .iter()
        .filter(|file| file.path.is_none())
        .map(|file| (file, download(manifest, file, remote)))
        .collect();
    let whole = each(&files, client.policy.parallel, |(_, download)| {
        Ok::<_, Error>(
            download
                .check(&download.place)?
                .map_err(|reason| set_aside(download, &reason, progress)),
        )
    });
    let mut absent = Vec::new();
    for (file, whole) in files.iter().zip(whole) {
        if let Err(set_aside) = whole? {
            set_aside?;
            absent.push(file);
        }
    }
    let total = files.iter().map(|(file, _)| file.size).sum();
    if !absent.is_empty() {
        let fetched: u64 = absent
            .iter()
            .map(|(_, download)| download.size - download.arrived())
            .sum();
        space::check(&[(folder, fetched), (folder, space::unpacked(total))])?;
    }
    let outcomes = each(&absent, client.policy.parallel, |(_, download)| {
        download.obtain(client, progress)
    });
    let needed = manifest.needed(Protocol::Clean, |file| manifest.place(file).exists());
    let mut failed = Vec::new();
    for ((file, download), outcome) in absent.iter().zip(outcomes) {
        match outcome? {
            Ok(()) => {}
            Err(sources) if needed.contains(file) => failed.push(missing(download, &download.place, sources)),
            Err(_) => progress.note(&format!("{}: left out, only some protocols need it", download.name)),
        }
    }
    if !failed.is_empty() {
        return Err(not_fetchable(manifest, failed));
    }
    Ok(Fetched {
        form: Form::Archive,
        folder: folder.clone(),
        files: files.len(),
        fetched: absent.len(),
        bytes: total,
        commit: None,
    })
}

fn download(manifest: &Manifest, file: &SourceFile, remote: &Remote) -> Download {
    let mirror = remote.mirror.as_deref();
    let mirror = mirror.map(|base| Address::of_mirror(base, &[&manifest.name, &file.name]));
    let urls = file.urls.iter().cloned().map(Address::Url);
    let place = manifest.place(file);
    Download {
        name: format!("{}/{}", manifest.name, file.name),
        partial: place.with_file_name(format!("{}.part", file.name)),
        place,
        size: file.size,
        digest: file.digest().map(|(kind, value)| (kind, value.to_owned())),
        sources: usable(mirror.into_iter().chain(urls), &remote.hub),
    }
}

/// A file with wrong bytes gives up its name: it is not what anybody may open as that file.
fn set_aside(download: &Download, reason: &str, progress: &dyn FetchProgress) -> Result<()> {
    if !download.place.exists() {
        return Ok(());
    }
    let mut aside = download.place.clone().into_os_string();
    aside.push(".rejected");
    fs::rename(&download.place, &aside).map_err(Error::io("rename", &download.place))?;
    let aside = aside.to_string_lossy();
    progress.note(&format!("{}: {reason}: now `{aside}`", download.name));
    Ok(())
}
