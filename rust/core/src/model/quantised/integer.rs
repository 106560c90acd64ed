//! Integers packed in words of 32 bits: GPTQ, AWQ, `pack-quantized` of compressed-tensors.

use super::{Stored, Weight, Wrong};
use crate::dtype::Dtype;
use crate::model::coding::{Awq, Coding, Gptq, Packed, Zeros};

const FLOATS: [Dtype; 3] = [Dtype::F16, Dtype::Bf16, Dtype::F32];

/// `X.qweight`: GPTQ or AWQ, by the shapes.
pub fn words(stored: &Stored, index: usize, stem: &str) -> Result<Weight, Wrong> {
    let scales = stored.need(stem, ".scales", index)?;
    let zeros = stored.need(stem, ".qzeros", index)?;
    if stored.dtype(index) != Dtype::I32 {
        return Err((index, format!("is {}, expected I32", stored.dtype(index).name())));
    }
    let (down, along) = two(stored, index)?;
    let (groups, wide) = two(stored, scales)?;
    let awq = stored.find(stem, ".g_idx").is_none() && (stored.said.method == "awq" || wide != along);
    if awq {
        self::awq(stored, [index, zeros, scales], stem, (down, along), (groups, wide))
    } else {
        gptq(stored, [index, zeros, scales], stem)
    }
}

/// What there is one of.
fn only(mut all: impl Iterator<Item = u64>) -> Option<u64> {
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

fn two(stored: &Stored, tensor: usize) -> Result<(u64, u64), Wrong> {
    match *stored.shape(tensor) {
        [a, b] if a > 0 && b > 0 => Ok((a, b)),
        _ => Err((tensor, format!("has shape {:?}, expected a matrix", stored.shape(tensor)))),
    }
}

fn gptq(stored: &Stored, parts: [usize; 3], stem: &str) -> Result<Weight, Wrong> {
    let [index, zeros, scales] = parts;
    let ((words, outputs), (groups, _)) = (two(stored, index)?, two(stored, scales)?);
    let scale = stored.number(scales, &FLOATS)?;
    stored.expect(scales, &FLOATS, &[groups, outputs])?;
    let order = stored.find(stem, ".g_idx");
    let bits_of = |inputs: u64| only((2..=8).filter(|b| (inputs * b).div_ceil(32) == words));
    let (inputs, bits) = match order {
        Some(o) => {
            let inputs = stored.elements(o);
            let said =
                stored.said.bits.iter().copied().find(|b| (inputs * b).div_ceil(32) == words && (2..=8).contains(b));
            (inputs, said.or_else(|| bits_of(inputs)))
        }
        None => {
            let said =
                stored.said.bits.iter().copied().find(|b| (2..=8).contains(b) && (32 * words).is_multiple_of(*b));
            (said.map_or(0, |b| 32 * words / b), said)
        }
    };
    let Some(bits) = bits else {
        let problem = format!(
            "has {words} words of {inputs} inputs, which are of no number of bits from 2 to 8, or of several; config.json says none that fits"
        );
        let problem = if order.is_some() {
            problem
        } else {
            "has no `g_idx` beside it, and config.json does not say how many bits it is of".to_owned()
        };
        return Err((index, problem));
    };
    stored.expect(zeros, &[Dtype::I32], &[groups, (outputs * bits).div_ceil(32)])?;
    let Some(group) = stored.said.group(inputs, groups) else {
        let problem = format!("has {groups} groups of {inputs} inputs, and config.json says no size that fits");
        return Err((scales, problem));
    };
    let ordered = match order {
        Some(o) => stored.order(o, inputs, group, groups)?,
        None => false,
    };
    if order.is_none() && stored.said.ordered && groups > 1 {
        return Err((
            index,
            format!("has no `{stem}.g_idx` beside it, and config.json says `desc_act`: its order is lost"),
        ));
    }
    let second = stored.said.form.contains("v2");
    // Symmetric files have the middle for all.
    if !second && !stored.said.symmetric {
        let ones = (1u64 << bits) - 1;
        let bytes = stored.bytes(zeros, 256 << 20)?;
        let rows = bytes.chunks_exact((outputs * bits).div_ceil(32) as usize * 4);
        let field = |row: &[u8], k: u64| {
            let at = (k * bits / 8) as usize;
            let window = u16::from_le_bytes([row[at], row.get(at + 1).copied().unwrap_or(0)]);
            u64::from(window >> (k * bits % 8)) & ones
        };
        let wrapped = rows.flat_map(|row| (0..outputs).map(move |k| field(row, k))).filter(|z| *z == ones).count();
        stored.wrapped.set(stored.wrapped.get() + wrapped as u64);
    }
    let mut parts = parts.to_vec();
    parts.extend(order.filter(|_| ordered));
    let add = u32::from(!second);
    let form = Gptq { bits, inputs, outputs, group, groups, add, scale, ordered };
    let told = format!(
        "gptq{} {bits} bits, groups of {group}{}",
        if second { " v2" } else { "" },
        if ordered { ", act-order" } else { "" }
    );
    let (name, shape) = (format!("{stem}.weight"), vec![outputs, inputs]);
    Ok(Weight { stands: index, name, shape, coding: Coding::Gptq(form), form: told, parts })
}

fn awq(
    stored: &Stored,
    parts: [usize; 3],
    stem: &str,
    (down, along): (u64, u64),
    (groups, wide): (u64, u64),
) -> Result<Weight, Wrong> {
    let [index, zeros, scales] = parts;
    let scale = stored.number(scales, &FLOATS)?;
    if let Some(bits) = stored.said.bits.iter().find(|b| **b != 4) {
        return Err((index, format!("is of AWQ with {bits} bits by config.json, expected 4")));
    }
    let gemm = wide == 8 * along && down > 0;
    let rowwise = groups == down && wide.is_multiple_of(8) && stored.shape(zeros) == [down, wide / 8];
    // A square matrix fits both by its shapes.
    let rowwise = rowwise && (!gemm || stored.said.form == "gemv");
    let (inputs, outputs) = if rowwise { (8 * along, down) } else { (down, 8 * along) };
    let fit = || (scales, format!("is {:?}, which are no scales of words {:?}", stored.shape(scales), [down, along]));
    let (group, groups, told) = if rowwise {
        // Their number is rounded up: what is beyond is not used.
        let said = stored.said.groups.iter().copied().find(|g| inputs.is_multiple_of(*g) && inputs / g <= wide);
        let group =
            said.or_else(|| [128, 64, 32].into_iter().find(|g| inputs.is_multiple_of(*g) && inputs / g <= wide));
        let group = group.ok_or_else(fit)?;
        (group, inputs / group, "gemv")
    } else {
        stored.expect(scales, &FLOATS, &[groups, outputs])?;
        stored.expect(zeros, &[Dtype::I32], &[groups, along])?;
        (stored.said.group(inputs, groups).ok_or_else(fit)?, groups, "gemm")
    };
    let form = Awq { inputs, outputs, group, groups, scale, rowwise: rowwise.then_some(wide / 8) };
    let form_told = format!("awq {told} 4 bits, groups of {group}");
    let (name, shape) = (format!("{stem}.weight"), vec![outputs, inputs]);
    Ok(Weight { stands: index, name, shape, coding: Coding::Awq(form), form: form_told, parts: parts.to_vec() })
}

/// `X.weight_packed` of words.
pub fn packed(stored: &Stored, index: usize, stem: &str) -> Result<Weight, Wrong> {
    let said = stored.need(stem, ".weight_shape", index)?;
    let scales = stored.need(stem, ".weight_scale", index)?;
    let scale = stored.number(scales, &FLOATS)?;
    let (rows, words) = stored.matrix(index)?;
    stored.expect(index, &[Dtype::I32], stored.shape(index))?;
    if stored.dtype(said) != Dtype::I64 || stored.elements(said) < 2 || stored.shape(said).len() != 1 {
        return Err((said, format!("is {} {:?}, expected I64 [2]", stored.dtype(said).name(), stored.shape(said))));
    }
    let sides = stored.bytes(said, 64)?;
    let shape: Vec<u64> =
        sides.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b).try_into().unwrap_or(0)).collect();
    let columns = shape.last().copied().unwrap_or(0);
    let all = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).unwrap_or(0);
    if columns == 0 || columns > 1 << 40 || all != rows.saturating_mul(columns) {
        let problem = format!("says {shape:?}, which has not the {rows} rows that `{stem}.weight_packed` has");
        return Err((said, problem));
    }
    let whole = |b: u64| (columns * b).div_ceil(32) == words;
    let fitting = |b: u64| columns.div_ceil(32 / b) == words;
    let mut wanted = stored.said.bits.iter().copied().filter(|b| (2..=8).contains(b));
    let bits = wanted.find(|b| whole(*b) || fitting(*b)).or_else(|| only((2..=8).filter(|b| whole(*b) || fitting(*b))));
    let Some(bits) = bits else {
        let problem = format!(
            "has {words} words a row of {columns} values, which are of no number of bits from 2 to 8, or of several; config.json \
             says no `num_bits` that fits"
        );
        return Err((index, problem));
    };
    let crossing = whole(bits);
    if crossing && fitting(bits) && 32 % bits != 0 && columns > 32 / bits {
        let problem =
            format!("has rows of {words} words, which may hold {bits} bits across words or not; quantise it again");
        return Err((index, problem));
    }
    let (scaled, groups) = stored.matrix(scales)?;
    let one = stored.elements(scales) == 1;
    if scaled != rows && !one {
        return Err((scales, format!("is {:?}, and there are {rows} rows", stored.shape(scales))));
    }
    if one && rows != 1 {
        return Err((scales, "is one scale for all rows, expected one for each".to_owned()));
    }
    let fit = || (scales, format!("has {groups} groups of {columns} values, and config.json says no size that fits"));
    let group = stored.said.group(columns, groups).ok_or_else(fit)?;
    let mut parts = vec![index, scales];
    let mut zeros = Zeros::None;
    if let Some(zero) = stored.find(stem, ".weight_zero_point") {
        zeros = if stored.dtype(zero) == Dtype::I8 { Zeros::Int8 } else { Zeros::Packed };
        let lines = if zeros == Zeros::Int8 { rows } else { (rows * bits).div_ceil(32) };
        stored.expect(zero, &[Dtype::I8, Dtype::I32], &[lines, groups])?;
        parts.push(zero);
    }
    let mut ordered = false;
    if let Some(order) = stored.find(stem, ".weight_g_idx") {
        let bytes = stored.bytes(order, 64 << 20)?;
        let unused =
            stored.elements(order) == columns && bytes.as_chunks::<4>().0.iter().all(|b| i32::from_le_bytes(*b) == -1);
        ordered = !unused && stored.order(order, columns, group, groups)?;
        parts.extend(ordered.then_some(order));
    }
    let form = Packed { bits, rows, columns, words, group, groups, scale, zeros, ordered, crossing };
    let told = if groups == 1 { "per channel".to_owned() } else { format!("in groups of {group}") };
    let (name, told) = (format!("{stem}.weight"), format!("int{bits} {told}"));
    Ok(Weight { stands: index, name, shape, coding: Coding::Packed(form), form: told, parts })
}
