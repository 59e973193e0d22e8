//! Bicubic interpolation of a position table, as `torch.nn.functional.interpolate(mode="bicubic",
//! align_corners=False)` computes it for floats (`aten/src/ATen/native/cpu/UpSampleKernel.cpp`).

/// The weights with which one output position reads inputs from `first` on.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resizes a (rows, columns, channels) table to another number of rows and columns.
///
/// Without antialiasing each output reads 4 x 4 neighbours (a = -0.75), the border repeated. With it
/// the kernel (a = -0.5) widens with the factor of shrinking and is renormalised at the border.
pub(super) fn resize(
    table: &[f32],
    from: (usize, usize),
    to: (usize, usize),
    channels: usize,
    antialias: bool,
) -> Vec<f32> {
    let taps = if antialias { antialiased } else { four_taps };
    let (vertical, horizontal) = (taps(from.0, to.0), taps(from.1, to.1));
    let mut wide = vec![0f32; from.0 * to.1 * channels]; // columns resized
    for row in 0..from.0 {
        for (column, taps) in horizontal.iter().enumerate() {
            let out = &mut wide[(row * to.1 + column) * channels..][..channels];
            for (i, weight) in taps.weights.iter().enumerate() {
                let input = &table[(row * from.1 + taps.first + i) * channels..][..channels];
                out.iter_mut().zip(input).for_each(|(out, x)| *out += weight * x);
            }
        }
    }
    let mut resized = vec![0f32; to.0 * to.1 * channels];
    let stride = to.1 * channels;
    for (row, taps) in vertical.iter().enumerate() {
        let out = &mut resized[row * stride..][..stride];
        for (i, weight) in taps.weights.iter().enumerate() {
            let input = &wide[(taps.first + i) * stride..][..stride];
            out.iter_mut().zip(input).for_each(|(out, x)| *out += weight * x);
        }
    }
    resized
}

/// Keys' cubic kernel at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn four_taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let last = from as i64 - 1;
    let taps = |i: usize| {
        let centre = scale * (i as f64 + 0.5) - 0.5;
        let start = centre.floor();
        let nearest = |offset: i64| (start as i64 + offset).clamp(0, last);
        let first = nearest(-1);
        let mut weights = vec![0f32; (nearest(2) - first + 1) as usize];
        for offset in -1..=2 {
            // Positions beyond the border fall onto it.
            weights[(nearest(offset) - first) as usize] += cubic(centre - start - offset as f64, -0.75) as f32;
        }
        Taps {
            first: first as usize,
            weights,
        }
    };
    (0..to).map(taps).collect()
}

fn antialiased(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    let taps = |i: usize| {
        let centre = scale * (i as f64 + 0.5);
        let first = ((centre - support + 0.5) as i64).max(0);
        let end = ((centre + support + 0.5) as i64).min(from as i64);
        let raw: Vec<f64> = (first..end)
            .map(|j| cubic((j as f64 - centre + 0.5) / widening, -0.5))
            .collect();
        let total: f64 = raw.iter().sum();
        Taps {
            first: first as usize,
            weights: raw.iter().map(|w| (w / total) as f32).collect(),
        }
    };
    (0..to).map(taps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for taps in [four_taps, antialiased] {
            for (from, to) in [(9, 4), (9, 16), (37, 16), (1, 3), (2, 5), (5, 5)] {
                let all = taps(from, to);
                assert_eq!(all.len(), to);
                for t in all {
                    assert!(t.first + t.weights.len() <= from);
                    assert!((t.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn same_size_is_the_identity() {
        let table: Vec<f32> = (0..5 * 5 * 3).map(|i| (i as f32).sin()).collect();
        for antialias in [false, true] {
            assert_eq!(resize(&table, (5, 5), (5, 5), 3, antialias), table);
        }
    }
}
