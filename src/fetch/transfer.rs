//! The bytes of one file from one URL, over as many requests as it takes.
//!
//! What an interrupted transfer leaves is continued, by this process or a later one; bytes of several sources that do
//! not make the right file together are thrown away and fetched once more from this source alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::thread;
use std::time::Instant;

use ureq::http::HeaderName;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};

use crate::error::{Error, Result};
use crate::fetch::FetchProgress;
use crate::fetch::client::{Client, Trouble, header};
use crate::fetch::wanted::{Stop, Wanted};

/// What came of one request.
enum Attempt {
    /// All bytes have arrived, right or wrong.
    Complete,
    /// To be tried again, from where it stands.
    Again(Trouble),
    /// To be tried again from the first byte.
    Anew(String),
}

/// The transfer of a file from one URL.
pub(super) struct Transfer<'a> {
    wanted: &'a Wanted,
    url: &'a str,
    client: &'a Client,
    progress: &'a dyn FetchProgress,
    /// Every byte gathered so far came from this URL.
    alone: bool,
    /// Version of the file, where the server names it.
    etag: Option<String>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(wanted: &'a Wanted, url: &'a str, client: &'a Client, progress: &'a dyn FetchProgress) -> Self {
        Self {
            wanted,
            url,
            client,
            progress,
            alone: false,
            etag: None,
        }
    }

    /// Ends with the right bytes gathered.
    pub(super) fn run(mut self) -> Result<(), Stop> {
        let size = self.wanted.size;
        let policy = &self.client.policy;
        // A hundredth more than ever before is progress: attempts are counted anew, but not for ever.
        let mut furthest = self.wanted.arrived();
        let mut failed = 0;
        loop {
            let outcome = if self.length()? == Some(size) {
                Attempt::Complete
            } else {
                self.attempt()?
            };
            let (reason, after) = match outcome {
                Attempt::Complete => match self.wanted.check(&self.wanted.partial)? {
                    Ok(()) => return Ok(()),
                    Err(reason) => {
                        let alone = self.alone;
                        self.restart()?;
                        if alone {
                            return Err(Stop::Source(reason));
                        }
                        // Nothing is known against this source yet.
                        (furthest, failed) = (0, 0);
                        continue;
                    }
                },
                Attempt::Again(Trouble::Lasting { reason, .. }) => return Err(Stop::Source(reason)),
                Attempt::Again(Trouble::Passing { reason, after, .. }) => (reason, after),
                Attempt::Anew(reason) => {
                    self.restart()?;
                    (reason, None)
                }
            };
            let arrived = self.wanted.arrived();
            if arrived >= furthest + size.div_ceil(100).max(1) {
                (furthest, failed) = (arrived, 0);
            }
            failed += 1;
            if failed >= policy.tries {
                return Err(Stop::Source(format!("{reason} ({failed} times without progress)")));
            }
            let wait = policy.wait(self.url, failed - 1, after);
            self.progress.note(&format!(
                "{}: {reason} at byte {arrived}, again in {:.2} s",
                self.wanted.name,
                wait.as_secs_f64()
            ));
            thread::sleep(wait);
        }
    }

    /// Bytes gathered; more than there can be are thrown away.
    fn length(&mut self) -> Result<Option<u64>> {
        match fs::metadata(&self.wanted.partial) {
            Ok(found) if found.len() > self.wanted.size => self.restart().map(|()| None),
            Ok(found) => Ok(Some(found.len())),
            Err(_) => Ok(None),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.wanted.discard()?;
        (self.alone, self.etag) = (true, None);
        self.progress.at(&self.wanted.name, 0);
        Ok(())
    }

    /// One request for what is missing.
    fn attempt(&mut self) -> Result<Attempt> {
        let size = self.wanted.size;
        let from = self.length()?.unwrap_or(0);
        if from == 0 {
            self.alone = true;
        }
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        if from > 0 {
            headers.push((RANGE, format!("bytes={from}-")));
            headers.extend(self.etag.clone().map(|etag| (IF_RANGE, etag)));
        }
        let mut response = match self.client.get(self.url, &headers) {
            Err(Trouble::Lasting {
                status: Some(status), ..
            }) if from > 0 && status.as_u16() == 416 => {
                return Ok(Attempt::Anew(format!("has no byte {from}")));
            }
            Err(trouble) => return Ok(Attempt::Again(trouble)),
            Ok(response) => response,
        };
        let from = if response.status().as_u16() == 206 {
            let range = header(&response, CONTENT_RANGE).and_then(|value| content_range(&value));
            match range {
                Some((_, Some(total))) if total != size => {
                    return Ok(Attempt::Again(wrong_length(total, size)));
                }
                Some((first, _)) if first == from && from > 0 => from,
                _ => {
                    return Ok(Attempt::Anew(
                        "sends another part of the file than was asked for".into(),
                    ));
                }
            }
        } else {
            let length = header(&response, CONTENT_LENGTH).and_then(|value| value.parse().ok());
            if let Some(length) = length.filter(|length| *length != size) {
                return Ok(Attempt::Again(wrong_length(length, size)));
            }
            self.alone = true;
            0
        };
        // A weak one says nothing about bytes.
        let etag = header(&response, ETAG).filter(|etag| etag.starts_with('"'));
        if from > 0 && self.etag.is_some() && etag.is_some() && etag != self.etag {
            return Ok(Attempt::Anew("has changed meanwhile".into()));
        }
        self.etag = etag.or(self.etag.take()).filter(|_| self.alone);
        self.receive(from, &mut response.body_mut().as_reader())
    }

    /// Appends what a server sends to the bytes before `from`.
    fn receive(&mut self, from: u64, body: &mut dyn Read) -> Result<Attempt> {
        let size = self.wanted.size;
        let partial = &self.wanted.partial;
        let failed = || Error::io("write", partial);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .write(true)
            .truncate(false)
            .open(partial)
            .map_err(failed())?;
        file.set_len(from).map_err(failed())?;
        file.seek(SeekFrom::Start(from)).map_err(failed())?;
        let (least, window) = self.client.policy.slowest;
        let mut since = (Instant::now(), from);
        let mut at = from;
        let mut chunk = vec![0; 256 << 10];
        loop {
            let read = match body.read(&mut chunk) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Attempt::Again(Trouble::passing(e.to_string()))),
            };
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            at += bytes.len() as u64;
            if at > size {
                drop(file);
                self.restart()?;
                return Ok(Attempt::Again(Trouble::lasting(format!(
                    "sends more than {size} bytes"
                ))));
            }
            file.write_all(bytes).map_err(failed())?;
            self.progress.at(&self.wanted.name, at);
            if since.0.elapsed() >= window {
                if at - since.1 < least && at < size {
                    return Ok(Attempt::Again(Trouble::passing("too slow")));
                }
                since = (Instant::now(), at);
            }
        }
        if at < size {
            return Ok(Attempt::Again(Trouble::passing(format!(
                "ends after {at} of {size} bytes"
            ))));
        }
        Ok(Attempt::Complete)
    }
}

fn wrong_length(found: u64, wanted: u64) -> Trouble {
    Trouble::lasting(format!("has {found} bytes instead of {wanted}"))
}

/// First byte and length of the whole file, of `bytes 5-9/10` (RFC 9110, 14.4).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "5-9/10", "bytes */10", "bytes 5/10", "bytes x-9/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
