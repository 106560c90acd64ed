//! Every block type against its formula, one element at a time, and against values that are known.

use half::f16;
use proptest::prelude::*;

use super::*;

/// A type: its name, elements and bytes of a block, its decoder, and its formula for one element.
struct Case(&'static str, usize, usize, fn(&[u8], &mut [f32]), fn(&[u8], usize) -> f32);

const CASES: [Case; 18] = [
    Case("Q4_0", 32, 18, q4_0, |b, i| h(b, 0) * (nibble(b, 2, i) - 8) as f32),
    Case("Q4_1", 32, 20, q4_1, |b, i| h(b, 0) * nibble(b, 4, i) as f32 + h(b, 2)),
    Case("Q5_0", 32, 22, q5_0, |b, i| h(b, 0) * ((nibble(b, 6, i) | fifth(b, 2, i)) - 16) as f32),
    Case("Q5_1", 32, 24, q5_1, |b, i| h(b, 0) * (nibble(b, 8, i) | fifth(b, 4, i)) as f32 + h(b, 2)),
    Case("Q8_0", 32, 34, q8_0, |b, i| h(b, 0) * f32::from(b[2 + i] as i8)),
    Case("Q2_K", 256, 84, q2_k, |b, i| {
        let sc = b[i / 16];
        h(b, 80) * f32::from(sc & 15) * two(b, 16, i) as f32 - h(b, 82) * f32::from(sc >> 4)
    }),
    Case("Q3_K", 256, 110, q3_k, |b, i| {
        let (k, sc) = (i / 16, &b[96..108]);
        let s =
            i32::from(if k < 8 { sc[k] & 15 } else { sc[k - 8] >> 4 } | ((sc[8 + k % 4] >> (2 * (k / 4))) & 3) << 4);
        let bit = (b[i % 32] >> (4 * (i / 128) + i % 128 / 32)) & 1;
        h(b, 108) * (s - 32) as f32 * (two(b, 32, i) - if bit == 1 { 0 } else { 4 }) as f32
    }),
    Case("Q4_K", 256, 144, q4_k, |b, i| {
        let (s, m) = scales(b, i / 32);
        h(b, 0) * s * fours(b, 16, i) as f32 - h(b, 2) * m
    }),
    Case("Q5_K", 256, 176, q5_k, |b, i| {
        let (s, m) = scales(b, i / 32);
        let q = fours(b, 48, i) | i32::from((b[16 + i % 32] >> (i / 32)) & 1) << 4;
        h(b, 0) * s * q as f32 - h(b, 2) * m
    }),
    Case("Q6_K", 256, 210, q6_k, |b, i| {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        let low = (b[64 * half + 32 * (j % 2) + l] >> (4 * (j / 2))) & 15;
        let q = i32::from(low | ((b[128 + 32 * half + l] >> (2 * j)) & 3) << 4);
        h(b, 208) * f32::from(b[192 + i / 16] as i8) * (q - 32) as f32
    }),
    Case("Q8_K", 256, 292, q8_k, |b, i| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) * f32::from(b[4 + i] as i8)),
    Case("IQ4_NL", 32, 18, iq4_nl, |b, i| h(b, 0) * TABLE[nibble(b, 2, i) as usize]),
    Case("IQ4_XS", 256, 136, iq4_xs, |b, i| {
        let g = i / 32;
        let high = i32::from(u16::from_le_bytes([b[2], b[3]])) >> (2 * g) & 3;
        let s = i32::from((b[4 + g / 2] >> (4 * (g % 2))) & 15) | high << 4;
        h(b, 0) * (s - 32) as f32 * TABLE[nibble(b, 8 + 16 * g, i % 32) as usize]
    }),
    Case("MXFP4", 32, 17, mxfp4, |b, i| (2f64.powi(i32::from(b[0]) - 128) as f32) * (2.0 * e2m1(nibble(b, 1, i)))),
    Case("NVFP4", 64, 36, nvfp4, |b, i| {
        let (t, u) = (i / 16, i % 16);
        let (s, q) = (b[t], b[4 + 8 * t + u % 8]);
        let (e, m) = (i32::from(s >> 3 & 15), f64::from(s & 7));
        let scale = match (s, e) {
            (0x7f, _) => 0.0,
            (_, 0) => m * 2f64.powi(-9),
            _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
        };
        scale as f32 * e2m1(i32::from(if u < 8 { q & 15 } else { q >> 4 }))
    }),
    Case("TQ1_0", 256, 54, tq1_0, |b, i| {
        let (byte, n) = match i {
            0..160 => (b[i % 32], i / 32),
            160..240 => (b[32 + (i - 160) % 16], (i - 160) / 16),
            _ => (b[48 + (i - 240) % 4], (i - 240) / 4),
        };
        let moved = (u32::from(byte) * 3u32.pow(n as u32)) & 255;
        h(b, 52) * (((moved * 3) >> 8) as i32 - 1) as f32
    }),
    Case("TQ2_0", 256, 66, tq2_0, |b, i| h(b, 64) * (two(b, 0, i) - 1) as f32),
    Case("Q1_0", 128, 18, q1_0, |b, i| if (b[2 + i / 8] >> (i % 8)) & 1 == 1 { h(b, 0) } else { -h(b, 0) }),
];

const TABLE: [f32; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

fn h(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn nibble(b: &[u8], at: usize, i: usize) -> i32 {
    i32::from(if i < 16 { b[at + i] & 15 } else { b[at + i - 16] >> 4 })
}

fn fifth(b: &[u8], at: usize, i: usize) -> i32 {
    let high = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    ((high >> i) & 1) as i32 * 16
}

fn two(b: &[u8], at: usize, i: usize) -> i32 {
    i32::from(b[at + 32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3)
}

fn fours(b: &[u8], at: usize, i: usize) -> i32 {
    let g = i / 32;
    i32::from(b[at + 32 * (g / 2) + i % 32] >> (4 * (g % 2)) & 15)
}

fn scales(b: &[u8], g: usize) -> (f32, f32) {
    let sc = &b[4..16];
    let (s, m) = if g < 4 {
        (sc[g] & 63, sc[g + 4] & 63)
    } else {
        ((sc[g + 4] & 15) | (sc[g - 4] >> 6) << 4, (sc[g + 4] >> 4) | (sc[g] >> 6) << 4)
    };
    (f32::from(s), f32::from(m))
}

fn e2m1(code: i32) -> f32 {
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize % 8];
    if code > 8 { -size } else { size }
}

fn same(a: f32, b: f32) -> bool {
    (a.is_nan() && b.is_nan()) || a.to_bits() == b.to_bits() || (a == 0.0 && b == 0.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes decode to what the formula of the type says, to the bit: infinite and subnormal scales too.
    #[test]
    fn blocks_are_their_formulas(bytes in proptest::collection::vec(any::<u8>(), 292 * 4), extreme in 0u8..4) {
        for Case(name, elements, size, decode, formula) in CASES {
            let mut bytes = bytes[..size * 4].to_vec();
            if extreme > 0 {
                // Scales that are zero, subnormal, infinite, NaN.
                let at = if name == "Q2_K" { 80 } else { 0 };
                bytes[at..at + 2].copy_from_slice(&[[0, 0], [1, 0], [0, 0x7c], [1, 0xfc]][usize::from(extreme)]);
            }
            let mut out = vec![0f32; elements * 4];
            decode(&bytes, &mut out);
            for (i, got) in out.iter().enumerate() {
                let want = formula(&bytes[i / elements * size..][..size], i % elements);
                prop_assert!(same(*got, want), "{} element {}: {} for {}", name, i, got, want);
            }
        }
    }
}

/// The scales of blocks are widened as the `half` crate does it.
#[test]
fn halves_are_halves() {
    for bits in 0..=u16::MAX {
        let ([low, high], want) = (bits.to_le_bytes(), f16::from_bits(bits).to_f32());
        let got = half(low, high);
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:04x}");
    }
}

/// One block of each type, of bytes `37 i + 11` and scales of 0.5 and 0.25: values that public decoders give.
#[test]
fn the_worked_example() {
    let want: [(&str, [f32; 7]); 15] = [
        ("Q4_0", [-1.5, 1., 3.5, -2., -0.5, 0., -10.5]),
        ("Q4_1", [7.75, 2.25, 4.75, 7.25, 6.25, 6.25, 130.5]),
        ("Q5_0", [4.5, -1., 1.5, -4., 0., 0.5, 7.5]),
        ("Q5_1", [9.75, 12.25, 14.75, 9.25, 2.75, 2.75, 260.5]),
        ("Q8_0", [42.5, 61., -48.5, -30., -27., -24., -88.]),
        ("Q2_K", [16.5, 0., 5.5, 11., -0.75, 2.25, 1029.5]),
        ("Q3_K", [40.5, -54., 13.5, -27., 64., 21., 479.]),
        ("Q4_K", [157.75, -12.75, 64.75, 142.25, -12.75, 24.25, 27220.]),
        ("Q5_K", [405.75, -12.75, 312.75, 142.25, -12.75, 54.25, 58108.]),
        ("Q6_K", [-715.5, 848., 291.5, -265., 256., -30., 2306.]),
        ("IQ4_NL", [-17.5, 12.5, 56.5, -24.5, -5., 0.5, -128.5]),
        ("IQ4_XS", [32.5, -0.5, -34.5, 41.5, 17.5, -8., -5502.5]),
        ("MXFP4", [0., 6., -2., -12., 6., 6., 25.]),
        ("TQ2_0", [1., -0.5, 0., 0.5, -0.5, -0.5, 64.5]),
        ("NVFP4", [-0.12890625, 0.04296875, -0.0107421875, -0.0859375, -1., 160., 1541.3711]),
    ];
    for (name, want) in want {
        let Case(_, elements, size, decode, _) = CASES.iter().find(|c| c.0 == name).unwrap();
        let mut b: Vec<u8> = (0..*size).map(|i| (37 * i + 11) as u8).collect();
        let (d, m) = match name {
            "Q2_K" => (80, Some(82)),
            "Q3_K" => (108, None),
            "Q6_K" => (208, None),
            "TQ2_0" => (64, None),
            "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => (0, Some(2)),
            _ => (0, None),
        };
        match name {
            "NVFP4" => {}
            "MXFP4" => b[0] = 128,
            _ => b[d..d + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes()),
        }
        if let Some(m) = m {
            b[m..m + 2].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        }
        let mut out = vec![0f32; *elements];
        decode(&b, &mut out);
        let sum: f64 = out.iter().map(|v| f64::from(*v)).sum();
        let got = [out[0], out[1], out[2], out[3], out[17], out[elements - 1], sum as f32];
        assert_eq!(got, want, "{name}");
    }
}
