//! 4-bit floats: MXFP4 and NVFP4.

use super::{Stored, Weight, Wrong, stem_of};
use crate::dtype::Dtype;
use crate::model::coding::{Coding, Fp4, Number, Turned, Whole};

const SCALE: [Dtype; 3] = [Dtype::U8, Dtype::F8E8m0, Dtype::F8E4m3];

/// A shape whose last side is twice as long.
fn doubled(shape: &[u64]) -> Vec<u64> {
    let mut out = shape.to_vec();
    if let Some(last) = out.last_mut() {
        *last = last.saturating_mul(2);
    }
    out
}

/// A shape with another last side.
fn ended(shape: &[u64], last: u64) -> Vec<u64> {
    shape[..shape.len() - 1].iter().copied().chain([last]).collect()
}

/// `X.weight_packed`: of compressed-tensors.
pub fn packed(stored: &Stored, index: usize, stem: &str) -> Result<Weight, Wrong> {
    let scale = stored.need(stem, ".weight_scale", index)?;
    let whole = stored.find(stem, ".weight_global_scale");
    let whole = whole.map_or((Whole::None, None), |w| (Whole::Over, Some(w)));
    pairs_with(stored, index, scale, whole, format!("{stem}.weight"))
}

/// `X.weight` of pairs with exponents.
pub fn pairs(stored: &Stored, index: usize, scale: usize) -> Result<Weight, Wrong> {
    pairs_with(stored, index, scale, (Whole::None, None), stored.tensors[index].name.to_owned())
}

/// `X.weight` of ModelOpt, if its scales lie beside it.
pub fn modelopt(stored: &Stored, index: usize) -> Result<Option<Weight>, Wrong> {
    let name = stored.tensors[index].name;
    let Some(stem) = stem_of(name, ".weight") else { return Ok(None) };
    let Some(scale) = stored.find(stem, ".weight_scale") else { return Ok(None) };
    match stored.find(stem, ".weight_scale_2") {
        Some(whole) => pairs_with(stored, index, scale, (Whole::Times, Some(whole)), name.to_owned()).map(Some),
        None if matches!(stored.dtype(scale), Dtype::U8 | Dtype::F8E8m0) => pairs(stored, index, scale).map(Some),
        None => Ok(None),
    }
}

fn pairs_with(
    stored: &Stored,
    index: usize,
    scale: usize,
    (whole, of_all): (Whole, Option<usize>),
    name: String,
) -> Result<Weight, Wrong> {
    stored.matrix(index)?;
    let number = stored.number(scale, &SCALE)?;
    let (group, form) = if number == Number::E4m3 { (16, "nvfp4") } else { (32, "mxfp4") };
    let shape = doubled(stored.shape(index));
    let columns = shape[shape.len() - 1];
    if !columns.is_multiple_of(group) {
        return Err((index, format!("has rows of {columns} values, expected whole groups of {group}")));
    }
    stored.expect(scale, &SCALE, &ended(&shape, columns / group))?;
    if number == Number::E4m3 && of_all.is_none() {
        return Err((index, "has scales in F8_E4M3 and no scale of all of them beside it".to_owned()));
    }
    let mut parts = vec![index, scale];
    if let Some(all) = of_all {
        stored.expect(all, &[Dtype::F32], &[1])?;
        parts.push(all);
    }
    let coding = Coding::Fp4(Fp4 { group, scale: number, whole });
    Ok(Weight { stands: index, name, shape, coding, form: form.to_owned(), parts })
}

/// Blocks of 16 bytes with a scale each: of gpt-oss, `turned` as transformers keeps it, or in OpenAI's own files.
pub fn blocks(stored: &Stored, index: usize, stem: &str, scales: usize, turned: bool) -> Result<Weight, Wrong> {
    let &[experts, rows, blocks, 16] = stored.shape(index) else {
        let problem = format!("has shape {:?}, expected [experts, rows, blocks, 16]", stored.shape(index));
        return Err((index, problem));
    };
    stored.expect(index, &[Dtype::U8], &[experts, rows, blocks, 16])?;
    stored.expect(scales, &[Dtype::U8, Dtype::F8E8m0], &[experts, rows, blocks])?;
    if experts * rows * blocks == 0 {
        return Err((index, "holds nothing".to_owned()));
    }
    let columns = 32 * blocks;
    let (shape, coding) = if turned {
        (vec![experts, columns, rows], Coding::Turned(Turned { rows: columns, columns: rows }))
    } else {
        (vec![experts, rows, columns], Coding::Fp4(Fp4 { group: 32, scale: Number::E8m0, whole: Whole::None }))
    };
    let parts = vec![index, scales];
    Ok(Weight { stands: index, name: stem.to_owned(), shape, coding, form: "mxfp4".to_owned(), parts })
}
