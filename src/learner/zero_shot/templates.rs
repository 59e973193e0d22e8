//! Sentences around class names, as published.

use crate::manifest::Layout;

/// The words that vary in CLIP's templates for Caltech-101, `a {}` and `the {}` each.
const CALTECH101: [&str; 34] = [
    "a photo of a {}.",
    "a painting of a {}.",
    "a plastic {}.",
    "a sculpture of a {}.",
    "a sketch of a {}.",
    "a tattoo of a {}.",
    "a toy {}.",
    "a rendition of a {}.",
    "a embroidered {}.",
    "a cartoon {}.",
    "a {} in a video game.",
    "a plushie {}.",
    "a origami {}.",
    "art of a {}.",
    "graffiti of a {}.",
    "a drawing of a {}.",
    "a doodle of a {}.",
    "a photo of the {}.",
    "a painting of the {}.",
    "the plastic {}.",
    "a sculpture of the {}.",
    "a sketch of the {}.",
    "a tattoo of the {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "the embroidered {}.",
    "the cartoon {}.",
    "the {} in a video game.",
    "the plushie {}.",
    "the origami {}.",
    "art of the {}.",
    "graffiti of the {}.",
    "a drawing of the {}.",
    "a doodle of the {}.",
];

const STANFORD_CARS: [&str; 8] = [
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of my {}.",
    "i love my {}!",
    "a photo of my dirty {}.",
    "a photo of my clean {}.",
    "a photo of my new {}.",
    "a photo of my old {}.",
];

/// Templates for a dataset of this layout, `plain` where none are published for it.
///
/// The four datasets have those of the CLIP paper (openai/CLIP `data/prompts.md`), for SigLIP too: it is with these that
/// its published numbers on them were made (mlfoundations/open_clip `docs/openclip_results.csv`, by CLIP_benchmark). Any
/// other dataset has the plain one of each: CLIP's `a photo of a {}.` (paper, section 3.1.4), and the
/// `This is a photo of {}.` that transformers' documentation of SigLIP names.
#[must_use]
pub(super) fn published(layout: Option<Layout>, plain: &str) -> Vec<String> {
    let texts: &[&str] = match layout {
        Some(Layout::Caltech101) => &CALTECH101,
        Some(Layout::StanfordCars) => &STANFORD_CARS,
        Some(Layout::OxfordFlowers) => &["a photo of a {}, a type of flower."],
        Some(Layout::OxfordPets) => &["a photo of a {}, a type of pet."],
        _ => &[plain],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_template_has_one_place_and_none_is_repeated() {
        for layout in [
            Layout::Caltech101,
            Layout::StanfordCars,
            Layout::OxfordFlowers,
            Layout::Folders,
        ] {
            let texts = published(Some(layout), "a photo of a {}.");
            assert!(texts.iter().all(|text| text.matches("{}").count() == 1));
            assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
        }
    }
}
