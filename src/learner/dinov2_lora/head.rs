//! The classification head of DINOv2: where its training starts, and its file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::nn::Head;

/// Logit by which a class mean stands out from the average class under the initial head.
const INITIAL_MARGIN: f32 = 4.0;

/// A head that classifies as the nearest class mean (Euclidean) before its first step:
/// logit_c = g·(μ_c·f − ‖μ_c‖²/2), scaled so that a class mean leads the average class by
/// [`INITIAL_MARGIN`]. Weight (C, 2D), bias (C).
pub(super) fn from_class_means(
    features: &[Arc<[f32]>],
    labels: &[u32],
    classes: usize,
    device: &Device,
) -> Result<Head> {
    let width = features.first().map_or(0, |f| f.len());
    let mut means = vec![vec![0f32; width]; classes];
    let mut counts = vec![0f32; classes];
    for (feature, &label) in features.iter().zip(labels) {
        counts[label as usize] += 1.0;
        for (mean, x) in means[label as usize].iter_mut().zip(feature.iter()) {
            *mean += x;
        }
    }
    for (mean, count) in means.iter_mut().zip(&counts) {
        mean.iter_mut().for_each(|m| *m /= count.max(1.0));
    }
    let centre: Vec<f32> = (0..width)
        .map(|d| means.iter().map(|m| m[d]).sum::<f32>() / classes as f32)
        .collect();
    let spread: f32 = means
        .iter()
        .map(|m| m.iter().zip(&centre).map(|(a, b)| (a - b) * (a - b)).sum::<f32>())
        .sum::<f32>()
        / classes as f32;
    let squares = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
    // Classes whose means coincide have nothing to start from: a head of zeros.
    let gain = if spread > f32::EPSILON * squares(&centre) {
        INITIAL_MARGIN / spread
    } else {
        0.0
    };
    // Subtracting the centre from every row changes no probability and keeps the weights small.
    let mut weight = Vec::with_capacity(classes * width);
    let mut bias = Vec::with_capacity(classes);
    for mean in &means {
        weight.extend(mean.iter().zip(&centre).map(|(m, c)| gain * (m - c)));
        bias.push(-gain / 2.0 * (squares(mean) - squares(&centre)));
    }
    Head::new(
        &Tensor::from_vec(weight, (classes, width), device)?,
        &Tensor::from_vec(bias, classes, device)?,
    )
}

/// Writes weight and bias.
pub(super) fn save(head: &Head, file: &Path) -> Result<()> {
    let tensors = HashMap::from([
        ("weight", head.weight().as_tensor().clone()),
        ("bias", head.bias().as_tensor().clone()),
    ]);
    candle_core::safetensors::save(&tensors, file).map_err(Error::saving(file))
}

/// Reads them, of these numbers of classes and features.
pub(super) fn load(file: &Path, (classes, features): (usize, usize), device: &Device) -> Result<Head> {
    let model_error = |reason: String| Error::Model {
        path: file.to_path_buf(),
        reason,
    };
    let tensors = candle_core::safetensors::load(file, device).map_err(|e| model_error(e.to_string()))?;
    let get = |name: &str, shape: &[usize]| {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| model_error(format!("tensor `{name}` is missing")))?;
        if tensor.dims() != shape {
            return Err(model_error(format!(
                "tensor `{name}` has shape {:?}, expected {shape:?}",
                tensor.dims()
            )));
        }
        Ok(tensor)
    };
    Head::new(get("weight", &[classes, features])?, get("bias", &[classes])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_look_the_same_start_from_zero() {
        let features: Vec<Arc<[f32]>> = [[4.0, 1.0], [4.0, 1.0]].map(|f| f.into()).into();
        let head = from_class_means(&features, &[0, 1], 2, &Device::Cpu).unwrap();
        let logits = head
            .forward(&Tensor::new(&[[1.2f32, 2.0]], &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(logits.to_vec2::<f32>().unwrap(), [[0.0, 0.0]]);
    }

    #[test]
    fn initial_head_is_nearest_class_mean() {
        let features: Vec<Arc<[f32]>> = [[4.0, 0.0], [6.0, 0.0], [0.0, 1.0], [0.0, 3.0]]
            .map(|f| f.into())
            .into();
        let head = from_class_means(&features, &[0, 0, 1, 1], 2, &Device::Cpu).unwrap();
        // Nearer to (0, 2) than to (5, 0), although its dot product with (5, 0) is the larger one.
        let logits = head
            .forward(&Tensor::new(&[[1.2f32, 2.0], [4.0, 1.0]], &Device::Cpu).unwrap())
            .unwrap();
        let classes = logits.argmax(candle_core::D::Minus1).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(classes, [1, 0]);
        // The class means lead the average of the two classes by the margin.
        let at_mean = head
            .forward(&Tensor::new(&[[5f32, 0.0]], &Device::Cpu).unwrap())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert!(
            ((at_mean[0][0] - at_mean[0][1]) / 2.0 - INITIAL_MARGIN).abs() < 1e-4,
            "{at_mean:?}"
        );
    }
}
