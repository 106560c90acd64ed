//! A byte an element: 8-bit floats and integers, with the scale of a tensor, its rows, tiles or groups.

use super::{Stored, Weight, Wrong, four, stem_of};
use crate::dtype::Dtype;
use crate::model::coding::{Coding, Number, Rule, Scaled, Table};

/// What a weight's scales are called.
const SCALES: [&str; 5] = [".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight", ".scales"];
/// What those of a parameter are called that is no module's weight.
const OF_PARAMETER: [&str; 2] = ["_scale_inv", "_scale"];
/// What scales may be stored as.
const STORED: [Dtype; 5] = [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::U8, Dtype::F8E8m0];

/// The weight whose codes are at `index`, if they have a scale.
pub fn scaled(stored: &Stored, index: usize) -> Result<Option<Weight>, Wrong> {
    let (name, dtype) = (stored.tensors[index].name, stored.dtype(index));
    let table = match dtype {
        Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz => Table::Float(dtype),
        Dtype::I8 => Table::Int8,
        Dtype::U8 => return four::modelopt(stored, index),
        _ => return Ok(None),
    };
    let (stem, scale) = match stem_of(name, ".weight") {
        Some(stem) => (stem, stored.any(stem, &SCALES)),
        None => (name, stored.any(name, &OF_PARAMETER)),
    };
    let Some(scale) = scale else { return Ok(None) };
    let (rows, columns) = stored.matrix(index)?;
    let shape = stored.shape(index).to_vec();
    // A stack has a grid for each of its matrices.
    let (matrices, rows) =
        if shape.len() > 2 { (rows / shape[shape.len() - 2], shape[shape.len() - 2]) } else { (1, rows) };
    let grid: Vec<u64> = stored.shape(scale).to_vec();
    if dtype == Dtype::I8
        && matches!(stored.dtype(scale), Dtype::F8E8m0 | Dtype::U8)
        && stored.elements(scale) * 16 == stored.elements(index)
    {
        return four::pairs(stored, index, scale).map(Some);
    }
    let number = stored.number(scale, &STORED)?;
    let found = layout(stored, matrices, rows, columns, &grid, number == Number::E8m0);
    let Some((tile, grid, form)) = found else {
        let sides = stored.said.tiles.iter().map(|(d, a)| format!("{d}x{a}")).collect::<Vec<_>>().join(" or ");
        let problem = format!(
            "is {grid:?}, which are no scales of {shape:?}: expected one, one for each row, or a grid of tiles of {sides} (the \
             sides are said by `weight_block_size` in config.json)"
        );
        return Err((scale, problem));
    };
    let mut parts = vec![index, scale];
    let zero = stored.find(stem, ".weight_zero_point").filter(|_| table == Table::Int8);
    if let Some(zero) = zero {
        stored.expect(zero, &[Dtype::I8], stored.shape(scale))?;
        parts.push(zero);
    } else if let Some(zero) = stored.find(stem, ".weight_zero_point")
        && stored.bytes(zero, 64 << 20)?.iter().any(|b| b & 0x7F != 0)
    {
        return Err((zero, "says zero points of floats, which have none".to_owned()));
    }
    let kind = match table {
        Table::Float(Dtype::F8E4m3) if number == Number::E8m0 && tile == (1, 32) => "mxfp8".to_owned(),
        Table::Float(Dtype::F8E4m3) => format!("fp8 {form}"),
        Table::Float(dtype) => format!("{} {form}", dtype.name().to_lowercase().replace('_', "-")),
        Table::Int8 => format!("int8 {form}"),
    };
    let form = Scaled { table, rows, columns, tile, grid, scale: number, rule: Rule::Times, zeros: zero.is_some() };
    let name = name.to_owned();
    Ok(Some(Weight { stands: index, name, shape, coding: Coding::Scaled(form), form: kind, parts }))
}

type Layout = ((u64, u64), (u64, u64), String);

/// The tile, the grid of a matrix, and what it is called, of scales of this shape.
fn layout(stored: &Stored, matrices: u64, rows: u64, columns: u64, grid: &[u64], exponents: bool) -> Option<Layout> {
    let all: u64 = grid.iter().product();
    if all == 1 {
        // The scale of a stack: every row's is the same, of whichever matrix.
        let whole = matrices.checked_mul(rows)?;
        return (matrices == 1).then(|| ((whole, columns), (1, 1), "per tensor".to_owned()));
    }
    let bare: Vec<u64> = grid.iter().copied().filter(|n| *n != 1).collect();
    // Grids of tiles may have sides of 1 between their own: [O/128, 1, I/128, 1].
    let squeezed: Vec<u64> =
        if grid.len() == 4 && grid[1] == 1 && grid[3] == 1 { vec![grid[0], grid[2]] } else { grid.to_vec() };
    let inner = match (matrices, squeezed.as_slice()) {
        (1, inner) => inner.to_vec(),
        (n, [first, inner @ ..]) if *first == n => inner.to_vec(),
        _ => return None,
    };
    let row = |tile, grid| Some((tile, grid, "per channel".to_owned()));
    match *inner.as_slice() {
        [] if matrices > 1 => return Some(((rows, columns), (1, 1), "per tensor".to_owned())),
        [1] | [1, 1] if matrices > 1 => return Some(((rows, columns), (1, 1), "per tensor".to_owned())),
        [n] | [n, 1] if n == rows && rows != 1 => return row((1, columns), (rows, 1)),
        // Along the last axis; fused experts keep these as a column too.
        [1, n] | [n, 1] if n == columns && matrices > 1 => return row((rows, 1), (1, columns)),
        [down, along] => {
            if exponents && down == rows && along == columns.div_ceil(32) {
                return Some(((1, 32), (down, along), "of 32".to_owned()));
            }
            let fits = |(d, a): &&(u64, u64)| down == rows.div_ceil(*d) && along == columns.div_ceil(*a);
            if let Some((d, a)) = stored.said.tiles.iter().find(fits).copied() {
                return Some(((d, a), (down, along), format!("{d}x{a}")));
            }
            // Groups along a row.
            if down == rows
                && let Some(group) = stored.said.group(columns, along)
            {
                return Some(((1, group), (down, along), format!("in groups of {group}")));
            }
        }
        _ => {}
    }
    // One row.
    (rows == 1 && matrices == 1 && bare.is_empty()).then(|| ((1, columns), (1, 1), "per tensor".to_owned()))
}
