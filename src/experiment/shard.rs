//! Part of a sweep's cells, for schedulers that count their tasks.

use std::str::FromStr;

/// The `index`-th of `of` parts, counted from 0 as `$SLURM_ARRAY_TASK_ID` and `$JOB_COMPLETION_INDEX` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All cells.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// True if the cell of that place in the plan is part of it: cells I, I+N, I+2N, …, so that every part has its
    /// share of every dataset.
    #[must_use]
    pub fn has(self, cell: usize) -> bool {
        cell % self.of == self.index
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form I/N, e.g. 0/4 for the first of four parts");
        let (index, of) = text.split_once('/').ok_or_else(form)?;
        let (index, of) = (index.parse().map_err(|_| form())?, of.parse().map_err(|_| form())?);
        if index >= of {
            return Err(format!(
                "there is no part {index} of {of}: parts count from 0, so that I is below N"
            ));
        }
        Ok(Self { index, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_whole() {
        for of in 1..6 {
            let parts: Vec<Shard> = (0..of).map(|i| format!("{i}/{of}").parse().unwrap()).collect();
            for cell in 0..20 {
                assert_eq!(parts.iter().filter(|part| part.has(cell)).count(), 1);
            }
        }
        assert!((0..9).all(|cell| Shard::WHOLE.has(cell)));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for wrong in ["", "1", "1/", "/2", "a/2", "-1/2", "2/2", "0/0", "1/2/3", "0.5/2"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        assert!("4/4".parse::<Shard>().unwrap_err().contains("count from 0"));
    }
}
