//! Datasets that are lists of ids and labels: splits need no pixels.

use std::path::PathBuf;

use kshot::data::split::CoopList;
use kshot::data::{Dataset, LabelledImage, Origin};
use kshot::manifest::{CoopPaths, Form, Layout};

/// Path, label and class name, as in CoOp's split files.
pub(super) type Entry = (String, u32, String);

/// A dataset with these classes; images are ids with labels.
pub(super) fn dataset(form: Form, classes: Vec<String>, pool: &[(String, u32)], test: &[(String, u32)]) -> Dataset {
    Dataset {
        name: "listed".into(),
        title: "Listed".into(),
        classes,
        pool: images(pool),
        val: Vec::new(),
        test: images(test),
        origin: Origin {
            form,
            ..Origin::default()
        },
        layout: Layout::Folders,
        micro: true,
        regime: None,
        left_out: 0,
        refused: Vec::new(),
        coop: None,
    }
}

/// Sorted by id, as an opened dataset has them.
fn images(side: &[(String, u32)]) -> Vec<LabelledImage> {
    let image = |(id, class): &(String, u32)| LabelledImage {
        id: id.clone(),
        class: *class,
        sha256: String::new(),
        path: PathBuf::new(),
        ..LabelledImage::default()
    };
    let mut images: Vec<_> = side.iter().map(image).collect();
    images.sort_by(|a, b| a.id.cmp(&b.id));
    images
}

/// The dataset that the sides of a CoOp split file are, under protocol `coop`.
pub(super) fn coop(root: &str, prefix: &str, [train, val, test]: [&[Entry]; 3]) -> Dataset {
    let all = || train.iter().chain(val).chain(test);
    let most = all().map(|(_, label, _)| *label).max().unwrap();
    let name = |class: u32| all().find(|(_, label, _)| *label == class).unwrap().2.clone();
    let id = |path: &str| format!("{prefix}{path}");
    let side =
        |side: &[Entry]| -> Vec<(String, u32)> { side.iter().map(|(path, label, _)| (id(path), *label)).collect() };
    let order = |side: &[Entry]| side.iter().map(|(path, ..)| id(path)).collect();
    let mut data = dataset(Form::Archive, (0..=most).map(name).collect(), &side(train), &side(test));
    data.val = images(&side(val));
    data.coop = Some(CoopList {
        paths: CoopPaths {
            root: root.into(),
            prefix: prefix.into(),
        },
        train: order(train),
        val: order(val),
        test: order(test),
    });
    data
}
