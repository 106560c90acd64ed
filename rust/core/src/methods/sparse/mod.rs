//! Sparse task arithmetic: one pipeline, of which the named methods are presets.
//!
//! change from base -> sparsify -> rescale -> weight -> elect a sign -> sum or mean -> lambda -> add to base.
//!
//! A preset is a name and default stages; a config may set every stage itself.

mod consensus;
mod pipeline;
mod sparsify;

use super::{ANY, Class, Default, Kernel, Kind, LAMBDA, Method, Parameter, Params, SHARE, Scope, Spec, WEIGHT};
use pipeline::Pipeline;

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

const fn parameters(stages: Stages) -> [Parameter; 15] {
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

pub(super) static PRESETS: [Preset; 11] = [
    Preset {
        spec: Spec {
            name: "task_arithmetic",
            summary: "add the weighted changes of the models to the base",
            formula: "base + lambda * sum_i w_i d_i, d_i = x_i - base",
            paper: "Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089",
            departs: "computes in f32 and rounds once, whatever the checkpoints' dtype",
            parameters: &parameters(Stages { rescales: RANDOM.rescales, ..PLAIN }),
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "ties",
            summary: "trim small changes, elect a sign for each element, average what agrees",
            formula: "base + lambda * sum_i w_i m_i t_i / sum_i w_i m_i, t_i = top density of d_i, \
                      m_i = [sign(w_i t_i) = sign(sum_j w_j t_j)]",
            paper: "Yadav et al., TIES-Merging, arXiv 2306.01708",
            departs: "keeps exactly the top k, equal magnitudes in index order (mergekit: in the order of an unstable \
                      sort); computes in f32 and rounds once; `scope: model` trims the whole model at one threshold, as \
                      the paper's code does",
            parameters: &parameters(Stages { consensus: "sum", normalize: true, ..TRIMMED }),
            class: Class::Order,
            reads: 4,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "dare_linear",
            summary: "drop changes at random, scale up the rest, add them to the base",
            formula: "base + lambda * sum_i w_i b_i d_i / density_i, b_i ~ Bernoulli(density_i)",
            paper: "Yu et al., Language models are Super Mario, arXiv 2311.03099",
            departs: "rescales by 1/density as the paper does (mergekit: by the L1 norm; here `rescale: l1`); masks depend \
                      on the seed, the model's folder name, the tensor's name and the element, not on the order of work",
            parameters: &parameters(RANDOM),
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "dare_ties",
            summary: "drop changes at random, scale up the rest, elect a sign for each element, add what agrees",
            formula: "ties with random instead of magnitude trimming, rescaled by 1/density, summed",
            paper: "Yu et al., Language models are Super Mario, arXiv 2311.03099",
            departs: "as dare_linear",
            parameters: &parameters(Stages { consensus: "sum", ..RANDOM }),
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "della",
            summary: "drop changes at random, small ones more often, scale up the rest, elect a sign, average what agrees",
            formula: "ties with b_i / p_i in place of trimming: b_i ~ Bernoulli(p_i), p_i from density - epsilon (smallest of \
                      its row) to density + epsilon (largest)",
            paper: "Deep et al., DELLA-Merging, arXiv 2406.11617",
            departs: "rescales each element by 1/p as the paper does (mergekit: by the L1 norm; here `rescale: l1`); ranks are \
                      exact (mergekit: stored in the checkpoint's dtype); a row of one element is kept with p = density \
                      (mergekit: an error)",
            parameters: &parameters(Stages { consensus: "sum", normalize: true, ..RANKED }),
            class: Class::Order,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "della_linear",
            summary: "drop changes at random, small ones more often, scale up the rest, add them to the base",
            formula: "task_arithmetic on b_i d_i / p_i; see della",
            paper: "Deep et al., DELLA-Merging, arXiv 2406.11617",
            departs: "as della",
            parameters: &parameters(RANKED),
            class: Class::Order,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "breadcrumbs",
            summary: "drop the smallest and the largest changes, add the rest to the base",
            formula: "base + lambda * sum_i w_i t_i, t_i = d_i without its largest gamma and its smallest, density of it left",
            paper: "Davari and Belilovsky, Model breadcrumbs, arXiv 2312.06795",
            departs: "exact counts, equal magnitudes in index order; computes in f32 and rounds once",
            parameters: &parameters(OUTLIERS),
            class: Class::Order,
            reads: 4,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "breadcrumbs_ties",
            summary: "drop the smallest and the largest changes, elect a sign for each element, add what agrees",
            formula: "ties with breadcrumbs' trimming, summed",
            paper: "Davari and Belilovsky, Model breadcrumbs, arXiv 2312.06795",
            departs: "as breadcrumbs",
            parameters: &parameters(Stages { consensus: "sum", ..OUTLIERS }),
            class: Class::Order,
            reads: 4,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "cabs",
            summary: "trim each block by magnitude, each model where earlier ones kept nothing, add what is kept",
            formula: "base + lambda * sum_i w_i t_i, t_i = top density of every block of d_i, outside the t_j with j < i",
            paper: "Yang et al., CABS: Conflict-aware and balanced sparsification, arXiv 2503.01874",
            departs: "not in mergekit; the paper's code zeroes an incomplete last block, here it is trimmed like the others",
            parameters: &parameters(Stages { sparsify: "cabs", ..PLAIN }),
            class: Class::Order,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "localize_and_stitch",
            summary: "keep the largest changes of each whole model, average them where they overlap",
            formula: "base + lambda * sum_i w_i m_i d_i / sum_i w_i m_i, m_i = top density of d_i over the whole model",
            paper: "He et al., Localize-and-Stitch, arXiv 2408.13656 (the masks found without data)",
            departs: "not in mergekit",
            parameters: &parameters(Stages { scope: "model", reduce: "mean", ..TRIMMED }),
            class: Class::Model,
            reads: 4,
            ..Spec::COMMON
        },
    },
    Preset {
        spec: Spec {
            name: "lines",
            summary: "add the weighted changes, more of them the deeper the layer",
            formula: "base + lambda * (alpha + beta * l / (L - 1)) * sum_i w_i d_i in layer l of L; alpha outside the layers",
            paper: "Wang et al., LiNeS, arXiv 2410.17146",
            departs: "not in mergekit; every preset takes alpha and beta",
            parameters: &parameters(Stages { beta: 1.0, ..PLAIN }),
            ..Spec::COMMON
        },
    },
];
