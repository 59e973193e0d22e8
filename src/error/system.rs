//! What the system refused, as errors that name the file.

use std::io;
use std::path::Path;

use super::Error;

impl Error {
    /// For `map_err` on file operations: `map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// The same error of an image that is known by its file: what works on pixels cannot say whose they are.
    #[must_use]
    pub fn of_image(self, path: &Path) -> Self {
        match self {
            Self::Image { reason, .. } => Self::Image {
                image: path.display().to_string(),
                reason,
            },
            other => other,
        }
    }

    /// Whether a device said that it has no memory left. Drivers say so in words only by the time an error gets here.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let first: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(first), |e| e.source()).any(|e| {
            let text = e.to_string().to_lowercase();
            ["out of memory", "out_of_memory"]
                .iter()
                .any(|words| text.contains(words))
        })
    }

    /// For `map_err` where tensors are written: `map_err(Error::saving(path))`. What the system refused is an
    /// [`Error::Io`] that names the file.
    pub fn saving(path: impl AsRef<Path>) -> impl FnOnce(candle_core::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |error| {
            let first: &(dyn std::error::Error + 'static) = &error;
            let refused = std::iter::successors(Some(first), |e| e.source()).find_map(|e| {
                let e = e.downcast_ref::<io::Error>()?;
                let plain = e.raw_os_error().map(io::Error::from_raw_os_error);
                Some(plain.unwrap_or_else(|| io::Error::new(e.kind(), e.to_string())))
            });
            match refused {
                Some(source) => Self::io("write", path)(source),
                None => Self::Tensor(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_device_without_memory_is_known_by_its_words() {
        let driver = candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        assert!(Error::Tensor(driver.context("while multiplying")).is_out_of_memory());
        assert!(!Error::Tensor(candle_core::Error::Msg("shape mismatch".into())).is_out_of_memory());
        assert!(!Error::NoGradients.is_out_of_memory());
    }

    #[test]
    fn tensors_that_cannot_be_written_name_the_file_and_the_remedy() {
        let tensor = Tensor::zeros((64, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere").join("x.safetensors");
        let error = tensor
            .save_safetensors("x", &path)
            .map_err(Error::saving(&path))
            .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write `{}`", path.display()));
        assert!(error.hint().unwrap().contains("check the path"));
    }
}
