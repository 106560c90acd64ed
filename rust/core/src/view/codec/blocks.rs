//! Blocks of one size, each with its scales inside: the types of GGML.

use std::ops::Range;

use super::{Codec, Piece, number};
use crate::kernels::cast::{Element, widen};
use crate::kernels::ggml;
use crate::model::coding::{Blocks, Number};

/// Makes numbers of whole blocks: their bytes, and room for their elements.
pub type Decoder = fn(&[u8], &mut [f32]);

/// What decodes blocks of a kind, if anything does.
pub fn decoder(kind: u32) -> Option<Decoder> {
    Some(match kind {
        0 => |bytes, out| widen(Element::F32, bytes, out),
        1 => |bytes, out| widen(Element::F16, bytes, out),
        2 => ggml::q4_0,
        3 => ggml::q4_1,
        6 => ggml::q5_0,
        7 => ggml::q5_1,
        8 => ggml::q8_0,
        10 => ggml::q2_k,
        11 => ggml::q3_k,
        12 => ggml::q4_k,
        13 => ggml::q5_k,
        14 => ggml::q6_k,
        15 => ggml::q8_k,
        20 => ggml::iq4_nl,
        23 => ggml::iq4_xs,
        30 => |bytes, out| widen(Element::Bf16, bytes, out),
        34 => ggml::tq1_0,
        35 => ggml::tq2_0,
        39 => ggml::mxfp4,
        40 => ggml::nvfp4,
        41 => ggml::q1_0,
        _ => return None,
    })
}

/// The codec.
pub struct Codes {
    form: Blocks,
    decoder: Option<Decoder>,
}

impl Codes {
    /// Of a form.
    pub fn new(form: &Blocks) -> Self {
        Self { form: form.clone(), decoder: decoder(form.kind) }
    }
}

impl Codec for Codes {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let f = &self.form;
        let own = elements.start / f.elements * f.bytes..elements.end.div_ceil(f.elements) * f.bytes;
        [Piece::run(0, own)].into_iter().chain(f.scaled.then(|| Piece::run(1, 0..1))).collect()
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        // A plan has no kind that nothing decodes.
        let Some(decoder) = self.decoder else { return };
        let f = &self.form;
        let bytes = |block: u64| ((block - of.start / f.elements) * f.bytes) as usize;
        let mut at = part.start;
        let mut one = Vec::new();
        while at < part.end {
            let (block, inside) = (at / f.elements, (at % f.elements) as usize);
            let whole = (part.end / f.elements).max(block);
            let place = (at - part.start) as usize;
            if inside == 0 && whole > block {
                let n = ((whole - block) * f.elements) as usize;
                decoder(&raw[0][bytes(block)..bytes(whole)], &mut out[place..place + n]);
                at = whole * f.elements;
                continue;
            }
            // A block of which a part is asked for.
            one.resize(f.elements as usize, 0.0);
            decoder(&raw[0][bytes(block)..bytes(block + 1)], &mut one);
            let end = ((block + 1) * f.elements).min(part.end);
            let n = (end - at) as usize;
            out[place..place + n].copy_from_slice(&one[inside..inside + n]);
            at = end;
        }
        if f.scaled {
            let scale = number(Number::F32, raw[1], 0);
            out.iter_mut().for_each(|o| *o *= scale);
        }
        if f.less {
            out.iter_mut().for_each(|o| *o -= 1.0);
        }
    }
}
