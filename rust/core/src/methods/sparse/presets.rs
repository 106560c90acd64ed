//! The methods that are the pipeline: a name, default stages, and what is to be said of them.

use super::{OUTLIERS, PLAIN, Preset, RANDOM, RANKED, Stages, TRIMMED, parameters};
use crate::methods::{Class, Spec};

pub(in crate::methods) static TASK_ARITHMETIC: Preset = Preset {
    spec: Spec {
        name: "task_arithmetic",
        summary: "add the weighted changes of the models to the base",
        formula: "base + lambda * sum_i w_i d_i, d_i = x_i - base",
        paper: "Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089",
        departs: "computes in f64 and rounds once, whatever the checkpoints' dtype",
        parameters: &parameters(Stages { rescales: RANDOM.rescales, ..PLAIN }),
        ..Spec::COMMON
    },
};

pub(in crate::methods) static TIES: Preset = Preset {
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
};

pub(in crate::methods) static DARE_LINEAR: Preset = Preset {
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
};

pub(in crate::methods) static DARE_TIES: Preset = Preset {
    spec: Spec {
        name: "dare_ties",
        summary: "drop changes at random, scale up the rest, elect a sign for each element, add what agrees",
        formula: "ties with random instead of magnitude trimming, rescaled by 1/density, summed",
        paper: "Yu et al., Language models are Super Mario, arXiv 2311.03099",
        departs: "as dare_linear",
        parameters: &parameters(Stages { consensus: "sum", ..RANDOM }),
        ..Spec::COMMON
    },
};

pub(in crate::methods) static DELLA: Preset = Preset {
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
};

pub(in crate::methods) static DELLA_LINEAR: Preset = Preset {
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
};

pub(in crate::methods) static BREADCRUMBS: Preset = Preset {
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
};

pub(in crate::methods) static BREADCRUMBS_TIES: Preset = Preset {
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
};

pub(in crate::methods) static CABS: Preset = Preset {
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
};

pub(in crate::methods) static LOCALIZE_AND_STITCH: Preset = Preset {
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
};

pub(in crate::methods) static LINES: Preset = Preset {
    spec: Spec {
        name: "lines",
        summary: "add the weighted changes, more of them the deeper the layer",
        formula: "base + lambda * (alpha + beta * l / (L - 1)) * sum_i w_i d_i in layer l of L; alpha outside the layers",
        paper: "Wang et al., LiNeS, arXiv 2410.17146",
        departs: "not in mergekit; every preset takes alpha and beta",
        parameters: &parameters(Stages { beta: 1.0, ..PLAIN }),
        ..Spec::COMMON
    },
};
