//! Continuous batching: prompts of different lengths and adapters that are continued side by side.
//!
//! Requests of one snapshot are a lane. A step is a pass of one lane, and lanes take turns: the pass has one new token of every open
//! continuation of the lane, and beside them the whole prompts of requests that wait, as far as there is room. So nobody waits for
//! another's generation, and a prompt that joins costs the others one longer pass.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use candle_core::Tensor;

use super::request::{Event, GenerationRequest, RequestId, Waiting, answer_by_choice};
use super::sample::{draws_of, print_of, score_prompt};
use super::sampling::{Continuation, choose};
use super::{Engine, Snapshot};
use crate::error::{Error, Result};
use crate::example::Sequence;
use crate::models::qwen3_vl::{Batch, Features, KvCache, Part, SlotId};

/// Settings of memory and latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratorSettings {
    /// Rows of the prompts that join one pass; a single prompt may have more.
    pub prompt_rows: usize,
    /// Continuations that are made side by side.
    pub continuations: usize,
    /// Bytes of keys and values of all continuations; each reserves its prompt and its longest answer.
    pub cache_bytes: usize,
}

impl Default for GeneratorSettings {
    fn default() -> Self {
        Self {
            prompt_rows: 1024,
            continuations: 256,
            cache_bytes: 8 << 30,
        }
    }
}

/// Continues prompts as they come. [`Generator::step`] is to be called as long as there is work; between two steps prompts can be
/// added and given up.
#[derive(Debug)]
pub struct Generator {
    engine: Arc<Engine>,
    settings: GeneratorSettings,
    /// The one whose turn it is first.
    lanes: VecDeque<Lane>,
    cache: KvCache,
    /// Rows of keys and values that there is memory for.
    row_limit: usize,
    next: u64,
}

/// The requests of one snapshot.
#[derive(Debug)]
struct Lane {
    snapshot: Snapshot,
    waiting: VecDeque<Waiting>,
    open: Vec<Open>,
    /// A pass with several prompts failed: they are read one by one to find the one that it was.
    cautious: bool,
    /// The request that waits longest found no room: no younger one gets in before it.
    blocked: bool,
}

/// A continuation that is being made.
#[derive(Debug)]
struct Open {
    id: RequestId,
    sample: usize,
    slot: SlotId,
    /// Rows of its place in the cache.
    capacity: usize,
    /// The token that was chosen last, and its position: it is read next.
    token: u32,
    position: u32,
    continuation: Continuation,
}

/// A prompt that joins a pass, and its place in the cache.
struct Joining {
    sequence: Sequence,
    print: String,
    slot: SlotId,
}

/// A pass that is through.
struct Passed {
    joined: Vec<Joining>,
    batch: Batch,
    states: Tensor,
    /// The place of each sequence of the cache in the batch.
    places: HashMap<SlotId, usize>,
}

impl Lane {
    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.open.is_empty()
    }

    /// After a pass that failed: a single request was to blame, several are tried again one by one.
    fn refuse(&mut self, mut requests: Vec<Waiting>, error: Error, events: &mut Vec<Event>) {
        if requests.len() > 1 {
            self.cautious = true;
            requests.into_iter().rev().for_each(|one| self.waiting.push_front(one));
        } else if let Some(Waiting { id, .. }) = requests.pop() {
            events.push(Event::Failed { id, error });
        }
    }
}

impl Generator {
    /// A generator without work.
    #[must_use]
    pub fn new(engine: Arc<Engine>, settings: GeneratorSettings) -> Self {
        let (text, dtype) = (&engine.base.config().text_config, engine.base.state_type());
        let limit = settings.cache_bytes / KvCache::row_bytes(text, dtype).max(1);
        Self {
            cache: KvCache::empty(text, limit, dtype, engine.base.device()),
            engine,
            settings,
            row_limit: limit,
            lanes: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// [`Error::Input`] when its prompt or one of its choices does not fit the model; [`Error::Sampling`] when a setting makes no
    /// sense, or it would need more memory than the generator has; [`Error::Model`] when a text is to end it and the model's
    /// folder lacks a tokenizer.
    pub fn submit(&mut self, request: GenerationRequest) -> Result<RequestId> {
        let (id, snapshot) = (RequestId(self.next), request.snapshot.clone());
        let waiting = Waiting::new(&self.engine, id, request)?;
        let (slots, most, limit) = (waiting.slots(), self.settings.continuations, self.row_limit);
        let needed = slots.saturating_mul(waiting.capacity());
        if slots > most || needed > limit {
            return Err(Error::Sampling {
                reason: format!(
                    "{slots} continuations with {needed} rows of keys and values are too many: there is room for {most} with {limit}"
                ),
            });
        }
        self.next += 1;
        match self.lanes.iter_mut().find(|lane| lane.snapshot.same(&snapshot)) {
            Some(lane) => lane.waiting.push_back(waiting),
            None => self.lanes.push_back(Lane {
                snapshot,
                waiting: [waiting].into(),
                open: Vec::new(),
                cautious: false,
                blocked: false,
            }),
        }
        Ok(id)
    }

    /// Gives a request up; there is no further news of it.
    pub fn cancel(&mut self, id: RequestId) {
        for lane in &mut self.lanes {
            lane.waiting.retain(|waiting| waiting.id != id);
            let gone = |open: &mut Open| open.id == id;
            for open in lane.open.extract_if(.., gone) {
                self.cache.remove(open.slot);
            }
        }
        self.lanes.retain(Lane::has_work);
    }

    /// True if there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Requests that wait, and continuations that are being made.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let count = |of: fn(&Lane) -> usize| self.lanes.iter().map(of).sum();
        (count(|lane| lane.waiting.len()), count(|lane| lane.open.len()))
    }

    /// Goes on by one pass of one snapshot; gives the news.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        // A lane whose prompts find no room passes its turn on. As each request would fit alone, some lane can go on.
        for _ in 0..self.lanes.len() {
            let Some(mut lane) = self.lanes.pop_front() else { break };
            let moved = self.pass(&mut lane, &mut events);
            if lane.has_work() {
                self.lanes.push_back(lane);
            }
            if moved {
                break;
            }
        }
        events
    }

    /// A pass of a lane; false if there was nothing that could be done.
    fn pass(&mut self, lane: &mut Lane, events: &mut Vec<Event>) -> bool {
        let admitted = self.admit(lane);
        if admitted.is_empty() && lane.open.is_empty() {
            return false;
        }
        let without_choices = |waiting: &Waiting| waiting.request.choices.is_empty();
        let (prompts, guided): (Vec<Waiting>, Vec<Waiting>) = admitted.into_iter().partition(without_choices);
        if !guided.is_empty() {
            match answer_by_choice(&self.engine, &lane.snapshot, &guided) {
                Ok(news) => events.extend(news),
                Err(error) => lane.refuse(guided, error, events),
            }
        }
        if !prompts.is_empty() || !lane.open.is_empty() {
            let mut joined = Vec::with_capacity(prompts.len());
            match self.read(lane, &prompts, &mut joined) {
                Ok((batch, states)) => {
                    let passed = Passed {
                        joined,
                        batch,
                        states,
                        places: self.cache.order().zip(0..).collect(),
                    };
                    self.go_on(lane, &prompts, &passed, events);
                }
                Err(error) => {
                    joined.iter().for_each(|one| self.cache.remove(one.slot));
                    if prompts.is_empty() {
                        let open = std::mem::take(&mut lane.open);
                        open.iter().for_each(|open| self.cache.remove(open.slot));
                        fail(&open, error, events);
                        Event::settle(events);
                    } else {
                        lane.refuse(prompts, error, events);
                    }
                }
            }
        }
        lane.cautious &= !lane.waiting.is_empty();
        true
    }

    /// The requests whose prompts join the next pass, in their order.
    fn admit(&self, lane: &mut Lane) -> Vec<Waiting> {
        let others: usize = self.lanes.iter().map(|lane| lane.open.len()).sum();
        let (mut rows, mut made) = (0, lane.open.len() + others);
        let (mut capacities, mut admitted) = (Vec::new(), Vec::new());
        lane.blocked = false;
        while let Some(waiting) = lane.waiting.front() {
            let slots = waiting.slots();
            capacities.extend(std::iter::repeat_n(waiting.capacity(), slots));
            let older = |other: &Lane| other.blocked && other.waiting.front().is_some_and(|old| old.id < waiting.id);
            let wide = !admitted.is_empty() && (lane.cautious || rows + waiting.rows > self.settings.prompt_rows);
            if wide || slots > 0 && self.lanes.iter().any(older) {
                break;
            }
            let many = slots > 0 && made + slots > self.settings.continuations;
            if many || self.cache.rows_with(capacities.iter().copied()) > self.row_limit {
                lane.blocked = true;
                break;
            }
            rows += waiting.rows;
            made += slots;
            admitted.extend(lane.waiting.pop_front());
        }
        admitted
    }

    /// The pass itself: prompts that join, and one token of each open continuation.
    fn read(&mut self, lane: &Lane, prompts: &[Waiting], joining: &mut Vec<Joining>) -> Result<(Batch, Tensor)> {
        let inputs = self
            .engine
            .read(prompts.iter().map(|waiting| &waiting.request.prompt), 0)?;
        let features = self.engine.features(&lane.snapshot, &inputs)?;
        for (input, waiting) in inputs.into_iter().zip(prompts) {
            joining.push(Joining {
                print: print_of(&input),
                sequence: input.sequence,
                slot: self.cache.add(waiting.capacity())?,
            });
        }
        let new: HashMap<SlotId, usize> = joining.iter().map(|one| one.slot).zip(0..).collect();
        let open: HashMap<SlotId, &Open> = lane.open.iter().map(|open| (open.slot, open)).collect();
        let (mut parts, mut shown) = (Vec::new(), Vec::new());
        for slot in self.cache.order() {
            parts.push(match (new.get(&slot), open.get(&slot)) {
                (Some(&at), _) => {
                    shown.extend(&features[at]);
                    Part::Prompt(&joining[at].sequence)
                }
                (_, Some(Open { token, position, .. })) => Part::Token {
                    token: *token,
                    position: *position,
                },
                _ => Part::None,
            });
        }
        let model = &lane.snapshot.model;
        let batch = model.batch_of(&parts)?;
        let states = model.forward(&batch, Features::cat(&shown)?.as_ref(), Some(&mut self.cache))?;
        Ok((batch, states.detach()))
    }

    /// After a pass: the next token of all continuations, and the news.
    fn go_on(&mut self, lane: &mut Lane, prompts: &[Waiting], passed: &Passed, events: &mut Vec<Event>) {
        let mut news = Vec::new();
        let mut all = std::mem::take(&mut lane.open);
        for (waiting, joined) in prompts.iter().zip(&passed.joined) {
            match begin(&lane.snapshot, waiting, joined, passed, &mut news) {
                Ok(new) => all.extend(new),
                Err(error) => news.push(Event::Failed { id: waiting.id, error }),
            }
        }
        let mut slots: HashSet<SlotId> = all.iter().map(|open| open.slot).collect();
        slots.extend(passed.joined.iter().map(|one| one.slot));
        match self.next_tokens(&lane.snapshot, passed, &mut all, &mut news) {
            Ok(going_on) => {
                let mut going_on = going_on.into_iter();
                all.retain(|_| going_on.next().unwrap_or(false));
            }
            Err(error) => fail(&std::mem::take(&mut all), error, &mut news),
        }
        self.part(&mut all, &mut news);
        slots.extend(all.iter().map(|open| open.slot));
        let failed = Event::settle(&mut news);
        all.retain(|open| !failed.contains(&open.id));
        for open in &all {
            slots.remove(&open.slot);
        }
        slots.into_iter().for_each(|slot| self.cache.remove(slot));
        lane.open = all;
        events.append(&mut news);
    }

    /// Gives continuations of one prompt places of their own in the cache.
    fn part(&mut self, all: &mut [Open], news: &mut Vec<Event>) {
        let mut taken = HashSet::new();
        for open in all {
            if taken.insert(open.slot) {
                continue;
            }
            let own = self.cache.add(open.capacity);
            let copied = own.and_then(|own| {
                let copied = self.cache.copy(open.slot, own);
                open.slot = own;
                copied
            });
            if let Err(error) = copied {
                news.push(Event::Failed { id: open.id, error });
            }
        }
    }

    /// Chooses the next token of each continuation; tells those that go on.
    fn next_tokens(
        &self,
        snapshot: &Snapshot,
        passed: &Passed,
        all: &mut [Open],
        news: &mut Vec<Event>,
    ) -> Result<Vec<bool>> {
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let Passed { batch, places, .. } = passed;
        let mut rows = Vec::with_capacity(all.len());
        for open in &mut *all {
            let place = places.get(&open.slot).copied();
            let last = place.and_then(|place| Some((batch.last_row(place)?, batch.next(place)?)));
            let Some((row, position)) = last else {
                return Err(Error::tensor("a continuation took no part in its pass"));
            };
            rows.push(row);
            open.position = position;
        }
        let logits = snapshot.model.logits(&passed.states, &rows)?.detach();
        let mut continuations: Vec<&mut Continuation> = all.iter_mut().map(|open| &mut open.continuation).collect();
        let chosen = choose(&logits, &mut continuations)?;
        let decode = |tokens: &[u32]| self.engine.written(tokens);
        let mut going_on = Vec::with_capacity(all.len());
        for (open, chosen) in all.iter_mut().zip(chosen) {
            let (id, sample) = (open.id, open.sample);
            let pushed = match chosen.logprob.is_finite() {
                true => open.continuation.push(&chosen, &decode),
                false => Err(Error::Sampler {
                    reason: format!("a token has log-probability {}", chosen.logprob),
                }),
            };
            open.token = chosen.token;
            going_on.push(matches!(pushed, Ok(true)));
            match pushed {
                Ok(goes_on) => {
                    news.push(Event::Token {
                        id,
                        sample,
                        token: chosen.token,
                        logprob: chosen.logprob,
                        top: chosen.top,
                    });
                    if !goes_on {
                        news.push(Event::Finished {
                            id,
                            sample,
                            stopped: open.continuation.sequence.stopped,
                            choice: None,
                        });
                    }
                }
                Err(error) => news.push(Event::Failed { id, error }),
            }
        }
        Ok(going_on)
    }
}

/// The continuations of a prompt that was read, all still at its own place in the cache.
fn begin(
    snapshot: &Snapshot,
    waiting: &Waiting,
    joined: &Joining,
    passed: &Passed,
    news: &mut Vec<Event>,
) -> Result<Vec<Open>> {
    let Waiting { id, request, .. } = waiting;
    let (id, place) = (*id, passed.places.get(&joined.slot).copied());
    let row = place.and_then(|place| passed.batch.row(place, 0));
    if let (Some(top), Some(row)) = (request.prompt_logprobs, row) {
        let scores = score_prompt(&snapshot.model, &passed.states, row, &joined.sequence, top)?;
        news.push(Event::Prompt { id, scores });
    }
    let samples = 0..request.samples;
    if request.params.max_tokens == 0 {
        news.extend(samples.map(|sample| Event::Finished {
            id,
            sample,
            stopped: false,
            choice: None,
        }));
        return Ok(Vec::new());
    }
    let draws = |sample: usize| draws_of(&joined.print, request.params.seed, sample + 1);
    let open = samples.map(|sample| Open {
        id,
        sample,
        slot: joined.slot,
        capacity: waiting.capacity(),
        token: 0,
        position: 0,
        continuation: Continuation::new(&request.params, draws(sample)),
    });
    Ok(open.collect())
}

/// Tells of an error that befell all of these.
fn fail(open: &[Open], error: Error, events: &mut Vec<Event>) {
    let reason = error.to_string();
    let mut first = Some(error);
    for open in open {
        let again = || Error::Sampler { reason: reason.clone() };
        let (id, error) = (open.id, first.take().unwrap_or_else(again));
        events.push(Event::Failed { id, error });
    }
}

#[cfg(test)]
mod tests;
