//! Random bits as a pure function of key and position: Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", SC 2011). No generator state, so masks do not depend on chunks, threads or shard order.
//!
//! An element's *draw* has 32 bits. Whether it is below a limit the high eight nearly always tell, so these are made for all
//! elements, sixteen by a block of words, and the low ones where the high ones equal the limit's, one time in 256. The probability
//! is exact to 2^-32; `dare_linear` took two thirds of the time it took with a word for each element.

#[cfg(target_arch = "x86_64")]
use super::isa;

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// Elements whose high bits one block of words holds.
pub const TOGETHER: u64 = 16;

/// Fills `out` with the high eight bits of the draws of elements `start..start + out.len()` under `key`, that of element `i` being
/// byte `i % 16`, from the lowest of the first word on, of the output for counter `i / 16`. `start` is a multiple of
/// [`TOGETHER`].
pub fn high(key: u64, start: u64, out: &mut [u8]) {
    debug_assert_eq!(start % TOGETHER, 0);
    const WORDS: usize = 256;
    let mut made = [0; WORDS];
    for (i, out) in out.chunks_mut(4 * WORDS).enumerate() {
        let made = &mut made[..out.len().div_ceil(4)];
        words(key, start / 4 + (i * WORDS) as u64, made);
        let (whole, rest) = out.as_chunks_mut::<4>();
        whole.iter_mut().zip(&*made).for_each(|(out, word)| *out = word.to_le_bytes());
        rest.iter_mut().zip(made.last().copied().unwrap_or(0).to_le_bytes()).for_each(|(out, byte)| *out = byte);
    }
}

/// The low 24 bits of the draw of element `i` under `key`: those of word `i % 4` of the output for counter `(i / 4, 1)`.
pub fn low(key: u64, i: u64) -> u32 {
    philox(key, [(i / 4) as u32, ((i / 4) >> 32) as u32, 1, 0])[(i % 4) as usize] & 0xff_ffff
}

/// Fills `out` with random words `start..start + out.len()` under `key`.
///
/// Word `i` is word `i % 4` of the Philox output for counter `(i / 4, 0)` (low and high half) and key
/// `(low, high)`. `start` is a multiple of 4.
pub fn words(key: u64, start: u64, out: &mut [u32]) {
    debug_assert_eq!(start % 4, 0);
    #[cfg(target_arch = "x86_64")]
    if isa::chosen() >= isa::Isa::Avx2 {
        let whole = out.len() / avx2::GROUP * avx2::GROUP;
        // SAFETY: the processor has AVX2.
        unsafe { avx2::words(key, start, &mut out[..whole]) };
        return portable(key, start + whole as u64, &mut out[whole..]);
    }
    portable(key, start, out);
}

fn portable(key: u64, start: u64, out: &mut [u32]) {
    for (i, out) in out.chunks_mut(4).enumerate() {
        let counter = start / 4 + i as u64;
        let block = philox(key, [counter as u32, (counter >> 32) as u32, 0, 0]);
        out.copy_from_slice(&block[..out.len()]);
    }
}

fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut c = counter;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..ROUNDS {
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    c
}

/// The same, eight counters at a time. Left to the compiler the loop ran at 0.16 G words/s with 32-bit lanes and 0.63
/// with 64-bit ones; written out it runs at 0.97 (one core, beside other work).
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{M0, M1, ROUNDS, W0, W1};

    /// Vectors of four counters worked on together, to hide the latency of the multiplication.
    const VECTORS: usize = 2;
    /// Words made at a time.
    pub const GROUP: usize = 16 * VECTORS;

    /// Fills `out`, a whole number of groups. Each 64-bit lane holds one word; what is above its low half is never
    /// read by the multiplication, nor stored.
    #[target_feature(enable = "avx2")]
    pub fn words(key: u64, start: u64, out: &mut [u32]) {
        let (m0, m1) = (_mm256_set1_epi64x(M0 as i64), _mm256_set1_epi64x(M1 as i64));
        let steps = _mm256_set_epi64x(3, 2, 1, 0);
        for (i, out) in out.chunks_exact_mut(GROUP).enumerate() {
            let first = start / 4 + (i * 4 * VECTORS) as u64;
            let mut c: [[__m256i; 4]; VECTORS] = std::array::from_fn(|v| {
                let counters = _mm256_add_epi64(_mm256_set1_epi64x((first + 4 * v as u64) as i64), steps);
                [counters, _mm256_srli_epi64::<32>(counters), _mm256_setzero_si256(), _mm256_setzero_si256()]
            });
            let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
            for _ in 0..ROUNDS {
                let (a, b) = (_mm256_set1_epi64x(i64::from(k0)), _mm256_set1_epi64x(i64::from(k1)));
                for c in &mut c {
                    let p0 = _mm256_mul_epu32(m0, c[0]);
                    let p1 = _mm256_mul_epu32(m1, c[2]);
                    *c = [
                        _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(p1), c[1]), a),
                        p1,
                        _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(p0), c[3]), b),
                        p0,
                    ];
                }
                k0 = k0.wrapping_add(W0);
                k1 = k1.wrapping_add(W1);
            }
            for (c, out) in c.iter().zip(out.chunks_exact_mut(16)) {
                // Words 0 and 1, and 2 and 3, of each counter side by side; then counter after counter.
                let a = _mm256_blend_epi32::<0xaa>(c[0], _mm256_slli_epi64::<32>(c[1]));
                let b = _mm256_blend_epi32::<0xaa>(c[2], _mm256_slli_epi64::<32>(c[3]));
                let (even, odd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
                let (low, high) = out.split_at_mut(8);
                // SAFETY: each half has room for the eight words that an unaligned store writes.
                unsafe {
                    _mm256_storeu_si256(low.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x20>(even, odd));
                    _mm256_storeu_si256(high.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x31>(even, odd));
                }
            }
        }
    }
}

/// So many draws of the standard normal distribution under `key`, two from two words (Box and Muller).
pub fn normal(key: u64, count: usize) -> Vec<f64> {
    let mut drawn = vec![0; count.next_multiple_of(2)];
    words(key, 0, &mut drawn);
    let share = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let pair = |two: &[u32; 2]| {
        let (length, angle) = ((-2.0 * share(two[0]).ln()).sqrt(), std::f64::consts::TAU * share(two[1]));
        [length * angle.cos(), length * angle.sin()]
    };
    let mut made: Vec<f64> = drawn.as_chunks::<2>().0.iter().flat_map(pair).collect();
    made.truncate(count);
    made
}

/// The key of a tensor's mask: a hash of the seed, the model's label and the tensor's name.
pub fn key(seed: u64, model: &str, tensor: &str) -> u64 {
    let text = format!("{seed}\0{model}\0{tensor}");
    crate::digest::of_bytes(text.as_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer of the Random123 distribution for philox4x32-10.
    #[test]
    fn known_answer() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    /// Law 3: neither where words start nor the instruction set shows in the words.
    #[test]
    fn words_are_the_same_however_they_are_made() {
        for (key, first) in [(42, 0u64), (u64::MAX, (1 << 34) - 64)] {
            let mut whole = vec![0; 1000];
            portable(key, first, &mut whole);
            for start in [0, 4, 128, 500, 996] {
                let mut part = vec![0; 1000 - start];
                words(key, first + start as u64, &mut part);
                assert_eq!(part, whole[start..]);
            }
        }
    }

    /// Law 3: nor does it in what of them decides.
    #[test]
    fn draws_are_the_same_wherever_they_begin() {
        let (key, first) = (42, (1 << 34) - 64);
        let mut whole = [0; 3000];
        high(key, first, &mut whole);
        for start in [0, 16, 1024, 2992] {
            let mut part = vec![0; 3000 - start];
            high(key, first + start as u64, &mut part);
            assert_eq!(part, whole[start..]);
        }
        assert_ne!(low(key, 4) & 0xff, low(key, 5) & 0xff);
    }

    #[test]
    fn keys_differ_by_each_part() {
        let keys = [key(0, "a", "t"), key(1, "a", "t"), key(0, "b", "t"), key(0, "a", "u")];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }
}
