//! Model folders and adapters of which one file is damaged.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kshot::checkpoint::architecture::Architecture;
use kshot::example::{ImageProcessor, PatchProcessor, Tokenizer};
use kshot::formats::image::decode;
use kshot::models::dinov2::Dinov2;
use kshot::models::qwen3_vl::Qwen3Vl;
use kshot::nn::DeviceSpec;

use crate::hostile::made::encoded;
use crate::support::{model, root, writing_model};

fn read(path: PathBuf) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn adapter(name: &str) -> PathBuf {
    root().join("tests/fixtures/peft").join(name)
}

/// A folder with one file of these bytes, and links to others, while `read` looks at it.
fn beside(folder: &Path, name: &str, bytes: &[u8], others: &[PathBuf], read: impl FnOnce(&Path) -> bool) -> bool {
    let dir = folder.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
    for other in others {
        symlink(other, dir.join(other.file_name().unwrap())).unwrap();
    }
    let accepted = read(&dir);
    fs::remove_dir_all(dir).unwrap();
    accepted
}

pub fn configs() -> Vec<Vec<u8>> {
    [model(), writing_model()]
        .map(|dir| read(dir.join("config.json")))
        .into()
}

/// With the weights of the model that the bytes name.
pub fn read_config(bytes: &[u8], folder: &Path) -> bool {
    let vision = bytes.windows(6).any(|part| part == b"dinov2");
    let weights = if vision { model() } else { writing_model() }.join("model.safetensors");
    beside(folder, "config.json", bytes, &[weights], |dir| {
        match Architecture::of(dir) {
            Ok(Architecture::Dinov2) => Dinov2::load(dir, &DeviceSpec::cpu()).is_ok(),
            Ok(Architecture::Qwen3Vl) => Qwen3Vl::load(dir, &DeviceSpec::cpu()).is_ok(),
            _ => false,
        }
    })
}

pub fn tokenizers() -> Vec<Vec<u8>> {
    vec![read(writing_model().join("tokenizer.json"))]
}

pub fn read_tokenizer(bytes: &[u8], folder: &Path) -> bool {
    beside(folder, "tokenizer.json", bytes, &[], |dir| {
        let Ok(tokenizer) = Tokenizer::load(dir) else {
            return false;
        };
        let ids = tokenizer.encode("What is the name of the subject in this photo? <|im_end|> \u{e9}\u{1f600}");
        ids.is_ok_and(|ids| tokenizer.decode(&ids).is_ok())
    })
}

pub fn processors() -> Vec<Vec<u8>> {
    [model(), writing_model()]
        .map(|dir| read(dir.join("preprocessor_config.json")))
        .into()
}

pub fn nested_processors() -> Vec<Vec<u8>> {
    let inside = |text: Vec<u8>| [b"{\"image_processor\": ".as_slice(), &text, b"}"].concat();
    processors().into_iter().map(inside).collect()
}

fn prepares(dir: &Path) -> bool {
    let image = decode(&encoded(image::ImageFormat::Png), "made").unwrap();
    let whole = ImageProcessor::load(dir).map(|processor| processor.pixels(&image).len());
    let patches = PatchProcessor::load(dir).is_ok_and(|processor| processor.patches(&image, false).is_ok());
    whole.is_ok() || patches
}

pub fn read_processor(bytes: &[u8], folder: &Path) -> bool {
    beside(folder, "preprocessor_config.json", bytes, &[], prepares)
}

pub fn read_nested_processor(bytes: &[u8], folder: &Path) -> bool {
    beside(folder, "processor_config.json", bytes, &[], prepares)
}

fn base() -> &'static Qwen3Vl {
    static BASE: OnceLock<Qwen3Vl> = OnceLock::new();
    BASE.get_or_init(|| Qwen3Vl::load(&writing_model(), &DeviceSpec::cpu()).unwrap())
}

/// Of adapters on the same layers, so that the weights of one fit the config of another.
pub fn adapter_configs() -> Vec<Vec<u8>> {
    ["alpha-pattern-one", "pissa", "olora"]
        .map(|name| read(adapter(name).join("adapter_config.json")))
        .into()
}

pub fn read_adapter_config(bytes: &[u8], folder: &Path) -> bool {
    let weights = adapter("alpha-pattern-one").join("adapter_model.safetensors");
    beside(folder, "adapter_config.json", bytes, &[weights], |dir| {
        base().load_adapter(dir).is_ok()
    })
}

pub fn adapter_weights() -> Vec<Vec<u8>> {
    vec![read(adapter("alpha-pattern-one").join("adapter_model.safetensors"))]
}

pub fn read_adapter_weights(bytes: &[u8], folder: &Path) -> bool {
    let config = adapter("alpha-pattern-one").join("adapter_config.json");
    beside(folder, "adapter_model.safetensors", bytes, &[config], |dir| {
        base().load_adapter(dir).is_ok()
    })
}
