//! Losses.

use candle_core::{D, Tensor};

use super::ops::wide;
use crate::error::Result;

/// Natural-log probabilities over the last dimension, in f32 where the logits are narrower; differentiable.
///
/// # Errors
/// Only what candle reports.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let logits = wide(logits)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// Mean cross-entropy in nats: `logits` (B, C), `labels` (B) of integers below C; gives a scalar.
///
/// # Errors
/// When the shapes do not fit or a label is not below C.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let picked = log_softmax(logits)?.gather(&labels.unsqueeze(1)?, 1)?;
    Ok(picked.mean_all()?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn gradient_is_softmax_minus_one_hot_over_batch() {
        let logits = Var::new(&[[1f32, 2.0, -1.0], [0.5, 0.5, 3.0]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
        let loss = cross_entropy(logits.as_tensor(), &labels).unwrap();
        let grads = loss.backward().unwrap();
        let grad = grads.get(logits.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
        let softmax = log_softmax(logits.as_tensor())
            .unwrap()
            .exp()
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (row, (grad, softmax)) in grad.iter().zip(&softmax).enumerate() {
            for class in 0..3 {
                let one_hot = f32::from(u8::from(class == [1, 0][row]));
                assert!((grad[class] - (softmax[class] - one_hot) / 2.0).abs() < 1e-6);
            }
        }
        let expected = -(softmax[0][1].ln() + softmax[1][0].ln()) / 2.0;
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
    }

    #[test]
    fn label_out_of_range_is_an_error() {
        let logits = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(cross_entropy(&logits, &Tensor::new(&[3u32], &Device::Cpu).unwrap()).is_err());
    }
}
