//! An HTTP/1.1 server on loopback that does what it is told to, wrong things included.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// With the query.
    pub path: String,
    /// Lower-case names.
    headers: Vec<(String, String)>,
    /// How many requests for this path came before.
    pub earlier: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As if a header had not been there.
    pub fn without(&self, name: &str) -> Self {
        let mut request = self.clone();
        request.headers.retain(|(key, _)| key != name);
        request
    }

    /// First byte of the range that was asked for.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What the server answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is dropped after so many bytes of the body.
    pub cut: Option<usize>,
    /// So many bytes at a time, with a pause after each.
    pub trickle: Option<(usize, Duration)>,
}

impl Reply {
    /// Without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: vec![("Content-Length".into(), "0".into())],
            body: Vec::new(),
            cut: None,
            trickle: None,
        }
    }

    /// The whole of some bytes, whatever range was asked for.
    pub fn whole(bytes: &[u8]) -> Self {
        Self {
            headers: vec![("Content-Length".into(), bytes.len().to_string())],
            body: bytes.to_vec(),
            ..Self::status(200)
        }
    }

    /// Some bytes as a good server gives them: ranges, and an ETag that `If-Range` is held against.
    pub fn file(request: &Request, bytes: &[u8]) -> Self {
        let etag = format!("\"{}\"", crate::fetch::sha256(bytes));
        let whole = Self::whole(bytes).with("ETag", &etag).with("Accept-Ranges", "bytes");
        match request.from() {
            Some(_) if request.header("if-range").is_some_and(|wanted| wanted != etag) => whole,
            Some(from) if from >= bytes.len() => {
                Self::status(416).with("Content-Range", &format!("bytes */{}", bytes.len()))
            }
            Some(from) => Self {
                status: 206,
                ..Self::whole(&bytes[from..]).with("ETag", &etag).with(
                    "Content-Range",
                    &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
                )
            },
            None => whole,
        }
    }

    pub fn json(value: &serde_json::Value) -> Self {
        Self::whole(value.to_string().as_bytes()).with("Content-Type", "application/json")
    }

    pub fn redirect(to: &str) -> Self {
        Self::status(302).with("Location", to)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Without saying how long it is.
    pub fn endless(mut self) -> Self {
        self.headers.retain(|(key, _)| key != "Content-Length");
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub fn trickle(mut self, bytes: usize, pause: Duration) -> Self {
        self.trickle = Some((bytes, pause));
        self
    }
}

/// Runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    asked: Mutex<Vec<Request>>,
    /// Bytes of bodies sent.
    sent: Mutex<usize>,
    over: AtomicBool,
    answer: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
}

impl Server {
    pub fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            sent: Mutex::default(),
            over: AtomicBool::new(false),
            answer: Box::new(answer),
        });
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that went away is none of the server's business.
                thread::spawn(move || stream.map(|stream| shared.serve(stream)));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Request> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Requests whose path ends so.
    pub fn asked_for(&self, end: &str) -> Vec<Request> {
        let mut asked = self.asked();
        asked.retain(|request| request.path.ends_with(end));
        asked
    }

    /// Bytes of bodies sent so far.
    pub fn sent(&self) -> usize {
        *self.shared.sent.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let Some(path) = first.split(' ').nth(1) else {
            return Ok(());
        };
        let mut headers = Vec::new();
        for line in lines {
            match line?.split_once(": ") {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None => break,
            }
        }
        let request = {
            let mut asked = self.asked.lock().unwrap();
            let request = Request {
                earlier: asked.iter().filter(|request| request.path == path).count(),
                path: path.into(),
                headers,
            };
            asked.push(request.clone());
            request
        };
        let reply = (self.answer)(&request);
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        let body = &reply.body[..reply.cut.unwrap_or(usize::MAX).min(reply.body.len())];
        let (piece, pause) = reply.trickle.unwrap_or((1 << 16, Duration::ZERO));
        for piece in body.chunks(piece) {
            stream.write_all(piece)?;
            *self.sent.lock().unwrap() += piece.len();
            if !pause.is_zero() && !self.over.load(Ordering::SeqCst) {
                thread::sleep(pause);
            }
        }
        stream.shutdown(Shutdown::Write)
    }
}
