//! Reading an agent's configuration key by key, so that each error names the key it is about.
//!
//! A type's schema has refused wrong shapes and unknown keys already when a configuration arrives here; what
//! is left are meanings (a duration, a URL), and configurations that reach a type without a schema check.

use std::time::Duration;

use hms_core::{Error, ErrorKind, Result, duration};
use serde_json::{Map, Value, json};

/// One object of a configuration, and where it is: `` (the whole) or `liveness`.
pub(crate) struct Keys<'a> {
    at: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The object `value`, found at key `at`.
    pub(crate) fn of(at: &'a str, value: &'a Value) -> Result<Self> {
        match value.as_object() {
            Some(object) => Ok(Self { at, object }),
            None => Err(invalid(at, "is not an object")),
        }
    }

    /// An error about `key`.
    pub(crate) fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        invalid(&self.name(key), problem)
    }

    /// An error about the object as a whole.
    pub(crate) fn wrong_itself(&self, problem: impl std::fmt::Display) -> Error {
        invalid(self.at, problem)
    }

    /// Refuses keys that are not `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<()> {
        match self.object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                Err(self.wrong(key, "is not known here").hint(format!("known: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// The value of `key`; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// Yes or no.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A whole number from 1 on.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u32>> {
        let positive = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        self.typed(key, "a whole number from 1 on", positive)
    }

    /// A duration such as `500ms`.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        duration::parse(text).map(Some).map_err(|e| {
            let wrong = self.wrong(key, e.message);
            match e.hint {
                Some(hint) => wrong.hint(hint),
                None => wrong,
            }
        })
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let all = |value: &Value| value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect();
        self.typed(key, "a list of texts", all)
    }

    /// Texts by name.
    pub(crate) fn table(&self, key: &str) -> Result<Vec<(&'a str, &'a str)>> {
        let all = |value: &'a Value| {
            value.as_object()?.iter().map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
        };
        Ok(self.typed(key, "a table of texts", all)?.unwrap_or_default())
    }

    fn typed<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, format_args!("is not {what}")))
    }

    /// The full name of `key`.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }
}

fn invalid(key: &str, problem: impl std::fmt::Display) -> Error {
    let message =
        if key.is_empty() { format!("the configuration {problem}") } else { format!("`{key}`: {problem}") };
    Error::new(ErrorKind::InvalidConfig, message)
}

/// The schema of a duration with a default.
pub(crate) fn duration_schema(about: &str, default: &str) -> Value {
    json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": about, "default": default})
}

/// Two objects of properties as one.
pub(crate) fn merged(mut first: Value, second: Value) -> Value {
    if let (Some(first), Value::Object(second)) = (first.as_object_mut(), second) {
        first.extend(second);
    }
    first
}

/// The version of the built-in agent types.
pub(crate) fn version() -> semver::Version {
    semver::Version::new(1, 0, 0)
}
