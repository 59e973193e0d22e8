//! A cache within a bound of bytes; the oldest entries go first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Values by key with the bytes that each takes.
#[derive(Debug)]
pub(crate) struct FifoCache<K, V> {
    entries: HashMap<K, (V, usize)>,
    /// Oldest first.
    order: VecDeque<K>,
    bytes: usize,
}

impl<K, V> Default for FifoCache<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> FifoCache<K, V> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a value of so many bytes, the newest; one that is replaced keeps its place.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.bytes += bytes;
        match self.entries.insert(key.clone(), (value, bytes)) {
            Some((_, old)) => self.bytes -= old,
            None => self.order.push_back(key),
        }
    }

    /// Removes the oldest until all fit into `capacity` bytes; the newest `kept` stay in any case.
    pub(crate) fn evict(&mut self, capacity: usize, kept: usize) {
        while self.bytes > capacity
            && self.order.len() > kept
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.entries.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cache: &FifoCache<&'static str, u32>) -> Vec<&'static str> {
        let mut kept: Vec<_> = cache.entries.keys().copied().collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let mut cache = FifoCache::default();
        for name in ["a", "b", "c", "b", "d"] {
            cache.insert(name, 0, 8);
            cache.evict(24, 0);
            assert!(cache.bytes <= 24 && cache.order.len() == cache.entries.len());
        }
        assert_eq!((kept(&cache), cache.bytes), (vec!["b", "c", "d"], 24));
    }

    #[test]
    fn the_newest_stay_however_small_the_capacity() {
        for (capacity, expected) in [
            (64, vec!["b", "c", "d", "e"]),
            (32, vec!["d", "e"]),
            (0, vec!["d", "e"]),
        ] {
            let mut cache = FifoCache::default();
            for call in [&["a", "b", "c"][..], &["d", "e"]] {
                call.iter().for_each(|name| cache.insert(*name, 0, 16));
                cache.evict(capacity, call.len());
            }
            assert_eq!(
                (kept(&cache), cache.bytes),
                (expected.clone(), 16 * expected.len()),
                "{capacity} bytes"
            );
        }
    }
}
