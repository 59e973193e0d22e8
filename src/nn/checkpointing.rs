//! Layer checkpointing: a chain of layers keeps only the state between them, and each layer is run a
//! second time when its gradients are due. Memory falls from all activations to those of one layer.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::add_gradients;
use crate::error::Result;

/// Result of a backward pass.
#[derive(Debug)]
pub struct Backward {
    /// The loss, a scalar outside the graph.
    pub loss: Tensor,
    /// Gradients of the variables that were asked for.
    pub gradients: GradStore,
    /// Gradient of the chain's input, when the input belongs to a graph.
    pub input: Option<Tensor>,
}

/// Runs `x = layer(i, x)` for `i` in `0..layers` from `input` on, then `loss(x)`, and propagates back;
/// `vars` are the variables whose gradients are wanted, wherever in the chain they are used. The
/// gradients are those of a plain backward pass.
///
/// # Errors
/// Those of `layer` and `loss`.
pub fn backward(
    layers: usize,
    input: &Tensor,
    layer: impl Fn(usize, &Tensor) -> Result<Tensor>,
    loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    vars: &[Var],
) -> Result<Backward> {
    let states = states(layers, input, &layer)?;
    backward_over(states, input.track_op(), layer, |_, _| Ok(None), loss, vars)
}

/// The input and what comes out of each of so many layers, outside any graph.
///
/// # Errors
/// Those of `layer`.
pub fn states(layers: usize, input: &Tensor, layer: impl Fn(usize, &Tensor) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let mut states = vec![input.detach()];
    for i in 0..layers {
        let state = layer(i, &states[i])?.detach();
        states.push(state);
    }
    Ok(states)
}

/// The backward pass over a chain whose [`states`] are known: `below` says whether the gradient of its input is
/// wanted; the scalar that `side(i, x)` may give for the output x of layer i counts as part of the loss (what is
/// reported as the loss is `loss(x)` alone).
///
/// # Errors
/// Those of `layer`, `side` and `loss`.
pub fn backward_over(
    mut states: Vec<Tensor>,
    below: bool,
    layer: impl Fn(usize, &Tensor) -> Result<Tensor>,
    side: impl Fn(usize, &Tensor) -> Result<Option<Tensor>>,
    loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    vars: &[Var],
) -> Result<Backward> {
    let mut gradients = GradStore::default();
    let Some(mut state) = states.pop() else {
        return Err(candle_core::Error::Msg("a chain of layers without an input".into()).into());
    };
    let layers = states.len();
    // The first layer's input needs no gradient unless something before it is trained.
    let mut variable = (layers > 0 || below).then(|| Var::from_tensor(&state)).transpose()?;
    let end = loss(variable.as_ref().map_or(&state, Var::as_tensor))?;
    let mut upstream = collect(&end, variable.as_ref(), vars, &mut gradients)?;
    for i in (0..layers).rev() {
        let Some(last) = upstream.take() else { break };
        state = match states.pop() {
            Some(state) => state,
            None => break,
        };
        variable = (i > 0 || below).then(|| Var::from_tensor(&state)).transpose()?;
        let output = layer(i, variable.as_ref().map_or(&state, Var::as_tensor))?;
        let mut product = (&output * last)?.sum_all()?;
        if let Some(side) = side(i, &output)? {
            product = (product + side)?;
        }
        upstream = collect(&product, variable.as_ref(), vars, &mut gradients)?;
    }
    Ok(Backward {
        loss: end.detach(),
        gradients,
        input: upstream,
    })
}

/// Adds the gradients of `vars` to `gradients`; gives that of `variable`.
fn collect(end: &Tensor, variable: Option<&Var>, vars: &[Var], gradients: &mut GradStore) -> Result<Option<Tensor>> {
    let found = end.backward()?;
    add_gradients(gradients, &found, vars)?;
    Ok(variable.and_then(|variable| found.get(variable)).map(Tensor::detach))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn var(values: &[f32]) -> Var {
        Var::new(values, &Device::Cpu).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.to_vec1().unwrap()
    }

    #[test]
    fn gradients_are_those_of_a_plain_backward() {
        let weights = [var(&[0.5, -1.5]), var(&[2.0, 0.25]), var(&[-0.75, 1.0])];
        let layer = |i: usize, x: &Tensor| Ok((x * weights[i].as_tensor())?.tanh()?.add(weights[0].as_tensor())?);
        let loss = |x: &Tensor| Ok(x.sqr()?.sum_all()?);
        for tracked in [false, true] {
            let start = var(&[0.3, -0.7]);
            let input = if tracked {
                start.affine(2.0, 0.0).unwrap()
            } else {
                start.as_detached_tensor()
            };
            let mut plain = input.clone();
            for i in 0..3 {
                plain = layer(i, &plain).unwrap();
            }
            let plain_loss: Tensor = loss(&plain).unwrap();
            let expected = plain_loss.backward().unwrap();
            let found = backward(3, &input, layer, loss, &weights).unwrap();
            assert_eq!(
                found.loss.to_scalar::<f32>().unwrap(),
                plain_loss.to_scalar::<f32>().unwrap()
            );
            for weight in &weights {
                let (found, expected) = (found.gradients.get(weight).unwrap(), expected.get(weight).unwrap());
                for (a, b) in numbers(found).iter().zip(numbers(expected)) {
                    assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} is not {b}");
                }
            }
            assert_eq!(found.input.is_some(), tracked);
            if let Some(upstream) = found.input {
                let chained = (numbers(&upstream)[0] * 2.0, numbers(&upstream)[1] * 2.0);
                let expected = numbers(expected.get(&start).unwrap());
                assert!((chained.0 - expected[0]).abs() < 1e-6 && (chained.1 - expected[1]).abs() < 1e-6);
            }
        }
    }
}
