//! Which table a model ties its head to.

/// How the table of a language model's tokens ends.
const TABLES: [&str; 3] = ["embed_tokens.weight", "wte.weight", "embed_in.weight"];
/// How its head ends.
const HEAD: &str = "lm_head.weight";

/// True for the names of heads that may be tied to a table.
pub fn is_head(name: &str) -> bool {
    name.ends_with(HEAD)
}

/// The table that the head called `head` is tied to, among `names`; `stack` is the model's main stack of layers.
///
/// The head's own prefix decides (`language_model.lm_head.weight`), else the prefix of the stack (`model.layers.`), else
/// there must be only one table.
///
/// # Errors
/// The tables there are, if none of this decides.
pub fn table<'a>(
    head: &str,
    names: impl Iterator<Item = &'a str>,
    stack: Option<&str>,
) -> Result<Option<usize>, Vec<&'a str>> {
    let is_table = |name: &str| {
        TABLES.iter().any(|t| name.strip_suffix(t).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    };
    let tables: Vec<(usize, &str)> = names.enumerate().filter(|(_, n)| is_table(n)).collect();
    let under = |prefix: &str| {
        let mut own = tables.iter().filter(|(_, n)| n.starts_with(prefix));
        own.next().filter(|_| own.next().is_none()).map(|(i, _)| *i)
    };
    let own = head.strip_suffix(HEAD).unwrap_or_default();
    if let Some(found) = under(own).filter(|_| !own.is_empty()) {
        return Ok(Some(found));
    }
    // `model.layers.` -> `model.`: the table stands beside the layers.
    let root = stack.map(|s| s.trim_end_matches('.').rsplit_once('.').map_or("", |(root, _)| root));
    if let Some(root) = root {
        let beside = |name: &&(usize, &str)| {
            let inner = if root.is_empty() { Some(name.1) } else { name.1.strip_prefix(root)?.strip_prefix('.') };
            inner.filter(|n| TABLES.contains(n)).map(|_| ())
        };
        let mut found = tables.iter().filter(|t| beside(t).is_some());
        if let Some((i, _)) = found.next().filter(|_| found.next().is_none()) {
            return Ok(Some(*i));
        }
    }
    match tables[..] {
        [] => Ok(None),
        [(only, _)] => Ok(Some(only)),
        _ => Err(tables.into_iter().map(|(_, n)| n).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heads_prefix_decides_then_the_stacks() {
        let names = ["audio.embed_tokens.weight", "model.embed_tokens.weight", "vision.wte.weight"];
        let of = |head: &str, stack: Option<&str>| table(head, names.into_iter(), stack);
        assert_eq!(of("lm_head.weight", Some("model.layers.")), Ok(Some(1)));
        assert_eq!(of("audio.lm_head.weight", Some("model.layers.")), Ok(Some(0)));
        assert_eq!(of("lm_head.weight", None), Err(names.to_vec()));
        assert_eq!(of("lm_head.weight", Some("layers.")), Err(names.to_vec()));
        assert_eq!(table("lm_head.weight", ["wte.weight", "x"].into_iter(), Some("h.")), Ok(Some(0)));
        assert_eq!(table("lm_head.weight", ["x"].into_iter(), None), Ok(None));
    }
}
