//! What makes a delta exact: the bits that are left between what it makes of the base and the tuned model, and between what is left of
//! the tuned model without it and the base.

use super::files::Files;
use super::ordered::Ordered;
use super::pieces::{Models, pack};
use super::tensors::task;
use super::{How, name_of};
use crate::checkpoint::Tensor;
use crate::checkpoint::delta::{Delta, Kept, Part, Said};
use crate::dtype::Dtype;
use crate::engine::observer::Progress;
use crate::engine::threads;
use crate::error::{Error, Result};
use crate::kernels::packed::Packer;
use crate::source::Source;
use crate::view::{Slot, read_part, stored};

/// A thread's own memory.
#[derive(Default)]
struct Own {
    made: Slot,
    wanted: Slot,
    bytes: Vec<u8>,
    packer: Option<Packer>,
}

/// What is packed of a piece, and the lengths of its blocks.
type Packed = (Vec<u8>, Vec<u32>);

/// The files, and of the tensor that is open the lengths of its blocks and the bytes of all.
type Taken<'a> = (&'a mut Files, Vec<u32>, u64);

/// Adds it to the files of a delta; what it then says of itself.
///
/// # Errors
/// Input that cannot be read, output that cannot be written, [`Error::Interrupted`].
pub fn add(models: &Models, delta: Delta, files: &mut Files, how: &How, progress: &Progress) -> Result<Said> {
    let mut said = delta.said.clone();
    for (part, from, to_files) in
        [(Part::Forward, models.base, &models.tuned_files), (Part::Back, models.tuned, &models.base_files)]
    {
        let back = part == Part::Back;
        let made = from.with_inexact(&delta, back)?;
        let sources = made.sources(how.io);
        // Of each tensor whose change is not all kept: what is made of it, and what is wanted.
        let mut pairs: Vec<(usize, &Tensor, &Tensor)> = Vec::new();
        for (i, (entry, item)) in delta.said.tensors.iter().zip(&models.items).enumerate() {
            let (Some(base), Some(tuned)) = (item.base, item.tuned) else { continue };
            if !matches!(entry.kept, Kept::Sparse | Kept::Bits | Kept::LowRank | Kept::Left) {
                continue;
            }
            let wanted = if back { &models.base.tensors[base] } else { &models.tuned.tensors[tuned] };
            let own = if back { &models.tuned.tensors[tuned].name } else { &models.base.tensors[base].name };
            let found = made.find(own).map(|at| &made.tensors[at]);
            pairs.push((i, found.ok_or_else(|| Error::bug(format!("`{own}` is gone")))?, wanted));
        }
        let mut tasks = Vec::new();
        for (n, (_, t, _)) in pairs.iter().enumerate() {
            let (all, step) = (t.elements(), task(t));
            tasks.extend((0..all.max(1)).step_by(step as usize).map(|start| (n, start..(start + step).min(all))));
        }
        let taken: Ordered<Packed, Taken> = Ordered::new((&mut *files, vec![], 0), 2 * how.threads);
        threads::each(tasks.len(), how.threads, progress, how.observer, |i, own: &mut Own| {
            progress.alive()?;
            let (n, range) = &tasks[i];
            let (_, made, wanted) = pairs[*n];
            let mut found = (Vec::new(), Vec::new());
            compare(own, (made, &sources), (wanted, to_files), range, &mut found)?;
            progress.add(2 * (range.end - range.start) * made.dtype.bits() / 8);
            taken.put(i, found, progress, |(files, lengths, bytes), i, found| {
                files.append(part, &found.0)?;
                *bytes += found.0.len() as u64;
                lengths.extend(found.1);
                if tasks.get(i + 1).is_some_and(|next| next.0 == tasks[i].0) {
                    return Ok(());
                }
                let (entry, lengths, bytes) = (pairs[tasks[i].0].0, std::mem::take(lengths), std::mem::take(bytes));
                let table: Vec<u8> = lengths.iter().flat_map(|l| l.to_le_bytes()).collect();
                files.append(part, &table)?;
                let name = name_of(models.options.form, part, &models.items[entry].name);
                files.close(part, name, Dtype::U8, vec![bytes + table.len() as u64], entry)
            })
        })?;
        for (i, ..) in &pairs {
            let name = name_of(models.options.form, part, &models.items[*i].name);
            said.tensors[*i].parts.insert(part, name);
        }
    }
    Ok(said)
}

fn compare(
    own: &mut Own,
    (made, sources): (&Tensor, &[Box<dyn Source>]),
    (wanted, files): (&Tensor, &[Box<dyn Source>]),
    range: &std::ops::Range<u64>,
    (out, lengths): &mut Packed,
) -> Result<()> {
    let (made_view, wanted_view) = (stored(made, sources), stored(wanted, files));
    let len = ((range.end - range.start) * made.dtype.bits() / 8) as usize;
    own.bytes.resize(len, 0);
    read_part(&*made_view, made, range, &mut own.made, &mut own.bytes[..len])?;
    let wanted = wanted_view.read(range, &mut own.wanted)?;
    if own.packer.is_none() {
        own.packer = Some(Packer::new()?);
    }
    let Some(packer) = &mut own.packer else { return Ok(()) };
    pack(packer, &own.bytes[..len], wanted, made.dtype, out, lengths)?;
    made_view.release(range);
    wanted_view.release(range);
    Ok(())
}
