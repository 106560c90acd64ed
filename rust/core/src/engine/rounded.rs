//! The elements of a result on their way out: rounded to the output's dtype, checked for NaN, digested.

use super::job::Job;
use super::output::Output;
use super::tiles::Inputs;
use crate::digest::{BLOCK, Leaves};
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, any_nonfinite, first_nonfinite, narrow};
use crate::kernels::encode::{self, Back, GROUP};
use crate::methods::encoded::{Encode, Form, Part, Undone};
use crate::plan::{Plan, TensorPlan};

/// How values become bytes.
#[derive(Debug, Clone, Copy)]
pub enum Packing {
    /// Each as an element of this dtype.
    Plain(Element),
    /// Codes of the 8-bit form, each by itself.
    E4m3,
    /// Scales of codes, in f32: none is NaN.
    Scales,
    /// Codes of the 4-bit form.
    Fp4,
    /// Their scales.
    Exponents,
    /// GGML's blocks of 8-bit integers.
    Blocks,
    /// F32, with 1 added.
    More,
}

impl Packing {
    /// Of an output tensor.
    ///
    /// # Errors
    /// [`Error::Bug`] for dtypes that nothing is computed in.
    pub fn of(t: &TensorPlan) -> Result<Self> {
        match t.encode.as_ref().map(|e| (e.form, e.part)) {
            None => Element::need(t.dtype).map(Self::Plain),
            Some((Form::Fp8, Part::Codes)) => Ok(Self::E4m3),
            Some((Form::Fp8, Part::Scales)) => Ok(Self::Scales),
            Some((Form::Mxfp4, Part::Codes)) => Ok(Self::Fp4),
            Some((Form::Mxfp4, Part::Scales)) => Ok(Self::Exponents),
            Some((_, Part::Plain)) if t.encode.as_ref().is_some_and(|e| e.change == Undone::More) => Ok(Self::More),
            Some((_, Part::Plain)) => Ok(Self::Scales),
            Some((Form::Q8_0, _)) => Ok(Self::Blocks),
        }
    }

    /// Whose codes they are, where they are codes.
    pub fn back(self) -> Option<Back> {
        match self {
            Self::E4m3 => Some(Back::E4m3),
            Self::Fp4 => Some(Back::Mxfp4),
            Self::Blocks => Some(Back::Q8_0),
            _ => None,
        }
    }

    /// Values that are packed together, and the bytes they become.
    fn group(self) -> (usize, usize) {
        match self {
            Self::Plain(element) => (1, element.bytes()),
            Self::E4m3 => (1, 1),
            Self::Scales | Self::More => (1, 4),
            Self::Blocks => (GROUP, encode::Q8_0),
            Self::Fp4 => (GROUP, GROUP / 2),
            Self::Exponents => (GROUP, 1),
        }
    }

    /// Packs whole groups.
    fn pack(self, values: &[f32], out: &mut [u8]) {
        match self {
            Self::Plain(element) => narrow(element, values, out),
            Self::E4m3 => encode::e4m3(values, out),
            Self::Scales => narrow(Element::F32, values, out),
            Self::More => narrow(Element::F32, &values.iter().map(|v| v + 1.0).collect::<Vec<_>>(), out),
            Self::Blocks => encode::q8_0(values, out),
            Self::Fp4 => encode::mxfp4_codes(values, out),
            Self::Exponents => encode::mxfp4_scales(values, out),
        }
    }
}

/// Takes elements of a tensor in order.
pub struct Rounded<'a> {
    inputs: Inputs<'a>,
    tensor: &'a TensorPlan,
    packing: Packing,
    out: Output<'a>,
    digest: Digest<'a>,
    /// The next element.
    at: u64,
    /// Values that are no whole group yet.
    rest: Vec<f32>,
}

impl<'a> Rounded<'a> {
    /// Starts at element `at` of a tensor, whose bytes go to `out`.
    pub fn new(inputs: Inputs<'a>, tensor: &'a TensorPlan, packing: Packing, out: Output<'a>, at: u64) -> Self {
        let even = tensor.bytes_of(tensor.span()).is_multiple_of(BLOCK as u64) || tensor.spans() < 2;
        let start = tensor.bytes_of(at);
        let digest = if even { Digest::Even(Box::default()) } else { Digest::Torn(Torn::new(out.job(), start)) };
        Self { inputs, tensor, packing, out, digest, at, rest: Vec::new() }
    }

    /// Takes the next elements.
    ///
    /// # Errors
    /// An element that is not finite, unless these are let through, which no quantised form does; as [`Output::next`].
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let mut rest = std::mem::take(&mut self.rest);
        let done = in_groups(self.packing.group().0, &mut rest, values, |groups| self.groups(groups));
        self.rest = rest;
        done
    }

    /// Takes whole groups.
    fn groups(&mut self, values: &[f32]) -> Result<()> {
        let (packing, (of, width)) = (self.packing, self.packing.group());
        let mut done = 0;
        while done < values.len() {
            let rest = &values[done..];
            let at = self.at;
            let taken = self.out.next(rest.len() / of * width, width, |bytes| {
                let own = &rest[..bytes.len() / width * of];
                packed(self.inputs, self.tensor, packing, at, own, bytes)?;
                self.digest.update(bytes);
                Ok(())
            })?;
            done += taken / width * of;
            self.at += (taken / width * of) as u64;
        }
        Ok(())
    }

    /// Sends what is there on its way; returns the digests, unless the job has got them.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub fn finish(mut self) -> Result<Vec<u128>> {
        self.out.send()?;
        match self.digest {
            Digest::Even(leaves) => Ok(leaves.finish()),
            Digest::Torn(mut torn) => {
                torn.flush();
                Ok(Vec::new())
            }
        }
    }
}

/// Calls `f` with whole groups of `of` of the values in `rest` and the next; keeps in `rest` what is no whole group yet.
fn in_groups(
    of: usize,
    rest: &mut Vec<f32>,
    mut values: &[f32],
    mut f: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    if !rest.is_empty() {
        let (own, later) = values.split_at(values.len().min(of - rest.len()));
        rest.extend_from_slice(own);
        values = later;
        if rest.len() < of {
            return Ok(());
        }
        f(rest)?;
        rest.clear();
    }
    let (groups, later) = values.split_at(values.len() / of * of);
    rest.extend_from_slice(later);
    if groups.is_empty() { Ok(()) } else { f(groups) }
}

/// Packs values, which begin at the element `at` of a tensor, and checks them.
///
/// # Errors
/// As [`Rounded::push`].
fn packed(inputs: Inputs, t: &TensorPlan, packing: Packing, at: u64, own: &[f32], bytes: &mut [u8]) -> Result<()> {
    packing.pack(own, bytes);
    let wrong = match packing {
        Packing::Plain(_) if inputs.allow_nonfinite => None,
        Packing::Plain(_) => first_nonfinite(t.dtype, bytes),
        // Their codes are refused too, and say which element of the weight it is.
        _ if t.encode.as_ref().is_some_and(|e| e.part == Part::Scales) => None,
        _ if any_nonfinite(own) => own.iter().position(|v| !v.is_finite()),
        Packing::Blocks => encode::too_large(bytes).map(|block| block * GROUP),
        _ => None,
    };
    wrong.map_or(Ok(()), |i| Err(overflow(inputs.plan, t, at + i as u64)))
}

/// Takes elements of a tensor that is put together in memory.
pub struct Placed<'a> {
    inputs: Inputs<'a>,
    tensor: &'a TensorPlan,
    encode: &'a Encode,
    packing: Packing,
    job: &'a Job,
    at: u64,
    rest: Vec<f32>,
}

impl<'a> Placed<'a> {
    /// Starts at element `at` of a tensor that is put together.
    ///
    /// # Errors
    /// As [`Packing::of`].
    pub fn new(inputs: Inputs<'a>, tensor: &'a TensorPlan, encode: &'a Encode, job: &'a Job, at: u64) -> Result<Self> {
        Ok(Self { inputs, tensor, encode, packing: Packing::of(tensor)?, job, at, rest: Vec::new() })
    }

    /// Takes the next elements.
    ///
    /// # Errors
    /// As [`Rounded::push`].
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let (mut rest, (of, width)) = (std::mem::take(&mut self.rest), self.packing.group());
        let done = in_groups(of, &mut rest, values, |groups| {
            let (at, mut bytes) = (self.at, vec![0; groups.len() / of * width]);
            packed(self.inputs, self.tensor, self.packing, at, groups, &mut bytes)?;
            self.job.collect(self.tensor.nbytes, |all| {
                for (i, group) in bytes.chunks_exact(width).enumerate() {
                    let to = self.encode.place(at + (i * of) as u64).unwrap_or(0) as usize;
                    all[to..to + width].copy_from_slice(group);
                }
            });
            self.at += groups.len() as u64;
            Ok(())
        });
        self.rest = rest;
        done
    }

    /// A span is done: after the last, what was put together goes to `out`.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub fn finish(self, mut out: Output) -> Result<()> {
        let Some(bytes) = self.job.collected() else { return Ok(()) };
        let mut leaves = Leaves::new();
        leaves.update(&bytes);
        out.push(&bytes)?;
        out.send()?;
        self.job.digested(0, 0, &leaves.finish());
        Ok(())
    }
}

/// What is written, on its way into the digest of the tensor.
enum Digest<'a> {
    /// Spans begin where leaves do.
    Even(Box<Leaves>),
    /// A leaf may have bytes of several spans.
    Torn(Torn<'a>),
}

impl Digest<'_> {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Even(leaves) => leaves.update(bytes),
            Self::Torn(torn) => torn.update(bytes),
        }
    }
}

/// Gives bytes to a job leaf by leaf.
struct Torn<'a> {
    job: &'a Job,
    /// The next byte of the tensor.
    at: u64,
    /// Those of a leaf that are not given yet.
    held: Vec<u8>,
}

impl<'a> Torn<'a> {
    fn new(job: &'a Job, at: u64) -> Self {
        Self { job, at, held: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK - (self.at % BLOCK as u64) as usize;
            let (own, later) = bytes.split_at(bytes.len().min(room));
            self.held.extend_from_slice(own);
            self.at += own.len() as u64;
            bytes = later;
            if self.at.is_multiple_of(BLOCK as u64) {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.held.is_empty() {
            return;
        }
        self.job.piece(self.at - self.held.len() as u64, &self.held);
        self.held.clear();
    }
}

/// The complaint about an element of a result that is not finite.
pub fn overflow(plan: &Plan, t: &TensorPlan, element: u64) -> Error {
    let path = t.action.places().first().map(|p| plan.path(*p).clone()).unwrap_or_default();
    if let Some(encode) = &t.encode {
        let form = encode.form.name();
        let problem = format!(
            "element {element} is NaN, infinite or too large, which {form} cannot hold; mend the inputs, or leave `to` out"
        );
        return Error::tensor(&path, &t.name, problem);
    }
    let problem = format!(
        "element {element} of the result is not a finite {}, though the inputs are finite; change the parameters or \
         the dtype, or pass --nan allow",
        t.dtype.name()
    );
    Error::tensor(&path, &t.name, problem)
}
