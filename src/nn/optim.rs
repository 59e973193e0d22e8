//! AdamW, gradient clipping and the learning-rate schedule.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::ops::fused;
use crate::error::{Error, Result};

/// The settings of one step of AdamW, in Tinker's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamParams {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second.
    pub eps: f64,
    /// Decoupled weight decay: each step shrinks the weights by `learning_rate · weight_decay`.
    pub weight_decay: f64,
    /// Global gradient norm above which gradients are scaled down; `None`: never.
    pub grad_clip_norm: Option<f64>,
}

impl Default for AdamParams {
    /// A learning rate of 1 without weight decay and clipping; moment decay rates and epsilon are those of every training.
    fn default() -> Self {
        Self {
            learning_rate: 1.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip_norm: None,
        }
    }
}

/// Adds the gradients of the variables that have one. candle's gradients may hang on the graph that they were
/// computed with, so they are cut off.
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

/// Running means of a variable's gradient and of its square.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Of the gradient; shaped as the variable.
    pub first: Tensor,
    /// Of its square.
    pub second: Tensor,
}

/// Variables that share a learning rate and a weight decay.
#[derive(Debug, Clone)]
pub struct ParamGroup {
    /// The trained variables.
    pub vars: Vec<Var>,
    /// Learning rate where [`AdamParams::learning_rate`] is 1.
    pub lr: f64,
    /// Decoupled weight decay where [`AdamParams::weight_decay`] is 1.
    pub weight_decay: f64,
}

/// AdamW (<https://arxiv.org/abs/1711.05101>) with the arithmetic of `torch.optim.AdamW`; state in f32.
#[derive(Debug)]
pub struct AdamW {
    groups: Vec<ParamGroup>,
    /// In the order of the groups and their variables.
    moments: Vec<Moments>,
    steps: u32,
}

impl AdamW {
    /// An optimiser with zeroed moments.
    pub fn new(groups: Vec<ParamGroup>) -> Result<Self> {
        let zeroed = |var: &Var| {
            Ok(Moments {
                first: var.zeros_like()?,
                second: var.zeros_like()?,
            })
        };
        let vars = groups.iter().flat_map(|group| &group.vars);
        Ok(Self {
            moments: vars.map(zeroed).collect::<Result<_>>()?,
            groups,
            steps: 0,
        })
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The running means, in the order of the groups and their variables.
    #[must_use]
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Goes on from kept moments, in the same order, after so many steps.
    ///
    /// # Errors
    /// When they do not fit the variables; nothing is changed then.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: u32) -> Result<()> {
        let fits = |(var, of): (&Var, &Moments)| [var.shape(); 2] == [of.first.shape(), of.second.shape()];
        if moments.len() != self.moments.len() || !self.vars().zip(&moments).all(fits) {
            return Err(candle_core::Error::Msg("moments of an optimiser do not fit the variables".into()).into());
        }
        (self.moments, self.steps) = (moments, steps);
        Ok(())
    }

    /// Clips the gradients and takes one step; gives their norm before clipping.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the norm is not; [`Error::Tensor`] when a variable has no gradient: candle drops gradients
    /// silently. No variable is changed then.
    pub fn step(&mut self, grads: &mut GradStore, params: &AdamParams) -> Result<f64> {
        let vars: Vec<Var> = self.vars().cloned().collect();
        let norm = clip_grad_norm(&vars, grads, params.grad_clip_norm.unwrap_or(f64::INFINITY))?;
        if !norm.is_finite() {
            return Err(Error::NotFinite {
                what: "gradient norm",
                step: self.steps as usize,
            });
        }
        self.steps += 1;
        let AdamParams { beta1, beta2, .. } = *params;
        let steps = self.steps.min(i32::MAX as u32) as i32;
        let (correction1, correction2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
        let mut all = self.moments.iter_mut();
        for group in &self.groups {
            let lr = group.lr * params.learning_rate;
            let weight_decay = group.weight_decay * params.weight_decay;
            for (var, moments) in group.vars.iter().zip(all.by_ref()) {
                let grad = gradient(grads, var)?;
                moments.first = ((&moments.first * beta1)? + (grad * (1.0 - beta1))?)?;
                moments.second = ((&moments.second * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
                let deviation = ((moments.second.sqrt()? / correction2.sqrt())? + params.eps)?;
                let decayed = (var.as_tensor().detach() * (1.0 - lr * weight_decay))?;
                let update = ((&moments.first / deviation)? * (lr / correction1))?;
                var.set(&(decayed - update)?)?;
            }
        }
        Ok(norm)
    }

    fn vars(&self) -> impl Iterator<Item = &Var> {
        self.groups.iter().flat_map(|group| &group.vars)
    }
}

/// Scales all gradients down so that their common norm is at most `max`; gives the norm before, as
/// `torch.nn.utils.clip_grad_norm_`. The norm is NaN or infinite when a gradient is.
///
/// # Errors
/// When a variable has no gradient.
fn clip_grad_norm(vars: &[Var], grads: &mut GradStore, max: f64) -> Result<f64> {
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

/// Factor in [0, 1] on the peak learning rate at zero-based `step` of `steps`.
///
/// It rises linearly over the first `warmup_steps` (the first step already moves), reaches 1 at the
/// last of them and follows a cosine to 0, which the step after the last would have.
#[must_use]
pub fn warmup_cosine(step: usize, steps: usize, warmup_steps: usize) -> f64 {
    if step < warmup_steps {
        return (step + 1) as f64 / warmup_steps as f64;
    }
    let (passed, length) = (step - warmup_steps, steps.saturating_sub(warmup_steps).max(1));
    let progress = (passed as f64 / length as f64).min(1.0);
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(learning_rate: f64) -> AdamParams {
        AdamParams {
            learning_rate,
            weight_decay: 1.0,
            ..AdamParams::default()
        }
    }

    fn quadratic(var: &Var) -> GradStore {
        var.as_tensor().sqr().unwrap().sum_all().unwrap().backward().unwrap()
    }

    #[test]
    fn matches_the_formula_by_hand() {
        let var = Var::new(&[2f32, -1.0], &Device::Cpu).unwrap();
        let group = ParamGroup {
            vars: vec![var.clone()],
            lr: 0.1,
            weight_decay: 0.5,
        };
        let mut optimiser = AdamW::new(vec![group]).unwrap();
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
            optimiser.step(&mut quadratic(&var), &at(0.5)).unwrap();
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
        let group = ParamGroup {
            vars: vars.clone(),
            lr: 0.1,
            weight_decay: 0.0,
        };
        let mut optimiser = AdamW::new(vec![group]).unwrap();
        assert!(optimiser.step(&mut quadratic(&used), &at(1.0)).is_err());
        assert_eq!(used.to_vec1::<f32>().unwrap(), [1.0]);
        assert!(clip_grad_norm(&vars, &mut quadratic(&used), 1.0).is_err());
    }

    #[test]
    fn groups_go_on_from_kept_moments_as_if_never_stopped() {
        let fresh = || {
            let vars = [vec![2f32, -1.0], vec![0.5]].map(|values| Var::new(values, &Device::Cpu).unwrap());
            let group = |var: &Var, lr| ParamGroup {
                vars: vec![var.clone()],
                lr,
                weight_decay: 0.1,
            };
            let groups = vec![group(&vars[0], 0.1), group(&vars[1], 0.3)];
            (AdamW::new(groups).unwrap(), vars)
        };
        let step = |optimiser: &mut AdamW, vars: &[Var; 2]| {
            let loss = vars.iter().map(|var| var.as_tensor().sqr().unwrap().sum_all().unwrap());
            let mut grads = loss.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap();
            optimiser.step(&mut grads, &at(0.5)).unwrap();
        };
        let bits = |vars: &[Var; 2]| -> Vec<u32> {
            let all = vars.iter().flat_map(|var| var.to_vec1::<f32>().unwrap());
            all.map(f32::to_bits).collect()
        };
        let (mut whole, vars) = fresh();
        (0..3).for_each(|_| step(&mut whole, &vars));
        let kept: Vec<Moments> = whole.moments().to_vec();
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

    #[test]
    fn rises_then_falls_to_zero() {
        let factors: Vec<f64> = (0..=100).map(|step| warmup_cosine(step, 100, 10)).collect();
        assert!((factors[0] - 0.1).abs() < 1e-12 && factors[9] == 1.0 && factors[10] == 1.0);
        assert!(factors[..10].is_sorted() && factors[10..].is_sorted_by(|a, b| a >= b));
        assert!((factors[55] - 0.5).abs() < 1e-12 && factors[99] > 0.0 && factors[100].abs() < 1e-12);
    }

    #[test]
    fn degenerate_lengths_stay_in_range() {
        for (step, steps, warmup) in [(0, 0, 0), (0, 1, 0), (0, 1, 1), (5, 3, 3), (7, 3, 0)] {
            assert!((0.0..=1.0).contains(&warmup_cosine(step, steps, warmup)));
        }
    }
}
