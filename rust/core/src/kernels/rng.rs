//! Random bits as a pure function of key and position: Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", SC 2011). No generator state, so masks do not depend on chunks, threads or shard order.

use multiversion::multiversion;

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;
/// Counters advanced together, one per SIMD lane.
const LANES: usize = 8;

/// Fills `out` with the random words of elements `start..start + out.len()` under `key`.
///
/// Element `i` is word `i % 4` of the Philox output for counter `(i / 4, 0)` (low and high half) and key
/// `(low, high)`. `start` is a multiple of 4.
pub fn words(key: u64, start: u64, out: &mut [u32]) {
    debug_assert_eq!(start % 4, 0);
    for (i, out) in out.chunks_mut(4 * LANES).enumerate() {
        let block = philox(key, start / 4 + (i * LANES) as u64);
        for (o, j) in out.iter_mut().zip(0..) {
            *o = block[j % 4][j / 4];
        }
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn philox(key: u64, first: u64) -> [[u32; LANES]; 4] {
    let mut c = [[0u32; LANES]; 4];
    c[0] = std::array::from_fn(|l| first.wrapping_add(l as u64) as u32);
    c[1] = std::array::from_fn(|l| (first.wrapping_add(l as u64) >> 32) as u32);
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let mut next = [[0u32; LANES]; 4];
        for l in 0..LANES {
            let p0 = u64::from(M0) * u64::from(c[0][l]);
            let p1 = u64::from(M1) * u64::from(c[2][l]);
            next[0][l] = (p1 >> 32) as u32 ^ c[1][l] ^ k0;
            next[1][l] = p1 as u32;
            next[2][l] = (p0 >> 32) as u32 ^ c[3][l] ^ k1;
            next[3][l] = p0 as u32;
        }
        c = next;
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    c
}

/// The key of a tensor's mask: a hash of the seed, the model's label and the tensor's name.
pub fn key(seed: u64, model: &str, tensor: &str) -> u64 {
    let text = format!("{seed}\0{model}\0{tensor}");
    crate::digest::of_bytes(text.as_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution for philox4x32-10, which counts with all four words.
    #[test]
    fn known_answers() {
        let c = philox(0, 0);
        assert_eq!([c[0][0], c[1][0], c[2][0], c[3][0]], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn words_do_not_depend_on_where_a_run_starts() {
        let mut whole = vec![0; 1000];
        words(42, 0, &mut whole);
        for start in [4, 128, 500, 996] {
            let mut part = vec![0; 1000 - start];
            words(42, start as u64, &mut part);
            assert_eq!(part, whole[start..]);
        }
    }

    #[test]
    fn keys_differ_by_each_part() {
        let keys = [key(0, "a", "t"), key(1, "a", "t"), key(0, "b", "t"), key(0, "a", "u")];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }
}
