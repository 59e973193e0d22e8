//! The grid of patches that an image is cut into.

/// Rows and columns of patches; multiples of the merge size, since patches are merged in squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
}

impl Grid {
    /// Number of patches.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.rows * self.columns
    }

    /// Number of tokens that the language model sees, for squares of `merge` x `merge` patches.
    #[must_use]
    pub fn tokens(&self, merge: usize) -> usize {
        (self.rows / merge) * (self.columns / merge)
    }

    /// (row, column) of every patch in the order of processor and vision tower: square by square, row by
    /// row within a square.
    pub fn block_order(self, merge: usize) -> impl Iterator<Item = (usize, usize)> {
        let (down, across) = (self.rows / merge, self.columns / merge);
        (0..down * across).flat_map(move |square| {
            let (top, left) = (square / across * merge, square % across * merge);
            (0..merge * merge).map(move |i| (top + i / merge, left + i % merge))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_come_square_by_square() {
        let grid = Grid { rows: 2, columns: 4 };
        let order: Vec<_> = grid.block_order(2).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!((grid.patches(), grid.tokens(2)), (8, 2));
    }
}
