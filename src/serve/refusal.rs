//! The answer to a request that is not done: a status that tells a client not to ask again, and the reason.

use std::error::Error as _;
use std::fmt;

use serde_json::{Value, json};

use crate::error::Error;

/// A refusal. Whatever will not be accepted later has a status of 400 to 499 other than 408, 409 and 429: Tinker's SDK asks
/// again for minutes after these, and for ever after a 5xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// Reason and remedy, for people.
    pub(super) message: String,
}

impl Refusal {
    /// The request makes no sense.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// No such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// It was there and is no more.
    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self::new(410, message)
    }

    /// Too much at once: the client waits and asks again.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(429, message)
    }

    /// More bytes than are read.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, message)
    }

    /// A fault of the server's own, which asking again does not mend.
    pub(super) fn fault(message: impl Into<String>) -> Self {
        Self::new(422, message)
    }

    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    /// The body in Tinker's dialect.
    pub(super) fn detail(&self) -> Value {
        json!({"detail": self.message})
    }

    /// The body in OpenAI's dialect.
    pub(super) fn openai_error(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            404 | 410 => "not_found_error",
            429 => "rate_limit_error",
            _ => "invalid_request_error",
        };
        let code = match self.status {
            401 => json!("invalid_api_key"),
            404 | 410 => json!("model_not_found"),
            429 => json!("rate_limit_exceeded"),
            _ => Value::Null,
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": code}})
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::bad(chain(&error))
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

/// True if another request would do better: not the server, but what it was given is at fault.
pub(super) fn is_users(error: &Error) -> bool {
    matches!(
        error.kind(),
        Error::Input { .. }
            | Error::Sampling { .. }
            | Error::Image { .. }
            | Error::NotFinite { .. }
            | Error::NoGradients
            | Error::NoAdapter { .. }
            | Error::State { .. }
            | Error::Model { .. }
            | Error::Exists { .. }
    )
}
