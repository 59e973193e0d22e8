//! The answer to a request that is not done: a status that tells a client not to ask again, and the reason.

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
    /// OpenAI's word for it, where it is another one than that of the status.
    code: Option<&'static str>,
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

    /// Nothing is at this URL.
    pub(super) fn unknown_url(message: impl Into<String>) -> Self {
        Self {
            code: Some("unknown_url"),
            ..Self::new(404, message)
        }
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
        Self {
            status,
            message: message.into(),
            code: None,
        }
    }

    /// The same, said of a part of the request.
    #[must_use]
    pub(super) fn of(self, part: impl fmt::Display) -> Self {
        let message = format!("{part}: {}", self.message);
        Self { message, ..self }
    }

    /// The body in Tinker's dialect.
    pub(super) fn detail(&self) -> Value {
        json!({"detail": self.message})
    }

    /// The body in OpenAI's dialect.
    pub(super) fn openai_error(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 | 410 if self.code.is_none() => "not_found_error",
            429 => "rate_limit_error",
            _ => "invalid_request_error",
        };
        let code = self.code.or(match self.status {
            401 => Some("invalid_api_key"),
            404 | 410 => Some("model_not_found"),
            429 => Some("rate_limit_exceeded"),
            _ => None,
        });
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
        Self::bad(told(&error))
    }
}

/// An error as a client is told it, with its causes, on one line: where things lie on the server's disk is nobody else's business.
/// The server's log has the whole.
pub(super) fn told(error: &Error) -> String {
    let own = match error.kind() {
        Error::Exists { path } => {
            let path = path.display();
            return format!(
                "`{path}` is there already: save under another name, or with `overwrite`: true in its place"
            );
        }
        Error::Image { reason, .. } => format!("the image: {reason}"),
        Error::Io { action, .. } => format!("the server cannot {action} a file of its own"),
        Error::Malformed { kind, reason, .. } => format!("a {kind} of the server is damaged: {reason}"),
        Error::Model { reason, .. } | Error::Checkpoint { reason, .. } => format!("model or adapter: {reason}"),
        Error::State { reason, .. } => format!("the training state {reason}"),
        Error::Memory { needed, free, .. } => format!("{needed} bytes of memory are needed, {free} are free"),
        plain => plain.to_string(),
    };
    let causes: String = error.causes().map(|cause| format!(": {cause}")).collect();
    let (whole, told) = (format!("{error}{causes}"), without_paths(&(own + &causes)));
    if whole != told && !matches!(error.kind(), Error::Image { .. }) {
        tracing::warn!("{whole}");
    }
    told
}

/// A text with `…` in place of the absolute paths in it.
fn without_paths(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '(' | ')' | '[' | ']' | ',' | ';');
    let shown = |part: &str| -> String {
        let (word, end) = part.split_at(part.trim_end_matches(ends).len());
        let tail = word.trim_end_matches([':', '.']);
        match tail.strip_prefix('/').is_some_and(|rest| rest.contains('/')) {
            true => format!("…{}{end}", &word[tail.len()..]),
            false => part.to_owned(),
        }
    };
    text.split_inclusive(ends).map(shown).collect()
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn clients_are_told_no_paths_of_the_server() {
        let file = Path::new("/srv/kshot/runs/a:train:0/weights/x/7/adapter_model.safetensors");
        let not_found = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let inside = format!(
            "path: \"{}\" No such file or directory: {}.",
            file.display(),
            file.display()
        );
        for (error, words) in [
            (Error::io("read", file)(not_found()), "cannot read"),
            (Error::model(file, "lacks `a/b`"), "lacks `a/b`"),
            (Error::checkpoint(file, "is cut off", "fetch it"), "is cut off"),
            (
                Error::State {
                    path: file.into(),
                    reason: "is torn".into(),
                },
                "is torn",
            ),
            (Error::malformed("adapter", file, "no JSON"), "no JSON"),
            (Error::tensor(inside), "No such file or directory: …."),
            (
                Error::Image {
                    image: file.display().to_string(),
                    reason: "cut off".into(),
                },
                "cut off",
            ),
        ] {
            let told = told(&error);
            assert!(told.contains(words) && !told.contains("srv"), "{told}");
            assert!(error.to_string().contains("srv") || error.causes().any(|e| e.to_string().contains("srv")));
        }
        let path = "tinker://a:train:0/weights/x";
        let exists = told(&Error::Exists { path: path.into() });
        assert!(exists.contains(path) && exists.contains("overwrite"), "{exists}");
        assert_eq!(without_paths("1/2 and a/b, / and /x"), "1/2 and a/b, / and /x");
    }

    #[test]
    fn openai_clients_read_what_is_missing_in_the_code() {
        let code = |refusal: Refusal| refusal.openai_error()["error"]["code"].clone();
        assert_eq!(code(Refusal::not_found("x")), "model_not_found");
        assert_eq!(code(Refusal::unknown_url("x").of("y")), "unknown_url");
        assert_eq!(code(Refusal::bad("x")), Value::Null);
    }
}
