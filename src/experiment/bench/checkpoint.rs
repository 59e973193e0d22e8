//! A checkpoint of random weights in the hub's layout, so that loading is measured too and others read the same numbers.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use rand::Rng as _;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::checkpoint::shapes;
use crate::error::{Error, Result};
use crate::fs::folder;
use crate::seed;

/// Bytes of a file at most, but for a tensor that is larger.
pub(super) const SHARD: u64 = 4_000_000_000;
/// Numbers that have a generator of their own.
const BLOCK: usize = 1 << 16;
/// Blocks that are made at once.
const BLOCKS: usize = 64;

type Tensor = (String, Vec<usize>);

/// Writes config, image processor and weights of a shape, whole or not at all, in files of at most `limit` bytes; the same
/// numbers every time. Weights of a Qwen3-VL are bf16 and those of a DINOv2 f32, as on the hub.
///
/// # Errors
/// [`Error::Io`]; [`Error::Model`] when the config is of no architecture that we know.
pub(super) fn write(dir: &Path, config: &Value, limit: u64) -> Result<()> {
    let Some(tensors) = shapes::tensors(config) else {
        let reason = "its config is of no architecture that weights can be made for";
        return Err(Error::model(dir, reason));
    };
    let half = config.get("vision_config").is_some();
    folder::replace(dir, |dir| {
        text(&dir.join("config.json"), config)?;
        text(&dir.join("preprocessor_config.json"), &shapes::preprocessor(config))?;
        let shards = shards(&tensors, if half { 2 } else { 4 }, limit);
        if let [only] = &shards[..] {
            return weights(&dir.join("model.safetensors"), only, half);
        }
        let mut places = Map::new();
        for (number, shard) in (1..).zip(&shards) {
            let name = format!("model-{number:05}-of-{:05}.safetensors", shards.len());
            weights(&dir.join(&name), shard, half)?;
            places.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        }
        let bytes = shapes::numbers(&tensors) * if half { 2 } else { 4 };
        let index = json!({"metadata": {"total_size": bytes}, "weight_map": places});
        text(&dir.join("model.safetensors.index.json"), &index)
    })
}

fn text(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(Error::io("write", path))
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn shards(tensors: &[Tensor], bytes: u64, limit: u64) -> Vec<Vec<&Tensor>> {
    let mut shards: Vec<Vec<&Tensor>> = Vec::new();
    let mut filled = u64::MAX;
    for tensor in tensors {
        let size = bytes * count(&tensor.1) as u64;
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(size) <= limit => shard.push(tensor),
            _ => {
                shards.push(vec![tensor]);
                filled = 0;
            }
        }
        filled += size;
    }
    shards
}

/// One safetensors file.
fn weights(path: &Path, tensors: &[&Tensor], half: bool) -> Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, shape) in tensors {
        let start = end;
        end += count(shape) * if half { 2 } else { 4 };
        let dtype = if half { "BF16" } else { "F32" };
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let fail = Error::io("write", path);
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (name, shape) in tensors {
            let blocks = count(shape).div_ceil(BLOCK);
            for first in (0..blocks).step_by(BLOCKS) {
                let made = (first..blocks.min(first + BLOCKS)).into_par_iter();
                let made: Vec<Vec<u8>> = made.map(|number| block(name, shape, number, half)).collect();
                made.iter().try_for_each(|bytes| file.write_all(bytes))?;
            }
        }
        file.flush()
    };
    write().map_err(fail)
}

/// Numbers of a block of a tensor, as they stand in the file: such that states keep their size from layer to layer.
fn block(name: &str, shape: &[usize], number: usize, half: bool) -> Vec<u8> {
    let scales = ["norm.weight", "norm1.weight", "norm2.weight", "lambda1"];
    let (centre, width) = match shape {
        [_] if scales.iter().any(|end| name.ends_with(end)) => (1.0, 0.1),
        [_] => (0.0, 0.1),
        // Fused experts are stored inputs first.
        [_, inputs, _] if name.contains(".experts.") => (0.0, (3.0 / *inputs as f32).sqrt()),
        [_, inputs @ ..] => (0.0, (3.0 / count(inputs) as f32).sqrt()),
        [] => (0.0, 0.0),
    };
    let mut rng = seed::rng(number as u64, name);
    let left = count(shape) - number * BLOCK;
    let mut bytes = Vec::with_capacity(4 * BLOCK);
    for _ in 0..left.min(BLOCK) {
        let value: f32 = centre + width * rng.random_range(-1.0..1.0);
        if half {
            bytes.extend(&value.to_le_bytes()[2..]);
        } else {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::dinov2::Dinov2;
    use crate::models::qwen3_vl::Qwen3Vl;
    use crate::nn::DeviceSpec;

    #[test]
    fn what_is_written_is_loaded_in_one_file_or_several() {
        let scratch = tempfile::tempdir().unwrap();
        let config = shapes::config("qwen-tiny").unwrap();
        let print = |limit: u64| {
            let dir = scratch.path().join(limit.to_string());
            write(&dir, &config, limit).unwrap();
            let files = std::fs::read_dir(&dir).unwrap().count();
            let model = Qwen3Vl::load(&dir, &DeviceSpec::cpu()).unwrap();
            let weights = model.linear_weights().into_iter().map(|(name, weight)| {
                let sum = weight.abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
                (name, sum)
            });
            (files, weights.collect::<Vec<_>>())
        };
        let (whole, parts) = (print(u64::MAX), print(200_000));
        assert_eq!(whole.0, 3);
        assert!(parts.0 > 4 && whole.1 == parts.1);
        assert!(whole.1.iter().all(|(_, mean)| *mean > 0.0));
    }

    #[test]
    fn a_cut_vision_model_too() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["dinov2-giant", "dinov2-with-registers-small"] {
            let mut config = shapes::config(name).unwrap();
            shapes::cut(&mut config, 1);
            let dir = scratch.path().join(name);
            write(&dir, &config, SHARD).unwrap();
            Dinov2::load(&dir, &DeviceSpec::cpu()).unwrap();
        }
        assert!(write(&scratch.path().join("x"), &json!({}), SHARD).is_err());
    }
}
