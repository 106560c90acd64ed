//! Attention heads of one model put into a tensor of another: the rows or columns of the listed heads move.

use crate::delta::slices::{Part, Slicing, Wanted};
use crate::error::{Error, Result};
use crate::methods::{Base, Class, Kernel, Kind, Method, Parameter, Params, Spec, Tile, Value};
use crate::names::module;
use crate::recipe::{Donor, Swap};

/// What becomes of a tensor when only some heads move.
pub enum Move {
    /// Nothing of it belongs to a head that moves.
    Stay,
    /// All its heads move.
    Whole,
    /// These heads move; parameters for [`Heads`].
    Some(Params),
}

/// How the heads of `donor` move in the tensor called `name`.
///
/// Key and value heads are shared by a group of query heads; they move with their whole group.
///
/// # Errors
/// [`Error::Recipe`] for heads that do not exist, or a group of which only a part is listed.
pub fn moved(swap: &Swap, donor: &Donor, name: &str, shape: &[u64]) -> Result<Move> {
    let (Some(listed), Some((query, shared))) = (&donor.heads, swap.head_counts) else { return Ok(Move::Whole) };
    let at = donor.place("heads");
    if let Some(head) = listed.iter().find(|h| **h as u64 >= query) {
        return Err(Error::recipe(at, format!("head {head} does not exist; there are {query}, numbered from 0")));
    }
    let wanted = Wanted { heads: Some((query, shared)), neurons: 0, tokens: false };
    let Some(slicing) = Slicing::of(name, shape, &wanted).filter(|s| s.part == Part::Head) else {
        return Ok(Move::Stay);
    };
    let group = (query / slicing.pieces() as u64).max(1);
    let mut heads = Vec::new();
    for piece in 0..slicing.pieces() as u64 {
        let inside = (piece * group..(piece + 1) * group).filter(|h| listed.contains(&(*h as usize))).count() as u64;
        if inside == group {
            heads.push(piece.to_string());
        } else if inside > 0 {
            let (first, last) = (piece * group, (piece + 1) * group - 1);
            return Err(Error::recipe(
                at,
                format!(
                    "heads {first}-{last} share head {piece} of `{}`; list all of them, or leave such modules out with \
                     --modules",
                    module(name)
                ),
            ));
        }
    }
    if heads.is_empty() {
        return Ok(Move::Stay);
    }
    let mut params = Params { inputs: 2, ..Params::default() };
    params.shared.insert("axis", Value::Word(if slicing.by_column() { "columns" } else { "rows" }.into()));
    params.shared.insert("pieces", Value::Number(slicing.pieces() as f64));
    params.shared.insert("heads", Value::Word(heads.join(",")));
    Ok(Move::Some(params))
}

/// The recipient's tensor with the donor's heads; its inputs are these two. No method of a merge config.
pub struct Heads;

static SPEC: Spec = Spec {
    name: "heads",
    summary: "take some heads from the donor",
    parameters: &[
        Parameter::shared(
            "axis",
            "rows or columns",
            Kind::Choice { words: &["rows", "columns"] },
            crate::methods::Default::Required,
        ),
        Parameter::shared(
            "pieces",
            "number of heads",
            Kind::Integer { min: 1, max: 1 << 20 },
            crate::methods::Default::Required,
        ),
    ],
    base: Base::None,
    inputs: (2, 2),
    class: Class::Element,
    ..Spec::COMMON
};

impl Method for Heads {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> std::result::Result<Box<dyn Kernel>, String> {
        let pieces = params.integer("pieces");
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        let slicing = match params.word("axis") {
            "columns" => Slicing::along_columns(Part::Head, columns, pieces),
            _ => Slicing::along_rows(Part::Head, rows, columns, pieces),
        };
        let mut taken = vec![false; slicing.pieces()];
        for head in params.word("heads").split(',').filter_map(|h| h.parse::<usize>().ok()) {
            *taken.get_mut(head).ok_or("a head that is not there")? = true;
        }
        Ok(Box::new(crate::methods::Element(move |tile: &Tile, out: &mut [f32]| {
            for (piece, run) in slicing.runs(tile.start..tile.start + out.len() as u64) {
                let run = (run.start - tile.start) as usize..(run.end - tile.start) as usize;
                out[run.clone()].copy_from_slice(&tile.inputs[usize::from(taken[piece])][run]);
            }
        })))
    }
}
