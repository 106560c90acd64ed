//! What a checkpoint is made of: its stacks of layers, which of them is the main one, and what config.json says of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::config::{Count, Heads, Section};
use super::names::{other_names, split_layer};
use super::roles::Role;

/// Modules that only blocks after the last layer have, which predict further tokens.
const PREDICTS: [&str; 3] = ["eh_proj", "enorm", "hnorm"];

/// A stack of layers.
#[derive(Debug, Clone)]
pub struct Stack {
    /// What the names of its tensors have before the layer's number: `model.layers.`.
    pub prefix: String,
    /// What it is called: the shortest part of its prefix that no other stack has.
    pub label: String,
    /// What it is for.
    pub role: Role,
    /// Number in the tensors' names of its first layer: not 0 for blocks that are counted on from another stack's.
    pub first: usize,
    /// Number of layers, missing ones included.
    pub layers: usize,
    /// Layers that no tensor is in, though some are in a later one: the first, and their number.
    pub gap: Option<(usize, usize)>,
    /// Number of elements.
    pub elements: u64,
    /// How many layers config.json says it has.
    pub count: Option<Count>,
    /// Heads of each layer, as config.json has them.
    pub heads: Option<Heads>,
    /// The `model_type` of its part of config.json.
    pub family: Option<String>,
}

/// The stacks of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Anatomy {
    /// In the order of their names.
    pub stacks: Vec<Stack>,
    /// Indices of the stacks of each prefix, the one that begins at layer 0 first.
    by_prefix: HashMap<String, Vec<usize>>,
    main: Option<usize>,
    /// The stacks by their labels, and what each is for with how many are.
    labels: HashMap<String, usize>,
    roles: HashMap<Role, usize>,
}

/// What is collected of a stack while names are read.
#[derive(Default)]
struct Found {
    layers: BTreeMap<usize, u64>,
    predicts: BTreeSet<usize>,
}

impl Anatomy {
    /// What tensors, given by names and numbers of elements, and a config.json make.
    pub fn of<'a>(tensors: impl Iterator<Item = (&'a str, u64)>, config: Option<&Value>) -> Self {
        let mut found: BTreeMap<&str, Found> = BTreeMap::new();
        for (name, elements) in tensors {
            if let Some(l) = split_layer(name) {
                let stack = found.entry(l.stack()).or_default();
                *stack.layers.entry(l.layer).or_default() += elements;
                if l.after.split('.').next().is_some_and(|word| PREDICTS.contains(&word)) {
                    stack.predicts.insert(l.layer);
                }
            }
        }
        let sections = config.map(Section::all).unwrap_or_default();
        let mut stacks: Vec<Stack> = found.iter().flat_map(|(prefix, f)| f.stacks(prefix, &sections)).collect();
        label(&mut stacks);
        let mut by_prefix: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, s) in stacks.iter().enumerate() {
            by_prefix.entry(s.prefix.clone()).or_default().push(i);
        }
        own_counts(&mut stacks);
        let main = main(&stacks, &sections);
        let labels = stacks.iter().enumerate().map(|(i, s)| (s.label.clone(), i)).collect();
        let mut roles: HashMap<Role, usize> = HashMap::new();
        stacks.iter().for_each(|s| *roles.entry(s.role).or_default() += 1);
        Self { stacks, by_prefix, main, labels, roles }
    }

    /// The stack that layer numbers mean where none is named; `None` if there is none, or nothing decides between several.
    pub fn main(&self) -> Option<&Stack> {
        self.main.map(|i| &self.stacks[i])
    }

    /// The stack called `asked`: by its label, its prefix, or a word that only its prefix holds, or its role does; without a
    /// name the main one.
    ///
    /// # Errors
    /// The stacks there are, in words, if none or several are called so, or nothing decides.
    pub fn choose(&self, asked: Option<&str>) -> Result<&Stack, String> {
        if self.stacks.is_empty() {
            return Err("no tensor name holds a layer number (such as `layers.0.`), so it has no layers".to_owned());
        }
        let Some(asked) = asked else {
            return self.main().ok_or_else(|| {
                format!("has several stacks of layers, and nothing tells which is meant: {}; name one with `stack` (--stack)", self.list())
            });
        };
        let exact = |s: &&Stack| s.label == asked || s.prefix.trim_end_matches('.') == asked.trim_end_matches('.');
        if let Some(stack) = self.stacks.iter().find(exact) {
            return Ok(stack);
        }
        let named = |s: &&Stack| s.prefix.split('.').any(|w| w == asked);
        let used = |s: &&Stack| s.role.name() == asked || s.role.name().split(' ').any(|w| w == asked);
        let mut found: Vec<&Stack> = self.stacks.iter().filter(named).collect();
        if found.is_empty() {
            found.extend(self.stacks.iter().filter(used));
        }
        match found[..] {
            [stack] => Ok(stack),
            [] => Err(format!("has no stack of layers called `{asked}`; it has {}", self.list())),
            _ => Err(format!("has several stacks of layers with `{asked}` in their names: {}", self.list())),
        }
    }

    /// The stack and the layer, from 0, that the tensor called `name` is in.
    pub fn place(&self, name: &str) -> Option<(usize, usize)> {
        let l = split_layer(name)?;
        let of_prefix = self.by_prefix.get(l.stack())?;
        of_prefix.iter().find_map(|i| {
            let s = &self.stacks[*i];
            l.layer.checked_sub(s.first).filter(|n| *n < s.layers).map(|n| (*i, n))
        })
    }

    /// The stack that the tensor called `name` is in, or would be if there were more layers.
    pub fn stack_of(&self, name: &str) -> Option<&Stack> {
        let l = split_layer(name)?;
        let of_prefix = self.by_prefix.get(l.stack())?.iter().map(|i| &self.stacks[*i]);
        of_prefix.filter(|s| s.first <= l.layer).max_by_key(|s| s.first)
    }

    /// Whether a tensor that is in no stack belongs to `stack`, and not to another part of the model: the patches' embedding to the
    /// vision tower, the encoder's final norm to the encoder.
    pub fn beside(&self, name: &str, stack: &Stack) -> bool {
        let words: Vec<&str> = name.split('.').collect();
        let other = |w: &&str| self.labels.get(*w).is_some_and(|i| self.stacks[*i].prefix != stack.prefix);
        if words.iter().any(other) {
            return false;
        }
        // What joins a tower to the language model is the tower's; where there is no other part, nothing is another's.
        let role = Role::of_words(&words);
        let count = |role: Role| self.roles.get(&role).copied().unwrap_or(0);
        let towers = [Role::Vision, Role::Audio, Role::Text, Role::Bridge];
        let elsewhere = match role {
            role if role == stack.role => false,
            role if role.leads() => !stack.role.leads(),
            Role::Bridge => towers.iter().any(|r| *r != stack.role && count(*r) > 0),
            role => count(role) > 0,
        };
        !elsewhere
    }

    /// The place of a layer as people write it: `3` in the main stack, `encoder:3` in another; `-` outside all of them.
    pub fn layer_name(&self, place: Option<(usize, usize)>) -> String {
        match place {
            None => "-".to_owned(),
            Some((stack, layer)) if Some(stack) == self.main => layer.to_string(),
            Some((stack, layer)) => format!("{}:{layer}", self.stacks[stack].label),
        }
    }

    /// A key that sorts places: layers of the main stack, then other stacks, then what is outside.
    pub fn order(&self, name: &str) -> (usize, usize) {
        match self.place(name) {
            None => (usize::MAX, 0),
            Some((stack, layer)) if Some(stack) == self.main => (0, layer),
            Some((stack, layer)) => (stack + 1, layer),
        }
    }

    /// The place that [`Self::order`] made a key of.
    pub fn place_of(&self, order: (usize, usize)) -> Option<(usize, usize)> {
        match order {
            (usize::MAX, _) => None,
            (0, layer) => self.main.map(|main| (main, layer)),
            (stack, layer) => Some((stack - 1, layer)),
        }
    }

    /// The stack that corresponds to one of another checkpoint.
    pub fn alike(&self, stack: &Stack) -> Option<&Stack> {
        let of = |prefix: &str| self.stacks.iter().find(|s| s.prefix == prefix && (s.first == 0) == (stack.first == 0));
        of(&stack.prefix).or_else(|| other_names(&stack.prefix).find_map(|prefix| of(&prefix)))
    }

    /// The stacks, for people: `encoder (4 layers), decoder (2 layers)`.
    pub fn list(&self) -> String {
        let named = self.stacks.iter().take(LISTED).map(|s| format!("`{}` ({} layers)", s.label, s.layers));
        let listed = named.collect::<Vec<_>>().join(", ");
        match self.stacks.len().saturating_sub(LISTED) {
            0 => listed,
            more => format!("{listed} and {more} more"),
        }
    }

    /// The stacks as data, the main one marked.
    pub fn to_json(&self) -> Value {
        let stack = |(i, s): (usize, &Stack)| {
            json!({
                "name": s.label,
                "prefix": s.prefix,
                "role": s.role.name(),
                "first": s.first,
                "layers": s.layers,
                "elements": s.elements,
                "main": Some(i) == self.main,
                "heads": s.heads.map(|h| [h.query, h.shared]),
                "counted": s.count.as_ref().map(|c| json!({"key": c.key, "layers": c.layers})),
            })
        };
        self.stacks.iter().enumerate().map(stack).collect()
    }

    /// What does not agree with config.json, or is not there, in words without the path.
    pub fn doubts(&self) -> Vec<String> {
        let mut out = Vec::new();
        for s in &self.stacks {
            if let Some((first, missing)) = s.gap {
                let more = if missing == 1 { String::new() } else { format!(" and {} more", missing - 1) };
                out.push(format!(
                    "no tensor is in layer {first}{more} of `{}`, which has {} layers; is the download complete?",
                    s.label, s.layers
                ));
            }
            if let Some(count) = s.count.as_ref().filter(|c| c.layers != s.layers) {
                let why = if count.layers > s.layers { "; is the download complete?" } else { "" };
                out.push(format!(
                    "config.json says {} layers (`{}`), {} are in the files (`{}`){why}",
                    count.layers, count.key, s.layers, s.label
                ));
            }
        }
        out
    }
}

impl Stack {
    /// The layer, from 0, that the tensor called `name` is in.
    pub fn layer(&self, name: &str) -> Option<usize> {
        let l = split_layer(name).filter(|l| l.stack() == self.prefix)?;
        l.layer.checked_sub(self.first).filter(|n| *n < self.layers)
    }
}

impl Found {
    /// The stack, and apart the blocks at its end that predict further tokens.
    fn stacks(&self, prefix: &str, sections: &[Section]) -> Vec<Stack> {
        let words: Vec<&str> = prefix.trim_end_matches('.').split('.').collect();
        let role = Role::of_words(&words);
        let all = self.layers.keys().last().map_or(0, |last| last + 1);
        let section = section(&words, role, all, sections);
        let count = section.and_then(|s| s.layers(&words, all));
        // Blocks that predict follow the last layer that config.json counts, or look like nothing else.
        let nextn =
            section.and_then(|s| s.get("num_nextn_predict_layers")).and_then(Value::as_u64).unwrap_or(0) as usize;
        let begin = (0..all).rev().take_while(|l| self.predicts.contains(l)).last().unwrap_or(all);
        let extra = count.as_ref().filter(|c| c.layers < all && all - c.layers <= nextn).map_or(begin, |c| c.layers);
        let make = |range: std::ops::Range<usize>, role: Role, count: Option<Count>| Stack {
            prefix: prefix.to_owned(),
            label: String::new(),
            role,
            first: range.start,
            layers: range.len(),
            gap: {
                let first = range.clone().find(|l| !self.layers.contains_key(l));
                first.map(|l| (l - range.start, range.len() - self.layers.range(range.clone()).count()))
            },
            elements: self.layers.range(range).map(|(_, n)| n).sum(),
            count,
            heads: section.and_then(|s| s.heads(&words)),
            family: section.and_then(|s| s.text("model_type")).map(str::to_owned),
        };
        let mut out = Vec::new();
        if extra > 0 {
            out.push(make(0..extra, role, count));
        }
        if extra < all {
            out.push(make(extra..all, Role::Prediction, None));
        }
        out
    }
}

/// The part of config.json that speaks of a stack of `layers` layers.
fn section<'a, 'b>(words: &[&str], role: Role, layers: usize, sections: &'b [Section<'a>]) -> Option<&'b Section<'a>> {
    let mut fitting: Vec<&Section> = sections.iter().filter(|s| !s.path().is_empty() && s.role() == role).collect();
    // A language model, or an encoder or decoder, may be all the config speaks of, or the text part of it.
    if fitting.is_empty() && role.leads() {
        fitting = sections.iter().filter(|s| s.path().is_empty() && s.layers(words, layers).is_some()).collect();
    }
    if fitting.is_empty() && role.leads() {
        fitting = sections.iter().filter(|s| s.role() == Role::Language).collect();
    }
    // A tower alone, whose config is the whole.
    if fitting.is_empty() && sections.len() == 1 && role != Role::Prediction {
        fitting = sections.iter().collect();
    }
    let alike = |s: &Section| {
        s.path().iter().flat_map(|key| key.split('_')).filter(|w| words.iter().any(|x| x.contains(w))).count()
    };
    let exact = |s: &Section| s.layers(words, layers).is_some_and(|c| c.layers == layers);
    fitting.into_iter().max_by_key(|s| (alike(s), exact(s)))
}

/// Takes a count from the stacks that it is not of: where one of those that go by the same key is as long as it says.
fn own_counts(stacks: &mut [Stack]) {
    let exact = |s: &Stack| s.count.as_ref().filter(|c| c.layers == s.layers).map(|c| c.key.clone());
    let exact: BTreeSet<String> = stacks.iter().filter_map(exact).collect();
    for s in stacks {
        if s.count.as_ref().is_some_and(|c| c.layers != s.layers && exact.contains(&c.key)) {
            s.count = None;
        }
    }
}

/// Stacks that are listed at most.
const LISTED: usize = 8;

/// Which stack layer numbers mean: in an encoder-decoder the decoder; else the one as long as config.json says the language
/// model is; else the language model's.
fn main(stacks: &[Stack], sections: &[Section]) -> Option<usize> {
    let those = |accept: &dyn Fn(&Stack) -> bool| (0..stacks.len()).filter(|i| accept(&stacks[*i])).collect::<Vec<_>>();
    let mut candidates = those(&|s| s.role.leads());
    if candidates.is_empty() {
        candidates = those(&|s| !matches!(s.role, Role::Prediction | Role::Bridge));
    }
    let only = |found: &[usize]| if let [one] = found { Some(*one) } else { None };
    let holds = |i: usize, word: &str| stacks[i].prefix.split('.').any(|w| w.contains(word));
    let (decoders, rest): (Vec<usize>, Vec<usize>) = candidates.iter().partition(|i| holds(**i, "decoder"));
    let both = if sections.is_empty() { rest.iter().all(|i| holds(*i, "encoder")) } else { sections[0].has_decoder() };
    if both && decoders.len() == 1 {
        return only(&decoders);
    }
    // Counts that config.json gives for the whole, or for its language model.
    let counts: Vec<usize> = sections
        .iter()
        .filter(|s| matches!(s.role(), Role::Plain | Role::Language))
        .filter_map(|s| s.layers(&[], 0).map(|c| c.layers))
        .collect();
    let counted = |among: &[usize]| {
        only(&among.iter().copied().filter(|i| counts.contains(&stacks[*i].layers)).collect::<Vec<_>>())
    };
    let language: Vec<usize> = candidates.iter().copied().filter(|i| stacks[*i].role == Role::Language).collect();
    // A decoder may be all that a config of something else has beside its own stack: that of an autoencoder.
    let towers = those(&|s| !matches!(s.role, Role::Prediction | Role::Bridge));
    counted(&candidates)
        .or_else(|| only(&language))
        .or_else(|| counted(&towers).filter(|_| only(&candidates).is_none_or(|i| holds(i, "decoder"))))
        .or_else(|| only(&candidates))
        .or_else(|| only(&rest))
}

/// Gives every stack the shortest name that tells it from the others: a word of its prefix that only it has, one that says what it
/// is first; else the prefix.
fn label(stacks: &mut [Stack]) {
    let words = |prefix: &str| prefix.trim_end_matches('.').split('.').map(str::to_owned).collect::<BTreeSet<_>>();
    let prefixes: BTreeSet<&str> = stacks.iter().map(|s| s.prefix.as_str()).collect();
    let mut holders: HashMap<String, usize> = HashMap::new();
    prefixes.iter().flat_map(|p| words(p)).for_each(|w| *holders.entry(w).or_default() += 1);
    let counted_on = stacks.iter().filter(|s| s.first > 0).count();
    for stack in stacks {
        let prefix = stack.prefix.trim_end_matches('.');
        let own = || prefix.split('.').filter(|w| holders.get(*w) == Some(&1));
        let saying = own().find(|w| Role::of_word(w) != Role::Plain);
        stack.label = match (stack.first, counted_on) {
            (0, _) => saying.or_else(|| own().next()).unwrap_or(prefix).to_owned(),
            (_, 1) if !holders.contains_key("prediction") => "prediction".to_owned(),
            _ => format!("{prefix}.prediction"),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn anatomy(stacks: &[(&str, usize)], config: Option<Value>) -> Anatomy {
        let names: Vec<String> = stacks.iter().flat_map(|(p, n)| (0..*n).map(move |i| format!("{p}{i}.w"))).collect();
        Anatomy::of(names.iter().map(|n| (n.as_str(), 1)), config.as_ref())
    }

    fn main(stacks: &[(&str, usize)], config: Option<Value>) -> Option<String> {
        anatomy(stacks, config).main().map(|s| s.label.clone())
    }

    #[test]
    fn the_main_stack_is_the_language_models() {
        let llava = [("vision_tower.encoder.layers.", 6), ("language_model.model.layers.", 4)];
        let config = json!({"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 6}});
        for config in [None, Some(config)] {
            assert_eq!(main(&llava, config).as_deref(), Some("language_model"));
        }
        assert_eq!(main(&[("encoder.block.", 4), ("decoder.block.", 2)], None).as_deref(), Some("decoder"));
        assert_eq!(main(&[("vision_model.encoder.layers.", 3)], None).as_deref(), Some("vision_model"));
        let two = [("a.layers.", 3), ("b.layers.", 5)];
        assert_eq!(main(&two, None), None);
        assert_eq!(main(&two, Some(json!({"num_hidden_layers": 5}))).as_deref(), Some("b"));
        assert_eq!(main(&[("double_blocks.", 19), ("single_blocks.", 38)], None), None);
        assert!(anatomy(&two, None).choose(None).unwrap_err().contains("`a` (3 layers), `b` (5 layers)"));
    }

    #[test]
    fn stacks_are_called_by_what_tells_them_apart() {
        let a = anatomy(&[("model.visual.blocks.", 2), ("model.language_model.layers.", 3), ("mtp.layers.", 1)], None);
        let labels: Vec<&str> = a.stacks.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["language_model", "visual", "mtp"]);
        assert_eq!(a.choose(Some("visual")).unwrap().layers, 2);
        assert_eq!(a.choose(Some("model.visual.blocks")).unwrap().layers, 2);
        assert!(a.choose(Some("model")).unwrap_err().contains("several"));
        assert!(a.choose(Some("nosuch")).unwrap_err().contains("`visual` (2 layers)"));
        assert_eq!(a.layer_name(a.place("model.visual.blocks.1.w")), "visual:1");
        assert_eq!(a.layer_name(a.place("model.language_model.layers.1.w")), "1");
        assert_eq!(a.layer_name(a.place("lm_head.weight")), "-");
    }

    #[test]
    fn blocks_after_the_last_layer_are_no_layers() {
        let names = ["model.layers.0.w", "model.layers.1.w", "model.layers.2.w", "model.layers.2.eh_proj.weight"];
        for config in [None, Some(json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 1}))] {
            let a = Anatomy::of(names.iter().map(|n| (*n, 1)), config.as_ref());
            assert_eq!(a.main().map(|s| s.layers), Some(2));
            assert_eq!(a.layer_name(a.place("model.layers.2.w")), "prediction:0");
            assert!(a.doubts().is_empty());
        }
    }

    #[test]
    fn a_config_of_another_model_is_told() {
        let told = |n, count| anatomy(&[("model.layers.", n)], Some(json!({"num_hidden_layers": count}))).doubts();
        assert!(told(3, 3).is_empty());
        assert!(told(3, 4)[0].contains("config.json says 4 layers (`num_hidden_layers`), 3 are in the files"));
        assert!(told(4, 3)[0].contains("says 3 layers"));
        let names = ["model.layers.0.w", "model.layers.3.w"];
        let gap = Anatomy::of(names.iter().map(|n| (*n, 1)), None).doubts();
        assert!(gap[0].contains("layer 1 and 1 more"), "{gap:?}");
    }
}
