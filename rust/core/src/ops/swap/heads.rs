//! Attention heads of one model put into a tensor of another: the rows or columns of the listed heads move.

use crate::error::{Error, Result};
use crate::model::attention::{Attention, Cut};
use crate::model::names::module;
use crate::model::slices::Slicing;
use crate::recipe::Donor;
use crate::view::{Place, Run, Runs};

/// What becomes of a tensor when only some heads move.
pub enum Heads {
    /// Nothing of it belongs to a head that moves.
    Stay,
    /// All of it moves.
    Whole,
    /// Only these pieces move.
    Some {
        /// Which of its pieces.
        taken: Vec<bool>,
        /// The cut into pieces.
        slicing: Slicing,
    },
}

/// How the heads of `donor` move in the tensor called `name`, of a layer it gives. Key and value heads are shared by a group of query heads;
/// they move with their whole group. `moves` is false for a tensor that stays, `quantised` true for a part of a quantised weight.
///
/// # Errors
/// [`Error::Recipe`] for heads that do not exist, a group of which only a part is listed, and a tensor of an attention block
/// whose layout is not known, whether or not it is to move: else half of a head would.
pub fn moved(
    attention: &Attention,
    donor: &Donor,
    name: &str,
    shape: &[u64],
    moves: bool,
    quantised: bool,
) -> Result<Heads> {
    let Some(listed) = &donor.heads else { return Ok(Heads::Whole) };
    let query = attention.heads.query;
    let at = donor.place("heads");
    if let Some(head) = listed.iter().find(|h| **h as u64 >= query) {
        return Err(Error::recipe(at, format!("head {head} does not exist; there are {query}, numbered from 0")));
    }
    // The rows of a quantised weight mean something only with its scales, whose cut is not known.
    let known = match attention.cut(name, shape) {
        Cut::Outside => Cut::Outside,
        _ if quantised => Cut::Unknown,
        cut => cut,
    };
    let (pieces, cut) = match known {
        Cut::Outside | Cut::Shared => return Ok(Heads::Stay),
        Cut::Unknown => {
            let problem = format!(
                "`{name}` is part of an attention block, and which rows of it belong to which head is not known (fused, \
                 low-rank or quantised attention, a norm or a value of each head); move whole layers or modules instead"
            );
            return Err(Error::recipe(at, problem));
        }
        _ if !moves => return Ok(Heads::Stay),
        Cut::One { head, of } => (head..head + 1, Err(of)),
        Cut::Pieces(slicing) => (0..slicing.pieces() as u64, Ok(slicing)),
    };
    let of = cut.as_ref().map_or_else(|of| *of, |s| s.pieces() as u64);
    let group = (query / of).max(1);
    let mut taken = Vec::new();
    for piece in pieces {
        let inside = (piece * group..(piece + 1) * group).filter(|h| listed.contains(&(*h as usize))).count() as u64;
        if inside > 0 && inside < group {
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
        taken.push(inside > 0);
    }
    Ok(match cut {
        _ if !taken.contains(&true) => Heads::Stay,
        Ok(slicing) => Heads::Some { taken, slicing },
        Err(_) => Heads::Whole,
    })
}

/// The recipient's tensor `own` with the pieces of the donor's that are `taken`.
pub fn runs(own: Place, donor: Place, taken: &[bool], slicing: &Slicing, elements: u64) -> Runs {
    let mut runs: Vec<Run> = Vec::new();
    let stride = slicing.period();
    for (piece, range) in slicing.runs(0..stride) {
        let from = if taken[piece] { donor } else { own };
        match runs.last_mut() {
            Some(last) if last.from == from => last.len = range.end - last.start,
            _ => runs.push(Run { from, start: range.start, len: range.end - range.start }),
        }
    }
    Runs { runs, times: elements / stride.max(1), stride }
}
