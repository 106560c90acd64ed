//! A model put together of tensors of several models, of rows of them, and of means.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Computation, Draft, Models, same_shape};
use crate::checkpoint::made::Made;
use crate::checkpoint::rows::{Layout, Rows, Segment};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result, nearest};
use crate::methods::{Params, Value, registry};
use crate::recipe::{Assemble, Of, Piece, PieceOf};
use crate::view::{Place, View};

/// Where what a piece is made of lies, in the order of the pieces.
pub type Found = Vec<Vec<Place>>;

impl Models {
    /// Opens the models of an assembly, and gives the first those tensors that are rows of others; where all lies.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a tensor that is not there, or has not the rows that are wanted.
    pub fn assemble(&mut self, asked: &Assemble) -> Result<Found> {
        let models: Vec<usize> = asked.models.iter().map(|m| self.open(m)).collect::<Result<_>>()?;
        let Some(lead) = models.first().copied() else { return Err(Error::recipe("assemble.models", "is empty")) };
        let place = |of: &PieceOf| {
            let model = models[of.model];
            let c = &self.checkpoints[model];
            c.find(&of.tensor).map(|tensor| Place { model, tensor }).ok_or_else(|| {
                let near = nearest(&of.tensor, c.tensors.iter().map(|t| t.name.as_str()));
                Error::tensor(&c.path, &of.tensor, format!("is missing, and goes into the output{near}"))
            })
        };
        let mut found: Found = Vec::with_capacity(asked.pieces.len());
        for piece in &asked.pieces {
            found.push(match &piece.of {
                Of::Whole(of, _) => vec![place(of)?],
                Of::Rows(rows) => rows.iter().map(|(of, _)| place(of)).collect::<Result<_>>()?,
                Of::Mean(of) => of.iter().map(place).collect::<Result<_>>()?,
            });
        }
        let before = self.checkpoints.clone();
        let mut own = Checkpoint::clone(&before[lead]);
        let mut first_files: Vec<Option<usize>> = vec![None; before.len()];
        first_files[lead] = Some(0);
        for (piece, places) in asked.pieces.iter().zip(&mut found) {
            // A tensor in another shape is all its rows.
            let Some(runs) = runs(piece) else { continue };
            let mut made = rows(
                &before,
                piece,
                places,
                &runs,
                &mut |model, out: &mut Checkpoint| *first_files[model].get_or_insert_with(|| out.lend(&before[model])),
                &mut own,
            )?;
            while own.find(&made.name).is_some() {
                made.name.push_str(" (rows)");
            }
            self.read.extend(places.iter().copied());
            own.put(made);
            *places = vec![Place { model: lead, tensor: own.tensors.len() - 1 }];
        }
        if own.tensors.len() > before[lead].tensors.len() {
            let about = crate::digest::hex(crate::digest::of_bytes(format!("{:?}", asked.pieces).as_bytes()));
            for file in &mut own.files {
                // What is read depends on the rows as it does on the header.
                file.header_digest.push_str(&about);
            }
            self.checkpoints[lead] = Arc::new(own);
        }
        Ok(found)
    }
}

/// The rows that a piece is, if it is rows: ranges, or all of each of its tensors.
fn runs(piece: &Piece) -> Option<Vec<Option<(u64, u64)>>> {
    match &piece.of {
        Of::Rows(rows) => Some(rows.iter().map(|(_, range)| *range).collect()),
        Of::Whole(_, scale) if piece.shape.is_some() && *scale == 1.0 => Some(vec![None]),
        _ => None,
    }
}

/// A tensor of rows of those at `places`; `file` takes a model's files among those of the model that it is to be of.
fn rows(
    models: &[Arc<Checkpoint>],
    piece: &Piece,
    places: &[Place],
    runs: &[Option<(u64, u64)>],
    file: &mut dyn FnMut(usize, &mut Checkpoint) -> usize,
    own: &mut Checkpoint,
) -> Result<Tensor> {
    let first = places[0].tensor(models);
    let columns = first.shape.last().copied().unwrap_or(1).max(1);
    let mut tables = Vec::with_capacity(places.len());
    let mut segments = Vec::with_capacity(places.len());
    for (at, (place, range)) in places.iter().zip(runs).enumerate() {
        let t = place.tensor(models);
        let fail = |problem: String| Err(Error::tensor(&models[place.model].path, &t.name, problem));
        if t.shape.last().copied().unwrap_or(1).max(1) != columns {
            return fail(format!(
                "has shape {:?}, and `{}`, whose rows stand before its own in `{}`, {:?}; rows must be of one width",
                t.shape, first.name, piece.name, first.shape
            ));
        }
        if !t.dtype.computes() && t.dtype != first.dtype {
            return fail(format!(
                "is {}, and `{}` {}; there is no cast between these",
                t.dtype.name(),
                first.name,
                first.dtype.name()
            ));
        }
        let all = t.elements() / columns;
        let (from, count) = range.unwrap_or((0, all));
        if from.checked_add(count).is_none_or(|end| end > all) {
            return fail(format!("has {all} rows, and {count} from row {from} on go into `{}`", piece.name));
        }
        segments.push(Segment::Rows(count, at, from));
        tables.push(Some(t.shifted(file(place.model, own))));
    }
    let dtype = places.iter().map(|p| p.tensor(models).dtype).reduce(Dtype::promote).unwrap_or(first.dtype);
    let layout = Arc::new(Layout::new(segments, Arc::default()));
    let shape = piece.shape.clone().unwrap_or_else(|| vec![layout.rows, columns]);
    if shape.iter().try_fold(1u64, |all, n| all.checked_mul(*n)) != layout.rows.checked_mul(columns) {
        let problem = format!("has {} rows of {columns} elements, and is to have shape {shape:?}", layout.rows);
        return Err(Error::tensor(&models[places[0].model].path, &piece.name, problem));
    }
    let nbytes = layout.rows * columns * dtype.bits() / 8;
    let made = Made::Rows(Rows { layout, tables, columns, formed: Mutex::new(None) });
    Ok(Tensor {
        name: piece.name.clone(),
        dtype,
        shape,
        nbytes,
        strides: None,
        made: Some(Arc::new(made)),
        ..first.clone()
    })
}

impl Draft {
    /// Adds the tensor that a piece is, of what lies at `places`.
    ///
    /// # Errors
    /// As [`Self::copy`] and [`Self::compute`].
    pub fn assemble(&mut self, piece: &Piece, places: &[Place], dtype: Option<Dtype>) -> Result<()> {
        let (name, dtype) = (piece.name.clone(), dtype.or(piece.dtype));
        let (method, key, each) = match &piece.of {
            Of::Mean(_) if places.len() > 1 => (registry::LINEAR, "weight", 1.0),
            Of::Whole(_, scale) if *scale != 1.0 => (registry::PASSTHROUGH, "scale", *scale),
            _ => return self.copy(name, places[0], dtype),
        };
        same_shape(&self.models, places)?;
        if let (Some(shape), Some(p)) = (&piece.shape, places.first())
            && *shape != self.models.tensor(*p).shape
        {
            let (t, path) = (self.models.tensor(*p), &self.models.get(p.model).path);
            return Err(Error::tensor(
                path,
                &t.name,
                format!("has shape {:?}, and `{name}` is to have {shape:?}", t.shape),
            ));
        }
        let mut params = Params { inputs: places.len(), ..Params::default() };
        params.per_input.insert(key, vec![Value::Number(each); places.len()]);
        if matches!(piece.of, Of::Mean(_)) {
            params.shared.insert("normalize", Value::Bool(true));
        }
        let inputs = places.iter().copied().map(View::from).collect();
        self.compute(Computation { name, method, params, base: None, inputs, apart: vec![], dtype, at: String::new() })
    }
}
