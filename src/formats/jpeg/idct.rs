//! The accurate integer inverse transform of the Independent JPEG Group (`jidctint.c`), eight columns or rows at once.

/// Coefficients row by row, multiplied by their quantisation.
pub(super) type Block = [i32; 64];

/// Fractional bits of the constants, and those that stay after the first pass.
const CONSTANT: u32 = 13;
const PASS: u32 = 2;

type Lanes = [i32; 8];

// Plain loops: closures given to `array::map` and its like are not always compiled for the processor that `pulp` found.

#[inline(always)]
fn each(a: &Lanes, b: &Lanes, f: impl Fn(i32, i32) -> i32) -> Lanes {
    let mut out = [0; 8];
    for i in 0..8 {
        out[i] = f(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn plus(a: &Lanes, b: &Lanes) -> Lanes {
    each(a, b, i32::wrapping_add)
}

#[inline(always)]
fn minus(a: &Lanes, b: &Lanes) -> Lanes {
    each(a, b, i32::wrapping_sub)
}

#[inline(always)]
fn times(a: &Lanes, factor: i32) -> Lanes {
    each(a, a, |a, _| a.wrapping_mul(factor))
}

/// One pass along the rows of `v`, lane by lane; the result has `down` fractional bits less.
#[inline(always)]
fn pass(v: &[Lanes; 8], down: u32) -> [Lanes; 8] {
    let z1 = times(&plus(&v[2], &v[6]), 4433);
    let t2 = plus(&z1, &times(&v[6], -15137));
    let t3 = plus(&z1, &times(&v[2], 6270));
    let t0 = times(&plus(&v[0], &v[4]), 1 << CONSTANT);
    let t1 = times(&minus(&v[0], &v[4]), 1 << CONSTANT);
    let even = [plus(&t0, &t3), plus(&t1, &t2), minus(&t1, &t2), minus(&t0, &t3)];

    let z3 = plus(&v[7], &v[3]);
    let z4 = plus(&v[5], &v[1]);
    let z5 = times(&plus(&z3, &z4), 9633);
    let z1 = times(&plus(&v[7], &v[1]), -7373);
    let z2 = times(&plus(&v[5], &v[3]), -20995);
    let z3 = plus(&times(&z3, -16069), &z5);
    let z4 = plus(&times(&z4, -3196), &z5);
    let odd = [
        plus(&times(&v[1], 12299), &plus(&z1, &z4)),
        plus(&times(&v[3], 25172), &plus(&z2, &z3)),
        plus(&times(&v[5], 16819), &plus(&z2, &z4)),
        plus(&times(&v[7], 2446), &plus(&z1, &z3)),
    ];

    let half = 1 << (down - 1);
    let scaled = |x: Lanes| each(&x, &x, |x, _| x.wrapping_add(half) >> down);
    let mut out = [[0; 8]; 8];
    for i in 0..4 {
        out[i] = scaled(plus(&even[i], &odd[i]));
        out[7 - i] = scaled(minus(&even[i], &odd[i]));
    }
    out
}

#[inline(always)]
fn transposed(v: &[Lanes; 8]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for i in 0..8 {
        for j in 0..8 {
            out[i][j] = v[j][i];
        }
    }
    out
}

/// The 8 x 8 samples of a block, into rows of `stride`; coefficients beyond the `coded`th in coding order are 0. Whether they are
/// near enough to their range for every implementation to cut them off alike.
#[inline(always)]
pub(super) fn samples(block: &Block, coded: usize, out: &mut [u8], stride: usize) -> bool {
    let sample = |x: i32| (x + 128).clamp(0, 255) as u8;
    if coded == 0 {
        let flat = ((block[0] << PASS) + (1 << (PASS + 2))) >> (PASS + 3);
        for row in out.chunks_mut(stride).take(8) {
            row[..8].fill(sample(flat));
        }
        return (-512..512).contains(&flat);
    }
    let mut rows = [[0; 8]; 8];
    for (row, values) in rows.iter_mut().zip(block.as_chunks().0) {
        *row = *values;
    }
    let columns = pass(&rows, CONSTANT - PASS);
    let across = pass(&transposed(&columns), CONSTANT + PASS + 3);
    for (row, values) in out.chunks_mut(stride).zip(transposed(&across)) {
        for (out, value) in row[..8].iter_mut().zip(values) {
            *out = sample(value);
        }
    }
    let mut beyond = 0;
    for row in &across {
        for value in row {
            beyond |= (value + 512) & !1023;
        }
    }
    beyond == 0
}
