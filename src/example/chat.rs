//! The chat template of a model folder.

use std::path::{Path, PathBuf};

use minijinja::{Environment, context};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use crate::error::{Error, Result};

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

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The next image.
    Image,
    /// A text.
    Text(String),
}

impl Serialize for Part {
    /// `{"type": "image"}` or `{"type": "text", "text": …}`: templates ask for the keys.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Image => map.serialize_entry("type", "image")?,
            Self::Text(text) => {
                map.serialize_entry("type", "text")?;
                map.serialize_entry("text", text)?;
            }
        }
        map.end()
    }
}

/// A template in the Jinja dialect of transformers.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, else `chat_template` of `chat_template.json` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none, or it is no template.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("chat_template.jinja");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return Self::new(text, path);
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = model_dir.join(file);
            let Ok(text) = std::fs::read(&path) else { continue };
            let config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::Model {
                path: path.clone(),
                reason: format!("not JSON: {e}"),
            })?;
            if let Some(template) = config.get("chat_template").and_then(serde_json::Value::as_str) {
                return Self::new(template.to_owned(), path);
            }
        }
        let reason = "has no chat template (chat_template.jinja, chat_template.json or tokenizer_config.json)";
        Err(Error::Model {
            path: model_dir.to_path_buf(),
            reason: reason.into(),
        })
    }

    fn new(template: String, path: PathBuf) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        if let Err(e) = environment.add_template_owned(NAME, template) {
            return Err(Error::Model {
                path,
                reason: format!("is no template: {e}"),
            });
        }
        Ok(Self { environment, path })
    }

    /// The text of a conversation; `open` ends it with the start of the model's turn.
    ///
    /// # Errors
    /// [`Error::Model`] when the template fails.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        let values = context! { messages => messages, add_generation_prompt => open };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(values))
            .map_err(|e| Error::Model {
                path: self.path.clone(),
                reason: format!("the chat template fails: {e:#}"),
            })
    }
}
