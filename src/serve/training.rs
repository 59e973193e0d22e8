//! Examples, losses and their results between the wire and the engine.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{InputReader, JsonInput};
use super::refusal::Refusal;
use super::wire::{self, DType, Encoding, LossConfig, LossConfigValue, Tensor};
use crate::engine::{AdamParams, ForwardOutput, LossFn, PolicyInputs};
use crate::example::Datum;

/// `TensorData` in JSON.
#[derive(Debug, Clone, Deserialize)]
struct JsonTensor {
    data: Vec<f64>,
    dtype: String,
    shape: Option<Vec<i64>>,
    sparse_crow_indices: Option<Value>,
}

/// A datum in JSON.
#[derive(Debug, Deserialize)]
struct JsonDatum {
    model_input: JsonInput,
    loss_fn_inputs: BTreeMap<String, JsonTensor>,
}

/// `forward_backward` in JSON, as SDKs before 0.25 and scripts send it.
#[derive(Debug, Deserialize)]
pub(super) struct JsonForwardBackward {
    model_id: String,
    seq_id: Option<i32>,
    #[serde(alias = "forward_input")]
    forward_backward_input: JsonForwardBackwardInput,
    #[serde(default)]
    forward_only: bool,
}

#[derive(Debug, Deserialize)]
struct JsonForwardBackwardInput {
    data: Vec<JsonDatum>,
    loss_fn: String,
    loss_fn_config: Option<BTreeMap<String, f64>>,
}

impl JsonForwardBackward {
    /// The same as protobuf has it.
    ///
    /// # Errors
    /// A refusal that names the datum.
    pub(super) fn wire(self) -> Result<wire::ForwardBackwardRequest, Refusal> {
        let JsonForwardBackwardInput {
            data,
            loss_fn,
            loss_fn_config,
        } = self.forward_backward_input;
        let datum = |(datum, index): (JsonDatum, usize)| {
            let inputs = datum.loss_fn_inputs.into_iter();
            let inputs: Result<BTreeMap<_, _>, Refusal> = inputs
                .map(|(name, tensor)| {
                    let tensor = tensor
                        .wire()
                        .map_err(|refusal| refusal.of(format!("`{}`", shown(&name))))?;
                    Ok((name, tensor))
                })
                .collect();
            Ok(wire::Datum {
                model_input: datum.model_input.wire()?,
                loss_fn_inputs: inputs.map_err(|refusal| refusal.of(format!("datum {index}")))?,
            })
        };
        Ok(wire::ForwardBackwardRequest {
            model_id: self.model_id,
            seq_id: self.seq_id,
            data: data.into_iter().zip(0..).map(datum).collect::<Result<_, Refusal>>()?,
            loss_fn,
            loss_fn_config: loss_fn_config.unwrap_or_default(),
            forward_only: self.forward_only,
            loss_fn_config_v2: BTreeMap::new(),
        })
    }
}

impl JsonTensor {
    fn wire(self) -> Result<Tensor, Refusal> {
        if self.sparse_crow_indices.is_some() {
            return Err(Refusal::bad(
                "sparse tensors are not supported; send dense ones of one value a position",
            ));
        }
        let (dtype, bytes) = match self.dtype.as_str() {
            "float32" => (DType::Float32, wire::floats(self.data.iter().map(|&x| x as f32))),
            "int64" => {
                // From 2^53 on a number of JSON is not exact.
                let whole = |x: &&f64| x.fract() == 0.0 && x.abs() < (1u64 << 53) as f64;
                if let Some(cut) = self.data.iter().find(|x| !whole(x)) {
                    return Err(Refusal::bad(format!("{cut} is no int64")));
                }
                let bytes = self.data.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect();
                (DType::Int64, bytes)
            }
            other => {
                let other: String = other.chars().take(20).collect();
                return Err(Refusal::bad(format!(
                    "dtype `{other}` is neither `float32` nor `int64`"
                )));
            }
        };
        Ok(Tensor {
            encoding: Some(Encoding::Dense(bytes)),
            dtype: dtype.into(),
            shape: self.shape.unwrap_or_else(|| vec![self.data.len() as i64]),
        })
    }
}

/// A checked forward_backward.
pub(super) struct Examples {
    pub(super) data: Vec<Datum>,
    /// One a datum; empty for cross-entropy.
    pub(super) policy: Vec<PolicyInputs>,
    pub(super) loss: LossFn,
    pub(super) forward_only: bool,
}

/// Reads a request.
///
/// # Errors
/// A refusal that names the datum and its fault.
pub(super) fn read(request: &wire::ForwardBackwardRequest, reader: &mut InputReader) -> Result<Examples, Refusal> {
    let most = reader.limits().examples;
    if request.data.is_empty() {
        return Err(Refusal::bad("there are no data"));
    }
    if request.data.len() > most {
        let count = request.data.len();
        return Err(Refusal::bad(format!(
            "{count} data are more than {most}; split them, gradients add up"
        )));
    }
    let loss = loss(&request.loss_fn, &request.loss_fn_config, &request.loss_fn_config_v2)?;
    let with_policy = !matches!(loss, LossFn::CrossEntropy);
    let (mut data, mut policy) = (Vec::new(), Vec::new());
    for (datum, index) in request.data.iter().zip(0..) {
        let (example, inputs) =
            one(datum, with_policy, reader).map_err(|refusal| refusal.of(format!("datum {index}")))?;
        data.push(example);
        policy.extend(inputs);
    }
    Ok(Examples {
        data,
        policy,
        loss,
        forward_only: request.forward_only,
    })
}

fn one(datum: &wire::Datum, policy: bool, reader: &mut InputReader) -> Result<(Datum, Option<PolicyInputs>), Refusal> {
    const KNOWN: [&str; 4] = ["target_tokens", "weights", "logprobs", "advantages"];
    if let Some(name) = datum.loss_fn_inputs.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        let name: String = name.chars().take(40).collect();
        return Err(Refusal::bad(format!(
            "`{name}` is no input of a loss; {} are",
            KNOWN.join(", ")
        )));
    }
    let input = reader.read(&datum.model_input)?;
    let positions = input.positions();
    let of = |name: &str| -> Result<Option<Vec<f64>>, Refusal> {
        let tensor = datum.loss_fn_inputs.get(name);
        tensor.map(|tensor| values(name, tensor, positions)).transpose()
    };
    let floats = |name: &str| -> Result<Option<Vec<f32>>, Refusal> {
        let Some(values) = of(name)? else { return Ok(None) };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Refusal::bad(format!("`{name}` has a value of {value}")));
        }
        Ok(Some(values.into_iter().map(|value| value as f32).collect()))
    };
    let need = |name: &str| Refusal::bad(format!("`{name}` is missing"));
    let weights = floats("weights")?.unwrap_or_else(|| vec![1.0; positions]);
    let targets = of("target_tokens")?.ok_or_else(|| need("target_tokens"))?;
    let vocabulary = 0.0..reader.limits().vocabulary as f64;
    let target = |(target, weight): (f64, &f32)| match vocabulary.contains(&target) && target.fract() == 0.0 {
        true => Ok(target as u32),
        // What bears no weight may be anything, `-100` too.
        false if *weight == 0.0 => Ok(0),
        false => Err(Refusal::bad(format!(
            "`target_tokens` has {target}, which is no token of the model"
        ))),
    };
    let target_tokens = targets
        .into_iter()
        .zip(&weights)
        .map(target)
        .collect::<Result<_, _>>()?;
    let policy = if policy {
        Some(PolicyInputs {
            logprobs: floats("logprobs")?.ok_or_else(|| need("logprobs"))?,
            advantages: floats("advantages")?.ok_or_else(|| need("advantages"))?,
        })
    } else {
        None
    };
    let example = Datum {
        input,
        target_tokens,
        weights,
    };
    Ok((example, policy))
}

/// One value a position.
fn values(name: &str, tensor: &Tensor, positions: usize) -> Result<Vec<f64>, Refusal> {
    let fail = |reason: String| Refusal::bad(format!("`{name}`: {reason}"));
    let bytes = match &tensor.encoding {
        Some(Encoding::Dense(bytes)) => bytes,
        Some(Encoding::SparseCsr(_)) => return Err(fail("sparse tensors are not supported; send a dense one".into())),
        None => return Err(fail("it has no values".into())),
    };
    let dtype = DType::try_from(tensor.dtype).unwrap_or(DType::Unspecified);
    let found: Option<Vec<f64>> = match dtype {
        DType::Float32 => wire::elements(bytes, |bytes| f64::from(f32::from_le_bytes(bytes))),
        DType::Int64 => wire::elements(bytes, |bytes| i64::from_le_bytes(bytes) as f64),
        DType::Int32 => wire::elements(bytes, |bytes| f64::from(i32::from_le_bytes(bytes))),
        DType::Bfloat16 => wire::elements(bytes, |bytes| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }),
        DType::Unspecified => return Err(fail(format!("dtype {} is unknown", tensor.dtype))),
    };
    let found = found.ok_or_else(|| fail("its last value is cut short".into()))?;
    if found.len() != positions {
        let shape = &tensor.shape;
        let remedy = "one value a position is taken, image positions counted";
        let count = found.len();
        return Err(fail(format!(
            "{count} values of shape {shape:?} for {positions} positions; {remedy}"
        )));
    }
    Ok(found)
}

/// The loss of this name with its settings.
fn loss(name: &str, old: &BTreeMap<String, f64>, new: &BTreeMap<String, LossConfigValue>) -> Result<LossFn, Refusal> {
    let mut config = old.clone();
    for (key, value) in new {
        match value.value {
            Some(LossConfig::Number(number)) => {
                config.insert(key.clone(), number);
            }
            _ => {
                return Err(Refusal::bad(format!(
                    "setting `{}` of the loss is no number",
                    shown(key)
                )));
            }
        }
    }
    let known: &[&str] = match name {
        "ppo" | "cispo" => &["clip_low_threshold", "clip_high_threshold"],
        "dro" => &["beta"],
        _ => &[],
    };
    for (key, value) in &config {
        if !known.contains(&key.as_str()) {
            return Err(Refusal::bad(format!(
                "`{}` is no setting of the loss `{}`",
                shown(key),
                shown(name)
            )));
        }
        if !value.is_finite() {
            return Err(Refusal::bad(format!("setting `{key}` of the loss is {value}")));
        }
    }
    let or = |key: &str, default: f64| config.get(key).copied().unwrap_or(default);
    let (clip_low, clip_high) = (or("clip_low_threshold", 0.8), or("clip_high_threshold", 1.2));
    Ok(match name {
        "cross_entropy" => LossFn::CrossEntropy,
        "importance_sampling" => LossFn::ImportanceSampling,
        "ppo" => LossFn::Ppo { clip_low, clip_high },
        "cispo" => LossFn::Cispo { clip_low, clip_high },
        "dro" => LossFn::Dro { beta: or("beta", 0.05) },
        other => {
            let known = "cross_entropy, importance_sampling, ppo, cispo and dro are";
            return Err(Refusal::bad(format!(
                "loss `{}` is not supported here; {known}",
                shown(other)
            )));
        }
    })
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The result as the wire has it.
pub(super) fn output(result: &ForwardOutput) -> wire::ForwardBackwardOutput {
    let mut offsets = vec![0i64];
    let mut end = 0;
    for row in &result.logprobs {
        end += 4 * row.len() as i64;
        offsets.push(end);
    }
    let logprobs = wire::BatchedTensor {
        data: wire::floats(result.logprobs.iter().flatten().copied()),
        offsets: offsets.into_iter().flat_map(i64::to_le_bytes).collect(),
        dtype: DType::Float32.into(),
        trailing_shape: Vec::new(),
    };
    wire::ForwardBackwardOutput {
        loss_fn_output_type: "TensorData".into(),
        loss_fn_outputs: vec![wire::ArrayRecord {
            type_tag: "TensorData".into(),
            fields: BTreeMap::from([("logprobs".to_owned(), logprobs)]),
            num_datums: result.logprobs.len() as i64,
        }],
        metrics: BTreeMap::from([("loss:sum".to_owned(), result.loss_sum)]),
    }
}

/// The same in JSON, as SDKs before 0.25 read it.
pub(super) fn output_json(output: &wire::ForwardBackwardOutput) -> Value {
    let mut rows = Vec::new();
    for record in &output.loss_fn_outputs {
        for datum in 0..record.num_datums as usize {
            let mut row = serde_json::Map::new();
            for (name, tensor) in &record.fields {
                let offsets = wire::elements(&tensor.offsets, i64::from_le_bytes).unwrap_or_default();
                let at = |i: usize| offsets.get(i).map_or(0, |&at| at as usize);
                let bytes = tensor.data.get(at(datum)..at(datum + 1)).unwrap_or_default();
                let values = wire::elements(bytes, f32::from_le_bytes).unwrap_or_default();
                let shape = [values.len()];
                row.insert(
                    name.clone(),
                    json!({"data": values, "dtype": "float32", "shape": shape}),
                );
            }
            rows.push(Value::Object(row));
        }
    }
    json!({
        "loss_fn_output_type": output.loss_fn_output_type, "loss_fn_outputs": rows, "metrics": output.metrics,
    })
}

/// `adam_params`, with the SDK's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct JsonAdam {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    grad_clip_norm: f64,
}

impl Default for JsonAdam {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-12,
            weight_decay: 0.0,
            grad_clip_norm: 0.0,
        }
    }
}

impl JsonAdam {
    /// The same for the engine.
    ///
    /// # Errors
    /// A refusal that names what is out of range.
    pub(super) fn params(&self) -> Result<AdamParams, Refusal> {
        let from_0 = 0.0..=f64::from(f32::MAX);
        for (name, value, allowed) in [
            ("learning_rate", self.learning_rate, from_0.clone()),
            ("beta1", self.beta1, 0.0..=1.0 - f64::EPSILON),
            ("beta2", self.beta2, 0.0..=1.0 - f64::EPSILON),
            ("eps", self.eps, from_0.clone()),
            ("weight_decay", self.weight_decay, from_0.clone()),
            ("grad_clip_norm", self.grad_clip_norm, from_0),
        ] {
            if !allowed.contains(&value) {
                let (low, high) = allowed.into_inner();
                return Err(Refusal::bad(format!(
                    "adam_params.{name} is {value}, not a number from {low} to {high}"
                )));
            }
        }
        Ok(AdamParams {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            grad_clip_norm: (self.grad_clip_norm > 0.0).then_some(self.grad_clip_norm),
        })
    }
}
