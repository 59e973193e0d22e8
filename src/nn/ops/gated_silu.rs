//! `silu(gate) · up`, the middle of a gated MLP.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{Row, by_rows, elementary, fused, values, wide};

/// `silu(gate) · up` of two tensors of the same shape.
///
/// # Errors
/// When the shapes differ.
pub fn gated_silu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("gate {:?} and values {:?}", gate.shape(), up.shape());
    }
    if fused(gate.device()) {
        gate.contiguous()?.apply_op2(&up.contiguous()?, GatedSilu)
    } else {
        composite(gate, up)
    }
}

fn composite(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (wide(gate)?.silu()? * wide(up)?)?.to_dtype(gate.dtype())
}

struct GatedSilu;

impl Row<2> for GatedSilu {
    #[inline(always)]
    fn apply(&self, [gate, up]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * elementary::sigmoid(*gate) * up;
        }
    }
}

impl CustomOp2 for GatedSilu {
    fn name(&self) -> &'static str {
        "gated-silu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (values(gate, layout)?, values(up, up_layout)?);
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; gate.len()];
        by_rows(self, [gate, up], [width; 2], &mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = upstream.contiguous()?;
        let to_gate = upstream.apply_op3_no_bwd(gate, up, &ToGate)?;
        // The upstream gradient in place of the values, through the same gate.
        let to_up = gate.apply_op2_no_bwd(&upstream, &Self)?;
        Ok((Some(to_gate), Some(to_up)))
    }
}

struct ToGate;

impl Row<3> for ToGate {
    #[inline(always)]
    fn apply(&self, [upstream, gate, up]: [&[f32]; 3], out: &mut [f32]) {
        for (((out, upstream), gate), up) in out.iter_mut().zip(upstream).zip(gate).zip(up) {
            let sigmoid = elementary::sigmoid(*gate);
            *out = upstream * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}

impl CustomOp3 for ToGate {
    fn name(&self) -> &'static str {
        "gated-silu-backward"
    }

    fn cpu_fwd(
        &self,
        upstream: &CpuStorage,
        layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [
            values(upstream, layout)?,
            values(gate, gate_layout)?,
            values(up, up_layout)?,
        ];
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; inputs[0].len()];
        by_rows(self, inputs, [width; 3], &mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ops::check::{agrees, random};

    #[test]
    fn values_and_gradients() {
        let inputs = [random(&[3, 50], 4.0, "gate"), random(&[3, 50], 2.0, "up")];
        agrees(&inputs, |x| gated_silu(&x[0], &x[1]), |x| composite(&x[0], &x[1]));
    }
}
