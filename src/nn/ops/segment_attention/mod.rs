//! Multi-head attention over segments of rows.
//!
//! A segment is a run of queries that attends to a run of keys: one image of a packed batch, one sequence, one
//! new token and its cache. Rows of no segment (padding) cost nothing and give zeros.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, Result, Tensor, bail};

use super::attention::in_main_memory;
use super::elementary::softmax_composite;
use super::{fused as is_fused, wide};

mod fused;

/// Queries and the keys they attend to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Rows of q.
    pub queries: Range<usize>,
    /// Rows of k and v.
    pub keys: Range<usize>,
    /// The keys that a query attends to.
    pub mask: Mask,
}

/// The keys of its segment that a query attends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// All.
    Full,
    /// The last query all, the one before it all but the last, and so on.
    Causal,
    /// The last queries and keys are the nodes of a tree, one row each: a node attends to itself, the nodes above it
    /// and all keys before the first node. The queries before them attend causally. The list holds each node's
    /// parent, which comes before it; `None` at a root.
    Tree(Arc<[Option<u32>]>),
}

impl Mask {
    /// True if it fits `queries` queries and `keys` keys.
    fn fits(&self, queries: usize, keys: usize) -> bool {
        match self {
            Self::Full => true,
            Self::Causal => queries <= keys,
            Self::Tree(parents) => {
                let mut places = parents.iter().enumerate();
                let ordered = places.all(|(i, parent)| parent.is_none_or(|parent| (parent as usize) < i));
                ordered && parents.len() <= queries && queries <= keys
            }
        }
    }

    /// The keys that query `i` of `queries` attends to, out of `keys`: all below the number, and the places in `nodes`, which
    /// is filled in ascending order.
    fn visible(&self, i: usize, (queries, keys): (usize, usize), nodes: &mut Vec<usize>) -> usize {
        nodes.clear();
        match self {
            Self::Full => keys,
            Self::Causal => keys + i + 1 - queries,
            Self::Tree(parents) => {
                let Some(node) = (i + parents.len()).checked_sub(queries) else {
                    return keys + i + 1 - queries;
                };
                let before = keys - parents.len();
                let mut next = Some(node as u32);
                while let Some(node) = next {
                    nodes.push(before + node as usize);
                    next = parents[node as usize];
                }
                nodes.reverse();
                before
            }
        }
    }
}

/// The split of rows into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of a query row.
    pub query: usize,
    /// Heads of a key or value row; they divide the query heads (grouped-query attention).
    pub key: usize,
}

/// `softmax(q · kᵀ / sqrt(K)) · v` per head within each segment: `q` is (…, H·K), `k` and `v` are
/// (…, G·K) with G key heads, each serving H/G query heads in turn. All dimensions but the last are
/// rows. Gives the shape of `q`, with zeros in rows of no segment.
///
/// # Errors
/// When the shapes do not fit, or segments overlap, leave the rows or are out of order.
pub fn segment_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    segments: &Arc<[Segment]>,
) -> Result<Tensor> {
    let (width, key_width) = (q.dim(D::Minus1)?, k.dim(D::Minus1)?);
    let Heads { query, key } = heads;
    let fits = query > 0
        && key > 0
        && query % key == 0
        && width % query == 0
        && key_width == width / query * key
        && k.shape() == v.shape();
    if !fits {
        bail!(
            "{heads:?} of attention over {:?}, {:?}, {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    let (mut next_query, mut next_key) = (0, 0);
    for segment in &**segments {
        let Segment { queries, keys, mask } = segment;
        let sound = next_query <= queries.start
            && next_key <= keys.start
            && queries.start < queries.end
            && keys.start < keys.end
            && mask.fits(queries.len(), keys.len());
        if !sound {
            bail!("attention segment {segment:?} overlaps another, is empty, or its mask does not fit it");
        }
        (next_query, next_key) = (queries.end, keys.end);
    }
    if next_query * width > q.elem_count() || next_key * key_width > k.elem_count() {
        bail!(
            "attention segments end at {next_query}, {next_key}: outside {:?}, {:?}",
            q.shape(),
            k.shape()
        );
    }
    let op = Attention {
        heads,
        head_dim: width / query,
        segments: segments.clone(),
    };
    if is_fused(q.device()) {
        in_main_memory(op, q, k, v)
    } else {
        op.composite(q, k, v)
    }
}

#[derive(Clone)]
struct Attention {
    heads: Heads,
    head_dim: usize,
    segments: Arc<[Segment]>,
}

impl Attention {
    fn composite(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (rows, k_rows) = (q.elem_count() / self.width(), k.elem_count() / self.key_width());
        let (q_rows, k, v) = (
            q.reshape((rows, self.width()))?,
            k.reshape((k_rows, self.key_width()))?,
            v.reshape((k_rows, self.key_width()))?,
        );
        let mut parts = Vec::new();
        let mut next = 0;
        let zeros = |count: usize| Tensor::zeros((count, self.width()), q.dtype(), q.device());
        for segment in &*self.segments {
            if segment.queries.start > next {
                parts.push(zeros(segment.queries.start - next)?);
            }
            next = segment.queries.end;
            parts.push(self.composite_segment(&q_rows, &k, &v, segment)?);
        }
        if next < rows {
            parts.push(zeros(rows - next)?);
        }
        Tensor::cat(&parts, 0)?.reshape(q.shape())
    }

    fn composite_segment(&self, q: &Tensor, k: &Tensor, v: &Tensor, segment: &Segment) -> Result<Tensor> {
        let Heads { query, key } = self.heads;
        let (t, s) = (segment.queries.len(), segment.keys.len());
        let of_keys = |x: &Tensor| {
            x.narrow(0, segment.keys.start, s)?
                .reshape((s, key, self.head_dim))?
                .transpose(0, 1)?
                .contiguous() // (G, S, K)
        };
        let q = q
            .narrow(0, segment.queries.start, t)?
            .reshape((t, query, self.head_dim))?
            .transpose(0, 1)?
            .reshape((key, query / key * t, self.head_dim))?;
        let scores = (wide(&q.matmul(&of_keys(k)?.t()?)?)? * f64::from(self.scale()))?; // (G, H/G·T, S)
        let mut scores = scores.reshape((query, t, s))?;
        let all_seen = segment.mask == Mask::Full || (segment.mask == Mask::Causal && t == 1);
        if !all_seen {
            let mut mask = vec![f32::NEG_INFINITY; t * s];
            let mut nodes = Vec::new();
            for (row, mask) in mask.chunks_exact_mut(s).enumerate() {
                let seen = segment.mask.visible(row, (t, s), &mut nodes);
                mask[..seen].fill(0.0);
                nodes.iter().for_each(|&node| mask[node] = 0.0);
            }
            let mask = Tensor::from_vec(mask, (1, t, s), q.device())?.to_dtype(scores.dtype())?;
            scores = scores.broadcast_add(&mask)?;
        }
        softmax_composite(&scores)?
            .to_dtype(v.dtype())?
            .reshape((key, query / key * t, s))?
            .matmul(&of_keys(v)?)?
            .reshape((query, t, self.head_dim))?
            .transpose(0, 1)?
            .reshape((t, self.width()))
    }

    fn width(&self) -> usize {
        self.heads.query * self.head_dim
    }

    fn key_width(&self) -> usize {
        self.heads.key * self.head_dim
    }

    /// Query heads per key head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.key
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check;

    fn segment(queries: Range<usize>, keys: Range<usize>, causal: bool) -> Segment {
        let mask = if causal { Mask::Causal } else { Mask::Full };
        Segment { queries, keys, mask }
    }

    fn tree(queries: Range<usize>, keys: Range<usize>, parents: &[Option<u32>]) -> Segment {
        let mask = Mask::Tree(parents.into());
        Segment { queries, keys, mask }
    }

    #[test]
    fn values_and_gradients() {
        let forest = [None, Some(0), Some(0), None, Some(2), Some(3)];
        let cases: [(usize, usize, Heads, Vec<Segment>); 6] = [
            // Two padded sequences; tokens behind a cache; one token of each of two caches; two images;
            // a prompt with a tree beside a sequence; trees alone behind caches.
            (
                9,
                9,
                Heads { query: 4, key: 2 },
                vec![segment(0..4, 0..4, true), segment(5..8, 5..8, true)],
            ),
            (
                3,
                12,
                Heads { query: 6, key: 2 },
                vec![segment(0..1, 1..6, true), segment(1..3, 7..12, true)],
            ),
            (
                2,
                7,
                Heads { query: 3, key: 1 },
                vec![segment(0..1, 0..3, true), segment(1..2, 3..7, false)],
            ),
            (
                20,
                20,
                Heads { query: 2, key: 2 },
                vec![segment(0..17, 0..17, false), segment(17..20, 17..20, false)],
            ),
            (
                14,
                14,
                Heads { query: 4, key: 2 },
                vec![tree(0..10, 0..10, &forest), segment(11..14, 11..14, true)],
            ),
            (
                8,
                15,
                Heads { query: 2, key: 1 },
                vec![tree(0..6, 1..10, &forest), tree(6..8, 10..15, &[None, None])],
            ),
        ];
        for (queries, keys, heads, segments) in cases {
            let k = 4;
            let op = Attention {
                heads,
                head_dim: k,
                segments: segments.into(),
            };
            let inputs = [
                check::random(&[queries, heads.query * k], 1.5, "q"),
                check::random(&[keys, heads.key * k], 1.5, "k"),
                check::random(&[keys, heads.key * k], 1.5, "v"),
            ];
            check::agrees(
                &inputs,
                |x| segment_attention(&x[0], &x[1], &x[2], heads, &op.segments),
                |x| op.composite(&x[0], &x[1], &x[2]),
            );
        }
    }

    #[test]
    fn segments_that_do_not_fit_are_refused() {
        let x = check::random(&[4, 8], 1.0, "x");
        let heads = Heads { query: 2, key: 2 };
        let run = |segments: Vec<Segment>| segment_attention(&x, &x, &x, heads, &segments.into());
        assert!(run(vec![segment(0..4, 0..4, true)]).is_ok());
        assert!(run(vec![segment(0..5, 0..4, false)]).is_err());
        assert!(run(vec![segment(0..2, 0..2, false), segment(1..3, 2..4, false)]).is_err());
        assert!(run(vec![segment(0..3, 0..2, true)]).is_err());
        assert!(run(vec![tree(0..3, 0..3, &[None, Some(0)])]).is_ok());
        assert!(run(vec![tree(0..3, 0..3, &[None, Some(1)])]).is_err());
        assert!(run(vec![tree(0..1, 0..3, &[None, Some(0)])]).is_err());
        assert!(run(vec![tree(0..3, 0..2, &[None, Some(0)])]).is_err());
    }

    #[test]
    fn a_node_is_the_last_token_of_its_path() {
        let heads = Heads { query: 4, key: 2 };
        let forest = [None, Some(0), Some(0), None, Some(2), Some(3)];
        let inputs = ["q", "k", "v"].map(|name| {
            let width = if name == "q" { 12 } else { 6 };
            check::random(&[10, width], 1.5, name)
        });
        let whole = [tree(0..10, 0..10, &forest)];
        let [q, k, v] = &inputs;
        let found = segment_attention(q, k, v, heads, &whole.into()).unwrap();
        for (node, path) in [(2u32, &[0u32, 2][..]), (4, &[0, 2, 4]), (5, &[3, 5])] {
            let rows: Vec<u32> = (0..4).chain(path.iter().map(|node| 4 + node)).collect();
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, q.device()).unwrap();
            let [q, k, v] = inputs.each_ref().map(|x| x.index_select(&rows, 0).unwrap());
            let alone = segment_attention(&q, &k, &v, heads, &[segment(0..count, 0..count, true)].into()).unwrap();
            let (found, alone) = (found.get(4 + node as usize).unwrap(), alone.get(count - 1).unwrap());
            assert_eq!(found.to_vec1::<f32>().unwrap(), alone.to_vec1::<f32>().unwrap());
        }
    }
}
