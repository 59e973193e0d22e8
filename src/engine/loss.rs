//! The losses of training: sums over positions of a function of the log-probability of the target.
//!
//! With p the model's probability of a target, q that of the policy which sampled it, A its advantage and w its weight, the loss of
//! a position is, by the names and formulas of <https://tinker-docs.thinkingmachines.ai/tinker/losses>:
//!
//! ```text
//! cross_entropy        −w · ln p
//! importance_sampling  −w · (p/q) · A
//! ppo                  −w · min((p/q) · A, clamp(p/q, low, high) · A)
//! cispo                −w · clamp(p/q, low, high) · ln p · A, the clamped ratio being a constant to the gradient
//! dro                  −w · (A · ln p − β/2 · (ln p − ln q)²)
//! ```
//!
//! As each depends on ln p alone, its gradient is that of a cross-entropy with the weights −d loss / d ln p. That is how it is computed,
//! and how a caller trains on a loss of its own: [`super::Engine::forward`], then a cross-entropy with these weights, which may be negative.

use crate::example::Datum;

/// A loss of training.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum LossFn {
    /// `−w · ln p`
    #[default]
    CrossEntropy,
    /// `−w · (p/q) · A` (<https://tinker-docs.thinkingmachines.ai/tinker/losses/importance-sampling>).
    ImportanceSampling,
    /// `−w · min(r · A, clamp(r, low, high) · A)` with r = p/q (<https://arxiv.org/abs/1707.06347>).
    Ppo {
        /// Least ratio; Tinker's default is 0.8.
        clip_low: f64,
        /// Greatest ratio; Tinker's default is 1.2.
        clip_high: f64,
    },
    /// `−w · clamp(r, low, high) · ln p · A` with r = p/q, the clamped ratio a constant (<https://arxiv.org/abs/2506.13585>).
    Cispo {
        /// Least ratio; Tinker's default is 0.8.
        clip_low: f64,
        /// Greatest ratio; Tinker's default is 1.2.
        clip_high: f64,
    },
    /// `−w · (A · ln p − β/2 · (ln p − ln q)²)` (<https://arxiv.org/abs/2405.19107>).
    Dro {
        /// β; Tinker's example has 0.05.
        beta: f64,
    },
}

/// The policy that sampled the targets of an example, as losses other than cross-entropy are told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyInputs {
    /// ln q of each target, nats; T numbers. 0 where the target was not sampled (the prompt).
    pub logprobs: Vec<f32>,
    /// A of each target; T numbers. 0 where the target was not sampled.
    pub advantages: Vec<f32>,
}

/// The loss of a pass, and the log-probabilities that it reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Objective<'a> {
    /// The loss.
    pub loss: LossFn,
    /// The sampling policy of each example; none for cross-entropy.
    pub policy: &'a [PolicyInputs],
    /// Report the log-probability of the target at every position, weighted or not, instead of 0 where there is no loss. Image
    /// positions without loss stay 0. It costs the logits of these positions.
    pub all_logprobs: bool,
}

/// One target under a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Term {
    pub weight: f32,
    /// ln q
    pub sampled: f32,
    /// A
    pub advantage: f32,
}

impl LossFn {
    /// True if examples come with the policy that sampled them.
    pub(super) fn needs_policy(self) -> bool {
        self != Self::CrossEntropy
    }

    /// Loss of a target, and its derivative by ln p; `logprob` is ln p.
    pub(super) fn at(self, logprob: f64, term: Term) -> (f64, f64) {
        let (weight, sampled, advantage) = (
            f64::from(term.weight),
            f64::from(term.sampled),
            f64::from(term.advantage),
        );
        let ratio = (logprob - sampled).exp();
        let (loss, slope) = match self {
            Self::CrossEntropy => (-logprob, -1.0),
            Self::ImportanceSampling => (-ratio * advantage, -ratio * advantage),
            Self::Ppo { clip_low, clip_high } => {
                let (free, clipped) = (ratio * advantage, ratio.clamp(clip_low, clip_high) * advantage);
                // Where the clipped one is less, the ratio is outside and the clamp is constant.
                if free <= clipped {
                    (-free, -free)
                } else {
                    (-clipped, 0.0)
                }
            }
            Self::Cispo { clip_low, clip_high } => {
                let factor = ratio.clamp(clip_low, clip_high) * advantage;
                (-factor * logprob, -factor)
            }
            Self::Dro { beta } => {
                let gap = logprob - sampled;
                (0.5 * beta * gap * gap - advantage * logprob, beta * gap - advantage)
            }
        };
        (weight * loss, weight * slope)
    }

    /// The reason why a loss makes no sense, if there is one.
    fn unfit(self) -> Option<String> {
        match self {
            Self::Ppo { clip_low, clip_high } | Self::Cispo { clip_low, clip_high } => {
                let sound = clip_low >= 0.0 && clip_low <= clip_high && clip_high.is_finite();
                (!sound).then(|| format!("ratios are to be clipped to {clip_low}…{clip_high}"))
            }
            Self::Dro { beta } if !(beta >= 0.0 && beta.is_finite()) => Some(format!("a beta of {beta}")),
            _ => None,
        }
    }
}

impl Objective<'_> {
    /// The terms of an example, number `index` of those given: one a position, `None` where there is no loss.
    ///
    /// Under a sampling policy these are the positions of advantage 0, and for [`LossFn::Dro`] those that were not sampled, which have
    /// log-probability 0 besides.
    ///
    /// # Errors
    /// A reason, when the policy does not fit the example or is not finite.
    pub(super) fn terms(&self, datum: &Datum, index: usize) -> Result<Vec<Option<Term>>, String> {
        if !self.loss.needs_policy() {
            let term = |&weight: &f32| {
                (weight != 0.0).then_some(Term {
                    weight,
                    sampled: 0.0,
                    advantage: 0.0,
                })
            };
            return Ok(datum.weights.iter().map(term).collect());
        }
        if let Some(reason) = self.loss.unfit() {
            return Err(reason);
        }
        let Some(PolicyInputs { logprobs, advantages }) = self.policy.get(index) else {
            return Err("it lacks the log-probabilities and advantages of the policy that sampled it".into());
        };
        let positions = datum.weights.len();
        if (logprobs.len(), advantages.len()) != (positions, positions) {
            return Err(format!(
                "{} log-probabilities and {} advantages for {positions} positions",
                logprobs.len(),
                advantages.len()
            ));
        }
        if let Some(number) = logprobs.iter().chain(advantages).find(|number| !number.is_finite()) {
            return Err(format!("a log-probability or an advantage of {number}"));
        }
        let all = datum.weights.iter().zip(logprobs.iter().zip(advantages));
        let term = |(&weight, (&sampled, &advantage)): (&f32, (&f32, &f32))| {
            let anchored = matches!(self.loss, LossFn::Dro { .. }) && sampled != 0.0;
            (weight != 0.0 && (advantage != 0.0 || anchored)).then_some(Term {
                weight,
                sampled,
                advantage,
            })
        };
        Ok(all.map(term).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{Chunk, ModelInput};

    const LOSSES: [LossFn; 5] = [
        LossFn::CrossEntropy,
        LossFn::ImportanceSampling,
        LossFn::Ppo {
            clip_low: 0.8,
            clip_high: 1.2,
        },
        LossFn::Cispo {
            clip_low: 0.8,
            clip_high: 1.2,
        },
        LossFn::Dro { beta: 0.05 },
    ];

    #[test]
    fn losses_and_slopes_are_those_of_the_reference() {
        // torch 2.x autograd of the formulas above in f64: ln p, ln q, A, w, then loss and d loss / d ln p of each loss in turn.
        let rows: &[[f64; 14]] = &include!("../../tests/fixtures/losses/reference.in");
        assert!(rows.len() >= 8);
        for row in rows {
            let term = Term {
                weight: row[3] as f32,
                sampled: row[1] as f32,
                advantage: row[2] as f32,
            };
            for (loss, expected) in LOSSES.iter().zip(row[4..].chunks_exact(2)) {
                let (value, slope) = loss.at(row[0], term);
                assert!(
                    (value - expected[0]).abs() <= 1e-9 * expected[0].abs().max(1.0)
                        && (slope - expected[1]).abs() <= 1e-9 * expected[1].abs().max(1.0),
                    "{loss:?} {row:?}: {value} {slope}"
                );
            }
        }
    }

    #[test]
    fn positions_that_were_not_sampled_have_no_loss_and_nonsense_is_told() {
        let datum = Datum {
            input: ModelInput {
                chunks: vec![Chunk::Tokens(vec![1, 2, 3, 4])],
            },
            target_tokens: vec![2, 3, 4, 5],
            weights: vec![1.0, 1.0, 1.0, 0.0],
        };
        let policy = [PolicyInputs {
            logprobs: vec![0.0, -1.0, -2.0, -3.0],
            advantages: vec![0.0, 0.0, 0.5, 0.5],
        }];
        let counted = |loss| -> Vec<bool> {
            let objective = Objective {
                loss,
                policy: &policy,
                all_logprobs: false,
            };
            let terms = objective.terms(&datum, 0).unwrap();
            terms.iter().map(Option::is_some).collect()
        };
        assert_eq!(counted(LossFn::ImportanceSampling), [false, false, true, false]);
        assert_eq!(counted(LossFn::Dro { beta: 0.1 }), [false, true, true, false]);
        assert_eq!(counted(LossFn::CrossEntropy), [true, true, true, false]);
        let of = |loss, policy: &[PolicyInputs]| {
            let objective = Objective {
                loss,
                policy,
                all_logprobs: false,
            };
            objective.terms(&datum, 0)
        };
        assert!(of(LossFn::ImportanceSampling, &[]).is_err());
        let mut broken = policy.clone();
        broken[0].advantages[1] = f32::NAN;
        assert!(of(LossFn::ImportanceSampling, &broken).is_err());
        broken[0].advantages.pop();
        assert!(of(LossFn::ImportanceSampling, &broken).is_err());
        for loss in [
            LossFn::Dro { beta: f64::NAN },
            LossFn::Ppo {
                clip_low: 1.2,
                clip_high: 0.8,
            },
        ] {
            assert!(of(loss, &policy).is_err());
        }
    }
}
