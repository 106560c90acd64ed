//! LoRA adapters as PEFT writes them: what their config says, and which module and factor a tensor's name means.
//!
//! LoRA: Hu et al., arXiv 2106.09685; rsLoRA: Kalajdzievski, arXiv 2312.03732; DoRA: Liu et al., arXiv 2402.09353.

use regex_lite::Regex;
use serde_json::{Map, Value};

/// What an adapter's config says of the meaning of its factors.
#[derive(Debug)]
pub struct LoraConfig {
    rank: u64,
    alpha: f64,
    rslora: bool,
    /// Whether rows are given lengths (DoRA).
    pub lengths: bool,
    /// Whether weights are [in, out], where their shape does not tell.
    pub transposed: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
    /// Parameters that are changed and are no module's `weight`: stacked experts.
    pub parameters: Vec<String>,
    /// Modules that were trained as a whole.
    saved: Vec<String>,
    /// Whether no module is to have factors: a piece of an adapter may be what was trained whole, and nothing else.
    pub bare: bool,
    /// Whose biases were trained: `none`, `all`, `lora_only`.
    biases: Option<String>,
}

/// Ways to initialise that change the base, of which the adapter is then no change.
const OTHER_BASE: [&str; 7] = ["pissa", "olora", "corda", "loftq", "lora_ga", "eva_whiten", "mifa"];
/// What PEFT calls it that no module has factors.
const NO_MODULES: &str = "dummy-target-modules";
/// Kinds of adapters of the same family whose change is another function of the factors.
const OTHER_KINDS: [&str; 9] = [
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "velora_config",
    "trainable_token_indices",
    "layer_replication",
];

impl LoraConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// In words without the path: what it is, where it is no adapter that is a sum of products.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let map = value.as_object().ok_or("is not a JSON object")?;
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let kind = text("peft_type").unwrap_or("LORA");
        if kind != "LORA" {
            return Err(format!(
                "`peft_type` is {kind}, which is no sum of low-rank changes; fold it into its model with PEFT first"
            ));
        }
        if let Some(init) = text("init_lora_weights").map(str::to_lowercase)
            && OTHER_BASE.iter().any(|o| init.starts_with(o))
        {
            return Err(format!(
                "`init_lora_weights` is {init}, which changed the base: the adapter is no change of the model as published; \
                 convert it to plain LoRA with PEFT first (`path_initial_model_for_weight_conversion`)"
            ));
        }
        let told =
            |v: &Value| !matches!(v, Value::Null | Value::Bool(false)) && v.as_object().is_none_or(|o| !o.is_empty());
        if let Some(key) = OTHER_KINDS.iter().find(|k| map.get(**k).is_some_and(told)) {
            return Err(format!(
                "has `{key}`, with which it is more than low-rank changes of the model's tensors; fold it into its model with PEFT first"
            ));
        }
        let whole = |key: &str| map.get(key).and_then(Value::as_u64).filter(|n| *n > 0);
        let flag = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(said)) => Ok(*said),
            Some(other) => Err(format!("`{key}` is {other}; expected true or false")),
        };
        let rank = whole("r").ok_or("`r` is missing, or is no rank")?;
        let alpha = map.get("lora_alpha").map_or(Some(8.0), Value::as_f64).filter(|a| a.is_finite());
        let alpha = alpha.ok_or("`lora_alpha` is not a number")?;
        let (ranks, alphas) = (patterns(map, "rank_pattern")?, patterns(map, "alpha_pattern")?);
        if alpha == 0.0 && alphas.is_empty() {
            return Err("`lora_alpha` is 0: the adapter changes nothing".to_owned());
        }
        let names = |key: &str| match map.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        };
        Ok(Self {
            rank,
            alpha,
            rslora: flag("use_rslora")?,
            lengths: flag("use_dora")?,
            transposed: flag("fan_in_fan_out")?,
            ranks,
            alphas,
            parameters: names("target_parameters"),
            saved: names("modules_to_save"),
            bare: text("target_modules") == Some(NO_MODULES),
            biases: text("bias").filter(|b| *b != "none").map(str::to_owned),
        })
    }

    /// What patterns know a module's factors by: the module, or the parameter of it that they change, if it can be told;
    /// of two parameters the one of gates and ups is wrapped first.
    pub fn key(&self, module: &str, depth: usize) -> String {
        let of_module = |p: &&String| {
            let Some((holder, _)) = p.rsplit_once('.') else { return false };
            module == holder || module.strip_suffix(holder).is_some_and(|before| before.ends_with('.'))
        };
        let listed: Vec<&String> = self.parameters.iter().filter(of_module).collect();
        let last = |p: &&&String| p.ends_with("down_proj") == (depth == 0);
        let found = match listed[..] {
            [only] => Some(only),
            [_, _] => listed.iter().find(last).copied(),
            _ => None,
        };
        found.and_then(|p| p.rsplit('.').next()).map_or_else(|| module.to_owned(), |own| format!("{module}.{own}"))
    }

    /// The rank that a module's factors have, by what patterns know it by.
    pub fn rank(&self, module: &str) -> u64 {
        pattern(&self.ranks, module).map_or(self.rank, |r| r as u64)
    }

    /// Whether the tensor called `name` is of a module that was trained as a whole.
    pub fn saves(&self, name: &str) -> bool {
        let inside = |module: &str| format!(".{name}").contains(&format!(".{module}."));
        self.saved.iter().any(|m| inside(m))
    }

    /// What the config says was trained and is not among the tensors: those kept as they are, and the modules that have factors.
    /// Of a model without biases none are kept.
    pub fn lacking(&self, wholes: &[String], factors: &[String], biased: bool) -> Vec<String> {
        let within = |name: &str, part: &str| format!(".{name}.").contains(&format!(".{part}."));
        let saved = self.saved.iter().filter(|m| !wholes.iter().any(|w| within(w, m)));
        let holds = |p: &str, f: &str| p.rsplit_once('.').is_some_and(|(holder, _)| within(f, holder));
        let parameters = self.parameters.iter().filter(|p| !factors.iter().any(|f| holds(p, f)));
        let told = saved.map(|m| format!("`modules_to_save` names `{m}`"));
        let told = told.chain(parameters.map(|p| format!("`target_parameters` names `{p}`")));
        let bias = self.biases.iter().filter(|_| biased && !wholes.iter().any(|w| w.ends_with("bias")));
        told.chain(bias.map(|b| format!("`bias` is {b}"))).collect()
    }

    /// What the product of a module's factors is multiplied by.
    pub fn scale(&self, module: &str) -> f64 {
        let (alpha, rank) = (pattern(&self.alphas, module).unwrap_or(self.alpha), self.rank(module) as f64);
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }
}

/// The first pattern that a module's name ends with, as PEFT reads them: regular expressions.
fn pattern(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(p, _)| p.is_match(module)).map(|(_, value)| *value)
}

fn patterns(map: &Map<String, Value>, key: &str) -> Result<Vec<(Regex, f64)>, String> {
    let none = Map::new();
    let given = match map.get(key) {
        None | Some(Value::Null) => &none,
        Some(value) => value.as_object().ok_or_else(|| format!("`{key}` is not a mapping"))?,
    };
    let one = |(name, value): (&String, &Value)| {
        let (whole, what) = if key == "rank_pattern" { (true, "whole number above 0") } else { (false, "number") };
        let is = |v: &f64| v.is_finite() && (!whole || (*v >= 1.0 && v.fract() == 0.0));
        let value = value.as_f64().filter(is).ok_or_else(|| format!("`{key}`: `{name}` has no {what}"))?;
        let found = Regex::new(&format!("^(?:.*\\.)?(?:{name})$"));
        Ok((found.map_err(|_| format!("`{key}`: `{name}` is not a regular expression that is read here"))?, value))
    };
    given.iter().map(one).collect()
}

/// What a tensor of an adapter is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Rank by inputs.
    A,
    /// Outputs by rank.
    B,
    /// Of a table of tokens: rank by tokens.
    EmbeddingA,
    /// Of a table of tokens: width by rank.
    EmbeddingB,
    /// Lengths of rows (DoRA).
    Magnitude,
    /// A bias that is scaled and added as the product is.
    ProductBias,
    /// A tensor of the model as a whole, trained.
    Whole,
    /// What the factors are on top of, as it was before training.
    Base,
}

/// Which tensor of which module of its model an adapter's tensor belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The module; of [`Role::Whole`] the tensor.
    pub module: String,
    /// How many other adapted parameters of the module stand around it (stacked experts).
    pub depth: usize,
    /// What it is.
    pub role: Role,
}

impl Key {
    /// Reads the name of a tensor of an adapter.
    pub fn parse(name: &str) -> Self {
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        // Old files have the adapter's name in the middle: `lora_A.default.weight`.
        const MARKS: [(&str, Role); 5] = [
            (".lora_embedding_A", Role::EmbeddingA),
            (".lora_embedding_B", Role::EmbeddingB),
            (".lora_magnitude_vector", Role::Magnitude),
            (".lora_A", Role::A),
            (".lora_B", Role::B),
        ];
        for (mark, role) in MARKS {
            let Some((module, rest)) = name.split_once(mark) else { continue };
            if !rest.is_empty() && !rest.starts_with('.') {
                continue;
            }
            let role = if role == Role::B && rest.ends_with(".bias") { Role::ProductBias } else { role };
            let (mut module, mut depth) = (module, 0);
            while let Some(inner) = module.strip_suffix(".base_layer") {
                (module, depth) = (inner, depth + 1);
            }
            return Self { module: module.to_owned(), depth, role };
        }
        if let Some(module) = name.strip_suffix(".base_layer.weight") {
            return Self { module: module.to_owned(), depth: 0, role: Role::Base };
        }
        let mut module = name.replace(".base_layer.", ".");
        // `head.modules_to_save.default.weight`
        if let Some((before, after)) = module.clone().split_once(".modules_to_save.") {
            let after = after.split_once('.').map_or(after, |(_, rest)| rest);
            module = format!("{before}.{after}");
        }
        Self { module, depth: 0, role: Role::Whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_of_all_ages_are_read() {
        let key = |name: &str| Key::parse(&format!("base_model.model.{name}"));
        let is = |module: &str, depth, role| Key { module: module.into(), depth, role };
        assert_eq!(key("model.layers.0.q.lora_A.weight"), is("model.layers.0.q", 0, Role::A));
        assert_eq!(key("model.layers.0.q.lora_B.default.weight"), is("model.layers.0.q", 0, Role::B));
        assert_eq!(key("q.lora_B.bias"), is("q", 0, Role::ProductBias));
        assert_eq!(key("emb.lora_embedding_A"), is("emb", 0, Role::EmbeddingA));
        assert_eq!(key("q.lora_magnitude_vector.default.weight"), is("q", 0, Role::Magnitude));
        assert_eq!(key("mlp.experts.base_layer.lora_A.weight"), is("mlp.experts", 1, Role::A));
        assert_eq!(key("score.modules_to_save.default.weight"), is("score.weight", 0, Role::Whole));
        assert_eq!(key("emb.base_layer.weight"), is("emb", 0, Role::Base));
        assert_eq!(key("q.base_layer.bias"), is("q.bias", 0, Role::Whole));
        assert_eq!(key("score.weight"), is("score.weight", 0, Role::Whole));
    }

    #[test]
    fn patterns_are_endings_of_modules() {
        let config = LoraConfig::parse(&json!({
            "r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4, "layers.1.*k_proj": 2}, "alpha_pattern": {"v": 32}
        }));
        let config = config.unwrap();
        let of = |m: &str| (config.rank(m), config.scale(m));
        assert_eq!(of("model.layers.0.q_proj"), (4, 4.0));
        assert_eq!(of("model.layers.0.xq_proj"), (8, 2.0));
        assert_eq!(of("model.layers.1.attn.k_proj"), (2, 8.0));
        assert_eq!(of("v"), (8, 4.0));
        let rooted = LoraConfig::parse(&json!({"r": 16, "lora_alpha": 8, "use_rslora": true})).unwrap();
        assert_eq!(rooted.scale("q"), 2.0);
    }

    #[test]
    fn a_piece_without_factors_says_so() {
        let bare = |targets: Value| LoraConfig::parse(&json!({"r": 8, "target_modules": targets})).unwrap().bare;
        assert!(bare(json!("dummy-target-modules")) && !bare(json!([])) && !bare(json!(["dummy-target-modules"])));
    }

    #[test]
    fn what_is_no_sum_of_products_is_named() {
        for (config, named) in [
            (json!({"peft_type": "IA3", "r": 8}), "IA3"),
            (json!({"r": 8, "init_lora_weights": "pissa_niter_4"}), "pissa"),
            (json!({"r": 0}), "`r`"),
            (json!({"r": 8, "use_qalora": true}), "use_qalora"),
            (json!({"r": 8, "rank_pattern": {"(": 1}}), "regular expression"),
        ] {
            let found = LoraConfig::parse(&config).unwrap_err();
            assert!(found.contains(named), "{found}");
        }
    }
}
