//! What a swap does, for people; where the tensors outside the layers come from is always said.

use crate::model::anatomy::{Anatomy, Stack};
use crate::model::names::ranges;
use crate::recipe::{Blend, NonLayer, Swap};

/// A title and a text for each thing done. `shares` and `donors` hold each donor's share in every layer and its model,
/// `labels` the models' names; `alone` if the recipient has no other stack.
pub fn notes(
    swap: &Swap,
    stack: &Stack,
    shares: &[&[f64]],
    labels: &[String],
    donors: &[usize],
    alone: bool,
) -> Vec<(String, String)> {
    let recipient = &labels[0];
    let (given, own) = if swap.revert { ("reset", "kept") } else { ("donor", "recipient") };
    let layers = shares.first().map_or(0, |s| s.len());
    let mut out = Vec::new();
    for ((donor, shares), model) in swap.donors.iter().zip(shares).zip(donors) {
        let label = &labels[*model];
        let mut only = String::new();
        if let Some(text) = &donor.modules_text {
            only += &format!(", only {text}");
        }
        if let Some(heads) = &donor.heads {
            only += &format!(", only heads {}", ranges(heads.iter().copied()));
        }
        let change = if donor.base.is_some() { "the change of " } else { "" };
        let whole = ranges((0..layers).filter(|l| shares[*l] == 1.0));
        if !whole.is_empty() {
            out.push((given.to_owned(), format!("{} of {change}{label}{only}", layers_of(&whole))));
        }
        let blended = ranges((0..layers).filter(|l| shares[*l] > 0.0 && shares[*l] < 1.0));
        if !blended.is_empty() {
            let share = match donor.blend {
                Blend::Ramp => "a falling share".to_owned(),
                Blend::Share(_) => {
                    let first = shares.iter().find(|s| **s > 0.0 && **s < 1.0).copied().unwrap_or(0.0);
                    first.to_string()
                }
            };
            out.push(("blended".to_owned(), format!("{} ({share} of {change}{label}{only})", layers_of(&blended))));
        }
    }
    let kept = ranges((0..layers).filter(|l| shares.iter().all(|s| s[*l] == 0.0)));
    if !kept.is_empty() {
        out.push((own.to_owned(), format!("{} of {recipient}", layers_of(&kept))));
    }
    let named: Vec<&str> = donors.iter().map(|d| labels[*d].as_str()).collect();
    let mut each = named.clone();
    each.dedup();
    let (source, option) = match swap.non_layer {
        NonLayer::Into if swap.revert => (recipient.clone(), "--outside resets it too"),
        NonLayer::From if swap.revert => (named[0].to_owned(), "--outside"),
        NonLayer::Into => (recipient.clone(), "--non-layer into"),
        NonLayer::From => (named[0].to_owned(), "--non-layer from"),
        NonLayer::Base => (base_label(swap), "--non-layer base"),
        NonLayer::Mean => (format!("the mean of {recipient} and {}", each.join(", ")), "--non-layer mean"),
        NonLayer::Share(s) => (
            format!("{} of {recipient}, {s} of {}, as the published rule blends them", 1.0 - s, named[0]),
            "--alpha; --non-layer into leaves them alone",
        ),
    };
    let what = if stack.role.leads() && alone {
        "embeddings, final norm, head and all else outside the layers".to_owned()
    } else if stack.role.leads() {
        "embeddings, final norm, head".to_owned()
    } else {
        format!("what else belongs to `{}`", stack.label)
    };
    out.push(("outside".to_owned(), format!("{what}: {source} ({option})")));
    out
}

/// Which stack the layers are of, where a model has several, and that the others stay.
pub fn stacks(stack: &Stack, anatomy: &Anatomy, recipient: &str) -> Vec<(String, String)> {
    let others: Vec<String> = (anatomy.stacks.iter())
        .filter(|s| s.prefix != stack.prefix || s.first != stack.first)
        .map(|s| format!("`{}` ({}, {} layers)", s.label, s.role.name(), s.layers))
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    let own = format!("`{}` ({}, {} layers: `{}`)", stack.label, stack.role.name(), stack.layers, stack.prefix);
    vec![
        ("stack".to_owned(), own),
        (
            "other stacks".to_owned(),
            format!("{}, and what belongs to them, stay those of {recipient}", others.join(", ")),
        ),
    ]
}

/// Numbers of layers with the word before them.
fn layers_of(numbers: &str) -> String {
    let one = numbers.bytes().all(|b| b.is_ascii_digit());
    format!("{} {numbers}", if one { "layer" } else { "layers" })
}

fn base_label(swap: &Swap) -> String {
    swap.base.as_ref().map(|b| b.to_string()).unwrap_or_default()
}
