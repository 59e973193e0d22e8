//! Bounds of one request, and of all that wait.

/// Bounds of requests and queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Token ids are below it.
    pub(super) vocabulary: usize,
    /// Bytes of a body, before and after decompression.
    pub(super) body: usize,
    /// Pixels of an image.
    pub(super) pixels: u64,
    /// Pixels of all different images of a request.
    pub(super) pixels_in_all: u64,
    /// Positions of a prompt with its continuation, or of a training example.
    pub(super) positions: usize,
    /// New tokens where a request does not say how many.
    pub(super) default_tokens: usize,
    /// Examples of a forward_backward.
    pub(super) examples: usize,
    /// Continuations of one prompt.
    pub(super) samples: usize,
    /// Alternatives of a position.
    pub(super) alternatives: usize,
    /// Operations of one training client that wait.
    pub(super) queued_operations: usize,
    /// Prompts that wait or are being continued.
    pub(super) queued_samples: usize,
    /// Sessions at once.
    pub(super) sessions: usize,
}

impl Limits {
    /// Those of a server on one machine, for a model of this context length and vocabulary.
    pub(super) fn of(context: usize, vocabulary: usize) -> Self {
        Self {
            vocabulary,
            body: 64 << 20,
            pixels: 32 << 20,
            pixels_in_all: 256 << 20,
            positions: context,
            default_tokens: 4096,
            examples: 4096,
            samples: 256,
            alternatives: 64,
            queued_operations: 256,
            queued_samples: 2048,
            sessions: 1024,
        }
    }
}
