//! Merge methods. A method is one small file and one line in [`registry`].
//!
//! A method sees f32 tiles and parameters; no file, thread, dtype or tensor name.

mod arcee;
mod element;
mod emr;
pub mod encoded;
mod fisher;
mod gram;
pub mod larv;
mod linear;
mod magmax;
mod matrix;
mod passthrough;
mod pcb;
mod ram;
pub mod registry;
mod sce;
mod sparse;
mod spec;
mod tall;
mod varm;

pub use spec::{
    ANY, Base, Class, Default, Kind, LAMBDA, LARV, POSITIVE, Parameter, Params, SHARE, SVC, Spec, Value, WEIGHT,
};

use crate::dtype::Dtype;
use crate::kernels::arith;
use crate::kernels::reduce::BLOCK;
use crate::kernels::search::{Search, Wanted};
use crate::sizes::TILE;

/// Consecutive elements of one tensor, of all models at once.
pub struct Tile<'a> {
    /// Elements of the base, if the method has one that is not an input.
    pub base: Option<&'a [f32]>,
    /// The same elements of every input.
    pub inputs: &'a [&'a [f32]],
    /// A random key for every input; see [`crate::kernels::rng`].
    pub keys: &'a [u64],
    /// Index of the first element in the tensor; a multiple of [`Cost::unit`], or of
    /// [`crate::kernels::reduce::BLOCK`] for methods whose unit is one element.
    pub start: u64,
    /// Number of elements of the whole tensor.
    pub of: u64,
}

impl Tile<'_> {
    /// The change of input `i` from the base in `range`, or the input itself where there is no base.
    pub fn change(&self, i: usize, range: std::ops::Range<usize>, out: &mut [f32]) {
        match self.base {
            Some(base) => arith::sub(&self.inputs[i][range.clone()], &base[range], out),
            None => out.copy_from_slice(&self.inputs[i][range]),
        }
    }
}

/// Statistics of a span of a tensor. Those of a tensor are the sums over its spans, added in order.
#[derive(Debug, Clone, std::default::Default)]
pub struct Stats {
    /// Sums; added in the order of the spans, so that their rounding is always the same.
    pub sums: Vec<f64>,
    /// Histograms, of [`crate::kernels::select::BINS`] bins each.
    pub counts: Vec<Vec<u32>>,
    /// Counts whose running total before each span is wanted when that span is computed.
    pub ranks: Vec<u64>,
    /// Running totals before this span of the ranks counted last, in an earlier scan.
    pub before: Vec<u64>,
    /// Lists of magnitudes, in any order; see [`crate::kernels::search`].
    pub lists: Vec<Vec<u32>>,
    /// Spans whose counts are in [`Self::counts`].
    pub spans: u32,
}

/// How many of each kind of statistics a scan collects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, std::default::Default)]
pub struct Wants {
    /// Length of [`Stats::sums`].
    pub sums: usize,
    /// Number of [`Stats::counts`].
    pub histograms: usize,
    /// Length of [`Stats::ranks`].
    pub ranks: usize,
    /// Number of [`Stats::lists`].
    pub lists: usize,
    /// Whether a sample of the elements will do.
    pub sample: bool,
}

impl Wants {
    /// What the next scan of a search collects.
    fn of(search: &Search) -> Option<Self> {
        let sample = search.samples();
        search.wants().map(|w| Self { sample, ..Self::from(w) })
    }
}

impl From<Wanted> for Wants {
    fn from(Wanted { histograms, ranks, lists }: Wanted) -> Self {
        Self { sums: 0, histograms, ranks, lists, sample: false }
    }
}

/// How much of a tensor a kernel takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Spans of a fixed size, tile by tile.
    Fixed,
    /// The whole tensor, over which it goes as it likes: [`Kernel::whole`].
    Whole {
        /// Bytes that it keeps of the tensor while it works.
        keeps: u64,
    },
}

/// Why a kernel that goes over a whole tensor ends before it is done.
#[derive(Debug)]
pub enum Halt {
    /// What is wrong with the tensor.
    Failed(String),
    /// Whoever reads or writes has ended it, and knows why.
    Stopped,
}

impl From<String> for Halt {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

/// Takes tile after tile.
pub type EachTile<'f> = &'f mut dyn FnMut(&Tile) -> Result<(), Halt>;

/// Takes piece after piece of one operand.
pub type EachPiece<'f> = &'f mut dyn FnMut(&[f64]) -> Result<(), Halt>;

/// The operands of a tensor, for kernels of [`Span::Whole`].
pub trait Operands: Send {
    /// A random key for every input, as [`Tile::keys`].
    fn keys(&self) -> Vec<u64>;

    /// A factor on the change of each model, by which the kernel forms changes; none where they are as they are. See [`larv`].
    fn scales(&self) -> &[f64] {
        &[]
    }

    /// Calls `f` with tiles of whole units, in order, that cover these elements.
    ///
    /// # Errors
    /// What `f` returns, [`Halt::Stopped`] if they cannot be read.
    fn each(&mut self, elements: std::ops::Range<u64>, f: EachTile) -> Result<(), Halt>;

    /// Calls `f` with pieces, in order, that cover these elements of the operand `which` of those that have a shape of their own
    /// ([`Params::apart`]), exactly as they are stored.
    ///
    /// # Errors
    /// As [`Self::each`].
    fn apart(&mut self, which: usize, _elements: std::ops::Range<u64>, _f: EachPiece) -> Result<(), Halt> {
        Err(Halt::Failed(format!("has no operand {which} with a shape of its own")))
    }

    /// The end of the work because of an element of such an operand, whose file and name are told with the problem.
    fn at_fault(&mut self, _which: usize, _element: u64, problem: &str) -> Halt {
        Halt::Failed(problem.to_owned())
    }
}

/// Takes the elements of a result, for kernels of [`Span::Whole`].
pub trait Results: Send {
    /// The next elements.
    ///
    /// # Errors
    /// [`Halt::Stopped`] if they cannot be written.
    fn push(&mut self, values: &[f32]) -> Result<(), Halt>;
}

/// What a bound method needs at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Times each input is read.
    pub reads: usize,
    /// How much it takes at a time.
    pub span: Span,
    /// Elements that a tile holds a whole number of: the length of a row for methods that work by row.
    pub unit: u64,
    /// Bytes of working memory a thread takes for each element of a full tile ([`TILE`] elements, or a unit where that is
    /// larger), besides the inputs and the result in f32; rounded up.
    pub scratch: u64,
    /// The most of each kind that a scan collects.
    pub wants: Wants,
}

impl Cost {
    /// The cost of one pass over single elements, with nothing collected and nothing kept of a tile.
    pub const ELEMENT: Self = Self {
        reads: 1,
        span: Span::Fixed,
        unit: 1,
        scratch: 0,
        wants: Wants { sums: 0, histograms: 0, ranks: 0, lists: 0, sample: false },
    };
}

/// What the statistics of a method are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One tensor.
    Tensor,
    /// The tensors of one module (such as `self_attn`) of one layer.
    Module,
    /// The tensors of one layer.
    Layer,
    /// All merged tensors.
    Model,
}

impl Stats {
    /// Where a search puts what it finds.
    fn into(&mut self) -> crate::kernels::search::Into<'_> {
        crate::kernels::search::Into { counts: &mut self.counts, ranks: &mut self.ranks, lists: &mut self.lists }
    }

    /// Zeroes the statistics and gives them the wanted sizes; histograms that are there already keep their memory.
    pub fn reset(&mut self, wants: Wants) {
        self.spans = 0;
        self.sums = vec![0.0; wants.sums];
        self.ranks = vec![0; wants.ranks];
        self.lists = vec![Vec::new(); wants.lists];
        self.counts.iter_mut().for_each(|c| c.fill(0));
        self.counts.resize_with(wants.histograms, || vec![0; crate::kernels::select::BINS]);
    }
}

/// Statistics of a whole tensor.
#[derive(Debug, Clone, std::default::Default)]
pub struct Totals {
    /// As [`Stats::sums`].
    pub sums: Vec<f64>,
    /// As [`Stats::counts`], wide enough for any tensor.
    pub counts: Vec<Vec<u64>>,
    /// As [`Stats::ranks`], over the whole tensor.
    pub ranks: Vec<u64>,
    /// As [`Stats::lists`], over the whole tensor.
    pub lists: Vec<Vec<u32>>,
}

/// A merge method.
pub trait Method: Sync {
    /// What it says of itself.
    fn spec(&self) -> &Spec;

    /// What its statistics are taken over, with these parameters.
    fn scope(&self, _params: &Params) -> Scope {
        Scope::Tensor
    }

    /// Whether statistics of a wider [`Scope`] mix the models: what is found of one, over the whole scope, decides what
    /// becomes of another.
    fn couples(&self, _params: &Params) -> bool {
        true
    }

    /// Whether inputs that are all equal, the base too where there is one, come out as they are with these parameters:
    /// then tensors that cannot be computed on may be carried over as bytes.
    fn identity(&self, _params: &Params) -> bool {
        true
    }

    /// Whether the parameter called `name` does nothing beside these others.
    fn idle(&self, _params: &Params, _name: &str) -> bool {
        false
    }

    /// Dtype of what it computes with these parameters, where that is not a model's.
    fn dtype(&self, _params: &Params) -> Option<Dtype> {
        None
    }

    /// The method with the parameters of one tensor of dimensions `shape`; for a wider [`Scope`], of all its tensors as
    /// one flat one.
    ///
    /// # Errors
    /// What is wrong with the parameters together; each alone has been checked against the spec.
    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String>;
}

/// A method with the parameters of one tensor, and what is to become of its result: [`Method::bind`] with modifiers.
///
/// # Errors
/// As [`Method::bind`].
pub fn bind(method: &'static dyn Method, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
    if params.number("svc") > 0.0
        && let Some(kernel) = matrix::calibrated(method, params, shape)?
    {
        return Ok(kernel);
    }
    method.bind(params, shape)
}

/// What a method takes of a tensor with these parameters, its modifiers included.
///
/// # Errors
/// As [`bind`]; modifiers that do not go with it.
pub fn cost(method: &'static dyn Method, params: &Params, shape: &[u64]) -> Result<Cost, String> {
    larv::cost(method, params, shape, bind(method, params, shape)?.cost())
}

/// [`Cost::scratch`] of a kernel that keeps `bytes` for each element of a unit, or of a block where that is one element.
fn of_tile(bytes: usize, unit: u64) -> u64 {
    if unit == 1 { (bytes * BLOCK).div_ceil(TILE) as u64 } else { bytes as u64 }
}

/// Whether weights add up to one.
fn adds_up(weights: &[f64]) -> bool {
    (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12
}

/// The weights over their sum; `switch` is the parameter that asks for that.
fn normalised(weights: Vec<f64>, switch: &str) -> Result<Vec<f64>, String> {
    let sum: f64 = weights.iter().sum();
    if sum.abs() < 1e-12 {
        return Err(format!("the weights sum to zero; change them, or set `{switch}: false`"));
    }
    Ok(weights.into_iter().map(|w| w / sum).collect())
}

/// Length of a row: the last dimension; 1 for scalars and empty tensors.
pub fn row(shape: &[u64]) -> u64 {
    shape.last().copied().unwrap_or(1).max(1)
}

/// Number of elements.
pub fn elements(shape: &[u64]) -> u64 {
    shape.iter().product()
}

/// A kernel of one pass, from what it does to a tile.
pub struct Element<F>(pub F);

impl<F: Fn(&Tile, &mut [f32]) + Send + Sync> Kernel for Element<F> {
    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        self.0(tile, out);
    }
}

/// A method bound to one tensor.
///
/// The engine reads the tensor once for each scan, hands over the totals, and reads it a last time to apply. Where the
/// method's [`Scope`] is wider than a tensor, one kernel scans all tensors of the scope, and [`Kernel::on`] makes the
/// kernels that apply.
pub trait Kernel: Send + Sync {
    /// What it needs at most.
    fn cost(&self) -> Cost {
        Cost::ELEMENT
    }

    /// What the next scan collects, asked before each; `None` when nothing is left to find out.
    fn wants(&self) -> Option<Wants> {
        None
    }

    /// Adds a tile to the statistics of its span. Tiles of a span come in order.
    fn scan(&self, _tile: &Tile, _stats: &mut Stats) {}

    /// Takes the totals of a finished scan.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    fn take(&mut self, _totals: Totals) -> Result<(), String> {
        Ok(())
    }

    /// After all scans: a kernel that applies what was found to one tensor of the scope, with that tensor's parameters
    /// and dimensions. Only asked of kernels of a wider [`Scope`].
    ///
    /// # Errors
    /// As [`Method::bind`].
    fn on(&self, _params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Err("works on single tensors".into())
    }

    /// Of kernels of [`Span::Whole`], instead of scans and [`Self::apply`]: goes over the tensor, writes every element in order, and
    /// tells what it found.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    fn whole(&self, _read: &mut dyn Operands, _write: &mut dyn Results) -> Result<Vec<(String, f64)>, Halt> {
        Err(Halt::Failed("is taken tile by tile".into()))
    }

    /// True if it gives its one input as it is: then all there is to it is a cast.
    fn casts(&self) -> bool {
        false
    }

    /// What the scans have found and a reader of the report may want, each with its name.
    fn found(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Of kernels whose results are known only when all tiles are seen, such as scales: some of them, from the one with this number on.
    fn gathered(&self, _from: usize, _out: &mut [f32]) {}

    /// What [`Self::apply`] would give if it left the base, or where there is none the first input, as it is.
    fn untouched(&self, tile: &Tile, out: &mut [f32]) {
        if let Some(own) = tile.base.or(tile.inputs.first().copied()) {
            out.copy_from_slice(&own[..out.len()]);
        }
    }

    /// Computes a tile into `out`; not asked of kernels of [`Span::Whole`].
    ///
    /// `ranks` holds, for the counts of the last scan that had any, the total of everything before this tile; the
    /// kernel keeps it up to date. Tiles of a span come in order.
    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]);
}
