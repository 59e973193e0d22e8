//! Protocol `tinker`: the draws of the Tinker cookbook's recipe (`tinker_cookbook/recipes/vlm_classifier/data.py`).

use std::collections::BTreeMap;

use super::{Split, SplitItem, of_class};
use crate::config::{Protocol, Shots};
use crate::data::Dataset;
use crate::error::{Cause, Error, Result};
use crate::manifest::Form;

/// One generator for all classes: label by label in ascending order, the rows of the class are shuffled and the
/// first k of them taken, or as many as there are. So the draw of one seed nests in k.
///
/// With all shots nothing is drawn: every row, in the order of the rows.
///
/// # Errors
/// [`Error::Dataset`] for a dataset that did not come from its hub repository, whose rows these draws are of;
/// [`Error::ClassName`] for two classes that the recipe calls the same.
pub(super) fn tinker(dataset: &Dataset, shots: Shots, seed: u64) -> Result<Split> {
    if dataset.origin.form != Form::Hub {
        let reason = "the protocol `tinker` draws from the parquet files of a hub repository, not from archives";
        return Err(dataset.fail(reason).because(Cause::Protocol));
    }
    let classes = class_texts(&dataset.classes)?;
    let mut random = Random::new(seed);
    let mut train = Vec::new();
    let mut fewest = None;
    for (class, _) in (0..).zip(&classes) {
        // Ids are numbers of rows, so that their order is that of the rows.
        let mut rows = of_class(&dataset.pool, class);
        random.shuffle(&mut rows);
        fewest = fewest.min(Some(rows.len())).or(Some(rows.len()));
        let wanted = shots.count().map_or(0, |k| k as usize);
        train.extend(rows.into_iter().take(wanted).map(SplitItem::from));
    }
    if shots == Shots::All {
        let mut rows: Vec<_> = dataset.pool.iter().collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        train = rows.into_iter().map(SplitItem::from).collect();
    }
    Ok(Split {
        classes,
        capped: fewest
            .and_then(|fewest| u32::try_from(fewest).ok())
            .filter(|&fewest| shots.count().is_some_and(|k| k > fewest)),
        ..Split::drawn(dataset, Protocol::Tinker, shots, seed, train)
    })
}

/// The texts that the recipe makes of class names: `_`, `.` and `-` are spaces, all in lower case.
fn class_texts(names: &[String]) -> Result<Vec<String>> {
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    let mut texts = Vec::with_capacity(names.len());
    for name in names {
        let text = name.replace(['_', '.', '-'], " ").to_lowercase();
        if let Some(other) = known.insert(text.clone(), name) {
            return Err(Error::ClassName {
                name: name.clone(),
                reason: format!("the protocol `tinker` calls it `{text}`, as it calls the class `{other}`"),
            });
        }
        texts.push(text);
    }
    Ok(texts)
}

/// Words of the generator's state, and the distance of those that are mixed.
const N: usize = 624;
const M: usize = 397;

/// CPython's `random.Random(seed)` for an integer seed of at most 64 bits, as far as shuffling a list needs it, bit for bit:
/// draws made by a Python program with a seed can be made again.
///
/// Source: CPython 3.11, `Modules/_randommodule.c` (Mersenne Twister of Matsumoto and Nishimura, 2002) and
/// `Lib/random.py` (`shuffle`, `_randbelow_with_getrandbits`).
struct Random {
    state: [u32; N],
    index: usize,
}

impl Random {
    /// CPython seeds by an integer's 32-bit words, the lowest first; zero is one word.
    fn new(seed: u64) -> Self {
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
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1);
            items.swap(last, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::data::split::{shuffle, toy};
    use crate::fs::hash::hex;
    use crate::seed;
    use sha2::{Digest as _, Sha256};

    fn hub(sizes: &[usize]) -> Dataset {
        let mut data = toy::dataset(sizes);
        data.origin.form = Form::Hub;
        data
    }

    proptest! {
        #[test]
        fn shots_nest_are_balanced_and_capped(sizes in prop::collection::vec(1_usize..9, 1..6), seed: u64) {
            let data = hub(&sizes);
            let fewest = *sizes.iter().min().unwrap() as u32;
            let mut smaller: Vec<Vec<String>> = vec![Vec::new(); sizes.len()];
            for shots in 0..11_u32 {
                let split = tinker(&data, Shots::K(shots), seed).unwrap();
                prop_assert_eq!(split.capped, (shots > fewest).then_some(fewest));
                let drawn: BTreeSet<&str> = split.train.iter().map(|item| item.id.as_str()).collect();
                prop_assert_eq!(drawn.len(), split.train.len());
                prop_assert!(split.test.iter().all(|item| !drawn.contains(item.id.as_str())));
                prop_assert_eq!(split.test.len(), data.test.len());
                for (class, size) in sizes.iter().enumerate() {
                    let own = split.train.iter().filter(|item| item.class as usize == class);
                    let own: Vec<String> = own.map(|item| item.id.clone()).collect();
                    prop_assert_eq!(own.len(), (shots as usize).min(*size));
                    prop_assert!(own.starts_with(&smaller[class]));
                    smaller[class] = own;
                }
            }
            let all = tinker(&data, Shots::All, seed).unwrap();
            prop_assert_eq!((all.train.len(), all.capped), (data.pool.len(), None));
            prop_assert!(all.train.is_sorted_by_key(|item| &item.id));
        }

        #[test]
        fn only_seed_and_content_decide(sizes in prop::collection::vec(2_usize..9, 1..6), seed: u64, order: u64) {
            let data = hub(&sizes);
            let mut listed_otherwise = data.clone();
            shuffle(&mut listed_otherwise.pool, &mut seed::rng(order, "order"));
            let split = tinker(&data, Shots::K(2), seed).unwrap();
            prop_assert_eq!(&split, &tinker(&listed_otherwise, Shots::K(2), seed).unwrap());
            let read: Split = serde_json::from_str(&split.to_json().unwrap()).unwrap();
            prop_assert_eq!(read.digest().unwrap(), split.digest().unwrap());
        }
    }

    #[test]
    fn class_texts_are_the_recipe_s() {
        let texts = |names: &[&str]| class_texts(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            texts(&[
                "BACKGROUND_Google",
                "Mercedes-Benz 300-Class 1993",
                "pink-yellow dahlia?",
                "St._X"
            ])
            .unwrap(),
            [
                "background google",
                "mercedes benz 300 class 1993",
                "pink yellow dahlia?",
                "st  x"
            ]
        );
        let error = texts(&["car_side", "leopard", "Car-Side"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "class name `Car-Side`: the protocol `tinker` calls it `car side`, as it calls the class `car_side`"
        );
    }

    #[test]
    fn archives_have_no_rows() {
        let error = tinker(&toy::dataset(&[3]), Shots::K(1), 0).unwrap_err();
        assert!(error.to_string().contains("not from archives"), "{error}");
    }

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
