//! JSON Schema: compiled validators whose errors name the argument or key, and defaults filled in.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

/// A compiled schema that can say what is wrong with a value, and where.
#[derive(Debug)]
pub struct Schema {
    raw: Value,
    validator: jsonschema::Validator,
}

impl Schema {
    /// Compiles `raw`. An invalid schema is its author's mistake and an error.
    pub fn compile(raw: &Value) -> Result<Self> {
        let validator = crate::config::validator(raw)?;
        Ok(Self { raw: raw.clone(), validator })
    }

    /// The schema as written.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// All problems of `value`, each as (dotted path, what is wrong).
    pub fn problems(&self, value: &Value) -> Vec<(String, String)> {
        self.validator
            .iter_errors(value)
            .map(|e| (dotted(&e.instance_path().to_string()), crate::config::describe(&e)))
            .collect()
    }

    /// Fills defaults into `value`, then validates it. `what` names the thing in the error.
    pub fn check(&self, what: &str, kind: ErrorKind, value: &mut Value) -> Result<()> {
        fill_defaults(&self.raw, value);
        let problems = self.problems(value);
        if problems.is_empty() {
            return Ok(());
        }
        let text = problems
            .iter()
            .map(
                |(path, problem)| {
                    if path.is_empty() { problem.clone() } else { format!("`{path}`: {problem}") }
                },
            )
            .collect::<Vec<_>>()
            .join("; ");
        Err(Error::new(kind, format!("{what}: {text}")))
    }
}

/// A schema that is compiled when it is first needed: describing a system must be quick.
#[derive(Debug)]
pub struct LazySchema {
    raw: Value,
    compiled: OnceLock<Result<Schema>>,
}

impl LazySchema {
    /// Keeps `raw` for later.
    pub fn new(raw: Value) -> Self {
        Self { raw, compiled: OnceLock::new() }
    }

    /// The compiled schema, or what is wrong with it.
    pub fn get(&self) -> Result<&Schema> {
        self.compiled.get_or_init(|| Schema::compile(&self.raw)).as_ref().map_err(Clone::clone)
    }
}

/// Writes the `default` of each absent property into `value`, deeply through objects that exist.
pub fn fill_defaults(schema: &Value, value: &mut Value) {
    let (Some(properties), Value::Object(object)) =
        (schema.get("properties").and_then(Value::as_object), value)
    else {
        return;
    };
    for (key, property) in properties {
        match object.get_mut(key) {
            Some(present) => fill_defaults(property, present),
            None => {
                if let Some(default) = property.get("default") {
                    object.insert(key.clone(), default.clone());
                }
            }
        }
    }
}

/// Hides what the schema marks as secret (`"x-secret": true`): texts, and the values of objects.
pub fn redact(schema: &Value, value: &mut Value) {
    if schema.get("x-secret").and_then(Value::as_bool) == Some(true) {
        return hide(value);
    }
    if let (Some(properties), Value::Object(object)) =
        (schema.get("properties").and_then(Value::as_object), value)
    {
        for (key, property) in properties {
            if let Some(present) = object.get_mut(key) {
                redact(property, present);
            }
        }
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(object) => object.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null => {}
        Value::String(_) | Value::Number(_) | Value::Bool(_) => *value = "(hidden)".into(),
    }
}

/// An object schema with these properties, of which `required` must be there and no others may.
pub fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties);
    schema.insert("required".into(), required.iter().copied().map(Value::from).collect());
    schema.insert("additionalProperties".into(), false.into());
    Value::Object(schema)
}

fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}
