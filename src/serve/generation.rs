//! The thread that continues prompts of all clients on one base model, side by side.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::base::Base;
use super::budget::Charge;
use super::held::HeldFolder;
use super::refusal::{Refusal, told};
use super::service::lock;
use crate::engine::{
    Event, GenerationRequest, Generator, GeneratorSettings, PromptScores, RequestId, SamplingParams, Snapshot,
};
use crate::error::{Error, Result};
use crate::example::ModelInput;

/// Continuations that the generator is given at once; more wait here.
const AT_ONCE: usize = 64;
/// Adapters whose weights are kept added into the base's, and that answer at once; each takes the memory of the layers it adapts.
const SNAPSHOTS: usize = 8;

/// The weights that answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Weights {
    /// The base model's.
    Base,
    /// With the adapter of this folder, which never changes.
    Adapter(Arc<HeldFolder>),
}

impl Weights {
    /// The adapter's folder.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Base => None,
            Self::Adapter(folder) => Some(folder.path()),
        }
    }
}

/// A prompt and what is to be done with it.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) weights: Weights,
    pub(super) input: ModelInput,
    pub(super) params: SamplingParams,
    pub(super) samples: usize,
    /// Alternatives beside the log-probabilities of the prompt's own tokens, where these are asked for.
    pub(super) prompt_logprobs: Option<usize>,
    /// The only answers allowed.
    pub(super) choices: Vec<Vec<u32>>,
    /// Of its images.
    pub(super) charge: Option<Charge>,
}

/// News of a prompt.
#[derive(Debug)]
pub(super) enum News {
    /// The log-probabilities of its own tokens.
    Prompt(PromptScores),
    /// The probabilities of the answers that are allowed, which add up to 1.
    Choices(Vec<f64>),
    /// A token of continuation `sample`.
    Token {
        sample: usize,
        token: u32,
        logprob: f32,
        top: Vec<(u32, f32)>,
    },
    /// Continuation `sample` is complete.
    Finished {
        sample: usize,
        stopped: bool,
        /// Which of the answers allowed it is.
        choice: Option<usize>,
    },
    /// It failed; there is no further news.
    Failed {
        message: String,
        /// The request is at fault.
        user: bool,
    },
}

/// Takes the news; false if nobody wants more.
pub(super) type Listener = Box<dyn FnMut(News) -> bool + Send>;

/// A base model that answers.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) base: Arc<Base>,
    /// Encodes the pictures of new prompts while others are continued. None on a GPU, which one stream of work fills.
    encoding: Option<rayon::ThreadPool>,
    own_vision: Arc<Mutex<HashSet<Weights>>>,
    sender: Mutex<Option<Sender<(Prompt, Listener)>>>,
    unfinished: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Generation {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives none.
    pub(super) fn start(base: Arc<Base>) -> Result<Self> {
        let (sender, receiver) = channel();
        let (unfinished, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let own_vision = Arc::default();
        let work = Work {
            own_vision: Arc::clone(&own_vision),
            generator: Generator::new(base.engine.clone(), GeneratorSettings::default()),
            base: base.clone(),
            waiting: VecDeque::new(),
            live: HashMap::new(),
            snapshots: Vec::new(),
            unfinished: unfinished.clone(),
            stopping: stopping.clone(),
        };
        let pool = |name: &'static str| {
            let pool = rayon::ThreadPoolBuilder::new().thread_name(move |number| format!("{name}-{number}"));
            pool.build()
                .map_err(|error| Error::io("start", "threads of a model")(io::Error::other(error)))
        };
        // On a thread of the pool that shares its products: each of them would be handed over and waited for else.
        let generating = pool("generation")?;
        let encoding = base.engine.encodes_on_cpu().then(|| pool("encoding")).transpose()?;
        let thread = thread::Builder::new()
            .name("generation".into())
            .spawn(move || generating.install(move || work.run(&receiver)));
        Ok(Self {
            base,
            encoding,
            own_vision,
            sender: Mutex::new(Some(sender)),
            unfinished,
            stopping,
            thread: Mutex::new(Some(thread.map_err(Error::io("start", "a thread that generates"))?)),
        })
    }

    /// Adds a prompt.
    ///
    /// # Errors
    /// A refusal when too many wait, or the server stops.
    pub(super) fn submit(&self, prompt: Prompt, listener: Listener) -> Result<(), Refusal> {
        let most = self.base.limits.queued_samples;
        if self.unfinished.load(Ordering::Relaxed) >= most {
            return Err(Refusal::busy(format!("{most} prompts wait already")));
        }
        if let Some(encoding) = &self.encoding
            && !lock(&self.own_vision).contains(&prompt.weights)
        {
            // What does not fit the model is told where the prompt is begun.
            let _ = encoding.install(|| self.base.engine.encode(&prompt.input));
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        let sent = sender
            .as_ref()
            .is_some_and(|sender| sender.send((prompt, listener)).is_ok());
        if !sent {
            self.unfinished.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::gone("the server is stopping"));
        }
        Ok(())
    }

    /// Prompts that wait or are being continued.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Ends the thread; unfinished prompts are given up.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It ends when there is no sender any more.
            let _ = thread.join();
        }
    }
}

/// A prompt that is being continued.
struct Live {
    listener: Listener,
    weights: Weights,
    /// Continuations that are not complete.
    open: usize,
    _charge: Option<Charge>,
}

struct Work {
    base: Arc<Base>,
    /// Adapters that see pictures in another way than the base.
    own_vision: Arc<Mutex<HashSet<Weights>>>,
    generator: Generator,
    waiting: VecDeque<(Prompt, Listener)>,
    live: HashMap<RequestId, Live>,
    /// By the folder that each was loaded from, which need not be there any more. The one used last is last.
    snapshots: Vec<(Option<PathBuf>, Snapshot)>,
    unfinished: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
}

impl Work {
    fn run(mut self, receiver: &Receiver<(Prompt, Listener)>) {
        while !self.stopping.load(Ordering::Relaxed) {
            if self.waiting.is_empty() && self.live.is_empty() {
                match receiver.recv_timeout(Duration::from_millis(500)) {
                    Ok(new) => self.waiting.push_back(new),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.waiting.extend(receiver.try_iter());
            self.admit();
            let generator = AssertUnwindSafe(&mut self.generator);
            match catch_unwind(move || { generator }.0.step()) {
                Ok(events) => events.into_iter().for_each(|event| self.tell(event)),
                Err(_) => self.begin_anew(),
            }
        }
    }

    /// Hands waiting prompts to the generator as long as there is room. One that is refused fails alone.
    fn admit(&mut self) {
        let mut open: usize = self.live.values().map(|live| live.open).sum();
        let mut answering: HashSet<Weights> = self.live.values().map(|live| live.weights.clone()).collect();
        while open < AT_ONCE {
            let room = answering.len() < SNAPSHOTS;
            let next = self
                .waiting
                .iter()
                .position(|(prompt, _)| room || answering.contains(&prompt.weights));
            let Some((mut prompt, mut listener)) = next.and_then(|next| self.waiting.remove(next)) else {
                return;
            };
            let (samples, weights, charge) = (prompt.samples, prompt.weights.clone(), prompt.charge.take());
            // A panic in one prompt is its own failure, and never the end of the thread.
            let begun = catch_unwind(AssertUnwindSafe(|| self.begin(prompt)));
            match begun {
                Ok(Ok(id)) => {
                    open += samples;
                    answering.insert(weights.clone());
                    let live = Live {
                        listener,
                        weights,
                        open: samples,
                        _charge: charge,
                    };
                    self.live.insert(id, live);
                }
                Ok(Err(error)) => {
                    listener(failed(&error));
                    self.unfinished.fetch_sub(1, Ordering::Relaxed);
                }
                Err(_) => {
                    listener(given_up());
                    self.unfinished.fetch_sub(1, Ordering::Relaxed);
                    self.begin_anew();
                    return;
                }
            }
        }
    }

    fn begin(&mut self, prompt: Prompt) -> Result<RequestId> {
        let snapshot = self.snapshot(&prompt.weights)?;
        self.generator.submit(GenerationRequest {
            snapshot,
            prompt: prompt.input,
            params: prompt.params,
            samples: prompt.samples,
            prompt_logprobs: prompt.prompt_logprobs,
            choices: prompt.choices,
        })
    }

    /// The weights, kept for the next time.
    fn snapshot(&mut self, weights: &Weights) -> Result<Snapshot> {
        let folder = weights.folder();
        if let Some(at) = self.snapshots.iter().position(|(known, _)| known.as_deref() == folder) {
            let last = self.snapshots.remove(at);
            self.snapshots.push(last.clone());
            return Ok(last.1);
        }
        let snapshot = match weights {
            Weights::Base => self.base.engine.base()?,
            Weights::Adapter(folder) => self.base.engine.saved(folder.path())?,
        };
        if snapshot.has_own_vision() {
            lock(&self.own_vision).insert(weights.clone());
        }
        if self.snapshots.len() >= SNAPSHOTS {
            self.snapshots.remove(0);
        }
        self.snapshots.push((folder.map(Path::to_path_buf), snapshot.clone()));
        Ok(snapshot)
    }

    fn tell(&mut self, event: Event) {
        let (id, news) = match event {
            Event::Prompt { id, scores } => (id, News::Prompt(scores)),
            Event::Choices { id, probabilities, .. } => (id, News::Choices(probabilities)),
            Event::Token {
                id,
                sample,
                token,
                logprob,
                top,
            } => {
                let news = News::Token {
                    sample,
                    token,
                    logprob,
                    top,
                };
                (id, news)
            }
            Event::Finished {
                id,
                sample,
                stopped,
                choice,
            } => {
                let news = News::Finished {
                    sample,
                    stopped,
                    choice,
                };
                (id, news)
            }
            Event::Failed { id, error } => (id, failed(&error)),
        };
        let Some(live) = self.live.get_mut(&id) else { return };
        match news {
            News::Finished { .. } => live.open = live.open.saturating_sub(1),
            News::Failed { .. } => live.open = 0,
            _ => {}
        }
        let wanted = (live.listener)(news);
        let done = live.open == 0;
        if !done && !wanted {
            self.generator.cancel(id);
        }
        if done || !wanted {
            self.live.remove(&id);
            self.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// After a panic of the engine nothing is known of the generator: all that was begun has failed.
    fn begin_anew(&mut self) {
        tracing::error!(
            "the generation of `{}` panicked; {} prompts failed",
            self.base.name(),
            self.live.len()
        );
        self.generator = Generator::new(self.base.engine.clone(), GeneratorSettings::default());
        for (_, mut live) in self.live.drain() {
            (live.listener)(given_up());
            self.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// After a panic.
fn given_up() -> News {
    News::Failed {
        message: "a fault of the server: the generation was given up".into(),
        user: false,
    }
}

fn failed(error: &Error) -> News {
    News::Failed {
        message: told(error),
        user: super::refusal::is_users(error),
    }
}
