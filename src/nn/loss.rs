//! The trainable classification head, and losses.

use candle_core::{D, DType, Device, Tensor, Var};

use super::ops::wide;
use crate::error::Result;

/// Natural-log probabilities over the last dimension, in f32 where the logits are narrower; differentiable.
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

/// A linear classifier with trainable weight (C, D) and bias (C).
#[derive(Debug, Clone)]
pub struct Head {
    /// (C, D)
    pub weight: Var,
    /// (C)
    pub bias: Var,
}

impl Head {
    /// A head from its values: `weight` is (C, D), `bias` (C); both are copied.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (classes, _) = weight.dims2()?;
        if bias.dims() != [classes] {
            let reason = format!("a head of weight {:?} and bias {:?}", weight.shape(), bias.shape());
            return Err(candle_core::Error::Msg(reason).into());
        }
        Ok(Self {
            weight: Var::from_tensor(weight)?,
            bias: Var::from_tensor(bias)?,
        })
    }

    /// A head of zeros: every class equally likely.
    pub fn zeros(classes: usize, features: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            weight: Var::zeros((classes, features), DType::F32, device)?,
            bias: Var::zeros(classes, DType::F32, device)?,
        })
    }

    /// Logits (B, C) of features (B, D).
    ///
    /// # Errors
    /// When the width of the features is not D.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(features
            .matmul(&self.weight.as_tensor().t()?)?
            .broadcast_add(self.bias.as_tensor())?)
    }

    /// Both variables with the names of transformers' `Dinov2ForImageClassification`.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Var)> {
        vec![
            ("classifier.weight".into(), self.weight.clone()),
            ("classifier.bias".into(), self.bias.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
