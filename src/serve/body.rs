//! Bodies of requests: decompressed within bounds, read as JSON or protobuf.

use std::io::Read as _;

use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// The body as it was before it was compressed, at most `most` bytes.
///
/// # Errors
/// A refusal when the encoding is unknown, the frame damaged or cut short, or there are more bytes.
pub(super) fn decompressed(body: Vec<u8>, encoding: Option<&str>, most: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        Refusal::too_large(format!(
            "the body has more than {most} bytes; send fewer examples at once"
        ))
    };
    let damaged = |name: &str, reason: String| Refusal::bad(format!("the body is not a whole {name} stream: {reason}"));
    let mut whole = Vec::new();
    match encoding
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "identity")
    {
        None => return if body.len() > most { Err(too_large()) } else { Ok(body) },
        Some("zstd") => {
            let mut rest = &body[..];
            while !rest.is_empty() {
                let decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest);
                let mut decoder = decoder.map_err(|e| damaged("zstd", e.to_string()))?;
                let left = (most + 1).saturating_sub(whole.len());
                let read = (&mut decoder).take(left as u64).read_to_end(&mut whole);
                read.map_err(|e| damaged("zstd", e.to_string()))?;
                if whole.len() > most {
                    return Err(too_large());
                }
            }
        }
        Some("gzip") => {
            let decoder = flate2::read::MultiGzDecoder::new(&body[..]);
            let read = decoder.take(most as u64 + 1).read_to_end(&mut whole);
            read.map_err(|e| damaged("gzip", e.to_string()))?;
        }
        Some(other) => {
            let other = &other[..other.len().min(40)];
            return Err(Refusal::new(
                415,
                format!("content encoding `{other}` is not read; zstd and gzip are"),
            ));
        }
    }
    if whole.len() > most {
        return Err(too_large());
    }
    Ok(whole)
}

/// A JSON object as a `T`. An empty body is an empty object.
///
/// # Errors
/// A refusal that says where the text is wrong, or which field.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| Refusal::new(422, format!("the body is not the JSON of this call: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn a_frame_is_unpacked_within_bounds_and_a_cut_one_refused() {
        let bytes = vec![7; 100_000];
        let frame = zstd(&bytes);
        assert!(frame.len() < 1000);
        assert_eq!(decompressed(frame.clone(), Some("zstd"), 100_000).unwrap(), bytes);
        assert_eq!(
            decompressed(frame.clone(), Some("zstd"), 99_999).unwrap_err().status,
            413
        );
        for cut in 1..frame.len() {
            let refusal = decompressed(frame[..cut].to_vec(), Some("zstd"), 100_000).unwrap_err();
            assert_eq!(refusal.status, 400, "{cut} of {} bytes", frame.len());
        }
        assert_eq!(decompressed(bytes, Some("br"), 100_000).unwrap_err().status, 415);
    }
}
