//! Bodies of requests: decompressed within bounds, read as JSON or protobuf.

use std::io::Read as _;

use serde::de::DeserializeOwned;
use serde_json::Value;

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
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && *name != "identity")
        .as_deref()
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
        Some("gzip" | "x-gzip") => {
            let decoder = flate2::read::MultiGzDecoder::new(&body[..]);
            let read = decoder.take(most as u64 + 1).read_to_end(&mut whole);
            read.map_err(|e| damaged("gzip", e.to_string()))?;
        }
        Some(other) => {
            let other: String = other.chars().take(40).collect();
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
/// A refusal that says where the text is wrong, or which field, and what it may be.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(refused)?;
    let end = reader.end();
    end.map_err(|e| Refusal::bad(format!("the body is more than one JSON value: {e}")))?;
    Ok(value)
}

/// The same of a value that was read.
///
/// # Errors
/// As [`json`].
pub(super) fn of_value<T: DeserializeOwned>(value: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(refused)
}

fn refused(error: serde_path_to_error::Error<serde_json::Error>) -> Refusal {
    let place = error.path().to_string();
    let reason = error.into_inner();
    let shown: String = place.chars().take(120).collect();
    Refusal::bad(match place.as_str() {
        "." | "" | "?" => format!("the body is not the JSON of this call: {reason}"),
        _ => format!("`{shown}`: {reason}"),
    })
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
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &bytes).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(decompressed(gzip.clone(), Some("GZip"), 100_000).unwrap(), bytes);
        assert_eq!(
            decompressed(gzip.clone(), Some("gzip"), 99_999).unwrap_err().status,
            413
        );
        let cut = gzip[..gzip.len() - 9].to_vec();
        assert_eq!(decompressed(cut, Some("gzip"), 100_000).unwrap_err().status, 400);
        let unknown = decompressed(bytes, Some("br"), 100_000).unwrap_err();
        assert!(unknown.status == 415 && unknown.message.contains("zstd"), "{unknown}");
    }

    #[test]
    fn a_wrong_field_is_named_with_its_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[serde(rename = "b")]
            _b: f64,
        }
        #[derive(Debug, serde::Deserialize)]
        struct Outer {
            #[serde(rename = "a")]
            _a: Vec<Inner>,
        }
        let reason = |body: &str| json::<Outer>(body.as_bytes()).unwrap_err().message;
        let wrong = reason(r#"{"a": [{"b": 1}, {"b": "x"}]}"#);
        assert!(wrong.contains("`a[1].b`") && wrong.contains("f64"), "{wrong}");
        let unknown = reason(r#"{"a": [{"c": 1}]}"#);
        assert!(unknown.contains("`c`") && unknown.contains("`b`"), "{unknown}");
        assert!(reason("{").contains("JSON") && reason("[]").contains("JSON"));
        assert!(reason(r#"{"a": []} x"#).contains("more than one"));
    }
}
