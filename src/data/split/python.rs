//! CPython's `random.Random`, as far as shuffling a list needs it, bit for bit: draws made by a Python program
//! with a seed can be made again.
//!
//! Source: CPython 3.11, `Modules/_randommodule.c` (Mersenne Twister of Matsumoto and Nishimura, 2002) and
//! `Lib/random.py` (`shuffle`, `_randbelow_with_getrandbits`).

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)` for an integer seed of at most 64 bits.
pub(super) struct Random {
    state: [u32; N],
    index: usize,
}

impl Random {
    /// CPython seeds by an integer's 32-bit words, the lowest first; zero is one word.
    pub(crate) fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = [low, high];
        Self::by_array(if high == 0 { &key[..1] } else { &key })
    }

    /// `init_by_array` of the reference implementation, for a key shorter than the state.
    fn by_array(key: &[u32]) -> Self {
        let mut state = [0_u32; N];
        let mut last = 19_650_218_u32;
        for (i, word) in (0..).zip(&mut state) {
            if i > 0 {
                last = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i);
            }
            *word = last;
        }
        let mut i = 1;
        let mut mix = |factor: u32, change: &dyn Fn(u32, u32) -> u32| {
            let before = state[i - 1];
            let mixed = state[i] ^ (before ^ (before >> 30)).wrapping_mul(factor);
            state[i] = change(mixed, i as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        };
        for (word, j) in key.iter().zip(0..).cycle().take(N) {
            mix(1_664_525, &|mixed, _| mixed.wrapping_add(*word).wrapping_add(j));
        }
        for _ in 1..N {
            mix(1_566_083_941, &|mixed, i| mixed.wrapping_sub(i));
        }
        state[0] = 0x8000_0000;
        Self { state, index: N }
    }

    /// 32 random bits (`genrand_uint32`).
    fn next(&mut self) -> u32 {
        if self.index == N {
            for i in 0..N {
                let bits = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (bits >> 1) ^ twist;
            }
            self.index = 0;
        }
        let mut word = self.state[self.index];
        self.index += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `_randbelow_with_getrandbits`: as many bits as `end` has, drawn again until they make a smaller number.
    fn below(&mut self, end: u32) -> u32 {
        let unused = end.leading_zeros();
        loop {
            let number = self.next() >> unused;
            if number < end {
                return number;
            }
        }
    }

    /// `shuffle`, of fewer than 2³² items.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1);
            items.swap(last, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::hash::hex;
    use sha2::{Digest as _, Sha256};

    /// `r = random.Random(seed)`; `[r.getrandbits(32) for _ in range(4)]`; after 1000 more, one again. CPython 3.11.7.
    #[test]
    fn bits_are_those_of_cpython() {
        let expected: [(u64, [u32; 4], u32); 8] = [
            (
                0,
                [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514],
                42_796_075,
            ),
            (
                1,
                [577_090_037, 2_444_712_010, 3_639_700_191, 3_445_702_192],
                2_269_434_816,
            ),
            (
                42,
                [2_746_317_213, 478_163_327, 107_420_369, 3_184_935_163],
                1_692_304_102,
            ),
            (
                1 << 31,
                [1_455_117_090, 1_620_553_392, 2_169_224_728, 3_773_848_694],
                2_348_016_351,
            ),
            (
                (1 << 32) - 1,
                [2_728_839_433, 2_661_025_012, 872_737_089, 924_893_097],
                309_209_550,
            ),
            (
                1 << 32,
                [485_306_839, 1_508_871_100, 1_794_561_286, 4_014_597_330],
                1_112_130_916,
            ),
            (
                (1 << 40) + 7,
                [2_635_837_658, 3_209_733_218, 3_500_038_837, 4_028_389_051],
                1_238_459_538,
            ),
            (
                u64::MAX,
                [93_740_670, 1_068_495_656, 1_452_108_352, 2_657_516_307],
                1_762_574_173,
            ),
        ];
        for (seed, first, later) in expected {
            let mut random = Random::new(seed);
            assert_eq!([(); 4].map(|()| random.next()), first, "seed {seed}");
            (0..1000).for_each(|_| _ = random.next());
            assert_eq!(random.next(), later, "seed {seed}");
        }
    }

    fn shuffled(seed: u64, length: u32) -> Vec<u32> {
        let mut items: Vec<u32> = (0..length).collect();
        Random::new(seed).shuffle(&mut items);
        items
    }

    /// `x = list(range(length)); random.Random(seed).shuffle(x)`. CPython 3.11.7.
    #[test]
    fn short_lists_are_shuffled_as_by_cpython() {
        assert!(shuffled(0, 0).is_empty());
        assert_eq!(shuffled(0, 1), [0]);
        assert_eq!(shuffled(0, 2), [0, 1]);
        assert_eq!(shuffled(0, 10), [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]);
        assert_eq!(shuffled(1, 10), [6, 8, 9, 7, 5, 3, 0, 4, 1, 2]);
        assert_eq!(
            shuffled(4, 17),
            [5, 8, 12, 13, 10, 4, 3, 0, 15, 14, 2, 16, 6, 11, 1, 9, 7]
        );
        assert_eq!(shuffled(1 << 32, 9), [4, 8, 6, 2, 7, 0, 3, 5, 1]);
        assert_eq!(shuffled((1 << 40) + 7, 12), [0, 5, 2, 3, 6, 1, 8, 4, 7, 11, 10, 9]);
        assert_eq!(
            shuffled(u64::MAX, 16),
            [4, 11, 2, 8, 15, 10, 6, 13, 1, 12, 7, 14, 9, 5, 3, 0]
        );
    }

    /// SHA-256 of `' '.join(map(str, x))`. CPython 3.11.7.
    #[test]
    fn long_lists_are_shuffled_as_by_cpython() {
        let expected = [
            (
                0,
                1000,
                "b994ac668cb99bd086888bf35261cbf397af3f89f4555fd0659fd1dab0735a1c",
            ),
            (
                3,
                8144,
                "013c81497cd1bb017ab89dadb18a0f115c3f98fc1a580a58d73a96ddc9edb2da",
            ),
            (
                (1 << 33) + 5,
                4097,
                "d5860b4b06e3e55e9fb6797daefc879b9864b7c3e694636d5bbab940b7c1b8c9",
            ),
        ];
        for (seed, length, digest) in expected {
            let words: Vec<String> = shuffled(seed, length).iter().map(ToString::to_string).collect();
            assert_eq!(
                hex(&Sha256::digest(words.join(" "))),
                digest,
                "seed {seed}, {length} items"
            );
        }
    }
}
