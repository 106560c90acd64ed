//! The codes beside those that are stored: each with its lowest bit the other way round. What they decode to is one step of the
//! quantisation away from what is stored, whatever the form: a unit of the last place of a small float times its scale, the scale of
//! an integer, the gap to a neighbour in a table.

use crate::kernels::codes::floats;
use crate::model::coding::{Blocks, Coding, Scaled, Table};

/// Turns the lowest bit of every code in the bytes of a piece of `part` round; false where a form has no such bits.
pub fn turn(coding: &Coding, part: usize, bytes: &mut [u8]) -> bool {
    if part > 0 && !matches!(coding, Coding::Woven(_)) {
        return true;
    }
    match coding {
        Coding::Scaled(s) => eight(s, bytes),
        Coding::Fp4(_) | Coding::Turned(_) | Coding::Flat(_) | Coding::Awq(_) => flip(bytes, 0x11),
        Coding::Gptq(g) => fields(bytes, g.bits, (g.inputs * g.bits).div_ceil(32), true),
        Coding::Packed(p) => fields(bytes, p.bits, p.words, p.crossing),
        Coding::Blocks(b) => return blocks(b, bytes),
        Coding::Woven(w) => return blocks(&w.blocks, bytes),
    }
    true
}

fn flip(bytes: &mut [u8], mask: u8) {
    bytes.iter_mut().for_each(|b| *b ^= mask);
}

/// Codes of a byte. Beside the largest of E4M3 lies NaN, as it does beside the smallest of the forms without a negative zero: of these
/// the neighbour on the other side is taken.
fn eight(form: &Scaled, bytes: &mut [u8]) {
    let Table::Float(dtype) = form.table else { return flip(bytes, 1) };
    let table = floats(dtype);
    let beside: [u8; 256] = std::array::from_fn(|b| {
        let other = b as u8 ^ 1;
        if table[usize::from(other)].is_nan() { b as u8 ^ 3 } else { other }
    });
    bytes.iter_mut().for_each(|b| *b = beside[usize::from(*b)]);
}

/// Fields of `bits` bits in rows of `words` words, over the borders of words or not.
fn fields(bytes: &mut [u8], bits: u64, words: u64, crossing: bool) {
    for (i, word) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let first = if crossing { i as u64 % words.max(1) * 32 } else { 0 };
        let mask = (0..32u64).filter(|b| (first + b).is_multiple_of(bits)).fold(0u32, |m, b| m | 1 << b);
        word.iter_mut().zip(mask.to_le_bytes()).for_each(|(b, m)| *b ^= m);
    }
}

/// Blocks of GGML: where in one the low bits of its codes are, and which they are.
fn blocks(form: &Blocks, bytes: &mut [u8]) -> bool {
    let (codes, mask) = match form.kind {
        2 | 20 => (2..18, 0x11),
        3 => (4..20, 0x11),
        6 => (6..22, 0x11),
        7 => (8..24, 0x11),
        8 => (2..34, 0x01),
        10 => (16..80, 0x55),
        11 => (32..96, 0x55),
        12 => (16..144, 0x11),
        13 => (48..176, 0x11),
        14 => (0..128, 0x11),
        15 => (4..260, 0x01),
        23 => (8..136, 0x11),
        35 => (0..64, 0x55),
        39 => (1..17, 0x11),
        40 => (4..36, 0x11),
        // Digits of base 3, and signs alone.
        _ => return false,
    };
    bytes.chunks_exact_mut(form.bytes.max(1) as usize).for_each(|b| flip(&mut b[codes.clone()], mask));
    true
}
