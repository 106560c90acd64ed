//! Sparse task arithmetic: one pipeline, of which the named methods are presets.
//!
//! change from base -> sparsify -> rescale -> weight -> elect a sign -> sum or mean -> lambda -> add to base.
//!
//! A preset is a name and default stages; a config may set every stage itself.

mod consensus;
mod pipeline;
mod presets;
mod sparsify;

use super::{ANY, Default, Kernel, Kind, LAMBDA, LARV, Method, Parameter, Params, SHARE, SVC, Scope, Spec, WEIGHT};
use pipeline::Pipeline;
pub(super) use presets::*;

/// A method that is the pipeline with default stages of its own.
pub(super) struct Preset {
    spec: Spec,
}

impl Method for Preset {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn scope(&self, params: &Params) -> Scope {
        if trims_model(params) { Scope::Model } else { Scope::Tensor }
    }

    fn couples(&self, _params: &Params) -> bool {
        // Each model is cut by its own changes.
        false
    }

    fn idle(&self, params: &Params, name: &str) -> bool {
        let ways = |wanted: &[&str]| !wanted.contains(&params.word("sparsify"));
        match name {
            "gamma" => ways(&["breadcrumbs"]),
            "epsilon" => ways(&["della"]),
            "block" => ways(&["cabs"]),
            "density" => ways(&["magnitude", "breadcrumbs", "random", "della", "cabs"]),
            "scope" => ways(&["magnitude", "breadcrumbs"]),
            _ => false,
        }
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Pipeline::new(params, shape)?))
    }
}

/// Whether changes are trimmed over the whole model. Other ways of thinning know no scope.
fn trims_model(params: &Params) -> bool {
    matches!(params.word("sparsify"), "magnitude" | "breadcrumbs") && params.word("scope") == "model"
}

/// The default stages of a preset.
#[derive(Clone, Copy)]
struct Stages {
    sparsify: &'static str,
    scope: &'static str,
    /// The words of `rescale`, the one that `true` stands for first.
    rescales: &'static [&'static str],
    rescale: &'static str,
    consensus: &'static str,
    normalize: bool,
    reduce: &'static str,
    beta: f64,
}

const PLAIN: Stages = Stages {
    sparsify: "none",
    scope: "tensor",
    rescales: &["l1", "density", "l2", "none"],
    rescale: "none",
    consensus: "none",
    normalize: false,
    reduce: "auto",
    beta: 0.0,
};
const RANDOM: Stages =
    Stages { sparsify: "random", rescales: &["density", "l1", "l2", "none"], rescale: "density", ..PLAIN };
const RANKED: Stages = Stages { sparsify: "della", scope: "row", ..RANDOM };
const TRIMMED: Stages = Stages { sparsify: "magnitude", ..PLAIN };
const OUTLIERS: Stages = Stages { sparsify: "breadcrumbs", ..PLAIN };

const fn choice(
    name: &'static str,
    summary: &'static str,
    words: &'static [&'static str],
    word: &'static str,
) -> Parameter {
    Parameter::shared(name, summary, Kind::Choice { words }, Default::Word(word))
}

const fn parameters(stages: Stages) -> [Parameter; 17] {
    [
        WEIGHT,
        Parameter::each("density", "share of the change that is kept, above 0", SHARE, Default::Number(1.0)),
        Parameter::each(
            "gamma",
            "breadcrumbs: share of the largest changes that is dropped",
            SHARE,
            Default::Number(0.01),
        ),
        Parameter::each(
            "epsilon",
            "della: probabilities of keeping run from density - epsilon to density + epsilon",
            SHARE,
            Default::Number(0.15),
        ),
        Parameter::shared(
            "block",
            "cabs: elements of a block",
            Kind::Integer { min: 1, max: 1 << 20 },
            Default::Number(256.0),
        ),
        SVC,
        LARV,
        LAMBDA,
        Parameter::shared(
            "normalize",
            "divide by the sum of the weights (with a consensus: of those that agree, element by element)",
            Kind::Switch,
            Default::Switch(stages.normalize),
        ),
        choice(
            "sparsify",
            "how changes are thinned: by magnitude, at random, without smallest and largest (breadcrumbs), at random by rank \
             in a row (della), by magnitude in disjoint blocks (cabs)",
            &["magnitude", "random", "breadcrumbs", "della", "cabs", "none"],
            stages.sparsify,
        ),
        choice(
            "scope",
            "magnitude, breadcrumbs: what the density is a share of",
            &["tensor", "row", "model"],
            stages.scope,
        ),
        choice(
            "rescale",
            "make up for what was dropped: divide by the probability of being kept, or restore the change's L1 or L2 norm",
            stages.rescales,
            stages.rescale,
        ),
        choice(
            "consensus",
            "elect a sign for each element by the sum of the changes or by their count, and drop what disagrees",
            &["sum", "count", "none"],
            stages.consensus,
        ),
        choice(
            "reduce",
            "sum, sum over the sum of the weights (normalized), or over the weights of what is left of an element (mean); \
             auto: as `normalize` says",
            &["sum", "normalized", "mean", "auto"],
            stages.reduce,
        ),
        Parameter::shared(
            "int8_mask",
            "accepted for mergekit's sake; changes nothing, there or here",
            Kind::Switch,
            Default::Switch(false),
        ),
        Parameter::shared(
            "alpha",
            "factor on the merged change in the first layer and outside the layers (LiNeS)",
            ANY,
            Default::Number(1.0),
        )
        .late(),
        Parameter::shared(
            "beta",
            "what is added to that factor on the way to the last layer",
            ANY,
            Default::Number(stages.beta),
        )
        .late(),
    ]
}
