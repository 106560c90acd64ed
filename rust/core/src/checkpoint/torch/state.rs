//! Which dict of a pickle is the weights, and what its tensors are called.
//!
//! A file may hold a state dict, or a training run: a dict in which the weights are one entry among others. What is read is told
//! wherever something was passed over.

use std::collections::HashSet;

use super::pickle::{Pickle, Value};

/// What the weights are called in the dict of a training run.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];
/// Parts of the names of what belongs to an optimizer, which has tensors too.
const TRAINING: [&str; 2] = ["optim", "sched"];
/// Dicts inside each other.
const DEEPEST: usize = 32;
/// Bytes of all names together: a dict may use one long text in many of them.
const MOST_NAMES: usize = 100_000_000;
/// At most so many names are listed in a message.
const LISTED: usize = 4;

/// The weights of a pickle.
pub(super) struct Found {
    /// Name and value of each tensor.
    pub tensors: Vec<(String, Value)>,
    /// What was passed over.
    pub warning: Option<String>,
}

/// Finds the weights.
///
/// # Errors
/// If the pickle holds none, or several, in words without the path.
pub(super) fn weights(pickle: &Pickle) -> Result<Found, String> {
    let Value::Dict(top) = pickle.top else {
        let advice = "save the state dict alone: torch.save(model.state_dict(), ...)";
        return Err(format!("its pickle is no dict, expected one of names and tensors; {advice}"));
    };
    let wrapper = wrapper(pickle, top)?;
    let mut walk = Walk { pickle, seen: HashSet::new(), tensors: Vec::new(), names: 0, passed: Passed::default() };
    let root = wrapper.map_or(top, |(_, dict)| dict);
    if wrapper.is_some() {
        let others = pickle.dict(top).iter().filter(|e| e.value != Value::Dict(root));
        others.for_each(|e| walk.passed.add("", pickle.text(e.key)));
    }
    walk.dict(root, "", 0)?;
    let Walk { tensors, passed, .. } = walk;
    if tensors.is_empty() && passed.count > 0 {
        return Err(format!("holds no tensor under a name, only {passed}; is it the state of a training run?"));
    }
    let also = if passed.count > 0 { format!("passed over: {passed}") } else { String::new() };
    let warning = match wrapper {
        Some((key, _)) if also.is_empty() => Some(format!("read as what its `{key}` holds")),
        Some((key, _)) => Some(format!("read as what its `{key}` holds; {also}")),
        None => Some(also).filter(|a| !a.is_empty()),
    };
    Ok(Found { tensors, warning })
}

/// The one entry of `top` that is called as weights are in the dict of a training run, if `top` holds no tensor itself.
fn wrapper<'p>(pickle: &Pickle<'p>, top: u32) -> Result<Option<(&'p str, u32)>, String> {
    let entries = pickle.dict(top);
    if entries.iter().any(|e| matches!(e.value, Value::Tensor(..))) {
        return Ok(None);
    }
    let found: Vec<(&str, u32)> = (entries.iter())
        .filter_map(|e| match (pickle.text(e.key), e.value) {
            (Some(key), Value::Dict(dict)) if WRAPPERS.contains(&key) && holds(pickle, dict) => Some((key, dict)),
            _ => None,
        })
        .collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        [(first, _), (second, _), ..] => Err(format!(
            "holds tensors in `{first}` and in `{second}`, and nobody can tell which are meant; save one of them alone"
        )),
    }
}

/// Whether a dict holds tensors, in itself or in dicts inside it.
fn holds(pickle: &Pickle, dict: u32) -> bool {
    let (mut seen, mut open) = (HashSet::from([dict]), vec![dict]);
    while let Some(dict) = open.pop() {
        for entry in pickle.dict(dict) {
            match entry.value {
                Value::Tensor(..) => return true,
                Value::Dict(inner) if seen.insert(inner) => open.push(inner),
                _ => {}
            }
        }
    }
    false
}

struct Walk<'w, 'p> {
    pickle: &'w Pickle<'p>,
    /// The dicts that were entered.
    seen: HashSet<u32>,
    tensors: Vec<(String, Value)>,
    /// Bytes of all names.
    names: usize,
    passed: Passed,
}

impl Walk<'_, '_> {
    /// Takes the tensors of a dict, whose names begin with `prefix`.
    fn dict(&mut self, dict: u32, prefix: &str, depth: usize) -> Result<(), String> {
        if depth > DEEPEST || !self.seen.insert(dict) {
            let problem = if depth > DEEPEST { "lies in too many dicts" } else { "is there twice, or in itself" };
            return Err(format!("the dict `{}` {problem}; save a dict of names and tensors", shown(prefix)));
        }
        for entry in self.pickle.dict(dict) {
            let key = self.pickle.text(entry.key);
            let inner = match entry.value {
                Value::Dict(inner) if holds(self.pickle, inner) => Some(inner),
                Value::Tensor(..) => None,
                _ => {
                    self.passed.add(prefix, key);
                    continue;
                }
            };
            let Some(key) = key else {
                return Err(format!("`{}` holds tensors under a key that is no text", shown(prefix)));
            };
            if depth == 0 && inner.is_some() && TRAINING.iter().any(|t| key.contains(t)) {
                self.passed.add(prefix, Some(key));
                continue;
            }
            self.names += prefix.len() + key.len() + 1;
            if self.names > MOST_NAMES {
                return Err(format!("the names of its tensors take more than {MOST_NAMES} bytes"));
            }
            match inner {
                Some(inner) => self.dict(inner, &format!("{prefix}{key}."), depth + 1)?,
                None => self.tensors.push((format!("{prefix}{key}"), entry.value)),
            }
        }
        Ok(())
    }
}

/// What was passed over: the first names, and how many there are.
#[derive(Default)]
struct Passed {
    first: Vec<String>,
    count: usize,
}

impl Passed {
    fn add(&mut self, prefix: &str, key: Option<&str>) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(key.map_or("a key that is no text".to_owned(), |key| format!("`{prefix}{}`", shown(key))));
        }
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let more = self.count - self.first.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        write!(f, "{}{more}", self.first.join(", "))
    }
}

/// A name for a message.
fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}
