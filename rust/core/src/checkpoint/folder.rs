//! Which files of a folder without an index are its model.
//!
//! Files of `torch.save` are looked at where there is no safetensors file, and by the same rules; there the name of the model is
//! `pytorch_model`, or else `model`, and states of a training run are never the model.
//!
//! Files are grouped by stem: `a-00001-of-00002.safetensors` and `a-00002-of-00002.safetensors` are the numbered set
//! `a`, `b.safetensors` is the single file `b`.
//!
//! 1. If there is a group `model`, it is the model; of a single file and numbered ones the single file, as loaders read
//!    it. All others are left out, with a warning.
//! 2. Else files that are known to lie beside models ([`is_stray`]: adapters, states of an optimizer, weights in
//!    another layout) are left out, with a warning. If there is nothing else, a lone one of them is the checkpoint.
//! 3. A variant of another group (`model.fp16.safetensors` beside `model.safetensors`) is left out, with a warning.
//! 4. What remains is a numbered set, of which no file may be missing, or single files, which are taken together.
//!    Anything else (two sets, a set beside single files) is an error: nobody can tell what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The kinds of files that hold tensors. Where a folder has files of the first, those of the second are not looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Safetensors,
    /// What `torch.save` writes.
    Torch,
    /// Files of GGML.
    Gguf,
}

impl Kind {
    /// The ends of such files' names.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Safetensors => &[".safetensors"],
            Self::Torch => &[".bin", ".pt", ".pth", ".ckpt"],
            Self::Gguf => &[".gguf"],
        }
    }

    /// The end of the names of shards that have an index.
    pub fn indexed(self) -> &'static str {
        self.suffixes()[0]
    }

    /// The file that loaders look for.
    pub fn single(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::Torch => "pytorch_model.bin",
            Self::Gguf => "model.gguf",
        }
    }

    /// The kind of the file called `name`.
    pub fn of(name: &OsStr) -> Option<Self> {
        [Self::Safetensors, Self::Torch, Self::Gguf].into_iter().find(|k| k.split(name).is_some())
    }

    /// The stem and the suffix of a name of this kind.
    fn split(self, name: &OsStr) -> Option<(&[u8], &'static str)> {
        self.suffixes().iter().find_map(|end| Some((name.as_bytes().strip_suffix(end.as_bytes())?, *end)))
    }
}

/// At most so many names are listed in a message.
const LISTED: usize = 4;

/// The files of the model, in order, and what to tell of the others.
#[derive(Debug, PartialEq)]
pub(super) struct Choice {
    pub files: Vec<OsString>,
    pub warning: Option<String>,
}

/// The files that belong together: the parts of a set by number, or a single file.
struct Group<'a> {
    stem: &'a [u8],
    suffix: &'static str,
    /// How many parts the set has, in the digits of its first file; `None` for a single file.
    total: Option<&'a [u8]>,
    /// The fewest digits in which a file has its number.
    width: usize,
    files: Vec<(u64, &'a OsStr)>,
}

/// True for the names of files that lie beside models and are none, by stem.
fn is_stray(stem: &[u8]) -> bool {
    let whole: [&[u8]; 2] = [b"adapter_model", b"adapters"];
    let begins: [&[u8]; 10] = [
        b".",
        b"consolidated",
        b"imatrix",
        b"mmproj",
        b"optimizer",
        b"original",
        b"random_states",
        b"rng_state",
        b"scheduler",
        b"training_",
    ];
    whole.contains(&stem) || begins.iter().any(|b| stem.starts_with(b))
}

/// True for the names of files of a training run, by stem: these are pickles, and never a model.
fn is_training(stem: &[u8]) -> bool {
    let begins: [&[u8]; 6] = [b".", b"optimizer", b"random_states", b"rng_state", b"scheduler", b"training_"];
    begins.iter().any(|b| stem.starts_with(b))
}

/// True for the stem of a variant of `of`: `model.fp16` of `model`.
fn is_variant(stem: &[u8], of: &[u8]) -> bool {
    stem.strip_prefix(of).is_some_and(|rest| rest.first() == Some(&b'.'))
}

/// True for the stem of a file of a numbered set.
pub(super) fn is_part(stem: &str) -> bool {
    split_part(stem.as_bytes()).is_some()
}

/// Of the `names` of a folder those of the set that the file called `name` is a part of; only itself of one that is none.
pub(super) fn siblings(name: &OsStr, names: &[OsString], kind: Kind) -> Vec<OsString> {
    let set = |name: &OsStr| {
        let (stem, _, total) = split_part(kind.split(name)?.0)?;
        Some((stem.to_vec(), parse(total)))
    };
    match set(name) {
        Some(own) => names.iter().filter(|n| set(n).as_ref() == Some(&own)).cloned().collect(),
        None => vec![name.to_owned()],
    }
}

/// True for the `stem` of an index of strays or of a variant, in a folder whose `names` hold something else.
pub(super) fn is_beside(stem: &[u8], names: &[OsString], kind: Kind) -> bool {
    let groups = group(names, kind);
    groups.iter().any(|g| is_variant(stem, g.stem)) || (is_stray(stem) && groups.iter().any(|g| !is_stray(g.stem)))
}

/// Chooses among the `names` of a folder; `None` if none of them holds weights.
///
/// # Errors
/// If the names do not tell, in words without the path.
pub(super) fn choose(names: &[OsString], kind: Kind) -> Result<Option<Choice>, String> {
    let groups = group(names, kind);
    let stems: Vec<&[u8]> = groups.iter().map(|g| g.stem).collect();
    let varies = |g: &Group| stems.iter().any(|stem| is_variant(g.stem, stem));
    let loaded = kind.single().strip_suffix(kind.indexed()).unwrap_or_default().as_bytes();
    let called = if stems.contains(&loaded) { loaded } else { b"model" };
    let is_model = |g: &Group| g.stem == called;
    // Where there is a single file of that name, loaders look no further.
    let single = groups.iter().any(|g| is_model(g) && g.total.is_none());
    let is_model = |g: &Group| is_model(g) && (!single || g.total.is_none());
    let by_name = groups.iter().any(is_model);
    let only_strays = groups.iter().all(|g| is_stray(g.stem));
    let (chosen, left): (Vec<_>, Vec<_>) = groups
        .into_iter()
        .partition(|g| if by_name { is_model(g) } else { !varies(g) && (only_strays || !is_stray(g.stem)) });
    let [first, rest @ ..] = chosen.as_slice() else { return Ok(None) };
    if !rest.is_empty() && (only_strays || kind == Kind::Gguf || chosen.iter().any(|g| g.total.is_some())) {
        let listed = labels(&chosen);
        if kind == Kind::Gguf {
            return Err(format!("expected one model, found {listed}; name one of the files"));
        }
        return Err(format!(
            "expected one model, found {listed}; name one of the files, or write a {}.index.json that says which belong \
             together",
            kind.single()
        ));
    }
    first.complete()?;
    let warning = (!left.is_empty()).then(|| format!("read as {}; left out: {}", labels(&chosen), labels(&left)));
    let files = chosen.iter().flat_map(|g| g.files.iter().map(|(_, file)| (*file).to_owned())).collect();
    Ok(Some(Choice { files, warning }))
}

fn group(names: &[OsString], kind: Kind) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&[u8], &str, Option<u64>), Group> = BTreeMap::new();
    for name in names {
        let Some((stem, suffix)) = kind.split(name) else { continue };
        if kind == Kind::Torch && is_training(stem) {
            continue;
        }
        let (stem, part) = match split_part(stem) {
            Some((stem, number, total)) => (stem, Some((number, total))),
            None => (stem, None),
        };
        let digits = part.map_or(&[][..], |(number, _)| number);
        let group = groups.entry((stem, suffix, part.and_then(|(_, total)| parse(total)))).or_insert_with(|| Group {
            stem,
            suffix,
            total: part.map(|(_, total)| total),
            width: digits.len(),
            files: Vec::new(),
        });
        group.width = group.width.min(digits.len());
        group.files.push((parse(digits).unwrap_or(0), name));
    }
    groups.into_values().map(|g| g.sorted()).collect()
}

/// A stem that ends in `-NNNNN-of-NNNNN`, cut there.
fn split_part(stem: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let of = stem.windows(4).rposition(|w| w == b"-of-")?;
    let total = &stem[of + 4..];
    let dash = stem[..of].iter().rposition(|b| *b == b'-')?;
    let number = &stem[dash + 1..of];
    (parse(number).is_some() && parse(total).is_some()).then_some((&stem[..dash], number, total))
}

/// The number that `digits` are, of nine at most.
fn parse(digits: &[u8]) -> Option<u64> {
    let sound = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    sound.then(|| digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

impl Group<'_> {
    fn sorted(mut self) -> Self {
        self.files.sort();
        self
    }

    /// Checks that no part of a set is missing or there twice. Parts are counted from 1, by some tools from 0.
    fn complete(&self) -> Result<(), String> {
        let Some(total) = self.total.and_then(parse) else { return Ok(()) };
        let found: BTreeSet<u64> = self.files.iter().map(|(number, _)| *number).collect();
        let begin = u64::from(!found.contains(&0));
        let stray = self.files.iter().find(|(number, _)| !(begin..begin + total).contains(number));
        if let Some((_, file)) = stray {
            return Err(format!("{} is not one of {total} parts", shown(file)));
        }
        if let Some(pair) = self.files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("{} and {} are the same part of one model", shown(pair[0].1), shown(pair[1].1)));
        }
        let missing = total - found.len() as u64;
        if missing == 0 {
            return Ok(());
        }
        let names = (begin..begin + total).filter(|n| !found.contains(n)).map(|n| self.part(n));
        let names = list(names, missing as usize);
        Err(format!("expected {total} files, found {}: missing {names}; is the download complete?", found.len()))
    }

    /// The name of a part of the set.
    fn part(&self, number: u64) -> String {
        let total = String::from_utf8_lossy(self.total.unwrap_or_default());
        let (stem, width, suffix) = (String::from_utf8_lossy(self.stem), self.width, self.suffix);
        let name = format!("{stem}-{number:0width$}-of-{total}{suffix}");
        shown(OsStr::new(&name))
    }

    fn label(&self) -> String {
        match (self.total, self.files.as_slice()) {
            (Some(total), [_, _, ..]) => {
                let (stem, total) = (String::from_utf8_lossy(self.stem), String::from_utf8_lossy(total));
                let name = format!("{stem}-*-of-{total}{}", self.suffix);
                format!("{} ({} files)", shown(OsStr::new(&name)), self.files.len())
            }
            (_, files) => list(files.iter().map(|(_, file)| shown(file)), files.len()),
        }
    }
}

fn shown(name: &OsStr) -> String {
    format!("`{}`", name.display())
}

fn labels(groups: &[Group]) -> String {
    list(groups.iter().map(Group::label), groups.len())
}

/// The first of the `names`, and how many more there are of `count`.
fn list(names: impl Iterator<Item = String>, count: usize) -> String {
    let first = names.take(LISTED).collect::<Vec<_>>().join(", ");
    if count > LISTED { format!("{first} and {} more", count - LISTED) } else { first }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn names(of: &[&str]) -> Vec<OsString> {
        of.iter().map(OsString::from).collect()
    }

    fn files(of: &[&str]) -> Vec<String> {
        let choice = choose(&names(of), Kind::Safetensors).unwrap().unwrap();
        choice.files.into_iter().map(|f| f.into_string().unwrap()).collect()
    }

    fn refusal(of: &[&str]) -> String {
        choose(&names(of), Kind::Safetensors).unwrap_err()
    }

    #[test]
    fn the_group_called_model_is_the_model() {
        let parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let others = ["a.safetensors", "consolidated.safetensors", "b-1-of-3.safetensors", "config.json"];
        for model in [&["model.safetensors"][..], &parts] {
            let all = [&others[..2], model, &others[2..]].concat();
            assert_eq!(files(&all), model);
            let warning = choose(&names(&all), Kind::Safetensors).unwrap().unwrap().warning.unwrap();
            assert!(
                ["`a.safetensors`", "consolidated", "b-1-of-3"].iter().all(|name| warning.contains(name)),
                "{warning}"
            );
        }
        assert_eq!(files(&[&parts[..], &["model.safetensors"]].concat()), ["model.safetensors"]);
        assert!(refusal(&[&parts[..], &["model-00001-of-00001.safetensors"]].concat()).contains("(2 files)"));
    }

    #[test]
    fn strays_are_left_out_where_there_is_something_else() {
        for stray in ["adapter_model", "consolidated.00", "optimizer_1", "training_state", "._weights", "adapters"] {
            let stray = format!("{stray}.safetensors");
            assert_eq!(files(&["weights.safetensors", &stray]), ["weights.safetensors"]);
            assert_eq!(files(&[&stray]), [stray.as_str()]);
            assert_eq!(choose(&names(&[&stray]), Kind::Safetensors).unwrap().unwrap().warning, None);
        }
        assert!(refusal(&["consolidated.safetensors", "adapter_model.safetensors"]).contains("name one of the files"));
        assert_eq!(choose(&names(&["config.json", "model.bin"]), Kind::Safetensors), Ok(None));
    }

    #[test]
    fn single_files_are_taken_together_and_nothing_else_is() {
        assert_eq!(files(&["b.safetensors", "a.safetensors"]), ["a.safetensors", "b.safetensors"]);
        for other in ["x.safetensors", "y-1-of-1.safetensors"] {
            assert!(refusal(&["w-1-of-2.safetensors", "w-2-of-2.safetensors", other]).contains("w-*-of-2"));
        }
    }

    #[test]
    fn sets_are_whole() {
        let from = |begin: u32| (begin..begin + 12).map(|n| format!("m-{n}-of-12.safetensors")).collect::<Vec<_>>();
        for begin in [0, 1] {
            let whole = from(begin);
            let mut sorted: Vec<&str> = whole.iter().map(String::as_str).collect();
            sorted.sort();
            assert_eq!(files(&sorted), whole, "in the order of their numbers");
            let missing = if begin == 0 { 12 } else { 1 };
            assert!(refusal(&sorted[1..]).contains(&format!("missing `m-{missing}-of-12.safetensors`;")));
        }
        let lacking = refusal(&["m-00002-of-00004.safetensors", "m-00004-of-00004.safetensors"]);
        assert!(
            lacking.contains("missing `m-00001-of-00004.safetensors`, `m-00003-of-00004.safetensors`;"),
            "{lacking}"
        );
        assert!(refusal(&["m-1-of-999999999.safetensors"]).contains("and 999999994 more"));
        assert!(refusal(&["m-1-of-2.safetensors", "m-01-of-2.safetensors"]).contains("the same part"));
        assert!(refusal(&["m-1-of-1.safetensors", "m-2-of-1.safetensors"]).contains("not one of 1 parts"));
        assert!(refusal(&["m-0-of-0.safetensors"]).contains("not one of 0 parts"));
        // Variants.
        assert_eq!(files(&["unet.fp16.safetensors", "unet.safetensors"]), ["unet.safetensors"]);
        assert_eq!(files(&["unet.fp16.safetensors"]), ["unet.fp16.safetensors"]);
        // Not numbers of parts.
        for single in ["m-of-2", "m-1-of-", "-of-", "m-1-of-12345678901", "m-x-of-2", "-of-1-of-x"] {
            assert_eq!(files(&[&format!("{single}.safetensors"), "z.safetensors"]).len(), 2, "{single}");
        }
    }

    #[test]
    fn names_need_not_be_text() {
        let odd = OsString::from_vec(b"\xff.safetensors".to_vec());
        assert_eq!(choose(std::slice::from_ref(&odd), Kind::Safetensors).unwrap().unwrap().files, [odd]);
    }
}
