//! Losses and gradients, with all activations kept or with those between layers alone.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::{Batch, Features, Qwen3Vl};
use crate::error::Result;
use crate::example::Grid;
use crate::nn::checkpointing;

/// Result of a backward pass through the decoder.
struct Decoded {
    /// A scalar outside the graph.
    loss: Tensor,
    gradients: GradStore,
    /// Gradients of the features where they are variables, in the order of [`Features::all`].
    features: Vec<Option<Tensor>>,
}

impl Qwen3Vl {
    /// The loss of a batch and the gradients of all adapters. `loss` maps the states of
    /// [`Qwen3Vl::forward`] to a scalar, e.g. by [`Qwen3Vl::logits`]. With `checkpointing` each decoder
    /// layer is run twice and only the states between layers are kept; the gradients are the same. The tower's
    /// states are those that `features` hang on: see [`Qwen3Vl::backward_from_patches`].
    ///
    /// # Errors
    /// As [`Qwen3Vl::forward`].
    pub fn backward(
        &self,
        batch: &Batch,
        features: Option<&Features>,
        checkpointing: bool,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        if !checkpointing {
            let loss = loss(&self.forward(batch, features, None)?)?;
            let gradients = loss.backward()?;
            return Ok((loss.detach(), gradients));
        }
        // Features that are trained are cut off here and continued below with their gradients.
        let tracked = features.filter(|features| features.all().any(Tensor::track_op));
        let Some(tracked) = tracked else {
            let done = self.through_decoder(batch, features, &[], loss)?;
            return Ok((done.loss, done.gradients));
        };
        let (cut, inner) = tracked.cut()?;
        let mut done = self.through_decoder(batch, Some(&inner), &cut, loss)?;
        let mut rest = Vec::new();
        for (feature, gradient) in tracked.all().zip(done.features) {
            if let Some(gradient) = gradient {
                rest.push((feature * gradient)?.sum_all()?);
            }
        }
        if !rest.is_empty() {
            let below = Tensor::stack(&rest, 0)?.sum_all()?.backward()?;
            for var in &self.variables() {
                if let Some(gradient) = below.get(var) {
                    done.gradients.insert(var, gradient.detach());
                }
            }
        }
        Ok((done.loss, done.gradients))
    }

    /// As [`Qwen3Vl::backward`] with checkpointing, from the patches of the images on: the tower's blocks too are
    /// run twice, and only the states between them are kept.
    ///
    /// # Errors
    /// As [`Qwen3Vl::image_features`] and [`Qwen3Vl::forward`].
    pub fn backward_from_patches(
        &self,
        batch: &Batch,
        patches: &Tensor,
        grids: &[Grid],
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        self.check_patches(patches, grids)?;
        let states = self.tower.states(patches, grids)?;
        let (cut, features) = self.tower.features(&states)?.detached().cut()?;
        let mut done = self.through_decoder(batch, Some(&features), &cut, loss)?;
        let vars = self.variables();
        let below = self.tower.backward(states, grids, &done.features, &vars)?;
        for var in &vars {
            if let Some(gradient) = below.get(var) {
                done.gradients.insert(var, gradient.clone());
            }
        }
        Ok((done.loss, done.gradients))
    }

    fn variables(&self) -> Vec<Var> {
        self.trainable().into_iter().map(|(_, var)| var).collect()
    }

    /// The decoder layer by layer; `cut` are the features where they are variables.
    fn through_decoder(
        &self,
        batch: &Batch,
        features: Option<&Features>,
        cut: &[Var],
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Decoded> {
        let mut vars = self.variables();
        vars.extend(cut.iter().cloned());
        let input = self.decoder.embed(batch, features)?;
        let context = self.decoder.context(batch, None)?;
        let layer = |i: usize, x: &Tensor| self.decoder.layer(i, x, &context, features, None, &mut |_, _, _| {});
        let end = |x: &Tensor| loss(&self.decoder.norm.forward(x)?);
        let done = checkpointing::backward(self.decoder.layers.len(), &input, layer, end, &vars)?;
        let mut gradients = done.gradients;
        if let (Some(upstream), Some(merged)) = (done.input, cut.first()) {
            let upstream = (input * upstream)?.sum_all()?.backward()?;
            if let Some(gradient) = upstream.get(merged) {
                gradients.insert(merged, gradient.detach());
            }
        }
        Ok(Decoded {
            loss: done.loss,
            features: cut.iter().map(|var| gradients.remove(var)).collect(),
            gradients,
        })
    }
}
