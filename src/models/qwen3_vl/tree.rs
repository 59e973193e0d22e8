//! Many continuations of a prompt in one pass: the beginnings that they share are read once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Batch, Features, NextToken, Qwen3Vl};
use crate::error::Result;
use crate::example::Sequence;

/// The proper beginnings of the continuations of a prompt, each once.
///
/// A node is the last token of a beginning; its parent is the token before it. The last token of a
/// continuation is only scored, not read, so it is a node only where another continuation goes on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixTree {
    /// N tokens, parents before children.
    tokens: Vec<u32>,
    /// The node above each; `None`: the prompt.
    parents: Arc<[Option<u32>]>,
    /// The tokens that come next in each of the N + 1 places, ascending: after the prompt, after each node.
    next: Vec<Vec<u32>>,
    /// The place of each token of each continuation.
    places: Vec<Vec<usize>>,
}

/// A model's log-probability of one token in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural-log probability of the token.
    pub logprob: f32,
    /// The likeliest token in its place; the lowest of equals.
    pub likeliest: u32,
}

impl PrefixTree {
    /// The tree of these continuations.
    ///
    /// # Errors
    /// When one is empty.
    pub fn new(continuations: &[Vec<u32>]) -> Result<Self> {
        let (mut tokens, mut parents) = (Vec::new(), Vec::new());
        let mut next: Vec<BTreeSet<u32>> = vec![BTreeSet::new()];
        let mut places = Vec::with_capacity(continuations.len());
        let mut known = HashMap::new();
        for continuation in continuations {
            let Some((last, read)) = continuation.split_last() else {
                return Err(candle_core::Error::Msg("a continuation without a token".into()).into());
            };
            let mut path = vec![0];
            let mut place = 0;
            for &token in read {
                next[place].insert(token);
                let parent = place.checked_sub(1).map(|node| node as u32);
                place = *known.entry((place, token)).or_insert_with(|| {
                    tokens.push(token);
                    parents.push(parent);
                    next.push(BTreeSet::new());
                    tokens.len()
                });
                path.push(place);
            }
            next[place].insert(*last);
            places.push(path);
        }
        Ok(Self {
            tokens,
            parents: parents.into(),
            next: next.into_iter().map(|tokens| tokens.into_iter().collect()).collect(),
            places,
        })
    }

    /// The tokens of the N nodes, parents before children.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The parents of the N nodes; `None` where a node follows the prompt.
    #[must_use]
    pub fn parents(&self) -> &Arc<[Option<u32>]> {
        &self.parents
    }

    /// Number of nodes above each node.
    pub(super) fn depths(&self) -> impl Iterator<Item = u32> {
        let mut depths = Vec::with_capacity(self.parents.len());
        for parent in &*self.parents {
            let depth = parent
                .and_then(|parent| depths.get(parent as usize))
                .map_or(0, |above| above + 1);
            depths.push(depth);
        }
        depths.into_iter()
    }

    /// The scores of all tokens of all continuations from the distributions in the N + 1 places.
    fn scores(&self, continuations: &[Vec<u32>], next_tokens: &[NextToken]) -> Vec<Vec<TokenScore>> {
        let score = |(&token, &place): (&u32, &usize)| {
            let next_token = &next_tokens[place];
            let at = self.next[place].partition_point(|&other| other < token);
            TokenScore {
                logprob: next_token.log_probs[at],
                likeliest: next_token.likeliest,
            }
        };
        let path = |(tokens, places): (&Vec<u32>, &Vec<usize>)| tokens.iter().zip(places).map(score).collect();
        continuations.iter().zip(&self.places).map(path).collect()
    }
}

impl Qwen3Vl {
    /// Scores continuations of prompts in one pass: for each prompt, each of its continuations, each token.
    /// Prompts do not influence each other, nor do continuations; `features` are those of all images.
    ///
    /// # Errors
    /// As [`Qwen3Vl::batch`] and [`Qwen3Vl::forward`]; when a continuation is empty or holds a token that is
    /// no text.
    pub fn score(
        &self,
        prompts: &[(&Sequence, &[Vec<u32>])],
        features: Option<&Features>,
    ) -> Result<Vec<Vec<Vec<TokenScore>>>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let tree = |(_, continuations): &(&Sequence, &[Vec<u32>])| PrefixTree::new(continuations);
        let trees = prompts.iter().map(tree).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<(&Sequence, &PrefixTree)> = prompts.iter().map(|(prompt, _)| *prompt).zip(&trees).collect();
        let (image, merge) = (self.config.image_token_id, self.config.vision_config.spatial_merge_size);
        let batch = Batch::with_trees(&pairs, image, merge)?;
        let states = self.forward(&batch, features, None)?.detach();
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        let mut end = 0;
        for (prompt, tree) in &pairs {
            let first = end + prompt.ids.len() as u32 - 1;
            rows.extend((first..).take(tree.next.len()));
            tokens.extend(tree.next.iter().map(Vec::as_slice));
            end = first + tree.next.len() as u32;
        }
        let next_tokens = self.next_tokens(&states, &rows, &tokens)?;
        let mut rest = &next_tokens[..];
        let mut scores = Vec::with_capacity(prompts.len());
        for ((_, continuations), tree) in prompts.iter().zip(&trees) {
            let (own, others) = rest.split_at(tree.next.len());
            scores.push(tree.scores(continuations, own));
            rest = others;
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_beginnings_are_one_path() {
        let continuations = [vec![3, 4, 9], vec![3, 9], vec![3, 4, 5, 9], vec![7], vec![3, 9]];
        let tree = PrefixTree::new(&continuations).unwrap();
        assert_eq!(tree.tokens(), [3, 4, 5]);
        assert_eq!(tree.parents()[..], [None, Some(0), Some(1)]);
        assert_eq!(tree.depths().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(tree.next, [vec![3, 7], vec![4, 9], vec![5, 9], vec![9]]);
        assert_eq!(tree.places[2], [0, 1, 2, 3]);
        let next_token = |place: usize| NextToken {
            log_probs: tree.next[place]
                .iter()
                .map(|&token| -(100.0 * place as f32) - token as f32)
                .collect(),
            likeliest: place as u32,
        };
        let next_tokens: Vec<NextToken> = (0..4).map(next_token).collect();
        let scores = tree.scores(&continuations, &next_tokens);
        let found: Vec<(f32, u32)> = scores[2].iter().map(|score| (score.logprob, score.likeliest)).collect();
        assert_eq!(found, [(-3.0, 0), (-104.0, 1), (-205.0, 2), (-309.0, 3)]);
        assert_eq!(
            scores[3],
            [TokenScore {
                logprob: -7.0,
                likeliest: 0
            }]
        );
        assert_eq!(scores[1], scores[4]);
        assert!(PrefixTree::new(&[vec![1], vec![]]).is_err());
        assert_eq!(PrefixTree::new(&[]).unwrap().next, [vec![0u32; 0]]);
    }
}
