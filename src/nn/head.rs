//! The trainable classification head.

use candle_core::{Device, Tensor, Var};

use crate::error::Result;

/// A linear classifier with trainable weight (C, D) and bias (C).
#[derive(Debug, Clone)]
pub struct Head {
    weight: Var, // (C, D)
    bias: Var,   // (C)
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
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn zeros(classes: usize, features: usize, device: &Device) -> Result<Self> {
        let dtype = candle_core::DType::F32;
        Ok(Self {
            weight: Var::zeros((classes, features), dtype, device)?,
            bias: Var::zeros(classes, dtype, device)?,
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

    /// The weight, (C, D).
    #[must_use]
    pub fn weight(&self) -> &Var {
        &self.weight
    }

    /// The bias, (C).
    #[must_use]
    pub fn bias(&self) -> &Var {
        &self.bias
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
