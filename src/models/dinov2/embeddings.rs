//! Pixels to tokens: patches, CLS, registers, interpolated positions. Frozen: no gradient passes here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor, bail};

use super::positions;
use crate::error::Result;
use crate::nn::Projection;

/// The embedding of images as token sequences.
#[derive(Debug, Clone)]
pub(super) struct Embeddings {
    /// The convolution of patches, as a projection of (3·P·P) values each.
    pub(super) patches: Projection,
    /// (1, 1, D), of the type of the tokens, as all but the patches' weight.
    pub(super) cls: Tensor,
    /// (1, R, D)
    pub(super) registers: Option<Tensor>,
    pub(super) positions: Positions,
    /// P, pixels per side of a patch.
    pub(super) patch: usize,
}

/// The trained position table with one interpolated table per grid met so far.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    /// (1, 1 + G·G, D)
    pub(super) table: Tensor,
    /// G, patches per side of the table.
    pub(super) grid: usize,
    /// True if shrinking averages over the patches it skips (antialiasing).
    pub(super) antialias: bool,
    pub(super) cache: Arc<Mutex<HashMap<(usize, usize), Tensor>>>,
}

impl Embeddings {
    /// (B, 3, H, W) pixels → (B, 1 + R + N, D) tokens, N = floor(H/P) · floor(W/P).
    ///
    /// # Errors
    /// When the images are smaller than a patch or have not 3 channels.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let p = self.patch;
        let (rows, columns) = (height / p, width / p);
        if channels != 3 || rows == 0 || columns == 0 {
            let reason = format!("images of {:?} have no patch of 3 x {p} x {p}", pixels.dims());
            return Err(candle_core::Error::Msg(reason).into());
        }
        let pixels = pixels.detach().narrow(2, 0, rows * p)?.narrow(3, 0, columns * p)?;
        let patches = pixels
            .reshape((batch, 3, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))? // (B, rows, columns, 3, P, P)
            .reshape((batch, rows * columns, 3 * p * p))?;
        let positions = self.positions.at(rows, columns)?; // (1, 1 + N, D)
        let patches = self
            .patches
            .forward(&patches)?
            .broadcast_add(&positions.narrow(1, 1, rows * columns)?)?;
        let d = self.cls.dim(2)?;
        let cls = (&self.cls + positions.narrow(1, 0, 1)?)?.broadcast_as((batch, 1, d))?;
        let tokens = match &self.registers {
            None => Tensor::cat(&[&cls, &patches], 1)?,
            // Registers have no position.
            Some(registers) => {
                let registers = registers.broadcast_as((batch, registers.dim(1)?, d))?;
                Tensor::cat(&[&cls, &registers, &patches], 1)?
            }
        };
        Ok(tokens.detach())
    }
}

impl Positions {
    /// The table for a grid of `rows` x `columns` patches: (1, 1 + rows·columns, D).
    fn at(&self, rows: usize, columns: usize) -> Result<Tensor> {
        if (rows, columns) == (self.grid, self.grid) {
            return Ok(self.table.clone());
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = cache.get(&(rows, columns)) {
            return Ok(table.clone());
        }
        let table = self.interpolated(rows, columns)?;
        cache.insert((rows, columns), table.clone());
        Ok(table)
    }

    fn interpolated(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let (_, count, d) = self.table.dims3()?;
        if count != 1 + self.grid * self.grid {
            let error: candle_core::Result<Tensor> =
                (|| bail!("{count} positions are not CLS and a square of {0} x {0}", self.grid))();
            return Ok(error?);
        }
        let patches = self.table.narrow(1, 1, count - 1)?.flatten_all()?;
        let patches = patches.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let resized = positions::resize(&patches, (self.grid, self.grid), (rows, columns), d, self.antialias);
        let resized = Tensor::from_vec(resized, (1, rows * columns, d), self.table.device())?;
        let resized = resized.to_dtype(self.table.dtype())?;
        Ok(Tensor::cat(&[&self.table.narrow(1, 0, 1)?, &resized], 1)?)
    }
}
