//! Plans: what happens to every output tensor, decided from recipe and headers before any weight is read.

mod alike;
mod assembly;
pub mod budget;
mod builder;
mod coded;
mod draft;
mod encoded;
mod gguf;
mod gram;
mod idle;
mod item;
mod json;
pub mod layers;
pub mod merge;
mod metadata;
pub mod models;
mod modules;
mod notes;
pub mod parts;
mod references;
mod select;
mod stage;
mod ties;
mod unused;
mod vocabulary;

pub use draft::{Computation, Draft};
pub use models::{Models, same_shape};
pub use vocabulary::{Vocabulary, of_tokens};

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::checkpoint::made::Made;
use crate::checkpoint::{Checkpoint, Shard, Target};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::encoded::{Encode, Form, Part};
use crate::methods::{Cost, Method, Params, Span};
use crate::model::anatomy::Stack;
use crate::sizes::SPAN;
use crate::source::{IoMode, object};
use crate::view::{Place, Sources, View};

/// The number of the shape that plans and reports have as JSON.
pub const SCHEMA: u32 = 1;

/// What is done to make an output tensor.
#[derive(Clone)]
pub enum Action {
    /// Its bytes are those of a view.
    Move {
        /// The view, whose bytes are plain.
        from: View,
        /// Tensors that must hold the same bytes, or the run fails (integers cannot be merged).
        same: Vec<Place>,
    },
    /// It is computed by a method.
    Compute {
        /// The method.
        method: &'static dyn Method,
        /// Its parameters for this tensor.
        params: Box<Params>,
        /// The base, for methods that work on changes.
        base: Option<View>,
        /// The models merged, and after them what parameters name besides.
        inputs: Vec<View>,
        /// What parameters name that has a shape of its own, and is read by itself.
        apart: Vec<View>,
        /// What it needs at most.
        cost: Cost,
        /// Index into [`Plan::groups`], if its statistics are taken over more than this tensor.
        group: Option<usize>,
    },
}

/// Tensors that share statistics.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they have in common, for people: `the model`, `layer 3`, `self_attn of layer 3`.
    pub name: String,
    /// Indices into [`Plan::tensors`], in the order of what they are made from: how the output is cut into slices, modules and
    /// shards must not decide which of equal elements come first.
    pub tensors: Vec<usize>,
}

impl Group {
    /// The group with number `index` of a plan of `tensors`.
    fn of(name: String, index: usize, tensors: &[TensorPlan]) -> Self {
        let own = |t: &TensorPlan| {
            // Codes and scales are of the same values, which count once.
            matches!(t.action, Action::Compute { group: Some(g), .. } if g == index) && !t.is_scales()
        };
        let mut members: Vec<usize> = (0..tensors.len()).filter(|i| own(&tensors[*i])).collect();
        members.sort_by_key(|i| tensors[*i].action.places().first().copied());
        Self { name, tensors: members }
    }
}

impl Action {
    /// What it reads, the base first and what is read by itself last; of a move the view and what must be the same.
    pub fn views(&self) -> Vec<View> {
        self.together().into_iter().chain(self.apart().iter().cloned()).collect()
    }

    /// What it reads element by element, all of one shape, the base first; of a move as [`Self::views`].
    pub fn together(&self) -> Vec<View> {
        match self {
            Self::Move { from, same } => {
                std::iter::once(from.clone()).chain(same.iter().map(|p| View::from(*p))).collect()
            }
            Self::Compute { base, inputs, .. } => base.iter().chain(inputs).cloned().collect(),
        }
    }

    /// What it reads besides, each by itself.
    pub fn apart(&self) -> &[View] {
        match self {
            Self::Move { .. } => &[],
            Self::Compute { apart, .. } => apart,
        }
    }

    /// Every tensor it reads, in the order of the views.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Self::Move { from, same } => from.places().into_iter().chain(same.iter().copied()).collect(),
            Self::Compute { base, inputs, apart, .. } => {
                base.iter().chain(inputs).chain(apart).flat_map(View::places).collect()
            }
        }
    }

    /// What making it costs; of a move one pass.
    pub fn cost(&self) -> Cost {
        match self {
            Self::Move { .. } => Cost::ELEMENT,
            Self::Compute { cost, .. } => *cost,
        }
    }
}

/// An output tensor.
#[derive(Clone)]
pub struct TensorPlan {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Size in bytes.
    pub nbytes: u64,
    /// Index of its shard.
    pub shard: usize,
    /// Offset in that file, header included.
    pub offset: u64,
    /// How it is made.
    pub action: Action,
    /// How what is computed becomes its elements, where it is part of a quantised weight.
    pub encode: Option<Box<Encode>>,
}

impl TensorPlan {
    /// Dimensions of what is computed.
    pub fn values(&self) -> &[u64] {
        self.encode.as_ref().map_or(&self.shape, |e| &e.shape)
    }

    /// Name of the weight that it is, or is a part of.
    pub fn weight(&self) -> &str {
        self.encode.as_ref().map_or(&self.name, |e| &e.weight)
    }

    /// Whether it holds scales of a weight, whose codes are another tensor.
    pub fn is_scales(&self) -> bool {
        self.encode.as_ref().is_some_and(|e| e.part == Part::Scales)
    }

    /// Number of elements that are computed or moved.
    pub fn elements(&self) -> u64 {
        self.values().iter().product()
    }

    /// Bytes that the first elements take; a whole number of groups of them.
    pub fn bytes_of(&self, elements: u64) -> u64 {
        self.encode.as_ref().map_or(elements * self.dtype.bits() / 8, |e| e.bytes_of(elements))
    }

    /// Elements of a span, which one thread takes at a time.
    pub fn span(&self) -> u64 {
        match self.action.cost().span {
            Span::Fixed => SPAN,
            Span::Whole { .. } => self.elements().max(1),
        }
    }

    /// Number of spans.
    pub fn spans(&self) -> u64 {
        self.elements().div_ceil(self.span())
    }

    /// The elements of a span.
    pub fn elements_of(&self, span: u64) -> std::ops::Range<u64> {
        span * self.span()..((span + 1) * self.span()).min(self.elements())
    }
}

/// An input tensor that is in no output, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unused {
    /// Label of the model.
    pub model: String,
    /// Name of the tensor.
    pub tensor: String,
    /// Why it is left out.
    pub reason: String,
}

/// A stack of the output whose layers are others than in the model that lends its config.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Relaid {
    /// What it is called.
    pub stack: String,
    /// What its tensors' names have before the layer's number.
    pub prefix: String,
    /// For every layer the model and the layer that it is, or takes its settings from.
    pub layers: Vec<(usize, usize)>,
    /// What else is merged into a layer: its number, a model and the layer there.
    pub merged: Vec<(usize, usize, usize)>,
    /// For each model concerned the key of its config.json that counts these layers, such as `text_config.num_hidden_layers`.
    pub keys: Vec<(usize, Option<String>)>,
}

/// What config.json has to say of the output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutputConfig {
    /// Index of the model whose side files are carried over.
    pub from: usize,
    /// What each model's config.json says of the stack that layers are numbered in; `None` where a model has none.
    pub of: Vec<Option<Counted>>,
    /// The same of every stack of each model that gives the output something.
    pub parts: Vec<Vec<Counted>>,
    /// Stacks whose layers are laid anew.
    pub stacks: Vec<Relaid>,
    /// Dtype of every float tensor, if the recipe sets one.
    pub dtype: Option<Dtype>,
    /// Dtype of most bytes of the output, among those that compute.
    pub mostly: Option<Dtype>,
    /// True if the output has a head of its own though an input tied it to the embedding.
    pub untied: bool,
    /// The models that give the output quantised weights.
    pub quantised: Vec<usize>,
    /// Whether the weights of the model at `from` are quantised, and are decoded.
    #[serde(default)]
    pub decoded: bool,
    /// How weights are written, if not plain.
    #[serde(default)]
    pub encoded: Option<Encoded>,
}

/// A quantised form of the output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encoded {
    /// The form.
    pub form: Form,
    /// Modules with matrices that stay plain, which a loader has to know.
    pub plain: Vec<String>,
    /// Words of their names that no coded module has in its own: a loader that calls a tower otherwise knows it by these.
    #[serde(default)]
    pub words: Vec<String>,
}

impl OutputConfig {
    /// The config of the model at `from`, as it is.
    pub fn of(from: usize, dtype: Option<Dtype>) -> Self {
        let (of, parts, stacks, quantised) = Default::default();
        Self { from, of, parts, stacks, dtype, mostly: None, untied: false, quantised, decoded: false, encoded: None }
    }
}

/// A stack of a model as its config.json has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// The key that counts its layers, such as `text_config.num_hidden_layers`, if there is one.
    pub key: Option<String>,
    /// Number of its layers in the files.
    pub layers: usize,
}

impl Counted {
    /// Of a stack.
    fn of(stack: &Stack) -> Self {
        Self { key: stack.count.as_ref().map(|c| c.key.clone()), layers: stack.layers }
    }
}

/// A compiled plan. The same plan on the same inputs gives the same output bytes.
#[derive(Clone)]
pub struct Plan {
    /// What kind of surgery, for reports: `merge ties`, `swap`.
    pub title: String,
    /// The recipe, as given.
    pub recipe: serde_json::Value,
    /// The models read.
    pub models: Vec<Arc<Checkpoint>>,
    /// Their labels, for people and for random keys: the folder's name, numbered when it occurs twice.
    pub labels: Vec<String>,
    /// The files written.
    pub shards: Vec<Shard>,
    /// The tensors written, in the order of their bytes; shared by the plan and its like with more told.
    pub tensors: Arc<[TensorPlan]>,
    /// Tensors that share statistics.
    pub groups: Vec<Group>,
    /// Input tensors left out.
    pub unused: Vec<Unused>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What is done, in a few lines for people: a title and a text each.
    pub notes: Vec<(String, String)>,
    /// Side-file changes.
    pub config: OutputConfig,
    /// The vocabulary that its models are brought to.
    pub vocabulary: Option<Arc<Vocabulary>>,
    hash: OnceLock<String>,
}

/// Default shard size, in bytes, as Hugging Face has it.
pub const DEFAULT_SHARD: u64 = 5_000_000_000;

impl Plan {
    /// Checks that the output can go to `target`; see [`Target::check`].
    ///
    /// # Errors
    /// [`Error::Output`] with what is in the way, the disk's free room included.
    pub fn check_target(&self, target: &Target, overwrite: bool) -> Result<()> {
        self.check_place(target, overwrite)?;
        let above = target.above();
        let stat = rustix::fs::statvfs(above).map_err(|e| Error::io(above, "ask for free room", e))?;
        // Room taken by an earlier run of the same output is room this run has.
        let staged = staged_bytes(&target.staging());
        let (need, free) = (self.write_bytes(), stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(staged));
        if need > free {
            return Err(Error::output(
                target.path(),
                format!("needs {need} bytes of disk, {free} are free; nothing was written"),
            ));
        }
        Ok(())
    }

    /// As [`Self::check_target`], but for the room on the disk.
    ///
    /// # Errors
    /// [`Error::Output`] with what is in the way.
    pub fn check_place(&self, target: &Target, overwrite: bool) -> Result<()> {
        let files = self.models.iter().flat_map(|m| m.files.iter().map(|f| f.path.as_path()));
        let inputs: Vec<&std::path::Path> = self.models.iter().map(|m| m.path.as_path()).chain(files).collect();
        self.is_for_folder(target)?;
        target.check(&inputs, overwrite)
    }

    /// The same plan with its one file called `name`: an output that is a file and no folder.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it has several shards.
    pub fn in_file(&self, name: &str) -> Result<Self> {
        // What decides the bytes is the same.
        self.hash();
        let mut plan = self.clone();
        let [shard] = plan.shards.as_mut_slice() else {
            let problem =
                format!("{} shards do not go into one file; give a folder, or no shard size", self.shards.len());
            return Err(Error::recipe("shard_size", problem));
        };
        name.clone_into(&mut shard.file);
        Ok(plan)
    }

    /// Whether any of its inputs is an object of a store.
    pub fn is_remote(&self) -> bool {
        self.models.iter().flat_map(|m| &m.files).any(|f| object::is_remote(f.identity))
    }

    /// Bytes read, each input once for every pass its method makes at most.
    pub fn read_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.action.cost().reads as u64 * self.input_bytes(t)).sum()
    }

    /// Bytes that one pass over the inputs of a tensor reads.
    pub fn input_bytes(&self, t: &TensorPlan) -> u64 {
        t.action.views().iter().map(|v| v.nbytes(&self.models)).sum()
    }

    /// Bytes of the files written.
    pub fn write_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::size).sum()
    }

    /// The tensor at a place.
    pub fn tensor(&self, place: Place) -> &crate::checkpoint::Tensor {
        place.tensor(&self.models)
    }

    /// Path of the file a place lies in.
    pub fn path(&self, place: Place) -> &PathBuf {
        &self.models[place.model].files[self.tensor(place).file].path
    }

    /// Checks that what a lossless delta makes of a tensor, of this digest, is what it was taken from.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is not: the delta was put on another tensor.
    pub fn keeps_promise(&self, tensor: usize, digest: &str) -> Result<()> {
        let t = &self.tensors[tensor];
        let Action::Move { from: View::Plain(place), .. } = &t.action else { return Ok(()) };
        let Some(Made::Exact(exact)) = self.tensor(*place).made.as_deref() else { return Ok(()) };
        match &exact.promise {
            Some(promise) if promise != digest => {
                let problem = format!(
                    "comes out as other bytes than the delta was taken from: it is not on `{}`, to which it belongs, or is damaged; \
                     name that model, and see `suture verify` of the delta",
                    exact.of
                );
                Err(Error::tensor(&exact.delta, &t.name, problem))
            }
            _ => Ok(()),
        }
    }

    /// Every file read, to be opened when it is.
    pub fn sources(&self, io: IoMode) -> Sources {
        self.models.iter().map(|m| m.sources(io)).collect()
    }
}

fn staged_bytes(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum()
}
