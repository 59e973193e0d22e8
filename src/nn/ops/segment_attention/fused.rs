//! Attention over segments on the CPU: one task per segment and key head, compiled for the machine's
//! vectors; scores, softmax and weighted sum of a head stay in cache.

use rayon::prelude::*;

use super::{Attention, Mask, Segment};
use crate::nn::ops::attention::CpuAttention;
use crate::nn::ops::elementary::{softmax, softmax_backward};
use crate::nn::ops::product::{Matrix, Scratch, Target, add_rows, multiply_row};

/// Result of one task: (H/G, T, K) of the queries, and in a backward pass (S, K) of keys and values.
#[derive(Default)]
struct Block {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One key head of one segment, with the query heads it serves.
#[derive(Clone, Copy)]
struct Task<'a> {
    op: &'a Attention,
    segment: &'a Segment,
    key_head: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// Empty forward.
    upstream: &'a [f32],
}

impl pulp::WithSimd for Task<'_> {
    type Output = Block;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> Block {
        if self.upstream.is_empty() {
            self.forward(simd)
        } else {
            self.backward(simd)
        }
    }
}

impl<'a> Task<'a> {
    /// One query head of the segment, as (T, K).
    #[inline(always)]
    fn of_queries(&self, values: &'a [f32], head: usize) -> Matrix<'a> {
        let stride = self.op.width();
        let head = self.key_head * self.op.group() + head;
        let start = self.segment.queries.start * stride + head * self.op.head_dim;
        Matrix::rows(values, start, stride)
    }

    /// The key head of the segment, as (S, K).
    #[inline(always)]
    fn of_keys(&self, values: &'a [f32]) -> Matrix<'a> {
        let stride = self.op.key_width();
        let start = self.segment.keys.start * stride + self.key_head * self.op.head_dim;
        Matrix::rows(values, start, stride)
    }

    /// `target = a · bᵀ` of (T, K) and (S, K): (T, S).
    #[inline(always)]
    fn outer<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, a: Matrix, b: Matrix, target: &mut [f32]) {
        let (t, s) = (self.segment.queries.len(), self.segment.keys.len());
        scratch.multiply(simd, (t, s, self.op.head_dim), a, b, Target::rows(target, s));
    }

    /// Softmax of the scaled scores: (T, S), zeros where a query does not attend to a key.
    #[inline(always)]
    fn probabilities<S: pulp::Simd>(&self, simd: S, scratch: &mut Scratch, head: usize, target: &mut [f32]) {
        let (t, s) = (self.segment.queries.len(), self.segment.keys.len());
        self.outer(
            simd,
            scratch,
            self.of_queries(self.q, head),
            self.of_keys(self.k),
            target,
        );
        let (mut nodes, mut path) = (Vec::new(), Vec::new());
        for (i, row) in target.chunks_exact_mut(s).enumerate() {
            let visible = self.segment.mask.visible(i, (t, s), &mut nodes);
            if nodes.is_empty() {
                let (seen, unseen) = row.split_at_mut(visible);
                softmax(seen, self.op.scale());
                unseen.fill(0.0);
                continue;
            }
            // The visible scores stand together for the softmax, as it would in a sequence.
            path.clear();
            path.extend_from_slice(&row[..visible]);
            path.extend(nodes.iter().map(|&node| row[node]));
            softmax(&mut path, self.op.scale());
            row.fill(0.0);
            let (before, seen) = path.split_at(visible);
            row[..visible].copy_from_slice(before);
            for (&node, &p) in nodes.iter().zip(seen) {
                row[node] = p;
            }
        }
    }

    #[inline(always)]
    fn forward<S: pulp::Simd>(&self, simd: S) -> Block {
        let (t, s, k) = (self.segment.queries.len(), self.segment.keys.len(), self.op.head_dim);
        if t == 1 && !matches!(self.segment.mask, Mask::Tree(_)) {
            return self.one_query(simd);
        }
        let mut scratch = Scratch::default();
        let mut probabilities = vec![0f32; t * s];
        let mut queries = vec![0f32; self.op.group() * t * k];
        for (head, out) in queries.chunks_exact_mut(t * k).enumerate() {
            self.probabilities(simd, &mut scratch, head, &mut probabilities);
            let values = self.of_keys(self.v).transposed();
            scratch.multiply(
                simd,
                (t, k, s),
                Matrix::rows(&probabilities, 0, s),
                values,
                Target::rows(out, k),
            );
        }
        Block {
            queries,
            ..Block::default()
        }
    }

    /// One query that sees all keys, as in generation: nothing is packed, and not a bit is another one.
    #[inline(always)]
    fn one_query<S: pulp::Simd>(&self, simd: S) -> Block {
        let (s, k) = (self.segment.keys.len(), self.op.head_dim);
        let mut probabilities = vec![0f32; s];
        let mut queries = vec![0f32; self.op.group() * k];
        let first = self.segment.queries.start * self.op.width() + self.key_head * self.op.group() * k;
        let own = self.q[first..].chunks_exact(k);
        for (query, out) in own.zip(queries.chunks_exact_mut(k)) {
            multiply_row(simd, query, self.of_keys(self.k), &mut probabilities);
            softmax(&mut probabilities, self.op.scale());
            add_rows(simd, &probabilities, self.of_keys(self.v), out);
        }
        Block {
            queries,
            ..Block::default()
        }
    }

    #[inline(always)]
    fn backward<S: pulp::Simd>(&self, simd: S) -> Block {
        let (t, s, k) = (self.segment.queries.len(), self.segment.keys.len(), self.op.head_dim);
        let mut scratch = Scratch::default();
        let (mut probabilities, mut scores) = (vec![0f32; t * s], vec![0f32; t * s]);
        let mut part = vec![0f32; s * k];
        let mut block = Block {
            queries: vec![0f32; self.op.group() * t * k],
            keys: vec![0f32; s * k],
            values: vec![0f32; s * k],
        };
        for (head, to_queries) in block.queries.chunks_exact_mut(t * k).enumerate() {
            self.probabilities(simd, &mut scratch, head, &mut probabilities);
            let upstream = self.of_queries(self.upstream, head);
            self.outer(simd, &mut scratch, upstream, self.of_keys(self.v), &mut scores); // gradient of the probabilities
            for (row, p) in scores.chunks_exact_mut(s).zip(probabilities.chunks_exact(s)) {
                softmax_backward(row, p, self.op.scale());
            }
            let keys = self.of_keys(self.k).transposed();
            let of_scores = Matrix::rows(&scores, 0, s);
            scratch.multiply(simd, (t, k, s), of_scores, keys, Target::rows(to_queries, k));
            let queries = self.of_queries(self.q, head).transposed();
            let of_probabilities = Matrix::rows(&probabilities, 0, s);
            for (weights, rows, sum) in [
                (of_scores, queries, &mut block.keys),
                (of_probabilities, upstream.transposed(), &mut block.values),
            ] {
                let target = Target::rows(&mut part, k);
                scratch.multiply(simd, (s, k, t), weights.transposed(), rows, target);
                for (sum, part) in sum.iter_mut().zip(&part) {
                    *sum += part;
                }
            }
        }
        block
    }
}

impl Attention {
    /// The blocks of all tasks, segment by segment, key head by key head.
    fn blocks(&self, [q, k, v, upstream]: [&[f32]; 4]) -> Vec<Block> {
        let task = |i: usize| {
            let (segment, key_head) = self.place(i);
            pulp::Arch::new().dispatch(Task {
                op: self,
                segment,
                key_head,
                q,
                k,
                v,
                upstream,
            })
        };
        (0..self.segments.len() * self.heads.key)
            .into_par_iter()
            .map(task)
            .collect()
    }

    /// The place of block `i`.
    fn place(&self, i: usize) -> (&Segment, usize) {
        (&self.segments[i / self.heads.key], i % self.heads.key)
    }

    /// Writes (H/G, T, K) of a block into rows of H·K.
    fn scatter_queries(&self, i: usize, from: &[f32], to: &mut [f32]) {
        let ((segment, key_head), k) = (self.place(i), self.head_dim);
        let t = segment.queries.len();
        for (i, values) in from.chunks_exact(k).enumerate() {
            let (head, row) = (key_head * self.group() + i / t, segment.queries.start + i % t);
            to[row * self.width() + head * k..][..k].copy_from_slice(values);
        }
    }

    /// Writes (S, K) of a block into rows of G·K.
    fn scatter_keys(&self, i: usize, from: &[f32], to: &mut [f32]) {
        let ((segment, key_head), k) = (self.place(i), self.head_dim);
        for (row, values) in segment.keys.clone().zip(from.chunks_exact(k)) {
            to[row * self.key_width() + key_head * k..][..k].copy_from_slice(values);
        }
    }
}

impl CpuAttention for Attention {
    const NAME: &'static str = "segment-attention";

    fn forward(&self, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
        let mut out = vec![0f32; q.len()];
        for (i, block) in self.blocks([q, k, v, &[]]).iter().enumerate() {
            self.scatter_queries(i, &block.queries, &mut out);
        }
        out
    }

    fn backward(&self, inputs: [&[f32]; 4]) -> [Vec<f32>; 3] {
        let [q, k, ..] = inputs;
        let (mut to_q, mut to_k, mut to_v) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; k.len()]);
        for (i, block) in self.blocks(inputs).iter().enumerate() {
            self.scatter_queries(i, &block.queries, &mut to_q);
            self.scatter_keys(i, &block.keys, &mut to_k);
            self.scatter_keys(i, &block.values, &mut to_v);
        }
        [to_q, to_k, to_v]
    }
}
