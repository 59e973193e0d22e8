//! Sequences of text and images as the decoder takes them: packed one after the other, without padding.
//!
//! A batch of sequences of T₁, T₂, … tokens has R = T₁ + T₂ + … rows, whatever their lengths; so has the tower's of images of N₁,
//! N₂, … patches. Linear layers and norms work on rows and need not know whose they are; attention goes segment by segment
//! ([`Segment`]: one sequence, one image), and positions begin anew with each sequence. A prompt with its tree of continuations
//! is one segment, whose mask is the tree. So a packed batch is its parts one by one, values and gradients
//! (`tests/it/packing.rs`), and no row is computed for nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::example::Sequence;
use crate::nn::ops::{Mask, Segment};

/// Positions of tokens in time, height and width.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// One number a token for each axis.
    pub axes: [Vec<u32>; 3],
    /// The position of the token that comes next, on every axis.
    pub next: u32,
}

/// Rows for the decoder: the tokens of several sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, R of them.
    pub(super) ids: Vec<u32>,
    /// Rows of each sequence.
    pub(super) lengths: Vec<usize>,
    /// The attention mask of each sequence.
    masks: Vec<Mask>,
    /// Time, height and width of each token, R each.
    pub(super) axes: [Vec<u32>; 3],
    /// Rows that hold a placeholder.
    pub(super) visual: Vec<u32>,
    /// Position of each sequence's next token.
    next: Vec<u32>,
}

/// The rows of one sequence in a batch that goes on with several.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// None: it takes no part in this pass.
    None,
    /// One more token.
    Token {
        /// The token.
        token: u32,
        /// Its position on every axis: see [`Batch::next`].
        position: u32,
    },
    /// Its beginning.
    Prompt(&'a Sequence),
}

impl Positions {
    /// M-RoPE positions: text counts up on all axes at once; an image starts where the text stopped and
    /// spreads over height and width at one time; text goes on after its longer side.
    ///
    /// # Errors
    /// When placeholders and grids do not fit each other.
    pub fn of(sequence: &Sequence, image_token: u32, merge: usize) -> Result<Self> {
        let ids = &sequence.ids;
        let mut positions = Self::default();
        let mut images = sequence.images.iter();
        let mut at = 0;
        while let Some(&id) = ids.get(at) {
            if id != image_token {
                positions.axes.iter_mut().for_each(|axis| axis.push(positions.next));
                positions.next += 1;
                at += 1;
                continue;
            }
            let grid = images.next().ok_or_else(|| mismatch("more placeholders than images"))?;
            let run = ids[at..].iter().take_while(|&&id| id == image_token).count();
            if run != grid.tokens(merge) {
                return Err(mismatch(&format!(
                    "{run} placeholders for an image of {}",
                    grid.tokens(merge)
                )));
            }
            let (rows, columns) = ((grid.rows / merge) as u32, (grid.columns / merge) as u32);
            for row in 0..rows {
                for column in 0..columns {
                    let [time, height, width] = &mut positions.axes;
                    time.push(positions.next);
                    height.push(positions.next + row);
                    width.push(positions.next + column);
                }
            }
            positions.next += rows.max(columns);
            at += run;
        }
        if images.next().is_some() {
            return Err(mismatch("more images than placeholders"));
        }
        Ok(positions)
    }
}

fn mismatch(reason: &str) -> Error {
    Error::tensor(format!("tokens and images do not fit: {reason}"))
}

impl Batch {
    /// Whole sequences.
    ///
    /// # Errors
    /// When the placeholders of a sequence do not fit its images, or it is empty.
    pub fn new(sequences: &[Sequence], image_token: u32, merge: usize) -> Result<Self> {
        let mut batch = Self::default();
        for sequence in sequences {
            batch.push(sequence, image_token, merge)?;
        }
        Ok(batch)
    }

    /// Prompts, each followed by the nodes of a tree of continuations. A node stands at the position that it
    /// has in its continuation, and attends to the prompt and the nodes above it. Such a batch does not go on.
    ///
    /// # Errors
    /// As [`Batch::new`]; when a continuation holds a placeholder of an image.
    pub fn with_trees(prompts: &[(&Sequence, &PrefixTree)], image_token: u32, merge: usize) -> Result<Self> {
        let mut batch = Self::default();
        for (prompt, tree) in prompts {
            let next = batch.push(prompt, image_token, merge)?;
            if tree.tokens.contains(&image_token) {
                return Err(mismatch("an image in a continuation"));
            }
            batch.ids.extend(&tree.tokens);
            for axis in &mut batch.axes {
                axis.extend(tree.depths.iter().map(|depth| next + depth));
            }
            if let (Some(length), Some(mask)) = (batch.lengths.last_mut(), batch.masks.last_mut()) {
                *length += tree.tokens.len();
                *mask = Mask::Tree(tree.parents.clone());
            }
        }
        Ok(batch)
    }

    /// Adds a sequence; gives the position that follows it.
    fn push(&mut self, sequence: &Sequence, image_token: u32, merge: usize) -> Result<u32> {
        if sequence.ids.is_empty() {
            return Err(mismatch("a sequence is empty"));
        }
        let positions = Positions::of(sequence, image_token, merge)?;
        let start = self.ids.len() as u32;
        let placeholders = sequence.ids.iter().zip(start..).filter(|(id, _)| **id == image_token);
        self.visual.extend(placeholders.map(|(_, row)| row));
        self.ids.extend(&sequence.ids);
        self.lengths.push(sequence.ids.len());
        self.masks.push(Mask::Causal);
        self.next.push(positions.next);
        for (all, axis) in self.axes.iter_mut().zip(positions.axes) {
            all.extend(axis);
        }
        Ok(positions.next)
    }

    /// Rows of several sequences, one part each.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn of_parts(parts: &[Part], image_token: u32, merge: usize) -> Result<Self> {
        let mut batch = Self::default();
        for part in parts {
            match part {
                Part::None => batch.step(None, 0),
                Part::Token { token, position } => batch.step(Some(*token), *position),
                Part::Prompt(sequence) => {
                    batch.push(sequence, image_token, merge)?;
                }
            }
        }
        Ok(batch)
    }

    /// The position of the token that follows this batch in a sequence, if it has a part in it.
    #[must_use]
    pub fn next(&self, sequence: usize) -> Option<u32> {
        let taking_part = self.lengths.get(sequence).is_some_and(|&length| length > 0);
        self.next.get(sequence).copied().filter(|_| taking_part)
    }

    /// One more token of one more sequence, or none.
    fn step(&mut self, token: Option<u32>, position: u32) {
        self.lengths.push(usize::from(token.is_some()));
        self.masks.push(Mask::Causal);
        self.next.push(position + u32::from(token.is_some()));
        if let Some(token) = token {
            self.ids.push(token);
            self.axes.iter_mut().for_each(|axis| axis.push(position));
        }
    }

    /// One more token for each sequence that goes on, at the position that follows this batch.
    #[must_use]
    pub fn then(&self, tokens: &[Option<u32>]) -> Self {
        let mut batch = Self::default();
        for (&token, &position) in tokens.iter().zip(&self.next) {
            batch.step(token, position);
        }
        batch
    }

    /// The sequences one after the other, none seeing another.
    pub(super) fn segments(&self) -> Arc<[Segment]> {
        let mut end = 0;
        let segment = |(&length, mask): (&usize, &Mask)| {
            let rows = end..end + length;
            end = rows.end;
            (length > 0).then(|| Segment {
                queries: rows.clone(),
                keys: rows,
                mask: mask.clone(),
            })
        };
        self.lengths.iter().zip(&self.masks).filter_map(segment).collect()
    }

    /// The row of token `token` (of a tree: node after node behind the prompt) of sequence `sequence`, if there is one.
    #[must_use]
    pub fn row(&self, sequence: usize, token: usize) -> Option<u32> {
        let length = *self.lengths.get(sequence)?;
        let start: usize = self.lengths[..sequence].iter().sum();
        (token < length).then_some((start + token) as u32)
    }

    /// The row of the last token of sequence `sequence`, if it has one.
    #[must_use]
    pub fn last_row(&self, sequence: usize) -> Option<u32> {
        self.row(sequence, self.lengths.get(sequence)?.checked_sub(1)?)
    }

    /// The row of the last token of each sequence that has one.
    #[must_use]
    pub fn last_rows(&self) -> Vec<u32> {
        let lengths = self.lengths.iter().filter(|&&length| length > 0);
        let ends = lengths.scan(0, |end, length| {
            *end += length;
            Some(*end as u32 - 1)
        });
        ends.collect()
    }
}

/// The proper beginnings of the continuations of a prompt, each once.
///
/// A node is the last token of a beginning; its parent is the token before it. The last token of a
/// continuation is only scored, not read, so it is a node only where another continuation goes on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixTree {
    /// N tokens, parents before children.
    tokens: Vec<u32>,
    /// The node above each; `None`: the prompt.
    pub(super) parents: Arc<[Option<u32>]>,
    /// Number of nodes above each.
    pub(super) depths: Vec<u32>,
    /// The tokens that come next in each of the N + 1 places, ascending: after the prompt, after each node.
    pub(super) next: Vec<Vec<u32>>,
    /// The place of each token of each continuation.
    pub(super) places: Vec<Vec<usize>>,
}

impl PrefixTree {
    /// The tree of these continuations.
    ///
    /// # Errors
    /// When one is empty.
    pub fn new(continuations: &[Vec<u32>]) -> Result<Self> {
        let (mut tokens, mut parents, mut depths) = (Vec::new(), Vec::new(), Vec::new());
        let mut next: Vec<BTreeSet<u32>> = vec![BTreeSet::new()];
        let mut places = Vec::with_capacity(continuations.len());
        let mut known = HashMap::new();
        for continuation in continuations {
            let Some((last, read)) = continuation.split_last() else {
                return Err(Error::tensor("a continuation without a token"));
            };
            let mut path = vec![0];
            let mut place = 0;
            for &token in read {
                next[place].insert(token);
                let parent = place.checked_sub(1).map(|node| node as u32);
                place = *known.entry((place, token)).or_insert_with(|| {
                    tokens.push(token);
                    parents.push(parent);
                    depths.push(path.len() as u32 - 1);
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
            depths,
            next: next.into_iter().map(|tokens| tokens.into_iter().collect()).collect(),
            places,
        })
    }

    /// The tokens of the N nodes, parents before children.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Grid;

    const IMAGE: u32 = 9;

    #[test]
    fn images_spread_and_text_goes_on_after_the_longer_side() {
        let wide = Grid { rows: 2, columns: 6 };
        let tall = Grid { rows: 4, columns: 2 };
        let ids = vec![1, IMAGE, IMAGE, IMAGE, 2, IMAGE, IMAGE, 3, 4];
        let sequence = Sequence {
            ids,
            images: vec![wide, tall],
        };
        let positions = Positions::of(&sequence, IMAGE, 2).unwrap();
        assert_eq!(positions.axes[0], [0, 1, 1, 1, 4, 5, 5, 7, 8]);
        assert_eq!(positions.axes[1], [0, 1, 1, 1, 4, 5, 6, 7, 8]);
        assert_eq!(positions.axes[2], [0, 1, 2, 3, 4, 5, 5, 7, 8]);
        assert_eq!(positions.next, 9);
    }

    #[test]
    fn placeholders_must_fit_the_images() {
        let grid = Grid { rows: 2, columns: 4 };
        for (ids, images) in [
            (vec![1, IMAGE], vec![grid]),
            (vec![1, IMAGE, IMAGE], vec![]),
            (vec![1], vec![grid]),
            (vec![IMAGE, IMAGE, 1, IMAGE, IMAGE], vec![grid]),
            (vec![], vec![]),
        ] {
            assert!(Batch::new(&[Sequence { ids, images }], IMAGE, 2).is_err());
        }
    }

    #[test]
    fn nodes_stand_where_their_continuations_would_have_them() {
        let wide = Grid { rows: 2, columns: 6 };
        let prompt = Sequence {
            ids: vec![1, IMAGE, IMAGE, IMAGE, 2],
            images: vec![wide],
        };
        let text = Sequence {
            ids: vec![5],
            images: vec![],
        };
        let tree = PrefixTree::new(&[vec![3, 4, 8], vec![3, 5, 8], vec![6, 8]]).unwrap();
        let batch = Batch::with_trees(&[(&prompt, &tree), (&text, &tree)], IMAGE, 2).unwrap();
        assert_eq!(batch.ids, [1, IMAGE, IMAGE, IMAGE, 2, 3, 4, 5, 6, 5, 3, 4, 5, 6]);
        assert_eq!(batch.axes[0], [0, 1, 1, 1, 4, 5, 6, 6, 5, 0, 1, 2, 2, 1]);
        assert_eq!(batch.axes[1][5..], batch.axes[0][5..]);
        assert_eq!((batch.row(1, 1), batch.visual.len()), (Some(10), 3));
        let [first, second] = &batch.segments()[..] else {
            panic!()
        };
        assert_eq!((first.queries.clone(), second.keys.clone()), (0..9, 9..14));
        assert_eq!(first.mask, Mask::Tree(vec![None, Some(0), Some(0), None].into()));
        let image = PrefixTree::new(&[vec![3, IMAGE, 8]]).unwrap();
        assert!(Batch::with_trees(&[(&text, &image)], IMAGE, 2).is_err());
    }

    #[test]
    fn rows_follow_one_another() {
        let text = |ids: &[u32]| Sequence {
            ids: ids.to_vec(),
            images: vec![],
        };
        let batch = Batch::new(&[text(&[1, 2, 3]), text(&[4, 5])], IMAGE, 2).unwrap();
        assert_eq!(batch.last_rows(), [2, 4]);
        assert_eq!(
            (batch.row(1, 1), batch.row(1, 2), batch.row(2, 0)),
            (Some(4), None, None)
        );
        assert_eq!(batch.next, [3, 2]);
        let then = batch.then(&[None, Some(6)]);
        assert_eq!((&then.ids[..], then.last_rows()), (&[6][..], vec![0]));
        assert_eq!((then.axes[1][0], &then.next[..]), (2, &[3, 3][..]));
    }
}
