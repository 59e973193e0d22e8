//! The protobuf messages of Tinker's API (package `tinker_public`), as SDK 0.38 sends and reads them. Numbers inside `bytes`
//! fields are little-endian.

use std::collections::BTreeMap;

/// Body of `forward_backward`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ForwardBackwardRequest {
    #[prost(string, tag = "1")]
    pub(super) model_id: String,
    #[prost(int32, optional, tag = "2")]
    pub(super) seq_id: Option<i32>,
    #[prost(message, repeated, tag = "3")]
    pub(super) data: Vec<Datum>,
    #[prost(string, tag = "4")]
    pub(super) loss_fn: String,
    #[prost(btree_map = "string, double", tag = "5")]
    pub(super) loss_fn_config: BTreeMap<String, f64>,
    #[prost(bool, tag = "6")]
    pub(super) forward_only: bool,
    #[prost(btree_map = "string, message", tag = "7")]
    pub(super) loss_fn_config_v2: BTreeMap<String, LossConfigValue>,
}

/// A setting of a loss.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LossConfigValue {
    #[prost(oneof = "LossConfig", tags = "1, 2")]
    pub(super) value: Option<LossConfig>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum LossConfig {
    #[prost(double, tag = "1")]
    Number(f64),
    #[prost(string, tag = "2")]
    Text(String),
}

/// An example: an input and what its loss needs beside it. Spans of provenance are not read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Datum {
    #[prost(message, repeated, tag = "1")]
    pub(super) model_input: Vec<Chunk>,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) loss_fn_inputs: BTreeMap<String, Tensor>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Chunk {
    #[prost(oneof = "ChunkKind", tags = "1, 2, 3")]
    pub(super) kind: Option<ChunkKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ChunkKind {
    #[prost(message, tag = "1")]
    EncodedText(EncodedText),
    #[prost(message, tag = "2")]
    Image(ImageChunk),
    #[prost(message, tag = "3")]
    Dmel(Dmel),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodedText {
    /// int32[]
    #[prost(bytes = "vec", tag = "1")]
    pub(super) tokens: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageChunk {
    /// The bytes of the file.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) format: String,
    #[prost(int32, optional, tag = "3")]
    pub(super) expected_tokens: Option<i32>,
    #[prost(message, optional, tag = "4")]
    pub(super) override_dimensions: Option<Dimensions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dimensions {
    #[prost(uint32, tag = "1")]
    pub(super) width: u32,
    #[prost(uint32, tag = "2")]
    pub(super) height: u32,
}

/// Audio, which no model here hears.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Dmel {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(oneof = "Encoding", tags = "1, 2")]
    pub(super) encoding: Option<Encoding>,
    #[prost(enumeration = "DType", tag = "3")]
    pub(super) dtype: i32,
    #[prost(int64, repeated, tag = "4")]
    pub(super) shape: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Encoding {
    #[prost(bytes, tag = "1")]
    Dense(Vec<u8>),
    #[prost(message, tag = "2")]
    SparseCsr(SparseCsr),
}

/// Rows of a sparse matrix; `values` are of the tensor's type.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SparseCsr {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) values: Vec<u8>,
    /// int64[]
    #[prost(bytes = "vec", tag = "2")]
    pub(super) crow_indices: Vec<u8>,
    /// int64[]
    #[prost(bytes = "vec", tag = "3")]
    pub(super) col_indices: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum DType {
    Unspecified = 0,
    Float32 = 1,
    Int64 = 2,
    Int32 = 3,
    Bfloat16 = 4,
}

/// Result of `forward_backward`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ForwardBackwardOutput {
    #[prost(string, tag = "1")]
    pub(super) loss_fn_output_type: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) loss_fn_outputs: Vec<ArrayRecord>,
    #[prost(btree_map = "string, double", tag = "3")]
    pub(super) metrics: BTreeMap<String, f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ArrayRecord {
    #[prost(string, tag = "1")]
    pub(super) type_tag: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) fields: BTreeMap<String, BatchedTensor>,
    #[prost(int64, tag = "3")]
    pub(super) num_datums: i64,
}

/// One tensor a datum, all in one piece.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchedTensor {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
    /// int64[num_datums + 1], in bytes of `data`.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) offsets: Vec<u8>,
    #[prost(enumeration = "DType", tag = "3")]
    pub(super) dtype: i32,
    #[prost(int64, repeated, tag = "4")]
    pub(super) trailing_shape: Vec<i64>,
}

/// Result of `asample`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SampleResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) sequences: Vec<SampledSequence>,
    /// float32[P], NaN where there is none.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) prompt_logprobs: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    pub(super) topk_prompt_logprobs: Option<TopkLogprobs>,
    #[prost(int32, tag = "4")]
    pub(super) prompt_cache_hit_tokens: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SampledSequence {
    /// 0: a stop token or text, 1: the length.
    #[prost(int32, tag = "1")]
    pub(super) stop_reason: i32,
    /// int32[]
    #[prost(bytes = "vec", tag = "2")]
    pub(super) tokens: Vec<u8>,
    /// float32[]
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) logprobs: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    pub(super) topk_sampled_logprobs: Option<TopkLogprobs>,
}

/// The likeliest tokens of `length` positions, `k` each, row by row; an empty cell is token 0 with -99999.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TopkLogprobs {
    /// int32[length · k]
    #[prost(bytes = "vec", tag = "1")]
    pub(super) token_ids: Vec<u8>,
    /// float32[length · k]
    #[prost(bytes = "vec", tag = "2")]
    pub(super) logprobs: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(super) k: u32,
    #[prost(uint32, tag = "4")]
    pub(super) length: u32,
}

/// The likeliest tokens of some positions with their log-probabilities.
pub(super) type Alternatives = Vec<Vec<(u32, f32)>>;

/// Log-probability of a cell of [`TopkLogprobs`] that holds no token.
const EMPTY: f32 = -99_999.0;

impl TopkLogprobs {
    /// `k` alternatives a position; positions with fewer are filled up.
    pub(super) fn of(rows: &Alternatives, k: usize) -> Self {
        let cells = || {
            let row = |row: &Vec<(u32, f32)>| {
                let mut row = row.clone();
                row.resize(k, (0, EMPTY));
                row
            };
            rows.iter().flat_map(row).collect::<Vec<_>>()
        };
        Self {
            token_ids: ints(cells().iter().map(|&(token, _)| token)),
            logprobs: floats(cells().iter().map(|&(_, logprob)| logprob)),
            k: k as u32,
            length: rows.len() as u32,
        }
    }
}

/// int32[] of tokens.
pub(super) fn ints(tokens: impl IntoIterator<Item = u32>) -> Vec<u8> {
    tokens.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// float32[]
pub(super) fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The elements of a `bytes` field; `None` where the last is cut short.
pub(super) fn elements<const N: usize, T>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (whole, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| whole.iter().map(|bytes| one(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_request_is_written_as_the_sdk_writes_it() {
        let request = ForwardBackwardRequest {
            model_id: "m".into(),
            seq_id: Some(1),
            data: vec![Datum {
                model_input: vec![Chunk {
                    kind: Some(ChunkKind::EncodedText(EncodedText { tokens: ints([7]) })),
                }],
                loss_fn_inputs: BTreeMap::from([(
                    "weights".to_owned(),
                    Tensor {
                        encoding: Some(Encoding::Dense(floats([1.0]))),
                        dtype: DType::Float32.into(),
                        shape: vec![1],
                    },
                )]),
            }],
            loss_fn: "cross_entropy".into(),
            ..ForwardBackwardRequest::default()
        };
        let bytes = request.encode_to_vec();
        assert_eq!(ForwardBackwardRequest::decode(&bytes[..]).unwrap(), request);
        assert_eq!(&bytes[..5], [0x0a, 1, b'm', 0x10, 1]);
    }

    #[test]
    fn fewer_alternatives_are_filled_up() {
        let top = TopkLogprobs::of(&vec![vec![(5, -0.5)], vec![]], 2);
        assert_eq!(top.token_ids, ints([5, 0, 0, 0]));
        assert_eq!(top.logprobs, floats([-0.5, EMPTY, EMPTY, EMPTY]));
        assert_eq!((top.k, top.length), (2, 2));
    }

    #[test]
    fn a_cut_element_is_no_element() {
        assert_eq!(elements(&[1, 0, 0, 0], i32::from_le_bytes), Some(vec![1]));
        assert_eq!(elements(&[1, 0, 0], i32::from_le_bytes), None);
    }
}
