//! The one door between an image with its class name and what a vision-language model reads and says, in
//! training and in evaluation.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;

use super::image_cache::ImageCache;
use super::input::{Chunk, ModelInput, Picture, PictureKey};
use super::loader::{ImageLoader, LongestSide, Resizer as _};
use super::prompt::{Message, Prompter};
use super::qwen_image::{Grid, PatchProcessor};
use crate::config::Wording;
use crate::data::LabelledImage;
use crate::error::Result;

/// Tokenizer, chat template and image sizes of a model folder.
#[derive(Debug)]
pub struct Renderer {
    prompter: Prompter,
    processor: PatchProcessor,
    images: ImageLoader<LongestSide>,
}

impl Renderer {
    /// Reads what it needs of a hub-layout folder; images are first shrunk to `longest_side` pixels.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when a file is missing or malformed.
    pub fn load(model_dir: &Path, longest_side: Option<u32>) -> Result<Self> {
        let processor = PatchProcessor::load(model_dir)?;
        Ok(Self {
            prompter: Prompter::load(model_dir, processor.merge())?,
            processor,
            images: ImageLoader::new(LongestSide(longest_side)),
        })
    }

    /// The same, keeping shrunk images.
    #[must_use]
    pub fn keeping(mut self, images: Option<Arc<ImageCache>>) -> Self {
        self.images = self.images.with_cache(images);
        self
    }

    /// The same, asking in another wording.
    #[must_use]
    pub fn in_words(mut self, wording: Wording) -> Self {
        self.prompter = self.prompter.in_words(wording);
        self
    }

    /// The tokenizer and template.
    #[must_use]
    pub fn prompter(&self) -> &Prompter {
        &self.prompter
    }

    /// Tokens of the largest picture that there can be; `None` where images are not shrunk.
    #[must_use]
    pub fn most_tokens(&self) -> Option<usize> {
        let side = self.processor.token_side().max(1);
        let longest = self.images.resizer().0?;
        Some((longest as usize).div_ceil(side).pow(2))
    }

    /// The image of a file as the model is given it.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`], [`crate::error::Error::Image`] when it cannot be read or decoded, or is empty or far too long.
    pub fn picture_of(&self, image: &LabelledImage, mirrored: bool) -> Result<Picture> {
        self.named(image, self.images.load(image)?, mirrored)
    }

    /// The same of the file's bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::Image`] when they cannot be decoded, or the image is far too long.
    pub fn picture_in(&self, image: &LabelledImage, bytes: &[u8]) -> Result<Picture> {
        self.named(image, self.images.decode(image, bytes)?, false)
    }

    fn named(&self, image: &LabelledImage, pixels: RgbImage, mirrored: bool) -> Result<Picture> {
        self.shown(pixels, &image.content(), mirrored)
            .map_err(|error| error.of_image(&image.path))
    }

    /// An image as the model is given it; `content` tells its pixels from all others, see [`LabelledImage::content`].
    ///
    /// # Errors
    /// [`crate::error::Error::Image`] when it is empty or far too long.
    pub fn picture(&self, image: &RgbImage, content: &str, mirrored: bool) -> Result<Picture> {
        self.shown(self.images.resizer().resize(image.clone()), content, mirrored)
    }

    fn shown(&self, mut pixels: RgbImage, content: &str, mirrored: bool) -> Result<Picture> {
        if mirrored {
            image::imageops::flip_horizontal_in_place(&mut pixels);
        }
        let tokens = self.processor.grid(&pixels)?.tokens(self.processor.merge());
        Ok(Picture {
            pixels: Arc::new(pixels),
            key: PictureKey {
                sha256: content.into(),
                mirrored,
            },
            tokens,
        })
    }

    /// The question about a picture, up to where the class name starts; without a picture the question
    /// alone, which is a control.
    ///
    /// # Errors
    /// As [`Prompter::conversation`].
    pub fn question(&self, picture: Option<&Picture>) -> Result<ModelInput> {
        let (messages, open) = self.prompter.asked(picture.is_some());
        self.conversation(&messages, picture.as_slice(), Some(open))
    }

    /// The question about a picture up to where the model's turn begins, and the tokens with which
    /// [`Renderer::question`] begins that turn for it.
    ///
    /// # Errors
    /// As [`Prompter::conversation`]; when these tokens cannot be told from the prompt's.
    pub fn unopened(&self, picture: &Picture) -> Result<(ModelInput, Vec<u32>)> {
        let (messages, _) = self.prompter.asked(true);
        let turn = self.conversation(&messages, &[picture], Some(""))?;
        Ok((turn, self.prompter.opening(self.place())?))
    }

    /// Any conversation about pictures; `open` ends it with the start of the model's turn and a prefill.
    ///
    /// # Errors
    /// As [`Prompter::conversation`].
    pub fn conversation(&self, messages: &[Message], pictures: &[&Picture], open: Option<&str>) -> Result<ModelInput> {
        let sequence = self
            .prompter
            .conversation(messages, &vec![self.place(); pictures.len()], open)?;
        let mut input = ModelInput::default();
        let mut pictures = pictures.iter();
        for id in sequence.ids {
            match (id == self.prompter.image()).then(|| pictures.next()).flatten() {
                Some(picture) => input.chunks.push(Chunk::Picture((*picture).clone())),
                None => input = input.followed_by(&[id]),
            }
        }
        Ok(input)
    }

    /// The tokens that answer the question with a class name, the end token included.
    ///
    /// # Errors
    /// [`crate::error::Error::Model`] when they cannot be told from the prompt's.
    pub fn answer(&self, name: &str) -> Result<Vec<u32>> {
        let (sequence, answer) = self.prompter.answered(self.place(), name)?;
        Ok(sequence.ids.get(answer).unwrap_or_default().to_vec())
    }

    /// One merged token a picture: its place, where the picture itself is put.
    fn place(&self) -> Grid {
        let merge = self.processor.merge();
        Grid {
            rows: merge,
            columns: merge,
        }
    }
}
