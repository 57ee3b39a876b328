//! What is wrong with a value, in words; and what was probably meant.

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use crate::{
    bytesize, duration,
    error::{Error, ErrorKind, Result},
};

/// Compiles a schema as all of HMS does: formats are checked, among them `hms-duration` (`500ms`, `2s`, `1m`,
/// `1h`), `hms-interval` (a duration of at least 100 ms) and `hms-bytes` (`64MB`, `1GiB`), and nothing is
/// fetched.
///
/// # Errors
/// `invalid-argument` for what is not a JSON Schema.
pub fn validator(schema: &Value) -> Result<Validator> {
    jsonschema::options()
        .with_format("hms-duration", |text: &str| duration::parse(text).is_ok())
        .with_format("hms-interval", |text: &str| duration::parse(text).is_ok_and(|d| d.as_millis() >= 100))
        .with_format("hms-bytes", |text: &str| bytesize::parse(text).is_ok())
        .should_validate_formats(true)
        .build(schema)
        .map_err(|e| {
            let place = e.instance_path().to_string();
            Error::new(ErrorKind::InvalidArgument, format!("invalid JSON Schema at `{place}`: {e}"))
        })
}

/// A violation, without its place: `expected integer, found string "x"`.
#[must_use]
pub fn describe(e: &ValidationError<'_>) -> String {
    match e.kind() {
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                jsonschema::error::TypeKind::Single(one) => one.to_string(),
                jsonschema::error::TypeKind::Multiple(several) => {
                    several.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" or ")
                }
            };
            format!("expected {expected}, found {}", found(e.instance()))
        }
        ValidationErrorKind::Required { property } => {
            format!("`{}` is missing", property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            format!("unknown key `{}`", unexpected.join("`, `"))
        }
        ValidationErrorKind::Format { format } => {
            let text = e.instance().as_str().unwrap_or_default();
            let explained = match format.as_str() {
                "hms-duration" => duration::parse(text).err(),
                "hms-interval" => duration::parse(text).err().or_else(|| {
                    Some(Error::new(ErrorKind::InvalidArgument, format!("`{text}` is shorter than 100ms")))
                }),
                "hms-bytes" => bytesize::parse(text).err(),
                _ => None,
            };
            explained.map_or_else(|| e.to_string(), |e| e.to_string())
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let mut ways: Vec<String> = context.iter().filter_map(|way| way.first()).map(describe).collect();
            ways.dedup();
            if ways.is_empty() { e.to_string() } else { ways.join(", or ") }
        }
        _ => e.to_string(),
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) => format!("boolean {value}"),
        Value::Number(_) => format!("number {value}"),
        Value::String(_) => format!("string {value}"),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "a table".into(),
    }
}

/// Which of `known` was probably meant by `word`, if any is near enough.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
