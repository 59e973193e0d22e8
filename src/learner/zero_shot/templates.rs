//! Sentences around class names, as published.

use crate::config::Learner;
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

/// Templates of a learner for a dataset of this layout.
///
/// The four datasets have those of the CLIP paper (openai/CLIP `data/prompts.md`), for SigLIP too: it is with these that
/// its published numbers on them were made (mlfoundations/open_clip `docs/openclip_results.csv`, by CLIP_benchmark). Any
/// other dataset has the plain one of each: CLIP's `a photo of a {}.` (paper, section 3.1.4), and the
/// `This is a photo of {}.` that transformers' documentation of SigLIP names.
#[must_use]
pub fn published(learner: &Learner, layout: Option<Layout>) -> &'static [&'static str] {
    match (layout, learner) {
        (Some(Layout::Caltech101), _) => &CALTECH101,
        (Some(Layout::StanfordCars), _) => &STANFORD_CARS,
        (Some(Layout::OxfordFlowers), _) => &["a photo of a {}, a type of flower."],
        (Some(Layout::OxfordPets), _) => &["a photo of a {}, a type of pet."],
        (_, Learner::SiglipZeroShot(_)) => &["This is a photo of {}."],
        _ => &["a photo of a {}."],
    }
}

/// The learner with its templates written out, so that they are part of what a cell is known by. Others stay.
#[must_use]
pub fn asked(mut learner: Learner, layout: Option<Layout>) -> Learner {
    let texts = published(&learner, layout);
    if let Learner::ClipZeroShot(settings) | Learner::SiglipZeroShot(settings) = &mut learner {
        settings
            .templates
            .get_or_insert_with(|| texts.iter().map(|text| (*text).to_owned()).collect());
    }
    learner
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path;

    #[test]
    fn every_template_has_one_place_and_none_is_repeated() {
        let learner = Learner::parse("clip-zero-shot", Path::new("m"), &[]).unwrap();
        for layout in [
            Layout::Caltech101,
            Layout::StanfordCars,
            Layout::OxfordFlowers,
            Layout::Folders,
        ] {
            let texts = published(&learner, Some(layout));
            assert!(texts.iter().all(|text| text.matches("{}").count() == 1));
            assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
        }
    }

    #[test]
    fn own_templates_stay_and_others_are_written_out() {
        let parse = |set: &[String]| Learner::parse("siglip-zero-shot", Path::new("m"), set).unwrap();
        let templates = |learner: Learner, layout| match asked(learner, layout) {
            Learner::SiglipZeroShot(settings) => settings.templates.unwrap(),
            _ => Vec::new(),
        };
        let own = ["templates=['{}!']".to_owned()];
        assert_eq!(templates(parse(&own), Some(Layout::OxfordPets)), ["{}!"]);
        assert_eq!(
            templates(parse(&[]), Some(Layout::OxfordPets)),
            ["a photo of a {}, a type of pet."]
        );
        assert_eq!(templates(parse(&[]), None), ["This is a photo of {}."]);
        let pixels = Learner::parse("pixels", Path::new("m"), &[]);
        assert!(pixels.is_err() || asked(pixels.unwrap(), None).model().is_none());
    }
}
