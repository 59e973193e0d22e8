//! Of which type the weights of a frozen base are.

use serde::{Deserialize, Serialize};

/// Type of a frozen base's weights. What is trained is f32 in any case, and so is what a CPU computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f32 on a CPU, bf16 on a GPU.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// Half the memory: 8 bits of mantissa, the range of f32.
    Bf16,
    /// Half the memory: 11 bits of mantissa, at most 65504.
    F16,
}

impl Dtype {
    pub(crate) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
