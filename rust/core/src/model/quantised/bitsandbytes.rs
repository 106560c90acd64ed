//! bitsandbytes: 8 bits with a scale a row (LLM.int8), 4 bits as indices into a table.

use serde_json::Value;

use super::{Stored, Weight, Wrong};
use crate::dtype::Dtype;
use crate::model::coding::{Coding, Flat, Number, Rule, Scaled, Table};

/// Most bytes of the JSON that says what a weight is.
const MOST: u64 = 64 << 10;

/// `X.weight` with `X.SCB`.
pub fn eight(stored: &Stored, index: usize, stem: &str) -> Result<Weight, Wrong> {
    let scale = stored.need(stem, ".SCB", index)?;
    let (rows, columns) = stored.matrix(index)?;
    let shape = stored.shape(index).to_vec();
    stored.expect(index, &[Dtype::I8], &shape)?;
    stored.expect(scale, &[Dtype::F32], &[rows])?;
    if let Some(format) = stored.find(stem, ".weight_format") {
        let bytes = stored.bytes(format, MOST)?;
        if bytes.iter().any(|b| *b != 0) {
            let problem =
                "says an order of elements for one kind of processor, expected 0 (row by row); save the model again";
            return Err((format, problem.to_owned()));
        }
    }
    let form = Scaled {
        table: Table::Int8,
        rows,
        columns,
        tile: (1, columns),
        grid: (rows, 1),
        scale: Number::F32,
        rule: Rule::Over127,
        zeros: false,
    };
    let name = stored.tensors[index].name.to_owned();
    let coding = Coding::Scaled(form);
    Ok(Weight { stands: index, name, shape, coding, form: "bitsandbytes int8".to_owned(), parts: vec![index, scale] })
}

/// `X.weight` with `X.weight.absmax`.
pub fn four(stored: &Stored, index: usize, stem: &str) -> Result<Weight, Wrong> {
    let absmax = stored.need(stem, ".weight.absmax", index)?;
    let map = stored.need(stem, ".weight.quant_map", index)?;
    let state = ["nf4", "fp4"]
        .iter()
        .find_map(|kind| Some((*kind, stored.find(stem, &format!(".weight.quant_state.bitsandbytes__{kind}"))?)));
    let Some((kind, state)) = state else {
        return Err((index, format!("has no `{stem}.weight.quant_state.bitsandbytes__nf4` (or fp4) beside it")));
    };
    let text = stored.bytes(state, MOST)?;
    let said: Value = serde_json::from_slice(&text).map_err(|e| (state, format!("is no JSON: {e}")))?;
    let number = |key: &str| said[key].as_u64().filter(|n| *n > 0 && *n <= 1 << 32);
    let shape: Option<Vec<u64>> = said["shape"].as_array().map(|a| a.iter().map(|n| n.as_u64().unwrap_or(0)).collect());
    let shape = shape.filter(|s| !s.is_empty() && s.iter().all(|n| *n > 0));
    let all = shape.as_ref().and_then(|s| s.iter().try_fold(1u64, |n, d| n.checked_mul(*d)));
    let (Some(shape), Some(all), Some(block)) = (shape, all, number("blocksize")) else {
        return Err((state, "says no `shape` and `blocksize`, or none that can be".to_owned()));
    };
    let bytes = stored.elements(index).saturating_mul(stored.dtype(index).bits()) / 8;
    if bytes != all.div_ceil(2) {
        return Err((
            index,
            format!("holds {bytes} bytes, and {shape:?} by its quant_state takes {}", all.div_ceil(2)),
        ));
    }
    stored.expect(map, &[Dtype::F32], &[16])?;
    let blocks = all.div_ceil(block);
    let mut parts = vec![index, map, absmax];
    let mut nested = None;
    if stored.dtype(absmax) == Dtype::U8 {
        stored.expect(absmax, &[Dtype::U8], &[blocks])?;
        let scales = stored.need(stem, ".weight.nested_absmax", index)?;
        let table = stored.need(stem, ".weight.nested_quant_map", index)?;
        let Some(size) = number("nested_blocksize") else {
            return Err((state, "says no `nested_blocksize`, and the scales are nested".to_owned()));
        };
        stored.expect(scales, &[Dtype::F32], &[blocks.div_ceil(size)])?;
        stored.expect(table, &[Dtype::F32], &[256])?;
        let Some(offset) = said["nested_offset"].as_f64().filter(|o| o.is_finite()) else {
            return Err((state, "says no `nested_offset`, and the scales are nested".to_owned()));
        };
        nested = Some((size, offset as f32));
        parts.extend([scales, table]);
    } else {
        stored.expect(absmax, &[Dtype::F32], &[blocks])?;
    }
    let form = format!("bitsandbytes {kind}{}", if nested.is_some() { ", nested" } else { "" });
    let name = format!("{stem}.weight");
    Ok(Weight { stands: index, name, shape, coding: Coding::Flat(Flat { block, nested }), form, parts })
}
