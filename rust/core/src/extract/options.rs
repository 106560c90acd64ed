//! What is asked of an extraction.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// How changes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The largest, one by one, or all.
    Sparse,
    /// Factors of singular value decompositions.
    LowRank,
    /// The same as an adapter.
    Lora,
    /// Signs, and a scale a tensor (BitDelta, arXiv 2402.10193).
    Bits,
    /// All of them, as packed bits.
    Xor,
}

impl Form {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparse => "sparse",
            Self::LowRank => "lowrank",
            Self::Lora => "lora",
            Self::Bits => "bits",
            Self::Xor => "xor",
        }
    }

    /// Whether it works on whole matrices.
    pub fn factors(self) -> bool {
        matches!(self, Self::LowRank | Self::Lora)
    }
}

/// What is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// How changes are kept.
    pub form: Form,
    /// Most ranks of a matrix.
    pub rank: Option<u64>,
    /// The same as a share of the smaller side of each matrix; of a share that comes to none, 1.
    pub rank_share: Option<f64>,
    /// Share of the squares of a matrix's change to be kept.
    pub energy: Option<f64>,
    /// Share of the model's elements to be kept.
    pub density: Option<f64>,
    /// The same as their number.
    pub keep: Option<u64>,
    /// Of each matrix so many of its own elements, at least one, and all else whole, and what that would not make smaller.
    #[serde(default)]
    pub by_tensor: bool,
    /// Elements drawn at random with this seed, each with the chance `density`, times 1 / `density`; not the largest.
    pub random: Option<u64>,
    /// Keep besides what makes applying and reverting exact.
    #[serde(default)]
    pub exact: bool,
    /// Tensors whose change is not kept.
    #[serde(default)]
    pub left: BTreeSet<String>,
    /// Tensors that are kept whole where others are kept as factors or signs.
    #[serde(default)]
    pub whole: BTreeSet<String>,
    /// Treat tables of tokens and heads over them as other matrices.
    #[serde(default)]
    pub embed: bool,
    /// Decompose by the Gram matrix in f64, not by random projections.
    #[serde(default)]
    pub full: bool,
    /// Dtype of factors as users call it, F32 if not given.
    pub dtype: Option<String>,
    /// Let NaN and infinities through.
    #[serde(default)]
    pub allow_nonfinite: bool,
    /// Most anonymous memory, in bytes.
    pub memory: Option<u64>,
}

impl Options {
    /// Reads and checks them.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the option.
    pub fn parse(value: &serde_json::Value) -> Result<Self> {
        let options: Self = serde_json::from_value(value.clone()).map_err(|e| Error::recipe("", e.to_string()))?;
        let form = options.form.name();
        let only = |given: bool, option: &str, forms: &[Form]| {
            if !given || forms.contains(&options.form) {
                return Ok(());
            }
            let names: Vec<&str> = forms.iter().map(|f| f.name()).collect();
            Err(Error::recipe(option, format!("is of the form {}, and `{form}` takes none", names.join(" and "))))
        };
        let factors = [Form::LowRank, Form::Lora];
        only(options.rank.is_some(), "rank", &factors)?;
        only(options.rank_share.is_some(), "rank_share", &factors)?;
        only(options.energy.is_some(), "energy", &factors)?;
        only(options.full, "exact_svd", &factors)?;
        only(options.dtype.is_some(), "dtype", &factors)?;
        only(options.density.is_some(), "density", &[Form::Sparse])?;
        only(options.keep.is_some(), "keep", &[Form::Sparse])?;
        only(options.by_tensor, "by_tensor", &[Form::Sparse])?;
        only(options.random.is_some(), "random", &[Form::Sparse])?;
        if (options.by_tensor || options.random.is_some()) && options.density.is_none() {
            let at = if options.by_tensor { "by_tensor" } else { "random" };
            return Err(Error::recipe(at, "goes with a `density`, and there is none"));
        }
        only(
            options.exact && options.form == Form::Xor,
            "exact",
            &[Form::Sparse, Form::LowRank, Form::Lora, Form::Bits],
        )
        .map_err(|_| Error::recipe("exact", "a delta of the form xor is exact as it is"))?;
        let shares = [("density", options.density), ("energy", options.energy), ("rank_share", options.rank_share)];
        for (name, share) in shares {
            if let Some(share) = share.filter(|s| !(*s > 0.0 && *s <= 1.0)) {
                return Err(Error::recipe(name, format!("expected a share above 0, at most 1; found {share}")));
            }
        }
        if options.density.is_some() && options.keep.is_some() {
            return Err(Error::recipe("keep", "expected one of `density` and `keep`, found both"));
        }
        if options.rank.is_some() && options.rank_share.is_some() {
            return Err(Error::recipe("rank_share", "expected one of `rank` and `rank_share`, found both"));
        }
        if options.rank == Some(0) || options.keep == Some(0) {
            let at = if options.rank == Some(0) { "rank" } else { "keep" };
            return Err(Error::recipe(at, "expected at least 1, found 0"));
        }
        if options.form.factors() && options.ranks_open() && options.energy.is_none() {
            return Err(Error::recipe(
                "rank",
                format!("expected a `rank` or an `energy` for the form {form}, found none"),
            ));
        }
        if let Some(name) = options.dtype.as_ref().filter(|name| Dtype::from_user(name).is_none()) {
            return Err(Error::recipe(
                "dtype",
                format!("expected float32, bfloat16, float16 or float64, found `{name}`"),
            ));
        }
        Ok(options)
    }

    /// Whether nothing is said of ranks.
    fn ranks_open(&self) -> bool {
        self.rank.is_none() && self.rank_share.is_none()
    }

    /// How many of so many elements are kept one by one; nothing if all that changed are.
    pub fn kept_of(&self, elements: u64) -> Option<u64> {
        match (self.density, self.keep) {
            // As in the paper of twins, which keeps int(density * n) of a tensor; of a whole model the nearest number.
            (Some(density), _) if self.by_tensor => Some(((density * elements as f64) as u64).max(1)),
            (Some(density), _) => Some((density * elements as f64).round() as u64),
            (_, keep) => keep,
        }
    }

    /// Whether a rank is asked for that no energy may make smaller.
    pub fn rank_alone(&self) -> Option<u64> {
        self.rank.filter(|_| self.energy.is_none())
    }

    /// Most ranks of a matrix of so many rows and columns.
    pub fn rank_of(&self, rows: u64, columns: u64) -> u64 {
        let least = rows.min(columns);
        match self.rank_share {
            Some(share) => ((share * least as f64) as u64).clamp(1, least.max(1)),
            None => self.rank.unwrap_or(u64::MAX).min(least),
        }
    }

    /// Dtype of factors.
    pub fn factor_dtype(&self) -> Dtype {
        self.dtype.as_deref().and_then(Dtype::from_user).unwrap_or(Dtype::F32)
    }
}
