//! A running `kshot serve`, and requests to it written by hand: HTTP/1.1, JSON and protobuf without the product's own code.

use std::io::{BufRead as _, BufReader, Cursor, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::writing_model;

pub const MODEL: &str = "micro-qwen3-vl";
/// Tokens of the micro model: start and end of an image, end of a message.
pub const VISION_START: u32 = 941;
pub const VISION_END: u32 = 942;
pub const MESSAGE_END: u32 = 940;
/// Tokens of any image, by its processor.
pub const IMAGE_TOKENS: usize = 9;

pub struct Server {
    child: Child,
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    /// A server on a free port of this machine that keeps its checkpoints in a folder.
    pub fn start(state: &Path, arguments: &[&str], key: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kshot"));
        command
            .args(["serve", "--bind", "127.0.0.1:0", "--model"])
            .arg(writing_model())
            .arg("--state")
            .arg(state)
            .args(arguments)
            .env_remove("TINKER_API_KEY")
            .envs(key.map(|key| ("TINKER_API_KEY", key)))
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening at http://");
        let address = address.unwrap_or_else(|| panic!("said `{line}`")).to_owned();
        Self { child, address }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Asks on a connection of its own; `None` if the server breaks it off.
    pub fn try_ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: kshot\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).ok()?;
        // A body that is refused for its length may not be read to its end.
        let _ = stream.write_all(body);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let end = all.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let mut body = all.split_off(end + 4);
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head, body })
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.try_ask(method, path, headers, body);
        answer.unwrap_or_else(|| panic!("{method} {path}: the server broke the connection off"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.ask("POST", path, &headers, body.to_string().as_bytes())
    }

    /// A native call that succeeds.
    #[track_caller]
    pub fn call(&self, call: &str, body: &Value) -> Value {
        let answer = self.post(&format!("/api/v1/{call}"), body);
        assert_eq!(answer.status, 200, "{call} {body}: {}", answer.text());
        answer.json()
    }

    /// The refusal of a native call: its status and reason.
    #[track_caller]
    pub fn refused(&self, call: &str, body: &Value) -> (u16, String) {
        let answer = self.post(&format!("/api/v1/{call}"), body);
        let reason = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        (answer.status, reason)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// Waits for a result.
    #[track_caller]
    pub fn result(&self, submitted: &Value) -> Answer {
        let body = json!({"request_id": submitted["request_id"], "allow_metadata_only": true}).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/x-protobuf"),
        ];
        loop {
            let answer = self.ask("POST", "/api/v1/retrieve_future", &headers, body.as_bytes());
            if answer.status != 408 {
                assert_eq!(answer.status, 200, "{}", answer.text());
                return answer;
            }
        }
    }

    /// Waits for the result of a JSON call, which succeeds.
    #[track_caller]
    pub fn finished(&self, call: &str, body: &Value) -> Value {
        let result = self.result(&self.call(call, body)).json();
        assert!(result.get("error").is_none(), "{call} {body}: {result}");
        result
    }

    pub fn session(&self) -> String {
        let session = self.call(
            "create_session",
            &json!({"tags": [], "sdk_version": "test", "type": "create_session"}),
        );
        session["session_id"].as_str().unwrap().to_owned()
    }

    /// A new training client: its model id.
    pub fn model(&self, session: &str, number: u32) -> String {
        let created = self.finished(
            "create_model",
            &json!({
                "session_id": session, "model_seq_id": number, "base_model": MODEL, "type": "create_model",
                "lora_config": {"rank": 8, "seed": 7, "train_unembed": true, "train_mlp": true, "train_attn": true},
            }),
        );
        created["model_id"].as_str().unwrap().to_owned()
    }

    /// Submits a forward_backward; the answer to the submit.
    pub fn submit(&self, request: &[u8]) -> Answer {
        self.ask(
            "POST",
            "/api/v1/forward_backward",
            &[("content-type", "application/x-protobuf")],
            request,
        )
    }

    /// Loss and log-probabilities of a forward_backward.
    #[track_caller]
    pub fn forward_backward(&self, request: &[u8]) -> (f64, Vec<f32>) {
        let submitted = self.submit(request);
        assert_eq!(submitted.status, 200, "{}", submitted.text());
        let result = self.result(&submitted.json());
        assert!(result.head.contains("application/x-protobuf"), "{}", result.text());
        losses(&result.body)
    }

    pub fn step(&self, model: &str, seq_id: u64, learning_rate: f64) {
        let adam = json!({"learning_rate": learning_rate, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8});
        self.finished(
            "optim_step",
            &json!({"model_id": model, "seq_id": seq_id, "adam_params": adam}),
        );
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length) = length.filter(|&length| length > 0) else {
            break;
        };
        let chunk = end + 2;
        body.extend(&rest[chunk..(chunk + length).min(rest.len())]);
        rest = rest.get(chunk + length + 2..).unwrap_or_default();
    }
    body
}

/// Field of a message: a number.
pub fn number(tag: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![tag << 3];
    varint(value, &mut bytes);
    bytes
}

/// Field of a message: bytes, a text or another message.
pub fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The fields of a message: tags with their bytes, or numbers as 8 bytes.
pub fn fields(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    fn read(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = read(&mut bytes);
        let value = match key & 7 {
            0 => read(&mut bytes).to_le_bytes().to_vec(),
            1 => bytes.split_off(..8).unwrap().to_vec(),
            2 => {
                let length = read(&mut bytes) as usize;
                bytes.split_off(..length).unwrap().to_vec()
            }
            other => panic!("wire type {other}"),
        };
        all.push(((key >> 3) as u8, value));
    }
    all
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect()
}

/// `loss:sum` and all log-probabilities of a ForwardBackwardOutput.
pub fn losses(output: &[u8]) -> (f64, Vec<f32>) {
    let (mut loss, mut logprobs) = (f64::NAN, Vec::new());
    for (tag, value) in fields(output) {
        match tag {
            2 => {
                for (tag, value) in fields(&value) {
                    if tag == 2 {
                        let entry = fields(&value);
                        assert_eq!(entry[0].1, b"logprobs");
                        logprobs = floats(&fields(&entry[1].1)[0].1);
                    }
                }
            }
            3 => {
                let entry = fields(&value);
                assert_eq!(entry[0].1, b"loss:sum");
                loss = f64::from_le_bytes(entry[1].1[..].try_into().unwrap());
            }
            _ => {}
        }
    }
    (loss, logprobs)
}

/// Tokens, log-probabilities and stop reason.
pub type Sequence = (Vec<u32>, Vec<f32>, u64);

/// The sequences of a SampleResponse, and the prompt's log-probabilities.
pub fn sampled(response: &[u8]) -> (Vec<Sequence>, Vec<f32>) {
    let (mut sequences, mut prompt) = (Vec::new(), Vec::new());
    for (tag, value) in fields(response) {
        match tag {
            1 => {
                let mut sequence = (Vec::new(), Vec::new(), 0);
                for (tag, value) in fields(&value) {
                    match tag {
                        1 => sequence.2 = u64::from_le_bytes(value.try_into().unwrap()),
                        2 => sequence.0 = floats(&value).iter().map(|value| value.to_bits()).collect(),
                        3 => sequence.1 = floats(&value),
                        _ => {}
                    }
                }
                sequences.push(sequence);
            }
            2 => prompt = floats(&value),
            _ => {}
        }
    }
    (sequences, prompt)
}

pub fn png(colour: [u8; 3]) -> Vec<u8> {
    png_of(48, 48, colour)
}

pub fn png_of(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::RgbImage::from_pixel(width, height, image::Rgb(colour))
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

pub fn text_chunk(tokens: &[u32]) -> Vec<u8> {
    let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    field(1, &field(1, &field(1, &tokens)))
}

pub fn image_chunk(file: &[u8], expected: Option<u64>) -> Vec<u8> {
    let mut image = [field(1, file), field(2, b"png")].concat();
    image.extend(expected.map_or_else(Vec::new, |expected| number(3, expected)));
    field(1, &field(2, &image))
}

/// A dense tensor of a loss; `dtype` 1 is float32, 2 int64.
pub fn tensor(name: &str, dtype: u64, values: &[u8], length: usize) -> Vec<u8> {
    let mut shape = Vec::new();
    varint(length as u64, &mut shape);
    let tensor = [field(1, values), number(3, dtype), field(4, &shape)].concat();
    field(2, &[field(1, name.as_bytes()), field(2, &tensor)].concat())
}

/// A question about an image of one colour with its answer, as the cookbook's renderers send it.
pub fn example(colour: [u8; 3], answer: &[u32]) -> Vec<u8> {
    let (before, after) = ([938, 20, 30, VISION_START], [VISION_END, 40, 41]);
    let read = &answer[..answer.len() - 1];
    let input = [
        text_chunk(&before),
        image_chunk(&png(colour), Some(IMAGE_TOKENS as u64)),
        text_chunk(&[&after[..], read].concat()),
    ];
    let length = before.len() + IMAGE_TOKENS + after.len() + read.len();
    let prompt = length - answer.len();
    let targets = std::iter::repeat_n(0, prompt).chain(answer.iter().map(|&token| i64::from(token)));
    let targets: Vec<u8> = targets.flat_map(i64::to_le_bytes).collect();
    let weights = std::iter::repeat_n(0f32, prompt).chain(answer.iter().map(|_| 1.0));
    let weights: Vec<u8> = weights.flat_map(f32::to_le_bytes).collect();
    let tensors = [
        tensor("target_tokens", 2, &targets, length),
        tensor("weights", 1, &weights, length),
    ];
    field(3, &[input.concat(), tensors.concat()].concat())
}

/// Three colours with their names in tokens.
pub fn lesson() -> Vec<u8> {
    [
        example([255, 0, 0], &[100, 101, MESSAGE_END]),
        example([0, 255, 0], &[200, 201, MESSAGE_END]),
        example([0, 0, 255], &[300, 301, MESSAGE_END]),
    ]
    .concat()
}

/// A ForwardBackwardRequest of the cross-entropy.
pub fn request(model: &str, seq_id: u64, data: &[u8], forward_only: bool) -> Vec<u8> {
    let mut request = [
        field(1, model.as_bytes()),
        number(2, seq_id),
        data.to_vec(),
        field(4, b"cross_entropy"),
    ]
    .concat();
    if forward_only {
        request.extend(number(6, 1));
    }
    request
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The prompt of [`example`], and more tokens, in JSON.
pub fn prompt(colour: [u8; 3], more: &[u32]) -> Value {
    let after = [&[VISION_END, 40, 41][..], more].concat();
    json!({"chunks": [
        {"type": "encoded_text", "tokens": [938, 20, 30, VISION_START]},
        {"type": "image", "format": "png", "data": base64(&png(colour)), "expected_tokens": IMAGE_TOKENS},
        {"type": "encoded_text", "tokens": after},
    ]})
}

pub fn state() -> TempDir {
    TempDir::new().unwrap()
}
