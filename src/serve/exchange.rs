//! One request and its answer, as the handlers of all routes see them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::body;
use super::refusal::Refusal;

/// Pieces of a streamed body that wait for a slow client.
const PIECES: usize = 256;
/// A client that takes no piece for so long has gone.
const STALLED: Duration = Duration::from_secs(60);
/// Time between two looks at whether there is room for a piece.
const LOOK: Duration = Duration::from_millis(5);

/// A request whose body is there.
#[derive(Debug)]
pub(super) struct Request {
    /// The parts of the path in the places of the route's pattern.
    pub(super) places: Vec<String>,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// The body as a `T`.
    ///
    /// # Errors
    /// A refusal that names the fault.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        body::json(&self.body)
    }

    /// A header, if it is there and readable.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The part of the path in a place of the route's pattern.
    pub(super) fn place(&self, index: usize) -> &str {
        self.places.get(index).map_or("", String::as_str)
    }

    /// A number of the query.
    ///
    /// # Errors
    /// A refusal when it is none.
    pub(super) fn number(&self, name: &str, default: usize) -> Result<usize, Refusal> {
        let Some(text) = self.query.get(name) else {
            return Ok(default);
        };
        let shown: String = text.chars().take(40).collect();
        text.parse()
            .map_err(|_| Refusal::bad(format!("`{name}` is `{shown}`, not a number from 0")))
    }
}

/// A reply that is not there yet.
pub(super) type Later = Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>>;

/// An answer.
pub(super) enum Reply {
    /// 200 with JSON.
    Json(Value),
    /// Another status with JSON.
    Status(u16, Value),
    /// 200 with a protobuf message.
    Protobuf(Vec<u8>),
    /// 200 with text.
    Text(&'static str, String),
    /// 200 with a body that is still being made; its type.
    Stream(&'static str, ChannelBody),
    /// To be waited for.
    Later(Later),
}

impl Reply {
    /// The answer once it is there.
    pub(super) async fn response(self) -> Result<Response<Body>, Refusal> {
        let mut reply = self;
        while let Self::Later(later) = reply {
            reply = later.await?;
        }
        Ok(match reply {
            Self::Json(value) => json_response(200, &value),
            Self::Status(status, value) => json_response(status, &value),
            Self::Protobuf(bytes) => response(200, "application/x-protobuf", Body::from(bytes)),
            Self::Text(kind, text) => response(200, kind, Body::from(text)),
            Self::Stream(kind, body) => response(200, kind, Body::new(body)),
            // The loop above ends with another one.
            Self::Later(_) => json_response(422, &Refusal::fault("no answer").detail()),
        })
    }
}

/// A response of JSON.
pub(super) fn json_response(status: u16, value: &Value) -> Response<Body> {
    response(status, "application/json", Body::from(value.to_string()))
}

fn response(status: u16, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A piece of a body; an error breaks the connection off, so that what was sent is not taken for the whole.
pub(super) type Piece = io::Result<Bytes>;

/// A body whose pieces come from another thread.
#[derive(Debug)]
pub(super) struct ChannelBody {
    pieces: mpsc::Receiver<Piece>,
}

impl ChannelBody {
    /// The body, and the side that its pieces are sent from; when that is dropped the body has ended.
    pub(super) fn new() -> (mpsc::Sender<Piece>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { pieces })
    }
}

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        self.pieces
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(http_body::Frame::data)))
    }
}

/// Writes into a [`ChannelBody`] from a thread that may wait.
pub(super) struct ChannelWriter {
    sender: mpsc::Sender<Piece>,
    broken_off: bool,
}

impl ChannelWriter {
    /// A writer of these pieces.
    pub(super) fn new(sender: mpsc::Sender<Piece>) -> Self {
        let broken_off = false;
        Self { sender, broken_off }
    }

    /// Ends the body in an error; what is written afterwards is not part of it.
    pub(super) fn break_off(&mut self, error: io::Error) {
        self.broken_off = true;
        // If the client has gone nobody needs to know.
        let _ = self.send(Err(error));
    }

    /// Sends a piece once there is room for it.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when the client has gone, [`io::ErrorKind::TimedOut`] when it takes nothing any more.
    fn send(&self, mut piece: Piece) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            match self.sender.try_send(piece) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(TrySendError::Full(_)) if begun.elapsed() > STALLED => return Err(io::ErrorKind::TimedOut.into()),
                Err(TrySendError::Full(back)) => piece = back,
            }
            thread::sleep(LOOK);
        }
    }
}

impl io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken_off {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.send(Ok(Bytes::copy_from_slice(bytes)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
