//! Random parts of training images.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// Width over height of a part, at least and at most.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws before the part is taken from the middle.
const TRIES: usize = 10;

/// A rectangle inside an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// A rectangle that covers `min_area` to all of a (width, height) image, as torchvision's
/// `RandomResizedCrop.get_params` draws it.
pub(super) fn random_part((width, height): (u32, u32), min_area: f64, rng: &mut ChaCha8Rng) -> Part {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..TRIES {
        let target = area * rng.random_range(min_area.clamp(0.0, 1.0)..=1.0);
        let aspect = rng.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
        let part_width = (target * aspect).sqrt().round_ties_even() as u32;
        let part_height = (target / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&part_width) && (1..=height).contains(&part_height) {
            let top = rng.random_range(0..=height - part_height);
            let left = rng.random_range(0..=width - part_width);
            return Part {
                left,
                top,
                width: part_width,
                height: part_height,
            };
        }
    }
    let aspect = f64::from(width) / f64::from(height.max(1));
    let (part_width, part_height) = if aspect < ASPECT.0 {
        (
            width,
            ((f64::from(width) / ASPECT.0).round_ties_even() as u32).min(height),
        )
    } else if aspect > ASPECT.1 {
        (
            ((f64::from(height) * ASPECT.1).round_ties_even() as u32).min(width),
            height,
        )
    } else {
        (width, height)
    };
    Part {
        left: (width - part_width) / 2,
        top: (height - part_height) / 2,
        width: part_width,
        height: part_height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    #[test]
    fn parts_are_inside_and_large_enough() {
        let mut rng = seed::rng(3, "parts");
        for size in [(60, 40), (40, 60), (1, 1), (300, 7), (2, 3)] {
            for _ in 0..200 {
                let part = random_part(size, 0.5, &mut rng);
                assert!(part.width >= 1 && part.height >= 1);
                assert!(part.left + part.width <= size.0 && part.top + part.height <= size.1);
                if size.0.min(size.1) >= 40 {
                    let share = f64::from(part.width * part.height) / f64::from(size.0 * size.1);
                    assert!(share > 0.47, "{share}");
                }
            }
        }
    }

    #[test]
    fn parts_reach_every_border() {
        let mut rng = seed::rng(4, "parts");
        let parts: Vec<_> = (0..500).map(|_| random_part((20, 20), 0.3, &mut rng)).collect();
        assert!(parts.iter().any(|p| p.left == 0) && parts.iter().any(|p| p.top == 0));
        assert!(parts.iter().any(|p| p.left + p.width == 20) && parts.iter().any(|p| p.top + p.height == 20));
    }
}
