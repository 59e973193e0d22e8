//! AdamW and gradient clipping.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::ops::fused;
use crate::error::{Error, Result};

/// The settings of one step of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second.
    pub eps: f64,
    /// Decoupled weight decay: each step shrinks the weights by `lr · weight_decay`.
    pub weight_decay: f64,
}

/// Adds the gradients of the variables that have one. candle's gradients may hang on the graph that they were
/// computed with, so they are cut off.
///
/// # Errors
/// When the device is out of memory.
pub fn add_gradients<'v>(sum: &mut GradStore, new: &GradStore, vars: impl IntoIterator<Item = &'v Var>) -> Result<()> {
    for var in vars {
        let Some(new) = new.get(var) else { continue };
        let total = match sum.get(var) {
            None => new.detach(),
            Some(old) => (old + new.detach())?,
        };
        sum.insert(var, total);
    }
    Ok(())
}

/// AdamW (<https://arxiv.org/abs/1711.05101>) for variables that share all settings, with the arithmetic of
/// `torch.optim.AdamW`; state in f32.
#[derive(Debug)]
pub struct Adam {
    vars: Vec<Var>,
    moments: Vec<Moments>,
    steps: u32,
}

/// Running means of a variable's gradient and of its square.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Of the gradient; shaped as the variable.
    pub first: Tensor,
    /// Of its square.
    pub second: Tensor,
}

impl Moments {
    fn fit(&self, var: &Var) -> bool {
        var.shape() == self.first.shape() && var.shape() == self.second.shape()
    }
}

fn unfit() -> Error {
    candle_core::Error::Msg("moments of an optimiser do not fit the variables".into()).into()
}

impl Adam {
    /// An optimiser with zeroed moments.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(vars: Vec<Var>) -> Result<Self> {
        let zeroed = |var: &Var| {
            Ok(Moments {
                first: var.zeros_like()?,
                second: var.zeros_like()?,
            })
        };
        let moments = vars.iter().map(zeroed).collect::<Result<_>>()?;
        Ok(Self {
            vars,
            moments,
            steps: 0,
        })
    }

    /// The trained variables.
    #[must_use]
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The running means, in the order of the variables.
    #[must_use]
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Goes on from kept moments, in the order of the variables, after so many steps.
    ///
    /// # Errors
    /// When they do not fit the variables; nothing is changed then.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: u32) -> Result<()> {
        if moments.len() != self.vars.len() || !self.vars.iter().zip(&moments).all(|(var, moments)| moments.fit(var)) {
            return Err(unfit());
        }
        (self.moments, self.steps) = (moments, steps);
        Ok(())
    }

    /// One update.
    ///
    /// # Errors
    /// When a variable has no gradient: candle drops gradients silently, so nothing is changed then.
    pub fn step(&mut self, grads: &GradStore, rates: &Rates) -> Result<()> {
        for var in &self.vars {
            gradient(grads, var)?;
        }
        self.steps += 1;
        let Rates { lr, beta1, beta2, .. } = *rates;
        let steps = self.steps.min(i32::MAX as u32) as i32;
        let (correction1, correction2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
        for (var, moments) in self.vars.iter().zip(&mut self.moments) {
            let grad = gradient(grads, var)?;
            moments.first = ((&moments.first * beta1)? + (grad * (1.0 - beta1))?)?;
            moments.second = ((&moments.second * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
            let deviation = ((moments.second.sqrt()? / correction2.sqrt())? + rates.eps)?;
            let decayed = (var.as_tensor().detach() * (1.0 - lr * rates.weight_decay))?;
            let update = ((&moments.first / deviation)? * (lr / correction1))?;
            var.set(&(decayed - update)?)?;
        }
        Ok(())
    }
}

/// Variables that share a learning rate and a weight decay.
#[derive(Debug, Clone)]
pub struct Group {
    /// The trained variables.
    pub vars: Vec<Var>,
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay: each step shrinks the weights by `lr · weight_decay`.
    pub weight_decay: f64,
}

/// [`Adam`] for groups of variables whose learning rates follow one schedule.
#[derive(Debug)]
pub struct AdamW {
    /// Each with its rates at the peak of the schedule.
    groups: Vec<(Adam, Rates)>,
}

impl AdamW {
    /// An optimiser with zeroed moments.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(groups: Vec<Group>, beta1: f64, beta2: f64, eps: f64) -> Result<Self> {
        let with_rates = |group: Group| {
            let rates = Rates {
                lr: group.lr,
                beta1,
                beta2,
                eps,
                weight_decay: group.weight_decay,
            };
            Ok((Adam::new(group.vars)?, rates))
        };
        Ok(Self {
            groups: groups.into_iter().map(with_rates).collect::<Result<_>>()?,
        })
    }

    /// The running means, in the order of the groups and their variables.
    pub fn moments(&self) -> impl Iterator<Item = &Moments> {
        self.groups.iter().flat_map(|(adam, _)| adam.moments())
    }

    /// Goes on from kept moments, in the same order, after so many steps.
    ///
    /// # Errors
    /// When they do not fit the variables; nothing is changed then.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: u32) -> Result<()> {
        let count: usize = self.groups.iter().map(|(adam, _)| adam.vars.len()).sum();
        let vars = self.groups.iter().flat_map(|(adam, _)| &adam.vars);
        if count != moments.len() || !vars.zip(&moments).all(|(var, moments)| moments.fit(var)) {
            return Err(unfit());
        }
        let mut moments = moments.into_iter();
        for (adam, _) in &mut self.groups {
            let own = moments.by_ref().take(adam.vars.len()).collect();
            adam.restore(own, steps)?;
        }
        Ok(())
    }

    /// One update with learning rates of `lr_factor` times their peak.
    ///
    /// # Errors
    /// When a variable has no gradient: candle drops gradients silently, so nothing is changed then.
    pub fn step(&mut self, grads: &GradStore, lr_factor: f64) -> Result<()> {
        for var in self.groups.iter().flat_map(|(adam, _)| &adam.vars) {
            gradient(grads, var)?;
        }
        for (adam, peak) in &mut self.groups {
            let rates = Rates {
                lr: peak.lr * lr_factor,
                ..*peak
            };
            adam.step(grads, &rates)?;
        }
        Ok(())
    }
}

/// Scales all gradients down so that their common norm is at most `max`; gives the norm before, as
/// `torch.nn.utils.clip_grad_norm_`. The norm is NaN or infinite when a gradient is.
///
/// # Errors
/// When a variable has no gradient.
pub fn clip_grad_norm(vars: &[Var], grads: &mut GradStore, max: f64) -> Result<f64> {
    let mut squares = Vec::with_capacity(vars.len());
    for var in vars {
        squares.push(sum_of_squares(gradient(grads, var)?)?);
    }
    let norm = match &squares[..] {
        [] => 0.0,
        squares => Tensor::stack(squares, 0)?.to_vec1::<f64>()?.iter().sum::<f64>().sqrt(),
    };
    let factor = max / (norm + 1e-6);
    if factor < 1.0 {
        for var in vars {
            let scaled = (gradient(grads, var)? * factor)?;
            grads.insert(var.as_tensor(), scaled);
        }
    }
    Ok(norm)
}

/// A scalar in f64, where the gradient is.
fn sum_of_squares(gradient: &Tensor) -> Result<Tensor> {
    if !fused(gradient.device()) {
        return Ok(gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?);
    }
    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
    let sum = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    Ok(Tensor::new(sum, &Device::Cpu)?)
}

fn gradient<'a>(grads: &'a GradStore, var: &Var) -> Result<&'a Tensor> {
    let missing = || candle_core::Error::Msg(format!("a variable of {:?} got no gradient", var.shape()));
    Ok(grads.get(var.as_tensor()).ok_or_else(missing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quadratic(var: &Var) -> GradStore {
        var.as_tensor().sqr().unwrap().sum_all().unwrap().backward().unwrap()
    }

    #[test]
    fn matches_the_formula_by_hand() {
        let var = Var::new(&[2f32, -1.0], &Device::Cpu).unwrap();
        let group = Group {
            vars: vec![var.clone()],
            lr: 0.1,
            weight_decay: 0.5,
        };
        let mut optimiser = AdamW::new(vec![group], 0.9, 0.95, 1e-8).unwrap();
        let (mut expected, mut m, mut v) = ([2f64, -1.0], [0f64; 2], [0f64; 2]);
        for step in 1..=3 {
            let lr = 0.1 * 0.5;
            for i in 0..2 {
                let g = 2.0 * expected[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.95f64.powi(step)));
                expected[i] = expected[i] * (1.0 - lr * 0.5) - lr * m_hat / (v_hat.sqrt() + 1e-8);
            }
            optimiser.step(&quadratic(&var), 0.5).unwrap();
        }
        for (found, expected) in var.to_vec1::<f32>().unwrap().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn a_variable_without_gradient_is_an_error_and_changes_nothing() {
        let (used, unused) = (
            Var::new(&[1f32], &Device::Cpu).unwrap(),
            Var::new(&[1f32], &Device::Cpu).unwrap(),
        );
        let vars = vec![used.clone(), unused];
        let group = Group {
            vars: vars.clone(),
            lr: 0.1,
            weight_decay: 0.0,
        };
        let mut optimiser = AdamW::new(vec![group], 0.9, 0.95, 1e-8).unwrap();
        assert!(optimiser.step(&quadratic(&used), 1.0).is_err());
        assert_eq!(used.to_vec1::<f32>().unwrap(), [1.0]);
        assert!(clip_grad_norm(&vars, &mut quadratic(&used), 1.0).is_err());
    }

    #[test]
    fn groups_go_on_from_kept_moments_as_if_never_stopped() {
        let fresh = || {
            let vars = [vec![2f32, -1.0], vec![0.5]].map(|values| Var::new(values, &Device::Cpu).unwrap());
            let group = |var: &Var, lr| Group {
                vars: vec![var.clone()],
                lr,
                weight_decay: 0.1,
            };
            let groups = vec![group(&vars[0], 0.1), group(&vars[1], 0.3)];
            (AdamW::new(groups, 0.9, 0.95, 1e-8).unwrap(), vars)
        };
        let step = |optimiser: &mut AdamW, vars: &[Var; 2]| {
            let loss = vars.iter().map(|var| var.as_tensor().sqr().unwrap().sum_all().unwrap());
            let grads = loss.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap();
            optimiser.step(&grads, 0.5).unwrap();
        };
        let bits = |vars: &[Var; 2]| -> Vec<u32> {
            let all = vars.iter().flat_map(|var| var.to_vec1::<f32>().unwrap());
            all.map(f32::to_bits).collect()
        };
        let (mut whole, vars) = fresh();
        (0..3).for_each(|_| step(&mut whole, &vars));
        let kept: Vec<Moments> = whole.moments().cloned().collect();
        let weights = vars.each_ref().map(|var| var.as_tensor().copy().unwrap());
        let (mut resumed, again) = fresh();
        assert!(resumed.restore(kept[1..].to_vec(), 3).is_err());
        assert!(resumed.restore(vec![kept[1].clone(), kept[0].clone()], 3).is_err());
        resumed.restore(kept, 3).unwrap();
        again
            .iter()
            .zip(&weights)
            .for_each(|(var, kept)| var.set(kept).unwrap());
        for _ in 0..2 {
            step(&mut whole, &vars);
            step(&mut resumed, &again);
            assert_eq!(bits(&vars), bits(&again));
        }
    }

    #[test]
    fn clipping_scales_only_what_is_too_long() {
        let var = Var::new(&[1.5f32, 2.0], &Device::Cpu).unwrap(); // gradient (3, 4)
        let vars = [var.clone()];
        let mut grads = quadratic(&var);
        assert!((clip_grad_norm(&vars, &mut grads, 10.0).unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(
            grads.get(var.as_tensor()).unwrap().to_vec1::<f32>().unwrap(),
            [3.0, 4.0]
        );
        assert!((clip_grad_norm(&vars, &mut grads, 1.0).unwrap() - 5.0).abs() < 1e-9);
        let clipped = grads.get(var.as_tensor()).unwrap().to_vec1::<f32>().unwrap();
        assert!((clipped[0] - 0.6).abs() < 1e-6 && (clipped[1] - 0.8).abs() < 1e-6);
    }
}
