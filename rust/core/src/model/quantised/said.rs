//! What a config says of how its weights are quantised.

use serde_json::Value;

/// The sides of a tile where nothing says otherwise.
const TILE: (u64, u64) = (128, 128);

/// What a config says, as far as it is needed.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// `gptq`, `awq`, `fp8`, ...; empty where nothing is said.
    pub method: String,
    /// The form of that method: `gptq_v2`, `gemv`, `marlin`, ...
    pub form: String,
    /// Bits of an element, of each group of modules.
    pub bits: Vec<u64>,
    /// Inputs that share a scale, of each group of modules.
    pub groups: Vec<u64>,
    /// Sides of tiles, of each group of modules.
    pub tiles: Vec<(u64, u64)>,
    /// Whether zero points are in the middle.
    pub symmetric: bool,
    /// Whether it is compiled for a kernel of its own.
    pub marlin: bool,
    /// Whether inputs were quantised in another order than they lie in, which a tensor has to say.
    pub ordered: bool,
    /// Whether inputs of layers are rotated as the model runs, and weights with them.
    pub rotated: bool,
}

impl Said {
    /// What is said in `value`.
    pub fn of(value: Option<&Value>) -> Self {
        let Some(value) = value else { return Self { tiles: vec![TILE], ..Self::default() } };
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_lowercase();
        let mut method = text(value, "quant_method");
        if method.is_empty() && !value["quantization"]["quant_algo"].is_null() {
            method = "modelopt".to_owned();
        }
        if method.is_empty() && value.get("bits").is_some() {
            method = "gptq".to_owned();
        }
        let first = |keys: &[&str]| keys.iter().map(|k| text(value, k)).find(|t| !t.is_empty()).unwrap_or_default();
        let form = match method.as_str() {
            "awq" => first(&["format", "version"]),
            "gptq" => first(&["checkpoint_format", "format"]),
            _ => first(&["format", "checkpoint_format", "version"]),
        };
        let is = |key: &str| value[key] == Value::Bool(true);
        let groups = &value["transform_config"]["config_groups"];
        let rotated = groups.as_object().is_some_and(|g| !g.is_empty());
        let (symmetric, marlin) = (is("sym"), is("is_marlin_format"));
        let ordered = is("desc_act") && !is("static_groups");
        let mut out = Self { method, form, symmetric, marlin, rotated, ordered, ..Self::default() };
        out.look(value, 0);
        if !out.tiles.contains(&TILE) {
            out.tiles.push(TILE);
        }
        out
    }

    /// Collects numbers wherever they stand: groups of modules have their own.
    fn look(&mut self, value: &Value, depth: usize) {
        if depth > 6 {
            return;
        }
        match value {
            Value::Object(map) => {
                for (key, v) in map {
                    // These speak of what is not in the files.
                    if ["input_activations", "output_activations", "kv_cache_scheme"].contains(&key.as_str()) {
                        continue;
                    }
                    match (key.as_str(), v.as_u64()) {
                        ("bits" | "num_bits" | "w_bit", Some(n)) => self.bits.push(n),
                        ("group_size" | "q_group_size", Some(n)) if n > 0 => self.groups.push(n),
                        ("weight_block_size" | "block_structure", _) => {
                            if let Some([Some(down), Some(along)]) = v
                                .as_array()
                                .map(Vec::as_slice)
                                .filter(|a| a.len() == 2)
                                .map(|a| [a[0].as_u64(), a[1].as_u64()])
                                && down > 0
                                && along > 0
                            {
                                self.tiles.push((down, along));
                            }
                        }
                        _ => self.look(v, depth + 1),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| self.look(v, depth + 1)),
            _ => {}
        }
    }

    /// The inputs that share a scale of `groups` groups of `inputs`: what is said and fits, or what divides them.
    pub fn group(&self, inputs: u64, groups: u64) -> Option<u64> {
        if groups == 1 {
            return Some(inputs);
        }
        let said = self.groups.iter().copied().find(|g| inputs.div_ceil(*g) == groups);
        said.or_else(|| (groups > 0 && inputs.is_multiple_of(groups)).then(|| inputs / groups))
    }
}
