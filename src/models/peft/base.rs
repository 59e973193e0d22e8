//! Is an adapter loaded over the model that it was trained on?
//!
//! PEFT notes where its base came from, not what it held. Where that and the base at hand are both models of the hub,
//! names and commits are compared; the weight under an adapter that PEFT saved beside it is compared number by number.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::initial::Initial;
use super::settings::Settings;
use crate::checkpoint::weights::{Weights, snapshot_of};
use crate::error::{Error, Result};
use crate::fetch::ModelId;
use crate::nn::DeviceSpec;

/// Numbers that were computed twice differ by less, as a share of the largest.
const TWICE: f64 = 2e-5;

/// Compares the base that the config names with the one that was loaded from `origin`.
///
/// # Errors
/// [`Error::Checkpoint`] when they are different models of the hub, or different commits.
pub(super) fn check_origin(settings: &Settings, path: &Path, origin: &str) -> Result<()> {
    let (Some(named), Some((repository, commit))) = (&settings.base, snapshot_of(Path::new(origin))) else {
        return Ok(());
    };
    // A folder of the machine that it was trained on says nothing here.
    let Some(id) = ModelId::parse(named).filter(|_| !Path::new(named).exists()) else {
        return Ok(());
    };
    let fail = |reason: String, remedy: String| Error::Checkpoint {
        path: path.to_path_buf(),
        reason,
        remedy,
    };
    let model = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    if model(&id.name) != model(&repository) {
        return Err(fail(
            format!(
                "was trained on `{}` (`base_model_name_or_path`), the base is `{repository}`",
                id.name
            ),
            format!(
                "give `--model {}`; if both are one model, write `{repository}` into the file",
                id.name
            ),
        ));
    }
    let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match settings.revision.as_deref().filter(|revision| is_commit(revision)) {
        Some(revision) if id.name == repository && !revision.eq_ignore_ascii_case(&commit) => Err(fail(
            format!("was trained on commit {revision} of `{repository}` (`revision`), the base is commit {commit}"),
            format!("`kshot model fetch {repository}@{revision}`, then give `--model {repository}@{revision}`"),
        )),
        _ => Ok(()),
    }
}

/// Compares a weight of the base that `file` holds under `key`, as PEFT always saves `lm_head`, with the base's, without what
/// is taken out of it.
///
/// # Errors
/// [`Error::Checkpoint`] when they are not the same.
pub(super) fn check_weight(
    weights: &mut Weights,
    file: &Path,
    key: &str,
    weight: &Tensor,
    taken: Option<(&Initial, f64)>,
) -> Result<()> {
    let Some(shape) = weights.shape(key) else {
        return Ok(());
    };
    let mut same = shape == weight.dims();
    if same {
        let stored = weights.take(key, weight.dims(), &DeviceSpec::cpu())?;
        let base = weight.to_device(&candle_core::Device::Cpu)?;
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let expected = match taken {
            None => wide(&base)?,
            Some((initial, scale)) => (wide(&base)? - (initial.b.matmul(&initial.a)? * scale)?)?,
        };
        let largest = |x: Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        let off = largest((wide(&stored.to_dtype(base.dtype())?)? - &expected)?)?;
        let bound = if taken.is_some() {
            TWICE * f64::from(largest(wide(&base)?)?)
        } else {
            0.0
        };
        same = f64::from(off) <= bound;
    }
    if same {
        return Ok(());
    }
    Err(Error::Checkpoint {
        path: file.to_path_buf(),
        reason: format!("holds `{key}`, a weight of the base, and it is not that of this base"),
        remedy:
            "give the model that the adapter was trained on as `--model`; if the base was trained too, merge with PEFT \
                     (`model.merge_and_unload().save_pretrained(DIR)`) and give that folder"
                .into(),
    })
}
