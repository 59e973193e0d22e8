//! Pixels against transformers' fast `BitImageProcessor`.

use kshot::example::ImageProcessor;
use kshot::formats::image::decode;

use crate::goldens::{self, values};

/// The processor of the `real` goldens: shortest edge 256, centre 224 x 224.
const REAL: (&str, &str) = (r#"{"shortest_edge": 256}"#, r#"{"height": 224, "width": 224}"#);

/// In 8-bit units before normalisation: within 1 in at least 99 % of values, never more than 2.
#[test]
fn pixels_match() {
    let mut compared = 0;
    for golden in goldens::dinov2() {
        let expected = golden.tensors("forward.safetensors");
        let text = std::fs::read_to_string(golden.model.join("preprocessor_config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let std: Vec<f64> = serde_json::from_value(config["image_std"].clone()).unwrap();
        let small = ImageProcessor::load(&golden.model).unwrap();
        config["size"] = serde_json::from_str(REAL.0).unwrap();
        config["crop_size"] = serde_json::from_str(REAL.1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("preprocessor_config.json"), config.to_string()).unwrap();
        let real = ImageProcessor::load(folder.path()).unwrap();
        for (key, tensor) in &expected {
            let Some(image) = key.strip_prefix("proc.").and_then(|key| key.strip_suffix(".fast")) else {
                continue;
            };
            let (kind, image) = image.split_once('.').unwrap();
            let processor = if kind == "small" { &small } else { &real };
            let path = golden.expected.join("images").join(format!("{image}.png"));
            let image = decode(&std::fs::read(&path).unwrap(), image).unwrap();
            let found = processor.pixels(&image);
            let expected = values(tensor);
            assert_eq!(tensor.dims()[2..], [processor.size().0, processor.size().1]);
            assert_eq!(found.len(), expected.len());
            let plane = found.len() / 3;
            let levels = |i: usize| (f64::from(found[i]) - expected[i]).abs() * std[i / plane] * 255.0;
            let largest = (0..found.len()).map(levels).fold(0.0, f64::max);
            let off = (0..found.len()).filter(|&i| levels(i) > 1.01).count() as f64 / found.len() as f64;
            assert!(largest <= 2.01, "{} {key}: off by {largest} levels", golden.name);
            assert!(off <= 0.01, "{} {key}: {off} of the values are off", golden.name);
            compared += 1;
        }
    }
    assert!(compared > 0, "no pixels to compare");
}
