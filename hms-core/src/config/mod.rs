//! Configuration: one `config.toml` per home, whose sections belong to the kernel and the organs.
//!
//! Each component registers a [`Section`]: a name and a JSON Schema whose properties carry defaults,
//! descriptions and, where a change applies without a restart, `"x-live": true`. A *key* is a dotted path
//! to a leaf of such a schema, `healing.budget`; an object with `properties` is not a leaf.
//!
//! A value comes from the first of: an override (a command-line option, an environment variable), the file,
//! the schema's default. Whatever is written is validated as a whole before anything changes, and the file
//! keeps its comments and its order. Who announces a change is the kernel, from the [`Change`] it gets back.

mod edit;
mod file;
mod keys;
mod problem;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

pub use self::problem::{closest, describe, validator};
use self::{file::File, keys::Key};
use crate::error::{Error, ErrorKind, Result};

/// The part of the configuration that a component owns.
#[derive(Debug, Clone)]
pub struct Section {
    /// The table in the file, such as `healing`.
    pub name: String,
    /// A JSON Schema of type `object`.
    pub schema: Value,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The schema.
    Default,
    /// The file, at this line (from 1).
    File(usize),
    /// An option or variable of this run.
    Override,
}

/// A key, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The dotted path.
    pub key: String,
    /// The value in force; null when there is neither value nor default.
    pub value: Value,
    /// The schema's default; null when it has none.
    pub default: Value,
    /// Where the value comes from.
    pub origin: Origin,
    /// What it means.
    pub description: String,
    /// Whether a change applies at once; otherwise at the next start.
    pub live: bool,
}

/// A key whose value in force changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The dotted path.
    pub key: String,
    /// The value before; null when there was none.
    pub old: Value,
    /// The value after; null when there is none.
    pub new: Value,
    /// Whether it applies at once; otherwise at the next start.
    pub live: bool,
}

/// The configuration of a home.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    file: File,
    overrides: BTreeMap<String, Value>,
    sections: Vec<Compiled>,
    /// By section, with defaults and overrides.
    values: Map<String, Value>,
}

#[derive(Debug)]
struct Compiled {
    section: Section,
    validator: jsonschema::Validator,
    keys: Vec<Key>,
}

impl Config {
    /// Reads and validates the file at `path`; a missing file is an empty one.
    ///
    /// # Errors
    /// `invalid-config` with file, line and column; `io` or `permission-denied` when it cannot be read; for a
    /// section whose schema or default is wrong, `internal`.
    pub fn load(path: impl Into<PathBuf>, sections: Vec<Section>) -> Result<Self> {
        let path = path.into();
        let sections = sections.into_iter().map(Compiled::new).collect::<Result<Vec<_>>>()?;
        let file = File::read(&path)?;
        let mut config = Self { path, file, overrides: BTreeMap::new(), sections, values: Map::new() };
        config.values = config.resolve(&config.file, &config.overrides)?;
        Ok(config)
    }

    /// Where the file is, or would be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A section with its defaults; `None` when no component registered it.
    #[must_use]
    pub fn get(&self, section: &str) -> Option<&Value> {
        self.values.get(section)
    }

    /// A section as its owner's type.
    ///
    /// # Errors
    /// `not-found`; `internal` when the type does not take what the schema allows.
    pub fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T> {
        let value = self.get(section).ok_or_else(|| Error::not_found("configuration section", section))?;
        T::deserialize(value).map_err(|e| {
            Error::internal(format!("configuration section `{section}` does not fit its type: {e}"))
        })
    }

    /// The value of one key; null when it has neither value nor default.
    ///
    /// # Errors
    /// `invalid-argument` for an unknown key, with a suggestion.
    pub fn value(&self, key: &str) -> Result<Value> {
        let (section, found) = self.find(key)?;
        Ok(self.in_force(&section.section.name, found))
    }

    /// Where the value of a key comes from.
    ///
    /// # Errors
    /// `invalid-argument` for an unknown key, with a suggestion.
    pub fn origin(&self, key: &str) -> Result<Origin> {
        let (section, found) = self.find(key)?;
        Ok(self.source(&section.section.name, found))
    }

    /// Every key, in the order of the sections and their schemas.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        self.keys()
            .map(|(section, key)| Entry {
                key: key.dotted(section),
                value: self.in_force(section, key),
                default: key.default.clone(),
                origin: self.source(section, key),
                description: key.description.clone(),
                live: key.live,
            })
            .collect()
    }

    /// Writes `text` as the value of `key`: as it is for a text, else as TOML or JSON. Nothing is written
    /// unless the whole configuration is valid with it.
    ///
    /// # Errors
    /// `invalid-argument` for an unknown key or a value that does not fit; `invalid-state` when the file was
    /// edited since it was read (see [`Config::reload`]); `io`, `permission-denied`, `disk-full`.
    pub fn set(&mut self, key: &str, text: &str) -> Result<Change> {
        let (section, found) = self.find(key)?;
        let path = found.full_path(&section.section.name);
        self.file.refuse_edited(&self.path)?;
        let mut refusal = None;
        for value in found.candidates(text) {
            let edited = edit::set(self.file.text(), &path, &value)?;
            match self.accept(&edited) {
                Ok((file, values)) => return self.commit(key, file, values),
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        let why = refusal.map_or_else(|| "no value".into(), |e| without_place(&e.message, key));
        Err(Error::new(ErrorKind::InvalidArgument, format!("{key}: {why}")))
    }

    /// Removes `key` from the file, so that its default is in force again.
    ///
    /// # Errors
    /// As [`Config::set`]; removing what is not there changes nothing and is no error.
    pub fn unset(&mut self, key: &str) -> Result<Change> {
        let (section, found) = self.find(key)?;
        let path = found.full_path(&section.section.name);
        self.file.refuse_edited(&self.path)?;
        let edited = edit::unset(self.file.text(), &path)?;
        let (file, values) = self.accept(&edited)?;
        self.commit(key, file, values)
    }

    /// Puts a value above the file's for as long as this configuration lives.
    ///
    /// # Errors
    /// `invalid-argument` for an unknown key or a value that does not fit.
    pub fn set_override(&mut self, key: &str, text: &str) -> Result<Change> {
        let (_, found) = self.find(key)?;
        let mut refusal = None;
        for value in found.candidates(text) {
            let mut overrides = self.overrides.clone();
            overrides.insert(key.to_owned(), value);
            match self.resolve(&self.file, &overrides) {
                Ok(values) => {
                    self.overrides = overrides;
                    return self.replace_values(key, values);
                }
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        let why = refusal.map_or_else(|| "no value".into(), |e| without_place(&e.message, key));
        Err(Error::new(ErrorKind::InvalidArgument, format!("{key}: {why}")))
    }

    /// Reads the file again; says which values changed.
    ///
    /// # Errors
    /// As [`Config::load`]; then what was in force stays.
    pub fn reload(&mut self) -> Result<Vec<Change>> {
        let file = File::read(&self.path)?;
        let values = self.resolve(&file, &self.overrides)?;
        let before = std::mem::replace(&mut self.values, values);
        self.file = file;
        let changes = self.keys().filter_map(|(section, key)| {
            let (old, new) = (key.value_in(&before, section), self.in_force(section, key));
            (old != new).then(|| Change { key: key.dotted(section), old, new, live: key.live })
        });
        Ok(changes.collect())
    }

    fn keys(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.sections.iter().flat_map(|s| s.keys.iter().map(|key| (s.section.name.as_str(), key)))
    }

    fn find(&self, key: &str) -> Result<(&Compiled, &Key)> {
        let found = self.sections.iter().find_map(|section| {
            let known = section.keys.iter().find(|known| known.dotted(&section.section.name) == key)?;
            Some((section, known))
        });
        found.ok_or_else(|| {
            let known: Vec<String> = self.keys().map(|(section, key)| key.dotted(section)).collect();
            let e = Error::new(ErrorKind::InvalidArgument, format!("no configuration key `{key}`"));
            match closest(key, known.iter().map(String::as_str)) {
                Some(near) => e.hint(format!("did you mean `{near}`?")),
                None => e.hint("`{program} system configure` lists the keys"),
            }
        })
    }

    fn in_force(&self, section: &str, key: &Key) -> Value {
        key.value_in(&self.values, section)
    }

    fn source(&self, section: &str, key: &Key) -> Origin {
        if self.overrides.contains_key(&key.dotted(section)) {
            return Origin::Override;
        }
        match self.file.line_of(&key.full_path(section)) {
            Some(line) => Origin::File(line),
            None => Origin::Default,
        }
    }

    /// Parses and validates what the file would be.
    fn accept(&self, text: &str) -> Result<(File, Map<String, Value>)> {
        let file = File::parse(&self.path, text.to_owned())?;
        let values = self.resolve(&file, &self.overrides)?;
        Ok((file, values))
    }

    /// Writes the file, then lets it take effect.
    fn commit(&mut self, key: &str, file: File, values: Map<String, Value>) -> Result<Change> {
        if file.text() != self.file.text() {
            edit::write(&self.path, file.text())?;
        }
        self.file = file;
        self.replace_values(key, values)
    }

    fn replace_values(&mut self, key: &str, values: Map<String, Value>) -> Result<Change> {
        let old = self.value(key)?;
        self.values = values;
        let (_, found) = self.find(key)?;
        Ok(Change { key: key.to_owned(), old, new: self.value(key)?, live: found.live })
    }

    /// Defaults, file and overrides together, validated. An error tells of all problems.
    fn resolve(&self, file: &File, overrides: &BTreeMap<String, Value>) -> Result<Map<String, Value>> {
        let mut problems = file.unknown_names(&self.sections);
        let names_told = !problems.is_empty();
        let mut values = Map::new();
        for compiled in &self.sections {
            let name = &compiled.section.name;
            let mut value = file.section(name);
            for key in &compiled.keys {
                match overrides.get(&key.dotted(name)) {
                    Some(over) => key.put(&mut value, over.clone()),
                    None if !key.default.is_null() => key.fill(&mut value),
                    None => {}
                }
            }
            problems.extend(file.problems(names_told, name, &compiled.validator, &value));
            values.insert(name.clone(), value);
        }
        if problems.is_empty() { Ok(values) } else { Err(file.error(&self.path, problems)) }
    }
}

impl Compiled {
    fn new(section: Section) -> Result<Self> {
        let validator = validator(&section.schema)
            .map_err(|e| Error::internal(e.message).context(format!("section `{}`", section.name)))?;
        let keys = keys::leaves(&section.schema);
        Ok(Self { section, validator, keys })
    }
}

/// A value that was typed has no place in the file yet: the error is about the key alone.
fn without_place(message: &str, key: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    match first.split_once(&format!(" {key}: ")) {
        Some((_, why)) => why.to_owned(),
        None => first.to_owned(),
    }
}
