//! Huffman codes of a JPEG (ITU-T T.81, annexes C and F).

/// Bits that are looked up at once; few codes are longer.
const LOOK: u32 = 10;

/// One table of codes.
pub(super) struct Table {
    /// By the next [`LOOK`] bits: symbol and length of the code, length 0 for a longer one.
    short: Box<[(u8, u8); 1 << LOOK]>,
    /// The same with the number that follows the code, where both fit: the number, the run before it, the length of both.
    whole: Box<[(i16, u8, u8); 1 << LOOK]>,
    /// By length: the first code beyond those of that length, aligned to 16 bits.
    beyond: [u32; 17],
    /// By length: what to add to a code to get the place of its symbol.
    places: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// From the number of codes of each length and their symbols; nothing if there are too many codes.
    /// The library refuses the same tables.
    pub(crate) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        if symbols.len() > 256 {
            return None;
        }
        let mut table = Self {
            short: Box::new([(0, 0); 1 << LOOK]),
            whole: Box::new([(0, 0, 0); 1 << LOOK]),
            beyond: [0; 17],
            places: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            table.places[length as usize] = place as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(place)?;
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    table
                        .short
                        .get_mut(first..first + (1 << (LOOK - length)))?
                        .fill((symbol, length as u8));
                }
                code += 1;
                place += 1;
            }
            // The code of ones alone is none, as the library has it.
            if count > 0 && code >= 1 << length {
                return None;
            }
            table.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        for (look, whole) in table.whole.iter_mut().enumerate() {
            let (symbol, length) = table.short[look];
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            let both = u32::from(length) + size;
            if length > 0 && size > 0 && both <= LOOK {
                let number = (look as u32 >> (LOOK - both)) & ((1 << size) - 1);
                *whole = (extended(number, size) as i16, run, both as u8);
            }
        }
        Some(table)
    }
}

/// A number of `size` bits, of which those with a leading 0 are negative.
#[inline(always)]
fn extended(number: u32, size: u32) -> i32 {
    let number = number as i32;
    if number < (1 << size) >> 1 {
        number - (1 << size) + 1
    } else {
        number
    }
}

/// Bits of entropy-coded data, the first ones on top.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    next: u64,
    /// Bits of `next` that are filled.
    filled: u32,
}

/// Zeros behind the data, so that reading on is noticed at the end only.
const MARGIN: usize = 16;

impl<'a> Bits<'a> {
    /// Copies entropy-coded data up to the next marker without stuffed zeros; the marker, and what follows it.
    pub(crate) fn unstuff<'b>(bytes: &'b [u8], data: &mut Vec<u8>) -> Option<(u8, &'b [u8])> {
        data.clear();
        let mut rest = bytes;
        loop {
            let end = rest.iter().position(|byte| *byte == 0xff)?;
            let (plain, from) = rest.split_at(end);
            data.extend_from_slice(plain);
            let (&[_, after], behind) = from.split_first_chunk()?;
            rest = behind;
            if after != 0 {
                data.extend([0; MARGIN]);
                return Some((after, rest));
            }
            data.push(0xff);
        }
    }

    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            next: 0,
            filled: 0,
        }
    }

    /// At least 56 bits.
    #[inline(always)]
    fn fill(&mut self) -> Option<()> {
        let word = u64::from_be_bytes(*self.data.get(self.at..)?.first_chunk()?);
        self.next |= word >> self.filled;
        self.at += (63 - self.filled) as usize / 8;
        self.filled |= 56;
        Some(())
    }

    #[inline(always)]
    fn take(&mut self, count: u32) -> u32 {
        // In two steps: none may be taken.
        let taken = (self.next >> 1) >> (63 - count);
        self.next <<= count;
        self.filled -= count;
        taken as u32
    }

    /// The next symbol; at most 16 bits are taken.
    #[inline(always)]
    fn symbol(&mut self, table: &Table) -> Option<u8> {
        let (symbol, length) = table.short[(self.next >> (64 - LOOK)) as usize];
        if length > 0 {
            self.take(u32::from(length));
            return Some(symbol);
        }
        let code = (self.next >> 48) as u32;
        let length = (LOOK + 1..=16).find(|&length| code < table.beyond[length as usize])?;
        let place = (code >> (16 - length)) as i32 + table.places[length as usize];
        self.take(length);
        table.symbols.get(usize::try_from(place).ok()?).copied()
    }

    /// The difference between two DC coefficients.
    #[inline(always)]
    pub(crate) fn difference(&mut self, table: &Table) -> Option<i32> {
        self.fill()?;
        let size = u32::from(self.symbol(table)?);
        (size <= 11).then(|| extended(self.take(size), size))
    }

    /// Zeros before a coefficient, and that coefficient; 0 after a run of 0 or 15 means the end or sixteen zeros.
    #[inline(always)]
    pub(crate) fn coefficient(&mut self, table: &Table) -> Option<(usize, i32)> {
        self.fill()?;
        let (value, run, length) = table.whole[(self.next >> (64 - LOOK)) as usize];
        if length > 0 {
            self.take(u32::from(length));
            return Some((usize::from(run), i32::from(value)));
        }
        let symbol = self.symbol(table)?;
        let size = u32::from(symbol & 15);
        if size > 10 {
            return None;
        }
        Some((usize::from(symbol >> 4), extended(self.take(size), size)))
    }

    /// True if all was read, but for less than a byte, and nothing beyond it.
    pub(crate) fn all_read(&self) -> bool {
        let read = 8 * self.at as u64 - u64::from(self.filled);
        let there = 8 * (self.data.len() - MARGIN) as u64;
        (there.saturating_sub(7)..=there).contains(&read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_ones_alone_is_none() {
        let table = |counts: &[u8]| {
            let mut all = [0; 16];
            all[..counts.len()].copy_from_slice(counts);
            Table::new(&all, &[0, 1])
        };
        assert!(table(&[2]).is_none() && table(&[0, 2]).is_some() && table(&[1, 1]).is_some());
    }
}
