//! The largest numbers that a model's `config.json` may hold. All are far above those of any published model; none lets a
//! product of sizes overflow, and none decides over memory: see [`crate::checkpoint::weights::Weights::take`].

/// Layers, or blocks of a tower.
pub(crate) const LAYERS: usize = 1 << 10;
/// Width of a token, of a head or of the features.
pub(crate) const WIDTH: usize = 1 << 16;
/// Width of the middle of an MLP.
pub(crate) const MIDDLE: usize = 1 << 20;
/// Heads of an attention; experts of a layer.
pub(crate) const HEADS: usize = 1 << 12;
/// Rows of a table of tokens.
pub(crate) const VOCABULARY: usize = 1 << 24;
/// Rows of a table of positions.
pub(crate) const POSITIONS: usize = 1 << 22;
/// Pixels per side of an image.
pub(crate) const IMAGE: usize = 1 << 14;
/// Pixels per side of a patch.
pub(crate) const PATCH: usize = 1 << 10;
/// Frames of a patch, patches per side of a merged one, register tokens.
pub(crate) const FEW: usize = 1 << 6;

/// Checks named numbers against bounds.
///
/// # Errors
/// The first that is above its bound, in words.
pub(crate) fn check(numbers: &[(&str, usize, usize)]) -> Result<(), String> {
    match numbers.iter().find(|(_, value, most)| value > most) {
        Some((name, value, most)) => Err(format!("{name} is {value}, the most that is read is {most}")),
        None => Ok(()),
    }
}

/// Checks that heads share the width of a token evenly.
pub(crate) fn check_heads(hidden: usize, heads: usize) -> Result<(), String> {
    if hidden == 0 || heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(format!(
            "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        ));
    }
    Ok(())
}

/// Checks that an image holds a patch.
pub(crate) fn check_patch(image: usize, patch: usize) -> Result<(), String> {
    if patch == 0 || image < patch {
        return Err(format!("image_size {image} holds no patch of {patch}"));
    }
    Ok(())
}
