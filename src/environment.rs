//! The environment variables that a run depends on. Nothing else in the library asks the environment
//! (`tests/it/architecture.rs`), so that the list in `kshot --help` and `docs/environment.md` is whole.

use std::env;
use std::path::PathBuf;

/// Makes [`Variable`] of a list of names and their meanings.
macro_rules! variables {
    ($($variable:ident = $name:literal, $meaning:literal;)+) => {
        /// An environment variable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variable {
            $(
                #[doc = concat!("`", $name, "`: [`Self::meaning`] says what it does.")]
                $variable,
            )+
        }

        impl Variable {
            /// All of them, in the order in which they are listed.
            pub const ALL: &[Self] = &[$(Self::$variable),+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variable => $name,)+
                }
            }

            /// Its meaning, in a line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variable => $meaning,)+
                }
            }
        }
    };
}

variables! {
    Home = "KSHOT_HOME", "stands for the working folder where `datasets/` and models are looked for";
    DataHome = "XDG_DATA_HOME", "kshot/datasets in it has more manifests [default: ~/.local/share]";
    Cache = "KSHOT_CACHE", "unpacked datasets, downloads, shrunk images [default: ~/.cache/kshot]";
    CacheHome = "XDG_CACHE_HOME", "caches where KSHOT_CACHE and HF_HOME are not set [default: ~/.cache]";
    ImageCache = "KSHOT_IMAGE_CACHE_GB", "most of the shrunk images, 0: none [default: 20 or a tenth of the disk]";
    FeatureCache = "KSHOT_FEATURE_CACHE_GB", "bound of kept features of pictures, for each model [default: 2.1]";
    Device = "KSHOT_DEVICE", "`cpu` or `cuda` [default: the first GPU of a CUDA build, else the CPU]";
    Gpu = "CUDA_VISIBLE_DEVICES", "which GPU is the first";
    Fused = "KSHOT_FUSED", "0: attention of segments in single operations, for comparisons";
    Log = "KSHOT_LOG", "what stderr is told: warn, info, debug, or by module [default: by -v]";
    NoColour = "NO_COLOR", "anything: no colours";
    Mirror = "KSHOT_MIRROR", "URL or folder with <dataset>/<file>, tried before other addresses";
    Offline = "KSHOT_OFFLINE", "1: no connections";
    HubOffline = "HF_HUB_OFFLINE", "the same, as Python has it";
    HubHome = "HF_HOME", "folder of the Hugging Face hub [default: ~/.cache/huggingface]";
    HubCache = "HF_HUB_CACHE", "its cache, shared with Python [default: hub in HF_HOME]";
    OldHubCache = "HUGGINGFACE_HUB_CACHE", "the same by its old name";
    HubToken = "HF_TOKEN", "token for gated repositories";
    HubTokenFile = "HF_TOKEN_PATH", "file of the token [default: token in HF_HOME]";
    HubEndpoint = "HF_ENDPOINT", "address of the hub [default: https://huggingface.co]";
    HttpsProxy = "HTTPS_PROXY", "proxy of connections by https";
    HttpProxy = "HTTP_PROXY", "proxy of connections by http";
    AllProxy = "ALL_PROXY", "proxy of all connections, http or socks";
    NoProxy = "NO_PROXY", "hosts that are asked without a proxy";
    SmallNoProxy = "no_proxy", "the same; the others are read in small letters too";
    Certificates = "SSL_CERT_FILE", "certificates to trust, PEM [default: Mozilla's]";
    ServerKey = "TINKER_API_KEY", "key that clients of `kshot serve` have to show [default: none]";
    Threads = "RAYON_NUM_THREADS", "threads [default: as many as there are cores]";
    CandleThreads = "CANDLE_NUM_THREADS", "threads of candle's own pool, which only gets in the way [default: 1]";
    PurgeDelay = "MIMALLOC_PURGE_DELAY", "ms for which freed memory is kept, -1 for ever [default: -1]";
    UserHome = "HOME", "~ in all of these";
    Temporary = "TMPDIR", "takes the caches where there is no HOME [default: /tmp]";
}

impl Variable {
    /// Its text, if it is set and not blank.
    #[must_use]
    pub fn text(self) -> Option<String> {
        env::var(self.name()).ok().filter(|text| !text.trim().is_empty())
    }

    /// The file or folder that it names, if it is set and not empty.
    #[must_use]
    pub fn path(self) -> Option<PathBuf> {
        env::var_os(self.name())
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    /// True if it is set, to whatever.
    #[must_use]
    pub fn is_set(self) -> bool {
        env::var_os(self.name()).is_some()
    }

    /// True if it has one of the values that Python's hub client takes for yes.
    #[must_use]
    pub fn is_yes(self) -> bool {
        let yes = |text: String| ["1", "on", "yes", "true"].contains(&text.trim().to_lowercase().as_str());
        self.text().is_some_and(yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_meanings_fit_a_line_of_help() {
        let longest = Variable::ALL.iter().map(|one| one.name().len()).max().unwrap();
        for (i, one) in Variable::ALL.iter().enumerate() {
            assert!(Variable::ALL[..i].iter().all(|other| other.name() != one.name()));
            let length = longest + 4 + one.meaning().chars().count();
            assert!(length <= 100, "{} takes {length} columns", one.name());
        }
    }
}
