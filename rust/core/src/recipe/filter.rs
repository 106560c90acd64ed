//! Filters on tensor names: part of the name, as mergekit has it, or a glob or regular expression; `!` turns one round.

use globset::GlobBuilder;
use regex_lite::Regex;
use serde_json::Value;

use super::fields::wrong;
use crate::error::{Error, Result};

#[derive(Debug, Clone)]
enum Pattern {
    All,
    Part(String),
    Regex(Regex),
}

/// A filter: `mlp`, `glob:model.layers.*.mlp.*`, `regex:layers\.[0-3]\.`, or one of these behind `!`.
#[derive(Debug, Clone)]
pub struct Filter {
    text: String,
    negated: bool,
    pattern: Pattern,
}

impl Filter {
    /// Reads a filter; `*` matches every name.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a glob or an expression that is not one.
    pub fn parse(at: &str, text: &str) -> Result<Self> {
        let (negated, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let fail = |e: String| Error::recipe(at, format!("`{text}`: {}", e.lines().last().unwrap_or_default().trim()));
        let pattern = if rest == "*" {
            Pattern::All
        } else if let Some(glob) = rest.strip_prefix("glob:") {
            let glob = GlobBuilder::new(glob).literal_separator(false).build().map_err(|e| fail(e.to_string()))?;
            Pattern::Regex(Regex::new(&of_text(glob.regex())).map_err(|e| fail(e.to_string()))?)
        } else if let Some(regex) = rest.strip_prefix("regex:") {
            Pattern::Regex(Regex::new(regex).map_err(|e| fail(e.to_string()))?)
        } else {
            Pattern::Part(rest.to_owned())
        };
        Ok(Self { text: text.to_owned(), negated, pattern })
    }

    /// Reads a filter or a list of filters, of which none is empty: that is part of every name.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn list(at: &str, value: &Value) -> Result<Vec<Self>> {
        match value {
            Value::String(text) if text.is_empty() => Err(wrong(at, "a filter, or * for every name", value)),
            Value::String(text) => Ok(vec![Self::parse(at, text)?]),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    let at = format!("{at}[{i}]");
                    let text = item.as_str().filter(|text| !text.is_empty());
                    Self::parse(&at, text.ok_or_else(|| wrong(&at, "a filter, or * for every name", item))?)
                })
                .collect(),
            _ => Err(wrong(at, "a filter or a list of filters", value)),
        }
    }

    /// True if `name` passes.
    pub fn matches(&self, name: &str) -> bool {
        self.negated
            != match &self.pattern {
                Pattern::All => true,
                Pattern::Part(part) => name.contains(part.as_str()),
                Pattern::Regex(regex) => regex.is_match(name),
            }
    }

    /// The filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// An expression over text, of one over bytes that `globset` makes, which writes characters beyond ASCII byte by byte: `\xc3\xa9`.
fn of_text(expression: &str) -> String {
    let (mut bytes, mut rest) = (b"(?s)".to_vec(), expression.trim_start_matches("(?-u)"));
    while let Some(next) = rest.chars().next() {
        let escaped = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        if let Some(byte) = escaped.filter(|b| !b.is_ascii()) {
            bytes.push(byte);
            rest = &rest[4..];
            continue;
        }
        // What follows a backslash is no escape of its own.
        let len = if next == '\\' { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { next.len_utf8() };
        bytes.extend_from_slice(&rest.as_bytes()[..len]);
        rest = &rest[len..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_matches_what_it_says() {
        let name = "model.layers.10.mlp.up_proj.weight";
        for (text, want) in [
            ("mlp", true),
            ("layers.1", true),
            ("*", true),
            ("!mlp", false),
            ("glob:*.mlp.*", true),
            ("glob:mlp", false),
            ("glob:model.layers.{9,10}.*", true),
            ("glob:model.layers.[0-9].*", false),
            ("glob:model.layers.[!a]?.*", true),
            (r"regex:layers\.1\.", false),
            (r"regex:layers\.1\d\.", true),
            (r"!regex:attn", true),
        ] {
            assert_eq!(Filter::parse("", text).unwrap().matches(name), want, "{text}");
        }
        assert!(Filter::parse("", "glob:*.é\\*.[üé].?").unwrap().matches("层\n.é*.ü.层"));
        assert!(Filter::parse("", "regex:(").is_err());
        assert!(Filter::parse("", "glob:[").is_err());
    }
}
