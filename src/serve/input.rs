//! Tokens and images of requests as a model takes them.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use image::{ImageReader, RgbImage};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::limits::Limits;
use super::refusal::{Refusal, told};
use super::wire;
use crate::error::Error;
use crate::example::{Chunk, ModelInput, Picture, Renderer};
use crate::formats::image as images;
use crate::fs::hash::hex;

/// A chunk in JSON.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum JsonChunk {
    /// Tokens of text.
    EncodedText { tokens: Vec<i64> },
    /// A file in base 64.
    Image {
        data: String,
        #[serde(default)]
        format: String,
        expected_tokens: Option<i64>,
    },
    /// An image elsewhere, which is not fetched.
    ImageAssetPointer {},
    /// Audio, which no model here hears.
    Dmel {},
}

/// `{"chunks": […]}`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct JsonInput {
    pub(super) chunks: Vec<JsonChunk>,
}

impl JsonInput {
    /// The same as protobuf has it.
    ///
    /// # Errors
    /// A refusal that names the chunk.
    pub(super) fn wire(self) -> Result<Vec<wire::Chunk>, Refusal> {
        self.chunks
            .into_iter()
            .zip(0..)
            .map(|(chunk, index)| chunk.wire(index))
            .collect()
    }
}

impl JsonChunk {
    fn wire(self, index: usize) -> Result<wire::Chunk, Refusal> {
        let kind = match self {
            Self::EncodedText { tokens } => {
                let ids: Result<Vec<u32>, _> = tokens.into_iter().map(u32::try_from).collect();
                let ids = ids.map_err(|_| Refusal::bad(format!("chunk {index}: a token is not from 0 to 2^32 - 1")))?;
                wire::ChunkKind::EncodedText(wire::EncodedText {
                    tokens: wire::ints(ids),
                })
            }
            Self::Image {
                data,
                format,
                expected_tokens,
            } => wire::ChunkKind::Image(wire::ImageChunk {
                data: unpacked(&data).map_err(|reason| Refusal::bad(format!("chunk {index}: {reason}")))?,
                format,
                expected_tokens: match expected_tokens.map(i32::try_from).transpose() {
                    Ok(expected) => expected,
                    Err(_) => return Err(Refusal::bad(format!("chunk {index}: expected_tokens is out of range"))),
                },
                override_dimensions: None,
            }),
            Self::ImageAssetPointer {} => {
                let reason = "images elsewhere are not fetched; send the file itself as an image chunk";
                return Err(Refusal::bad(format!("chunk {index}: {reason}")));
            }
            Self::Dmel {} => wire::ChunkKind::Dmel(wire::Dmel {}),
        };
        Ok(wire::Chunk { kind: Some(kind) })
    }
}

/// The bytes of base 64, with or without padding.
///
/// # Errors
/// The reason why it is none.
pub(super) fn unpacked(text: &str) -> Result<Vec<u8>, String> {
    let decoded = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
    decoded.map_err(|e| format!("the image is not base 64: {e}"))
}

/// Reads the chunks of one request. Equal images of it are decoded once.
pub(super) struct InputReader<'a> {
    renderer: &'a Renderer,
    limits: &'a Limits,
    seen: HashMap<[u8; 32], Picture>,
    /// Pixels of all of them.
    pixels: u64,
}

impl<'a> InputReader<'a> {
    /// A reader for the model of this renderer.
    pub(super) fn new(renderer: &'a Renderer, limits: &'a Limits) -> Self {
        Self {
            renderer,
            limits,
            seen: HashMap::new(),
            pixels: 0,
        }
    }

    /// The bounds.
    pub(super) fn limits(&self) -> &Limits {
        self.limits
    }

    /// Bytes that the decoded images take.
    pub(super) fn bytes(&self) -> usize {
        3 * self.pixels as usize
    }

    /// The input of these chunks.
    ///
    /// # Errors
    /// A refusal that names the chunk: a damaged or too large image, another number of tokens than expected, sound, more
    /// positions than the model takes.
    pub(super) fn read(&mut self, chunks: &[wire::Chunk]) -> Result<ModelInput, Refusal> {
        let mut input = ModelInput::default();
        let mut positions = 0;
        for (chunk, index) in chunks.iter().zip(0..) {
            let fail = |reason: String| Refusal::bad(format!("chunk {index}: {reason}"));
            match &chunk.kind {
                Some(wire::ChunkKind::EncodedText(text)) => {
                    let ids = wire::elements(&text.tokens, u32::from_le_bytes);
                    let ids = ids.ok_or_else(|| fail("its tokens are not a whole number of int32".into()))?;
                    let most = self.limits.vocabulary;
                    if let Some(unknown) = ids.iter().find(|&&id| id as usize >= most) {
                        return Err(fail(format!("token {unknown} is not among the model's {most}")));
                    }
                    positions += ids.len();
                    input = input.followed_by(&ids);
                }
                Some(wire::ChunkKind::Image(image)) => {
                    let picture = self.image(image);
                    let picture = picture.map_err(|refusal| refusal.of(format!("chunk {index}")))?;
                    positions += picture.tokens;
                    input.chunks.push(Chunk::Picture(picture));
                }
                Some(wire::ChunkKind::Dmel(_)) => return Err(fail("sound (dmel) is not read by this model".into())),
                None => return Err(fail("it is neither text nor an image".into())),
            }
            if positions > self.limits.positions {
                let most = self.limits.positions;
                return Err(Refusal::bad(format!(
                    "the input has more than the {most} positions that this model takes"
                )));
            }
        }
        if positions == 0 {
            return Err(Refusal::bad("the input is empty"));
        }
        Ok(input)
    }

    fn image(&mut self, image: &wire::ImageChunk) -> Result<Picture, Refusal> {
        if !matches!(image.format.as_str(), "" | "png" | "jpeg" | "jpg") {
            let format: String = image.format.chars().take(20).collect();
            return Err(Refusal::bad(format!(
                "image format `{format}` is neither `png` nor `jpeg`"
            )));
        }
        if image.override_dimensions.is_some() {
            return Err(Refusal::bad(
                "override_dimensions is not supported; send the image at its size",
            ));
        }
        let picture = self.picture(&image.data)?;
        match image.expected_tokens.map(i64::from) {
            Some(expected) if expected != picture.tokens as i64 => Err(Refusal::bad(format!(
                "the image has {} tokens here, {expected} were expected; compute them with this model's preprocessor_config.json",
                picture.tokens
            ))),
            _ => Ok(picture),
        }
    }

    /// The picture of a file's bytes.
    ///
    /// # Errors
    /// A refusal when it cannot be decoded, has more pixels than allowed or is far too long.
    pub(super) fn picture(&mut self, bytes: &[u8]) -> Result<Picture, Refusal> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(seen) = self.seen.get(&hash) {
            return Ok(seen.clone());
        }
        let pixels = decoded(bytes, self.limits.pixels)?;
        self.pixels += u64::from(pixels.width()) * u64::from(pixels.height());
        let most = self.limits.pixels_in_all;
        if self.pixels > most {
            return Err(Refusal::bad(format!(
                "the images of the request have more than {most} pixels; split it"
            )));
        }
        let picture = self.renderer.picture(&pixels, &hex(&hash), false);
        let picture = picture.map_err(|error| of_image(&error, "the image cannot be shown to the model"))?;
        self.seen.insert(hash, picture.clone());
        Ok(picture)
    }
}

/// The pixels of a file whose header says that there are not too many.
fn decoded(bytes: &[u8], most: u64) -> Result<Arc<RgbImage>, Refusal> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    // What has no readable header is the decoder's to name.
    if let Some((width, height)) = reader.ok().and_then(|reader| reader.into_dimensions().ok())
        && u64::from(width) * u64::from(height) > most
    {
        let reason = format!("the image has {width} x {height} pixels, the most are {most}; shrink it first");
        return Err(Refusal::bad(reason));
    }
    let pixels = images::decode(bytes, "of the request");
    let pixels = pixels.map_err(|error| of_image(&error, "the image cannot be decoded"))?;
    Ok(Arc::new(pixels))
}

/// The refusal of an image.
fn of_image(error: &Error, fault: &str) -> Refusal {
    match error.kind() {
        Error::Image { reason, .. } => Refusal::bad(format!("{fault}: {reason}")),
        _ => Refusal::bad(told(error)).of(fault),
    }
}
