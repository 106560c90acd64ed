//! Strict reading of a JSON object: every key is taken or complained about, with its path and the nearest valid name.

use serde_json::{Map, Value};

use super::idle::Idle;
use crate::error::{Error, Result, nearest};

/// An object of a recipe, consumed key by key.
pub struct Fields<'a> {
    at: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    /// What passes unread, and what this object is, for people.
    idle: Option<(&'a Idle, &'static str)>,
}

impl<'a> Fields<'a> {
    /// The object at key path `at`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if `value` is not an object.
    pub fn new(at: impl Into<String>, value: &'a Value) -> Result<Self> {
        let at = at.into();
        match value.as_object() {
            Some(map) => Ok(Self { at, map, known: Vec::new(), idle: None }),
            None => Err(wrong(&at, "a mapping", value)),
        }
    }

    /// The same, whose other keys may pass unread: `what` it is, such as `a slice`, does not read them.
    pub fn lenient(self, idle: &'a Idle, what: &'static str) -> Self {
        Self { idle: Some((idle, what)), ..self }
    }

    /// The key path of `key` in this object.
    pub fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// The value of `key`, if it is there and not null.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it is missing.
    pub fn need(&mut self, key: &'static str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| {
            let (at, near) = self.written_for(key);
            Error::recipe(at, format!("`{key}` is missing{near}"))
        })
    }

    /// What was probably meant for the missing `key`, for a message: its place, and a remark.
    pub fn written_for(&self, key: &str) -> (String, String) {
        match self.map.keys().find(|k| !nearest(k, [key]).is_empty()) {
            Some(k) => (self.path(k), format!("; write it for `{k}`")),
            None => (self.at.clone(), String::new()),
        }
    }

    /// The text `key`, if it is there.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it is not text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>> {
        let at = self.path(key);
        self.get(key).map(|v| v.as_str().ok_or_else(|| wrong(&at, "text", v))).transpose()
    }

    /// The list `key`, if it is there.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it is not a list.
    pub fn list(&mut self, key: &'static str) -> Result<Option<&'a Vec<Value>>> {
        let at = self.path(key);
        self.get(key).map(|v| v.as_array().ok_or_else(|| wrong(&at, "a list", v))).transpose()
    }

    /// The whole number `key`, or `default`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if it is not a whole number from 0.
    pub fn count(&mut self, key: &'static str, default: usize) -> Result<usize> {
        let at = self.path(key);
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_u64().map(|n| n as usize).ok_or_else(|| wrong(&at, "a whole number from 0", v)),
        }
    }

    /// Complains about keys nobody asked for.
    ///
    /// # Errors
    /// [`Error::Recipe`] with the nearest valid name.
    pub fn finish(self) -> Result<()> {
        let passes = |k: &str| self.idle.is_some_and(|(idle, what)| idle.passes(k, &self.path(k), what));
        match self.map.keys().find(|k| !self.known.contains(&k.as_str()) && !passes(k)) {
            None => Ok(()),
            Some(k) => {
                let near = nearest(k, self.known.iter().copied());
                let near = if near.is_empty() { format!("; expected one of {}", self.known.join(", ")) } else { near };
                Err(Error::recipe(self.path(k), format!("unknown key{near}")))
            }
        }
    }
}

/// A finite number, or text that is one: YAML 1.1 reads `1e-9` as text.
pub fn number(value: &Value) -> Option<f64> {
    let text = || value.as_str().and_then(|s| s.trim().parse::<f64>().ok());
    value.as_f64().or_else(text).filter(|n| n.is_finite())
}

/// A value of the wrong type at `at`.
pub fn wrong(at: &str, expected: &str, found: &Value) -> Error {
    let mut text = found.to_string();
    if text.chars().count() > 60 {
        text = text.chars().take(57).collect::<String>() + "...";
    }
    Error::recipe(at, format!("expected {expected}, found {text}"))
}
