//! The chat template of a model folder, and questions about images as tokens, with the answer that is trained or scored.

use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::{Environment, context};
use serde::Serialize;

use super::model_error;
use super::qwen_image::Grid;
use super::tokens::Tokenizer;
use crate::config::Wording;
use crate::error::{Error, Result};

/// The user's question about an image.
pub const QUESTION: &str = "What is the name of the subject in this photo?";
/// The start of the model's answer; the class name follows after a space.
pub const PREFILL: &str = "The subject in this photo is:";

/// Text between the class name and the end token where the loss is on the whole message.
pub const MESSAGE_END: &str = "\n";

const TEMPLATE_NAME: &str = "chat";
const IMAGE_TOKEN: &str = "<|image_pad|>";
const END_TOKEN: &str = "<|im_end|>";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The role of the speaker.
    pub role: Role,
    /// Images and texts, in order.
    pub content: Vec<Part>,
}

/// The role of the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// A piece of a message, for templates `{"type": "image"}` or `{"type": "text", "text": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "text", rename_all = "lowercase")]
pub enum Part {
    /// The next image.
    Image,
    /// A text.
    Text(String),
}

/// A template in the Jinja dialect of transformers.
#[derive(Debug)]
struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, else `chat_template` of `chat_template.json` or `tokenizer_config.json`.
    fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("chat_template.jinja");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return Self::new(text, path);
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = model_dir.join(file);
            let Ok(text) = std::fs::read(&path) else { continue };
            let config: serde_json::Value =
                serde_json::from_slice(&text).map_err(|e| model_error(&path, format!("not JSON: {e}")))?;
            if let Some(template) = config.get("chat_template").and_then(serde_json::Value::as_str) {
                return Self::new(template.to_owned(), path);
            }
        }
        let reason = "has no chat template (chat_template.jinja, chat_template.json or tokenizer_config.json)";
        Err(model_error(model_dir, reason))
    }

    fn new(template: String, path: PathBuf) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .add_template_owned(TEMPLATE_NAME, template)
            .map_err(|e| model_error(&path, format!("is no template: {e}")))?;
        Ok(Self { environment, path })
    }

    /// The text of a conversation; `open` ends it with the start of the model's turn.
    fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        let values = context! { messages => messages, add_generation_prompt => open };
        self.environment
            .get_template(TEMPLATE_NAME)
            .and_then(|template| template.render(values))
            .map_err(|e| model_error(&self.path, format!("the chat template fails: {e:#}")))
    }
}

/// Tokens with one placeholder for every merged patch, and the grids of the images they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Grids of the images, in order.
    pub images: Vec<Grid>,
}

/// A model folder's tokenizer and chat template.
#[derive(Debug)]
pub struct Prompter {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    image: u32,
    end: u32,
    /// Patches per side of a merged token.
    merge: usize,
    question: &'static str,
    prefill: &'static str,
}

impl Prompter {
    /// Reads tokenizer and chat template; `merge` is that of the image processor.
    ///
    /// # Errors
    /// [`Error::Model`] when one is missing or malformed.
    pub fn load(model_dir: &Path, merge: usize) -> Result<Self> {
        let tokenizer = Tokenizer::load(model_dir)?;
        let (image, end) = (tokenizer.id(IMAGE_TOKEN)?, tokenizer.id(END_TOKEN)?);
        Ok(Self {
            template: ChatTemplate::load(model_dir)?,
            tokenizer,
            image,
            end,
            merge,
            question: QUESTION,
            prefill: PREFILL,
        })
    }

    /// The same with the question in another wording.
    #[must_use]
    pub fn in_words(mut self, wording: Wording) -> Self {
        (self.question, self.prefill) = match wording {
            Wording::Default => (QUESTION, PREFILL),
            Wording::Show => ("What does this image show?", "This image shows:"),
            Wording::Category => (
                "Which category does the object in the picture belong to?",
                "The category of the object is:",
            ),
        };
        self
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The token that ends the model's turn.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that stands for an image.
    #[must_use]
    pub fn image(&self) -> u32 {
        self.image
    }

    /// The messages of the question, and how the model's answer starts.
    pub(super) fn asked(&self, about_image: bool) -> (Vec<Message>, &'static str) {
        let mut message = self.user();
        message.content.retain(|part| about_image || *part != Part::Image);
        (vec![message], self.prefill)
    }

    /// A conversation; `open` ends it with the start of the model's turn and then `prefill`.
    ///
    /// # Errors
    /// [`Error::Model`] when the images of the messages are not as many as `images`, or a text names a
    /// placeholder itself.
    pub fn conversation(&self, messages: &[Message], images: &[Grid], open: Option<&str>) -> Result<Sequence> {
        let mut text = self.template.render(messages, open.is_some())?;
        text.push_str(open.unwrap_or_default());
        let mut grids = images.iter();
        let mut ids = Vec::new();
        for id in self.tokenizer.encode(&text)? {
            let copies = match (id == self.image).then(|| grids.next()) {
                None => 1,
                Some(Some(grid)) => grid.tokens(self.merge),
                Some(None) => return Err(mismatch(&text, images.len())),
            };
            ids.extend(std::iter::repeat_n(id, copies));
        }
        if grids.next().is_some() {
            return Err(mismatch(&text, images.len()));
        }
        Ok(Sequence {
            ids,
            images: images.to_vec(),
        })
    }

    /// The question about an image, up to where the class name starts.
    ///
    /// # Errors
    /// As [`Prompter::conversation`].
    pub fn question(&self, image: Grid) -> Result<Sequence> {
        self.conversation(&[self.user()], &[image], Some(self.prefill))
    }

    /// The tokens of [`PREFILL`], as the model's turn begins with them.
    ///
    /// # Errors
    /// [`Error::Model`] when they cannot be told from the prompt's.
    pub(super) fn opening(&self, image: Grid) -> Result<Vec<u32>> {
        let turn = self.conversation(&[self.user()], &[image], Some(""))?;
        let open = self.question(image)?;
        let opening = open.ids.strip_prefix(&turn.ids[..]).map(<[u32]>::to_vec);
        opening.ok_or_else(|| {
            let reason = format!("`{}` does not stand alone among the tokens of the answer", self.prefill);
            model_error("tokenizer.json", reason)
        })
    }

    /// The question with its answer; the range is of the tokens of ` {name}` and the end token, which bear
    /// the loss. A name may end with [`MESSAGE_END`].
    ///
    /// # Errors
    /// As [`Prompter::conversation`]; [`Error::Model`] when the name's tokens cannot be told from the
    /// prompt's.
    pub fn answered(&self, image: Grid, name: &str) -> Result<(Sequence, Range<usize>)> {
        let text = format!("{} {name}", self.prefill);
        let answer = Message {
            role: Role::Assistant,
            content: vec![Part::Text(text)],
        };
        let mut sequence = self.conversation(&[self.user(), answer], &[image], None)?;
        let start = self.question(image)?;
        let answer = sequence.ids.strip_prefix(&start.ids[..]);
        let length = answer.and_then(|answer| answer.iter().position(|&id| id == self.end));
        let Some(length) = length.filter(|&length| length > 0) else {
            let reason = format!("the class name `{name}` does not stand alone among the tokens of the answer");
            return Err(model_error("tokenizer.json", reason));
        };
        let answer = start.ids.len()..start.ids.len() + length + 1;
        sequence.ids.truncate(answer.end);
        Ok((sequence, answer))
    }

    fn user(&self) -> Message {
        Message {
            role: Role::User,
            content: vec![Part::Image, Part::Text(self.question.into())],
        }
    }
}

fn mismatch(text: &str, images: usize) -> Error {
    let placeholders = text.matches(IMAGE_TOKEN).count();
    let reason = format!("{placeholders} image placeholders in the prompt for {images} images");
    model_error("chat_template.json", reason)
}
