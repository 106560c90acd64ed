//! A method that sees changes scaled.
//!
//! It gets them as changes from nothing, in f32, and what it makes of them is added to the base afterwards: scaled models would be
//! rounded beside the base, so that equal changes were no longer equal. Kernels of whole matrices, which form changes in f64
//! themselves, are told the scales ([`Operands::scales`]).

use std::ops::Range;
use std::sync::Arc;

use super::told;
use crate::kernels::arith::{moved, scaled};
use crate::kernels::scratch;
use crate::methods::{Cost, EachPiece, EachTile, Halt, Kernel, Operands, Params, Results, Stats, Tile, Totals, Wants};

/// Calls `f` with a tile whose models are scaled changes; what comes after the models is left as it is.
fn with_changes<R>(tile: &Tile, scales: &[f64], f: impl FnOnce(&Tile) -> R) -> R {
    let Some(base) = tile.base else { return f(tile) };
    let n = base.len();
    let mut memory = scratch::values(n * (scales.len() + 1));
    let (nothing, changes) = memory.split_at_mut(n);
    nothing.fill(0.0);
    for ((out, x), scale) in changes.chunks_mut(n.max(1)).zip(tile.inputs).zip(scales) {
        for ((o, x), b) in out.iter_mut().zip(*x).zip(base) {
            *o = scaled(*scale, *x, *b);
        }
    }
    let mut inputs: Vec<&[f32]> = changes.chunks(n.max(1)).collect();
    inputs.extend(tile.inputs.get(inputs.len()..).unwrap_or_default());
    f(&Tile { base: Some(nothing), inputs: &inputs, ..*tile })
}

/// A bound method with the scale of each model's change of the tensor.
pub struct Scaled {
    kernel: Box<dyn Kernel>,
    scales: Arc<[f64]>,
}

impl Scaled {
    /// A kernel of a tensor that has a base.
    pub fn new(kernel: Box<dyn Kernel>, scales: Arc<[f64]>) -> Self {
        Self { kernel, scales }
    }
}

impl Kernel for Scaled {
    fn cost(&self) -> Cost {
        self.kernel.cost()
    }

    fn wants(&self) -> Option<Wants> {
        self.kernel.wants()
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        with_changes(tile, &self.scales, |tile| self.kernel.scan(tile, stats));
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        self.kernel.take(totals)
    }

    fn on(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        self.kernel.on(params, shape)
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Vec<(String, f64)>, Halt> {
        self.kernel.whole(&mut Told { read, scales: &self.scales }, write)
    }

    fn found(&self) -> Vec<(String, f64)> {
        let own = self.scales.iter().enumerate().map(|(i, scale)| (told(i), *scale));
        self.kernel.found().into_iter().chain(own).collect()
    }

    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) {
        with_changes(tile, &self.scales, |tile| self.kernel.apply(tile, ranks, out));
        for (o, b) in out.iter_mut().zip(tile.base.unwrap_or_default()) {
            *o = moved(*b, f64::from(*o));
        }
    }
}

/// A kernel that scans several tensors, with the scales of the one it is at.
pub struct Seen<'a> {
    /// The kernel.
    pub kernel: &'a dyn Kernel,
    /// The scale of each model's change.
    pub scales: &'a [f64],
}

impl Kernel for Seen<'_> {
    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        with_changes(tile, self.scales, |tile| self.kernel.scan(tile, stats));
    }

    fn apply(&self, _tile: &Tile, _ranks: &mut [u64], _out: &mut [f32]) {}
}

/// Operands, and the scales.
struct Told<'a> {
    read: &'a mut dyn Operands,
    scales: &'a [f64],
}

impl Operands for Told<'_> {
    fn keys(&self) -> Vec<u64> {
        self.read.keys()
    }

    fn scales(&self) -> &[f64] {
        self.scales
    }

    fn each(&mut self, elements: Range<u64>, f: EachTile) -> Result<(), Halt> {
        self.read.each(elements, f)
    }

    fn apart(&mut self, which: usize, elements: Range<u64>, f: EachPiece) -> Result<(), Halt> {
        self.read.apart(which, elements, f)
    }

    fn at_fault(&mut self, which: usize, element: u64, problem: &str) -> Halt {
        self.read.at_fault(which, element, problem)
    }
}
