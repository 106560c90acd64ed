//! What the matrix methods say of themselves.

use super::{Matrix, Vectors, aligned, dc_merge, inner, iso, opcm, resmerge, spectrum, tsvm, wudi};
use crate::methods::{ANY, Base, Class, Default, Kind, LAMBDA, LARV, POSITIVE, Parameter, SHARE, SVC, Spec};

const WEIGHT: Parameter = Parameter::each("weight", "weight of the model's change", ANY, Default::Number(1.0));

const fn outside(word: &'static str) -> Parameter {
    Parameter::shared(
        "outside",
        "what embeddings, the head and other matrices outside the layers are taken for: matrices, or (mean) tensors of one dimension",
        Kind::Choice { words: &["matrix", "mean"] },
        Default::Word(word),
    )
}

const fn number(name: &'static str, summary: &'static str, kind: Kind, default: f64) -> Parameter {
    Parameter::shared(name, summary, kind, Default::Number(default))
}

const SPEC: Spec =
    Spec { base: Base::Required, class: Class::Matrix, reads: 8, departs: "not in mergekit", ..Spec::COMMON };

pub(in crate::methods) static TSVM: Matrix = Matrix {
    spec: Spec {
        name: "tsvm",
        summary: "keep the leading singular vectors of every task, made orthogonal between tasks",
        formula: "base + lambda polar(U) S polar(V)^T, U = [U_1 | .. | U_T], U_i S_i V_i^T the first min(m,n)/T triplets of \
                  weight_i d_i",
        paper: "Gargiulo et al., Task singular vectors, arXiv 2412.00081",
        parameters: &[
            WEIGHT,
            Parameter::shared(
                "official",
                "keep what rounding makes of directions that are not there, as the authors' code does; equal experts then \
                 give noise",
                Kind::Switch,
                Default::Switch(false),
            ),
            outside("matrix"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: tsvm::tsvm,
    most: |_, _| (9, 1),
    passes: |models| models + 3,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static TSVM_REWEIGHTED: Matrix = Matrix {
    spec: Spec {
        name: "tsvm_reweighted",
        summary: "tsvm with singular values by the tasks' outliers and ranks by their density (a reconstruction)",
        formula: "tsvm of T w_i S_i, w_i the task's share of all |d| beyond mean + sigmas deviations, and of ranks k_i = k density_i / \
                  mean density, the density the share of |d_i| of at least small rms",
        paper: "after Yang et al., Mix data or merge models, arXiv 2502.06876, whose formulas could not be had",
        parameters: &[
            WEIGHT,
            number("sigmas", "deviations beyond which a change is an outlier", POSITIVE, 3.0),
            number("small", "share of the root mean square below which a change is small", POSITIVE, 0.1),
            outside("matrix"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: tsvm::reweighted,
    most: |_, _| (10, 1),
    passes: |models| models + 5,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static ISO_C: Matrix = Matrix {
    spec: Spec {
        name: "iso_c",
        summary: "sum the changes and make all singular values of the sum the same",
        formula: "base + lambda mean(S) U V^T, U S V^T = sum_i weight_i d_i",
        paper: "Marczak et al., No task left behind: isotropic model merging, arXiv 2502.04959",
        parameters: &[WEIGHT, outside("matrix"), SVC, LARV, LAMBDA],
        ..SPEC
    },
    make: iso::iso_c,
    most: |_, _| (3, 1),
    passes: |_| 3,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static ISO_CTS: Matrix = Matrix {
    spec: Spec {
        name: "iso_cts",
        summary: "as iso_c, of the sum's leading directions and of those that each task has beside them",
        formula: "base + lambda s polar([U_1 | .. | U_T | U_c]) polar([V_1 | .. | V_T | V_c])^T, c the leading triplets of sum_i \
                  weight_i d_i, U_i, V_i those of (I - U_c U_c^T) weight_i d_i, s the mean of their singular values",
        paper: "Marczak et al., No task left behind: isotropic model merging, arXiv 2502.04959",
        parameters: &[
            WEIGHT,
            number("common_space_fraction", "share of the directions that are the sum's", SHARE, 0.8),
            outside("matrix"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: iso::iso_cts,
    most: |models, _| (10 + models, 1),
    passes: |models| 2 * models + 4,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static STAR: Matrix = Matrix {
    spec: Spec {
        name: "star",
        summary: "cut every task to the rank that holds a share of its singular values, rescale, and average",
        formula: "base + lambda / T sum_i (|S_i|_1 / |S_i^k|_1) U_i^k S_i^k V_i^kT, k the fewest whose sum is eta percent; U_i S_i \
                  V_i^T = weight_i d_i",
        paper: "Lee et al., STAR: spectral truncation and rescale, arXiv 2502.10339",
        parameters: &[
            WEIGHT,
            number(
                "eta",
                "percent of the sum of the singular values that is kept",
                Kind::Number { min: 0.0, max: 100.0 },
                40.0,
            ),
            Parameter::shared(
                "reduce",
                "what becomes of the tasks then",
                Kind::Choice { words: &["mean", "sum"] },
                Default::Word("mean"),
            ),
            outside("matrix"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: spectrum::star,
    most: |models, _| (3 + models, 1),
    passes: |models| models + 2,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static CART: Matrix = Matrix {
    spec: Spec {
        name: "cart",
        summary: "the mean of the models, and of what each has beside it the leading directions",
        formula: "base + lambda (m + scale sum_i trunc_k(weight_i d_i - m)), m = mean_i weight_i d_i, k = rank_ratio min(m,n)",
        paper: "Choi et al., Revisiting weight averaging for model merging, arXiv 2412.12153",
        parameters: &[
            WEIGHT,
            number("rank_ratio", "share of the directions that is kept of each difference", SHARE, 0.04),
            number("scale", "factor on the differences", ANY, 1.0),
            outside("mean"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: spectrum::cart,
    most: |models, _| (4 + models, 1),
    passes: |models| models + 2,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static WUDI: Matrix = Matrix {
    spec: Spec {
        name: "wudi",
        summary: "the change that interferes least with every task's, in closed form",
        formula: "base + lambda X, X = (sum_i t_i C_i)(sum_i C_i)^+, C_i = t_i^T t_i / |t_i|^2, t_i = weight_i d_i",
        paper: "Cheng et al., Whoever started the interference should end it, arXiv 2503.08099, solved without its optimiser",
        parameters: &[WEIGHT, outside("mean"), SVC, LARV, LAMBDA],
        ..SPEC
    },
    make: wudi::wudi,
    most: wudi::most,
    passes: |models| models + 2,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static SWUDI: Matrix = Matrix {
    spec: Spec {
        name: "swudi",
        summary: "wudi, from the mean on, as far along every direction as a time allows",
        formula: "base + lambda (X0 - X0 V f V^T + D V (f / l) V^T), V l V^T = sum_i C_i, D = sum_i t_i C_i, f = 1 - exp(-l time) on \
                  the leading rank_ratio n directions, else 0",
        paper: "arXiv 2606.07289",
        parameters: &[
            WEIGHT,
            number("time", "how far to go", POSITIVE, 300.0),
            number("rank_ratio", "share of the directions that are gone along", SHARE, 0.85),
            number("floor", "least size of a direction, where all add up to the number of tasks", POSITIVE, 1e-8),
            Parameter::shared(
                "start",
                "from where: the mean of the tasks, or their sum, which wants a lambda of about 1/T",
                Kind::Choice { words: &["mean", "sum"] },
                Default::Word("mean"),
            ),
            outside("mean"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: wudi::swudi,
    most: wudi::most,
    passes: |models| models + 2,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static OPCM: Matrix = Matrix {
    spec: Spec {
        name: "opcm",
        summary: "one task after the other, each without what it shares with the merge so far",
        formula: "base + lambda M mean_i |t_i| / |M|, M = t_1 + sum_i P_i(t_i), P_i clears the leading block and the diagonal of U^T \
                  t_i V, U S V^T the sum before it; t_i = weight_i d_i; the block holds the share alpha of S",
        paper: "Tang et al., Merging models on the fly without retraining, arXiv 2501.09522, with norms tensor by tensor",
        parameters: &[
            WEIGHT,
            number("alpha", "share of the singular values whose block is cleared", SHARE, 0.5),
            outside("mean"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: opcm::opcm,
    most: |models, _| (8 + 2 * models, 1),
    passes: |models| 3 * models + 1,
    vectors: Vectors::Column,
};

pub(in crate::methods) static RESMERGE: Matrix = Matrix {
    spec: Spec {
        name: "resmerge",
        summary: "average on a sphere what is left of each task beside its first direction, and add the first ones as they agree",
        formula: "base + lambda (c^beta mean|R_i| q + head_ratio agreement |..| unit(mean H_i)), t_i = H_i + R_i, H_i its first triplet, q \
                  = unit(sum R_i/|R_i|), c = mean cos(R_i, q); the mean of R_i where c is chance",
        paper: "ResMerge, arXiv 2606.02252",
        parameters: &[
            WEIGHT,
            number("beta_min", "exponent where all agree", POSITIVE, 0.7),
            number("beta_max", "exponent where nothing does", POSITIVE, 1.0),
            number("head_ratio", "size of the first directions, of that of the rest", POSITIVE, 0.2),
            outside("mean"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: resmerge::resmerge,
    most: |models, _| (4 + models, 1),
    passes: |models| models + 4,
    vectors: Vectors::Mean,
};

pub(in crate::methods) static DC_MERGE: Matrix = Matrix {
    spec: Spec {
        name: "dc_merge",
        summary: "in the space of all tasks' leading directions, the largest entries of each where their signs agree",
        formula: "base + lambda polar(U) (B . elect_i top_k(polar(U)^T t_i polar(V))) polar(V)^T, U, V as in tsvm, B one where row and \
                  column are the same task's",
        paper: "DC-Merge (CVPR 2026), for full fine-tunes",
        parameters: &[
            WEIGHT,
            number("k_frac", "share of the entries that is kept of each task", SHARE, 1e-3),
            outside("matrix"),
            SVC,
            LARV,
            LAMBDA,
        ],
        ..SPEC
    },
    make: dc_merge::dc_merge,
    most: |models, _| (12 + 3 * models, 1),
    passes: |models| models + 3,
    vectors: Vectors::Mean,
};

/// Those of the methods that merge in another basis.
const ALIGNED: [Parameter; 9] = [
    WEIGHT,
    Parameter::shared(
        "inner",
        "the method that merges the coordinates, with its defaults but for what is set here",
        Kind::Choice { words: inner::WORDS },
        Default::Word("mean"),
    ),
    Parameter::each("density", "inner: share of the coordinates that is kept", SHARE, Default::Number(1.0)),
    Parameter::each("gamma", "inner breadcrumbs: share of the largest that is dropped", SHARE, Default::Number(0.01)),
    Parameter::each(
        "epsilon",
        "inner della: probabilities of keeping run from density - epsilon to density + epsilon",
        SHARE,
        Default::Number(0.15),
    ),
    outside("matrix"),
    SVC,
    LARV,
    LAMBDA,
];

const fn aligned(name: &'static str, summary: &'static str, formula: &'static str, paper: &'static str) -> Spec {
    Spec { name, summary, formula, paper, parameters: &ALIGNED, homogeneous: false, ..SPEC }
}

pub(in crate::methods) static KNOTS: Matrix = Matrix {
    spec: aligned(
        "knots",
        "merge by another method along the left singular vectors of all tasks side by side",
        "base + lambda U inner(U^T d_1, .., U^T d_T), U the left singular vectors of [d_1 | .. | d_T]",
        "Stoica et al., Model merging with SVD to tie the KnOTS, arXiv 2410.19735",
    ),
    make: aligned::knots,
    most: |models, wide| if wide { (4, 1) } else { (4 * models * models + 4 * models, models) },
    passes: |_| 3,
    vectors: Vectors::Row,
};

pub(in crate::methods) static CORE_SPACE: Matrix = Matrix {
    spec: aligned(
        "core_space",
        "merge by another method along what the columns, and the rows, of all tasks span",
        "base + lambda U inner(U^T d_i V) V^T, U the left singular vectors of [d_1 | .. | d_T], V the right ones of [d_1; ..; d_T]",
        "Panariello et al., Accurate and efficient low-rank model merging in core space, arXiv 2509.17786; there of adapters alone",
    ),
    make: aligned::core_space,
    most: |models, _| (4 * models * models + 4 * models + 2, models),
    passes: |models| models + 3,
    vectors: Vectors::Row,
};
