//! What a method says of itself. Recipe checking, `suture methods`, plan estimates and the generic tests read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

/// A parameter's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A switch.
    Bool(bool),
    /// A number.
    Number(f64),
    /// One of a fixed set of words.
    Word(String),
}

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Kind {
    /// A finite number from `min` to `max`, both allowed.
    Number {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// True or false.
    Switch,
    /// A whole number from `min` to `max`, both allowed.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// One of `words`; where `none` is among them, true stands for the first and false for `none`.
    Choice {
        /// The words.
        words: &'static [&'static str],
    },
    /// The path of a checkpoint whose tensors, of the same names and shapes, come after the inputs.
    Checkpoint,
    /// The path of a checkpoint of Gram matrices: for a tensor of n columns an n x n matrix, which the kernel reads apart.
    Gram,
}

/// Any finite number.
pub const ANY: Kind = Kind::Number { min: f64::MIN, max: f64::MAX };
/// A share of a whole.
pub const SHARE: Kind = Kind::Number { min: 0.0, max: 1.0 };
/// Zero or more.
pub const POSITIVE: Kind = Kind::Number { min: 0.0, max: f64::MAX };
/// Weight of a model's change.
pub const WEIGHT: Parameter = Parameter::each("weight", "weight of the model's change", ANY, Default::Required).late();
/// Factor on the merged change.
pub const LAMBDA: Parameter = Parameter::shared(
    "lambda",
    "factor on the merged change before it is added to the base",
    ANY,
    Default::Number(1.0),
)
.late();

/// What becomes of the singular values of the merged change.
pub const SVC: Parameter = Parameter::shared(
    "svc",
    "calibrate the singular values of the merged change (SVC, arXiv 2602.05536): the least share of a task that counts, 0.1, \
     after tsvm and wudi 1; 0: leave them",
    POSITIVE,
    Default::Number(0.0),
)
.late();

/// Whether the changes of a layer are scaled before they are merged.
pub const LARV: Parameter = Parameter::shared(
    "larv",
    "scale each layer's changes by the rank they have beside the base's, their conflict with it and their depth (LARV, arXiv \
     2602.09413), before all else: continuously (true), or in three tiers",
    Kind::Choice { words: &["continuous", "tiered", "none"] },
    Default::Word("none"),
)
.late();

/// A parameter's default.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum Default {
    /// None: the recipe must give one.
    Required,
    /// A number.
    Number(f64),
    /// A switch.
    Switch(bool),
    /// A word.
    Word(&'static str),
}

/// A parameter of a method.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Parameter {
    /// Name in a recipe.
    pub name: &'static str,
    /// One line: what it does.
    pub summary: &'static str,
    /// Values it takes.
    pub kind: Kind,
    /// Value when the recipe gives none.
    pub default: Default,
    /// True if every input model has its own, false if the tensor has one.
    pub per_input: bool,
    /// True for what only enters when a tensor is computed. Tensors that share statistics agree on everything else.
    #[serde(skip)]
    pub late: bool,
}

impl Parameter {
    /// A parameter every input model has its own of.
    pub const fn each(name: &'static str, summary: &'static str, kind: Kind, default: Default) -> Self {
        Self { name, summary, kind, default, per_input: true, late: false }
    }

    /// A parameter the tensor has one of.
    pub const fn shared(name: &'static str, summary: &'static str, kind: Kind, default: Default) -> Self {
        Self { name, summary, kind, default, per_input: false, late: false }
    }

    /// The same, as what only enters when a tensor is computed.
    pub const fn late(self) -> Self {
        Self { late: true, ..self }
    }
}

/// Whether a method starts from a base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// It must be given; experts are taken as changes of it.
    Required,
    /// With one, experts are taken as changes of it; without, they are merged themselves.
    Optional,
    /// It is the first of the interpolated models.
    First,
    /// The method takes none: it only lends config and side files.
    None,
    /// It is one of the models.
    Input,
}

/// What a method must have seen before it can compute an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing but the element.
    Element,
    /// Dot products of the tensor's models.
    Gram,
    /// The tensor as a matrix: its singular vectors, or products with others.
    Matrix,
    /// An order of the tensor's elements: the k-th largest, or ranks.
    Order,
    /// Statistics of the whole model, or of a part of it that is larger than a tensor.
    Model,
}

/// Everything a method says of itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spec {
    /// Name in a recipe; mergekit's where it has the method.
    pub name: &'static str,
    /// One line: what it does.
    pub summary: &'static str,
    /// Its formula, in plain text.
    pub formula: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Where it departs from mergekit 0.1.5, and why; empty if nowhere.
    pub departs: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Its base.
    pub base: Base,
    /// Fewest and most input models, the base not counted.
    pub inputs: (usize, usize),
    /// What it must have seen.
    pub class: Class,
    /// Most times each input is read, with the default stages.
    pub reads: usize,
    /// True if merging changes that are c times as large gives a change c times as large.
    pub homogeneous: bool,
}

impl Spec {
    /// What most methods have in common, to take over by `..Spec::COMMON`.
    pub const COMMON: Self = Self {
        name: "",
        summary: "",
        formula: "",
        paper: "",
        departs: "",
        parameters: &[],
        base: Base::Required,
        inputs: (1, usize::MAX),
        class: Class::Element,
        reads: 1,
        homogeneous: true,
    };

    /// The parameter called `name`.
    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

/// The parameters of one tensor, checked and with defaults filled in.
#[derive(Debug, Clone, std::default::Default, PartialEq, Serialize)]
pub struct Params {
    /// Parameters the tensor has one of.
    pub shared: BTreeMap<&'static str, Value>,
    /// Parameters every input has its own of, in the order of the inputs.
    pub per_input: BTreeMap<&'static str, Vec<Value>>,
    /// Number of input models.
    pub inputs: usize,
    /// Number of operands that the kernel reads apart from these; see [`crate::methods::Operands::apart`].
    #[serde(skip)]
    pub apart: usize,
    /// True if there is a base that is not an input.
    #[serde(skip)]
    pub based: bool,
    /// Seed of random methods.
    pub seed: u64,
    /// How deep in the model the tensor lies, from 0 (first layer) to 1 (last layer); `None` outside the layers.
    pub depth: Option<f64>,
    /// True if the tensor lies in a layer, of whichever stack.
    pub layered: bool,
    /// The tensor that this one is tied to, whose random masks it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// Where in the recipe each parameter that is not a default comes from: one key path, or one for every input. Not
    /// part of what decides the output.
    #[serde(skip)]
    pub from: BTreeMap<&'static str, Vec<Option<Arc<str>>>>,
}

impl Params {
    /// The shared number `name`; 0 if the method has none of that name.
    pub fn number(&self, name: &str) -> f64 {
        match self.shared.get(name) {
            Some(Value::Number(n)) => *n,
            _ => 0.0,
        }
    }

    /// The shared switch `name`; false if the method has none of that name.
    pub fn switch(&self, name: &str) -> bool {
        matches!(self.shared.get(name), Some(Value::Bool(true)))
    }

    /// The shared word `name`; empty if the method has none of that name.
    pub fn word(&self, name: &str) -> &str {
        match self.shared.get(name) {
            Some(Value::Word(w)) => w,
            _ => "",
        }
    }

    /// The shared whole number `name`; 0 if the method has none of that name.
    pub fn integer(&self, name: &str) -> u64 {
        self.number(name) as u64
    }

    /// The number `name` of every input; empty if the method has none of that name.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        let number = |v: &Value| if let Value::Number(n) = v { *n } else { 0.0 };
        self.per_input.get(name).map(|vs| vs.iter().map(number).collect()).unwrap_or_default()
    }
}
