//! Seeded damage: the same number gives the same bytes, on every machine.

/// splitmix64.
pub struct Random(u64);

impl Random {
    /// The generator of one iteration; iterations are independent, so that each can be repeated alone.
    pub fn of(seed: u64, iteration: u64) -> Self {
        let mut random = Self(seed ^ iteration.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A damaged copy of one of the files.
pub fn mutate(files: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = files[random.below(files.len())].clone();
    for _ in 0..=random.below(4) {
        damage(&mut bytes, files, random);
    }
    bytes
}

/// Values that lengths and counts overflow at.
const PATTERNS: [[u8; 8]; 7] = [
    [0xff; 8],
    [0; 8],
    [0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f],
    [0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
    [0, 0, 0, 0x80, 0, 0, 0, 0x80],
    [0x80, 0, 0, 0, 0x80, 0, 0, 0],
    [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
];

fn damage(bytes: &mut Vec<u8>, files: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let length = 1 + random.below(32);
    let end = (at + length).min(bytes.len());
    match random.below(12) {
        0..=2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        4 => bytes.truncate(at),
        // A length, a count or an offset of one to eight bytes.
        5 | 6 => {
            let pattern = PATTERNS[random.below(PATTERNS.len())];
            let width = 1 << random.below(4);
            for (byte, value) in bytes.iter_mut().skip(at).zip(&pattern[..width]) {
                *byte = *value;
            }
        }
        7 => {
            let inserted: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, inserted);
        }
        8 => drop(bytes.drain(at..end)),
        // A chunk twice, once or many times.
        9 => {
            let most = 1 << random.below(8);
            let chunk = bytes[at..end].repeat(1 + random.below(most));
            bytes.splice(at..at, chunk);
        }
        // A chunk somewhere else.
        10 => {
            let chunk = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, chunk);
        }
        // The head of one file, the tail of another.
        _ => {
            let other = &files[random.below(files.len())];
            bytes.truncate(at);
            bytes.extend(&other[random.below(other.len())..]);
        }
    }
}
