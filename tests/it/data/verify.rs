//! `data verify` finds what is wrong, all of it, and says what is there.

use kshot::config::Protocol;
use kshot::data::check;
use kshot::data::check::Verification;
use kshot::fetch::HubSettings;
use kshot::manifest::Form;

use super::bad_input::images;
use super::fixture::{Fixture, gz, jpeg, png, tar};
use crate::support::Sandbox;

fn verify(set: &Fixture) -> Verification {
    let hub = HubSettings {
        endpoint: "https://hub.invalid".into(),
        cache: set.folder.path().join("hub"),
        token: None,
        offline: true,
    };
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let count = |_: usize| {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    set.write_manifest();
    let [found] = check::verify("toy", &set.datasets(), &set.cache(), &hub, &count)
        .unwrap()
        .try_into()
        .unwrap();
    found
}

fn archived(images: &[(String, Vec<u8>)]) -> Fixture {
    Fixture::new("folders", "").file("archive", "x.tar.gz", &gz(&tar(images.to_vec())))
}

#[test]
fn what_holds_is_described() {
    let mut images = images();
    images[0].1 = {
        use image::ImageEncoder as _;
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder
            .write_image(&[9; 20 * 10], 20, 10, image::ExtendedColorType::L8)
            .unwrap();
        bytes
    };
    let found = verify(&archived(&images));
    assert!(found.holds(), "{found:?}");
    assert_eq!((found.form, found.protocol), (Form::Archive, Protocol::Clean));
    assert_eq!((found.classes, found.pool, found.val, found.test), (2, 2, 0, 2));
    assert_eq!((found.widths, found.heights), (Some([8, 8, 20]), Some([8, 8, 10])));
    assert_eq!(found.modes, [("L".to_owned(), 1), ("RGB".to_owned(), 3)].into());
    // Images of one colour all look alike.
    assert_eq!(found.near_duplicates, 4);
}

#[test]
fn images_that_changed_since_are_unpacked_again() {
    let set = archived(&images());
    let data = set.open().unwrap();
    let size = |path: &std::path::Path| std::fs::metadata(path).unwrap().len() as usize;
    // Another image of the same size, and no image at all.
    let other = jpeg(51);
    assert_eq!(other.len(), size(&data.pool[0].path));
    std::fs::write(&data.pool[0].path, other).unwrap();
    for image in &data.test {
        std::fs::write(&image.path, vec![0; size(&image.path)]).unwrap();
    }
    // The archive is what it was: images that were touched are unpacked from it again.
    assert!(verify(&set).holds());
    assert!(data.pool[0].bytes().is_ok() && data.test.iter().all(|image| image.pixels().is_ok()));
}

#[test]
fn images_that_were_never_readable_are_all_named_with_reasons() {
    let mut images = images();
    images[1].1 = b"no image".to_vec();
    images[2].1.truncate(200);
    let found = verify(&archived(&images));
    let reasons: Vec<_> = found
        .unreadable
        .iter()
        .map(|(id, reason)| format!("{id}: {reason}"))
        .collect();
    assert_eq!(
        reasons,
        [
            "train/b/2.jpg: not a JPEG, PNG, GIF, BMP or WebP file",
            "test/a/3.jpg: truncated: a JPEG without its end-of-image marker"
        ]
    );
    assert_eq!(found.modes.values().sum::<usize>(), 2);
}

/// Size and time of change as before: opening trusts them, verifying does not.
#[test]
fn a_source_file_that_changed_behind_its_stamp_is_found() {
    let set = archived(&images());
    set.open().unwrap();
    let archive = set.datasets().join("x.tar.gz");
    let changed = std::fs::metadata(&archive).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&archive)
        .unwrap()
        .set_modified(changed)
        .unwrap();
    set.open().unwrap();
    let found = verify(&set);
    let [file] = found.files.as_slice() else {
        panic!("{:?}", found.files)
    };
    assert!(
        file.wrong.as_ref().unwrap().contains("x.tar.gz` has sha256 "),
        "{file:?}"
    );
    assert!(found.modes.is_empty() && found.problems.len() == 1);
}

#[test]
fn the_verb_prints_findings_and_exits_by_them() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("cache");
    let run = |arguments: &[&str]| {
        let output = sandbox.kshot(arguments).env("KSHOT_CACHE", &cache).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["data", "verify", "mini-pets"]);
    assert_eq!(code, Some(0), "{text}");
    insta::assert_snapshot!(text, @r"
    mini-pets: form archive, images of `clean`
      2 of 2 files have their size and hash
      10 classes, images: 240 pool, 0 validation, 180 test, 0 left out
      widths from 48 to 48 pixels, median 48
      heights from 48 to 48 pixels, median 48
      pixels: 419 RGB, 1 RGBA
      no image has an EXIF or XMP orientation: `exif = false` would change nothing
      0 pairs of a pool and a test image look alike
      everything holds
    ");
    let data = kshot::data::open("mini-pets", &crate::support::datasets(), &cache).unwrap();
    let size = std::fs::metadata(&data.test[0].path).unwrap().len() as usize;
    std::fs::write(&data.test[0].path, &[png(1), vec![0; size]].concat()[..size]).unwrap();
    let (code, json) = run(&["data", "verify", "mini-pets", "mini-cars", "--json"]);
    assert_eq!(code, Some(0), "unpacked again");
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found[0]["changed"], serde_json::json!([]));
    assert_eq!(
        (
            found[1]["dataset"].as_str(),
            found[1]["changed"].as_array().map(Vec::len)
        ),
        (Some("mini-cars"), Some(0))
    );
    let (code, _) = run(&["data", "verify", "oxford-pets"]);
    assert_eq!(code, Some(2), "it is not on this machine");
}
