//! The leaves of a section's schema: what can be shown and set.

use serde_json::{Map, Value};

use super::file::from_toml;

/// A leaf: its path below the section and what the schema says of it.
#[derive(Debug)]
pub(super) struct Key {
    path: Vec<String>,
    pub(super) default: Value,
    pub(super) description: String,
    pub(super) live: bool,
    /// The only type it takes is a text.
    text: bool,
}

/// The leaves of `schema`, in its order.
pub(super) fn leaves(schema: &Value) -> Vec<Key> {
    let mut found = Vec::new();
    collect(schema, schema.get("default"), &mut Vec::new(), &mut found);
    found
}

/// `default` is what an outer object's default says of this one: it stands in for a missing inner default.
fn collect(schema: &Value, default: Option<&Value>, path: &mut Vec<String>, found: &mut Vec<Key>) {
    let Some(properties) = properties(schema) else { return };
    for (name, property) in properties {
        let default = property.get("default").or_else(|| default?.get(name));
        path.push(name.clone());
        if properties_of_object(property) {
            collect(property, default, path, found);
        } else {
            found.push(Key {
                path: path.clone(),
                default: default.cloned().unwrap_or(Value::Null),
                description: property
                    .get("description")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                live: property.get("x-live").and_then(Value::as_bool).unwrap_or(false),
                text: property.get("type").and_then(Value::as_str) == Some("string"),
            });
        }
        path.pop();
    }
}

pub(super) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn properties_of_object(schema: &Value) -> bool {
    properties(schema).is_some_and(|properties| !properties.is_empty())
}

impl Key {
    pub(super) fn dotted(&self, section: &str) -> String {
        format!("{section}.{}", self.path.join("."))
    }

    pub(super) fn full_path(&self, section: &str) -> Vec<String> {
        std::iter::once(section).chain(self.path.iter().map(String::as_str)).map(str::to_owned).collect()
    }

    /// Its value in `sections`; null when there is none.
    pub(super) fn value_in(&self, sections: &Map<String, Value>, section: &str) -> Value {
        let found = sections.get(section).and_then(|value| self.path.iter().try_fold(value, |v, k| v.get(k)));
        found.cloned().unwrap_or(Value::Null)
    }

    /// Puts `value` in its place within `section`. Where the file has something that is no table on the way,
    /// it is left for validation to refuse.
    pub(super) fn put(&self, section: &mut Value, value: Value) {
        let Some((last, way)) = self.path.split_last() else { return };
        let mut at = section;
        for name in way {
            let Value::Object(object) = at else { return };
            at = object.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        }
        if let Value::Object(object) = at {
            object.insert(last.clone(), value);
        }
    }

    /// Puts the default where there is no value.
    pub(super) fn fill(&self, section: &mut Value) {
        let present = self.path.iter().try_fold(&*section, |value, name| value.get(name)).is_some();
        if !present {
            self.put(section, self.default.clone());
        }
    }

    /// What a typed text may mean, most likely first.
    pub(super) fn candidates(&self, text: &str) -> Vec<Value> {
        let raw = Value::String(text.to_owned());
        if self.text {
            return vec![raw];
        }
        let toml = text.parse::<toml_edit::Value>().ok().and_then(|value| from_toml(&value).ok());
        let json = serde_json::from_str(text).ok().filter(|value: &Value| !value.is_null());
        toml.into_iter().chain(json).chain([raw]).collect()
    }
}
