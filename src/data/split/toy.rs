//! A dataset without files for the tests of the protocols.

use sha2::{Digest as _, Sha256};

use crate::data::{Dataset, LabelledImage};
use crate::fs::hash::hex;
use crate::manifest::Layout;

/// So many images of each class to draw from, and one more of each to predict.
pub(crate) fn dataset(sizes: &[usize]) -> Dataset {
    let image = |side: &str, class: usize, i: usize| LabelledImage {
        id: format!("{side}/{class}/{i}.png"),
        class: class as u32,
        sha256: hex(&Sha256::digest(format!("{side} {class} {i}"))),
        path: "unused".into(),
        ..LabelledImage::default()
    };
    let images = |side, extra: usize| {
        let of_class = move |(class, size): (usize, &usize)| {
            (0..size + extra)
                .map(move |i| image(side, class, i))
                .collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(of_class).collect()
    };
    Dataset {
        name: "toy".into(),
        title: "Toy".into(),
        classes: (0..sizes.len()).map(|c| format!("class {c}")).collect(),
        pool: images("pool", 0),
        val: Vec::new(),
        test: images("test", 1),
        origin: crate::data::Origin::default(),
        layout: Layout::Folders,
        micro: true,
        regime: None,
        left_out: 0,
        refused: Vec::new(),
        coop: None,
    }
}
