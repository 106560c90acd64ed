//! Tensors that a device beside the CPU computes, each as a whole, under the same plan, journal and report.
//!
//! A few workers each carry one tensor: its operands go over in pieces, checked and digested on the way; it is computed
//! there; its bytes come back in pieces and are written. While one worker computes, another reads and a third writes.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::chunks;
use super::job::At;
use super::journal::Done;
use super::make::Lane;
use super::observer::{Observer, Progress};
use super::threads;
use super::tiles::Scratch;
use crate::digest::{self, Leaves};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen, first_nonfinite, narrow};
use crate::methods::larv;
use crate::plan::budget::{self, whole};
use crate::plan::{Action, TensorPlan};
use crate::sizes::{ALIGN, TILE};
use crate::source::Buffer;
use crate::view::Decode;

/// What goes to a device of a tensor.
pub struct Ask {
    /// The number of the output among those that are made together, and the tensor's in its plan.
    pub at: (usize, usize),
    /// The dtypes in which the operands come: the base first, if there is one. Operands that are no plain tensors come as
    /// the f32 that kernels would see.
    pub operands: Vec<Dtype>,
    /// The key of each input's random words.
    pub keys: Vec<u64>,
}

/// Something that computes whole tensors.
pub trait Device: Sync {
    /// What reports call it.
    fn name(&self) -> &str;

    /// How many tensors are on their way to it, on it or on their way back at a time.
    fn slots(&self) -> usize;

    /// Whether it computes a tensor, by the number of the output and the tensor's in its plan.
    fn takes(&self, lane: usize, tensor: usize) -> bool;

    /// Room for a tensor on its way.
    ///
    /// # Errors
    /// What makes it impossible.
    fn slot(&self) -> Result<Box<dyn Slot + '_>>;
}

/// A tensor's way to a device and back.
pub trait Slot {
    /// Makes room for a tensor; waits while others take it.
    ///
    /// # Errors
    /// What makes it impossible.
    fn begin(&mut self, ask: &Ask) -> Result<()>;

    /// Room for the next bytes of an operand, which nothing reads any more.
    ///
    /// # Errors
    /// What makes it impossible.
    fn room(&mut self) -> Result<&mut [u8]>;

    /// Sends what the first `len` bytes of the room hold to an operand, from its byte `at` on.
    ///
    /// # Errors
    /// What makes it impossible.
    fn put(&mut self, operand: usize, at: u64, len: usize) -> Result<()>;

    /// Computes the tensor of the operands.
    ///
    /// # Errors
    /// What makes it impossible.
    fn compute(&mut self) -> Result<()>;

    /// Bytes of the result from `at` on: at most `most`, at least one.
    ///
    /// # Errors
    /// What makes it impossible.
    fn get(&mut self, at: u64, most: usize) -> Result<&[u8]>;

    /// The tensor is done or has failed, and its room free.
    fn end(&mut self);
}

/// Whether a device may be asked for a tensor: it is computed, has elements, and what its method finds concerns it alone.
pub fn may_take(t: &TensorPlan) -> bool {
    let Action::Compute { method, params, apart, group, .. } = &t.action else { return false };
    // What has a shape of its own does not go over, nor what is found of other tensors.
    let plain = t.encode.is_none() && apart.is_empty() && group.is_none() && larv::gate(params).is_none();
    plain && t.elements() > 0 && method.bind(params, &t.shape).is_ok_and(|kernel| !kernel.casts())
}

/// Makes those tensors of every lane that are left and that the device takes; returns what was done of each.
///
/// # Errors
/// As [`super::make::make`], and what the device cannot do.
pub fn make<'d>(
    lanes: &[Lane],
    device: &'d dyn Device,
    observer: &dyn Observer,
    progress: &Progress,
) -> Result<Vec<HashMap<usize, Done>>> {
    let fresh: Vec<Mutex<HashMap<usize, Done>>> = lanes.iter().map(|_| Mutex::default()).collect();
    let todo: Vec<At> = lanes
        .iter()
        .enumerate()
        .flat_map(|(lane, l)| l.left.iter().map(move |tensor| At { lane, tensor: *tensor }))
        .filter(|at| may_take(&lanes[at.lane].inputs.plan.tensors[at.tensor]) && device.takes(at.lane, at.tensor))
        .collect();
    let carry = |i: usize, own: &mut Option<Own<'d>>| {
        let (at, lane) = (todo[i], &lanes[todo[i].lane]);
        let own = match own {
            Some(own) => own,
            None => own.insert(Own { scratch: Scratch::default(), slot: device.slot()? }),
        };
        let done = Carried { lane, at, own }.go(device.name());
        // Whether it is done or has failed: others may wait for its room.
        own.slot.end();
        let done = done?;
        lane.place.journal.record(&done)?;
        fresh[at.lane].lock().insert(at.tensor, done);
        Ok(())
    };
    if !todo.is_empty() {
        threads::each(todo.len(), device.slots(), progress, observer, carry)?;
    }
    Ok(fresh.into_iter().map(Mutex::into_inner).collect())
}

/// What a worker has of its own.
struct Own<'d> {
    scratch: Scratch,
    slot: Box<dyn Slot + 'd>,
}

/// A tensor that is carried.
struct Carried<'a, 'd, 'o> {
    lane: &'a Lane<'a>,
    at: At,
    own: &'o mut Own<'d>,
}

impl Carried<'_, '_, '_> {
    fn go(self, name: &str) -> Result<Done> {
        let (inputs, Own { scratch, slot }) = (&self.lane.inputs, self.own);
        let t = &inputs.plan.tensors[self.at.tensor];
        if !matches!(t.action, Action::Compute { .. }) {
            return Err(Error::bug(format!("`{}` is moved and was to be computed", t.name)));
        }
        let views = t.action.views();
        let opened = inputs.open(&views);
        let at = (self.at.lane, self.at.tensor);
        let dtype = |o: &dyn Decode| if sent_as_stored(o) { o.dtype() } else { Dtype::F32 };
        let operands = opened.iter().map(|o| dtype(&**o)).collect();
        slot.begin(&Ask { at, operands, keys: inputs.keys(t) })?;
        let mut digests = Vec::new();
        for (i, operand) in opened.iter().enumerate() {
            digests.push(self.lane.send(t, i, &**operand, &mut **slot, scratch)?);
        }
        scratch.trim(t);
        slot.compute()?;
        let digest = self.lane.fetch(t, &mut **slot)?;
        let reads = t.action.cost().reads.saturating_sub(1) as u64;
        inputs.progress.add(reads * inputs.plan.input_bytes(t));
        let (found, backend) = (BTreeMap::new(), Some(name.to_owned()));
        Ok(Done { tensor: self.at.tensor, digest, inputs: digests, found, backend })
    }
}

/// Whether an operand goes over in the bytes that it has.
fn sent_as_stored(operand: &dyn Decode) -> bool {
    operand.stored() && matches!(operand.dtype(), Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64)
}

impl Lane<'_> {
    /// Sends an operand; returns its digest, if it is a stored tensor.
    fn send(
        &self,
        t: &TensorPlan,
        number: usize,
        operand: &dyn Decode,
        slot: &mut dyn Slot,
        scratch: &mut Scratch,
    ) -> Result<Option<String>> {
        let inputs = &self.inputs;
        let (as_stored, mut leaves) = (sent_as_stored(operand), Leaves::new());
        let chunk = whole(inputs.chunk, budget::unit(t));
        let Scratch { buffers, wide, .. } = scratch;
        wide.resize_with(wide.len().max(1), Vec::new);
        let wide = &mut wide[0];
        let mut sent = 0;
        // Puts `len` bytes, which `fill` writes from one of them on.
        let mut put = |len: usize, width: usize, fill: &dyn Fn(usize, &mut [u8])| -> Result<()> {
            let mut at = 0;
            while at < len {
                let room = slot.room()?;
                let part = (len - at).min(room.len() / width * width);
                fill(at, &mut room[..part]);
                slot.put(number, sent, part)?;
                (sent, at) = (sent + part as u64, at + part);
            }
            Ok(())
        };
        chunks::each(&[operand], 0..t.elements(), chunk, true, buffers, |part, raw| {
            inputs.progress.alive()?;
            let stored = operand.bytes(raw[0], &part, &part);
            if let Some(bytes) = stored {
                if operand.stored() {
                    leaves.update(bytes);
                }
                inputs.finite(operand, bytes, part.start)?;
            }
            if let (true, Some(bytes)) = (as_stored, stored) {
                put(bytes.len(), 1, &|at, room| room.copy_from_slice(&bytes[at..at + room.len()]))?;
            } else {
                let tile = whole(TILE as u64, budget::unit(t));
                let mut at = part.start;
                while at < part.end {
                    let piece = at..(at + tile).min(part.end);
                    let len = (piece.end - piece.start) as usize;
                    wide.resize(wide.len().max(len), 0.0);
                    operand.decode_by(Widen::ToCompute, raw[0], &part, &piece, &mut wide[..len])?;
                    if stored.is_none() {
                        inputs.finite_values(operand, &wide[..len], piece.start)?;
                    }
                    let values = &wide[..len];
                    put(4 * len, 4, &|at, room| narrow(Element::F32, &values[at / 4..(at + room.len()) / 4], room))?;
                    at = piece.end;
                }
            }
            inputs.progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        Ok(operand.stored().then(|| digest::hex(digest::combine(leaves.finish().into_iter()))))
    }

    /// Fetches the result and writes it; returns its digest.
    fn fetch(&self, t: &TensorPlan, slot: &mut dyn Slot) -> Result<String> {
        let progress = self.inputs.progress;
        let mut leaves = Leaves::new();
        let mut buffer: Option<Buffer> = None;
        let (mut at, width) = (0, (t.dtype.bits() / 8) as usize);
        while at < t.nbytes {
            progress.alive()?;
            let bytes = slot.get(at, (t.nbytes - at) as usize)?;
            if !self.inputs.allow_nonfinite
                && let Some(i) = first_nonfinite(t.dtype, bytes)
            {
                return Err(super::rounded::overflow(self.inputs.plan, t, at / width as u64 + i as u64));
            }
            leaves.update(bytes);
            let skip = ((t.offset + at) % ALIGN) as usize;
            let buffer = match &mut buffer {
                Some(buffer) => buffer,
                None => buffer.insert(Buffer::new(bytes.len() + ALIGN as usize)?),
            };
            let len = bytes.len();
            buffer.bytes_mut()[skip..skip + len].copy_from_slice(bytes);
            self.place.staging.write(t.shard, t.offset + at, buffer, len)?;
            progress.add(len as u64);
            at += len as u64;
        }
        Ok(digest::hex(digest::combine(leaves.finish().into_iter())))
    }
}
