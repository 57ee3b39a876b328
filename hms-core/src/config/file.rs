//! The file as it was read: values, and where in the text each of them stands.

use std::{collections::HashMap, fs, io, ops::Range, path::Path};

use serde_json::{Map, Number, Value};
use toml_edit::{Document, Item, TableLike};

use super::{
    Compiled,
    keys::properties,
    problem::{closest, describe},
};
use crate::error::{Error, ErrorKind, Result};

/// Something that is wrong with the file.
#[derive(Debug)]
pub(super) struct Problem {
    /// The byte where it stands; of a default or an override, none.
    at: Option<usize>,
    what: String,
    hint: Option<String>,
}

/// A parsed `config.toml`.
#[derive(Debug, Default)]
pub(super) struct File {
    text: String,
    values: Map<String, Value>,
    /// By path; of values, for errors about them.
    values_at: HashMap<Vec<String>, Range<usize>>,
    /// By path; of keys, for errors about their names and for origins.
    keys_at: HashMap<Vec<String>, Range<usize>>,
}

impl File {
    /// Reads and parses `path`; a missing file is an empty one.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(path, read_text(path)?)
    }

    pub(super) fn parse(path: &Path, text: String) -> Result<Self> {
        let document = Document::parse(text.as_str()).map_err(|e| {
            let at = e.span().map_or(text.len(), |span| span.start);
            let (line, column) = position(&text, at);
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            // The parser explains itself in several lines.
            let why = e.message().trim().replace('\n', ", ");
            Error::new(
                ErrorKind::InvalidConfig,
                format!("{}:{line}:{column}: {why}, in `{source}`", path.display()),
            )
        })?;
        let mut file = Self::default();
        file.values = file.table(document.as_table(), &mut Vec::new()).map_err(|(at, why)| {
            let (line, column) = position(&text, at);
            Error::new(ErrorKind::InvalidConfig, format!("{}:{line}:{column}: {why}", path.display()))
        })?;
        file.text = text;
        Ok(file)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The file's own values of a section.
    pub(super) fn section(&self, name: &str) -> Value {
        self.values.get(name).cloned().unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// The line of a key, from 1.
    pub(super) fn line_of(&self, path: &[String]) -> Option<usize> {
        self.keys_at.get(path).map(|span| position(&self.text, span.start).0)
    }

    /// An error if somebody changed the file on disk since: writing would undo their edit unannounced.
    pub(super) fn refuse_edited(&self, path: &Path) -> Result<()> {
        if read_text(path)? == self.text {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidState,
            format!("{}: the file was edited since it was read", path.display()),
        )
        .hint("reload the configuration, then try again"))
    }

    /// The sections and keys that no schema knows.
    pub(super) fn unknown_names(&self, sections: &[Compiled]) -> Vec<Problem> {
        let mut unknown = Vec::new();
        let names = || sections.iter().map(|s| s.section.name.as_str());
        for (name, value) in &self.values {
            match sections.iter().find(|s| s.section.name == *name) {
                Some(known) => {
                    self.unknown_keys(&known.section.schema, value, &mut vec![name.clone()], &mut unknown);
                }
                None => unknown.push(self.unknown(vec![name.clone()], "section", names())),
            }
        }
        unknown
    }

    /// One error out of all problems, in the order of the file, each with its place.
    pub(super) fn error(&self, path: &Path, mut problems: Vec<Problem>) -> Error {
        problems.sort_by_key(|p| p.at.unwrap_or(usize::MAX));
        let alone = problems.len() == 1;
        let line = |p: &Problem| {
            let place = p.at.map_or_else(String::new, |at| {
                let (line, column) = position(&self.text, at);
                format!(":{line}:{column}")
            });
            let near = p.hint.as_ref().filter(|_| !alone).map(|h| format!(" ({h})")).unwrap_or_default();
            format!("{}{place}: {}{near}", path.display(), p.what)
        };
        let message = problems.iter().map(line).collect::<Vec<_>>().join("\n");
        let hint = problems.pop().and_then(|p| p.hint).filter(|_| alone);
        Error { kind: ErrorKind::InvalidConfig, message, hint }
    }

    fn unknown_keys(
        &self,
        schema: &Value,
        value: &Value,
        path: &mut Vec<String>,
        unknown: &mut Vec<Problem>,
    ) {
        let (Some(known), Value::Object(object)) = (properties(schema), value) else { return };
        let open = schema.get("additionalProperties").is_some_and(|other| *other != Value::Bool(false));
        for (name, value) in object {
            path.push(name.clone());
            match known.get(name) {
                Some(property) => self.unknown_keys(property, value, path, unknown),
                None if open => {}
                None => unknown.push(self.unknown(path.clone(), "key", known.keys().map(String::as_str))),
            }
            path.pop();
        }
    }

    fn unknown<'a>(&self, path: Vec<String>, what: &str, known: impl Iterator<Item = &'a str>) -> Problem {
        let at = self.keys_at.get(&path).map(|span| span.start);
        let near = path.last().and_then(|name| closest(name, known));
        Problem {
            at,
            what: format!("unknown {what} `{}`", path.join(".")),
            hint: near.map(|near| format!("did you mean `{near}`?")),
        }
    }

    /// The problems of `value`, a section with its defaults. With `names_told`, those of unknown names are
    /// left out: they have been found with their own places.
    pub(super) fn problems(
        &self,
        names_told: bool,
        section: &str,
        validator: &jsonschema::Validator,
        value: &Value,
    ) -> Vec<Problem> {
        let problem = |e: jsonschema::ValidationError<'_>| {
            let of_names =
                matches!(e.kind(), jsonschema::error::ValidationErrorKind::AdditionalProperties { .. });
            if of_names && names_told {
                return None;
            }
            let pointer = e.instance_path().to_string();
            let key: Vec<String> =
                std::iter::once(section.to_owned()).chain(pointer.split('/').skip(1).map(unescape)).collect();
            let what = format!("{}: {}", key.join("."), describe(&e));
            Some(Problem { at: self.place(&key), what, hint: None })
        };
        validator.iter_errors(value).filter_map(problem).collect()
    }

    /// Where `path`, or the nearest thing around it, stands.
    fn place(&self, path: &[String]) -> Option<usize> {
        (1..=path.len()).rev().find_map(|len| {
            let part = &path[..len];
            self.values_at.get(part).or_else(|| self.keys_at.get(part)).map(|span| span.start)
        })
    }

    fn table(&mut self, table: &dyn TableLike, path: &mut Vec<String>) -> Parsed<Map<String, Value>> {
        let mut values = Map::new();
        for (name, item) in table.iter() {
            path.push(name.to_owned());
            let key_span = table.key(name).and_then(toml_edit::Key::span);
            if let Some(span) = key_span.or_else(|| item.span()) {
                self.keys_at.insert(path.clone(), span);
            }
            let value = self.item(item, path)?;
            path.pop();
            values.insert(name.to_owned(), value);
        }
        Ok(values)
    }

    fn item(&mut self, item: &Item, path: &mut Vec<String>) -> Parsed<Value> {
        // A table's span is its header's, which its key tells as well.
        match item {
            Item::None => Ok(Value::Null),
            Item::Table(table) => self.table(table, path).map(Value::Object),
            Item::ArrayOfTables(tables) => {
                let mut values = Vec::new();
                for (n, table) in tables.iter().enumerate() {
                    path.push(n.to_string());
                    values.push(Value::Object(self.table(table, path)?));
                    path.pop();
                }
                Ok(Value::Array(values))
            }
            Item::Value(value) => self.value(value, path),
        }
    }

    fn value(&mut self, value: &toml_edit::Value, path: &mut Vec<String>) -> Parsed<Value> {
        if let Some(span) = value.span() {
            self.values_at.insert(path.clone(), span);
        }
        match value {
            toml_edit::Value::InlineTable(table) => self.table(table, path).map(Value::Object),
            toml_edit::Value::Array(array) => {
                let mut values = Vec::new();
                for (n, value) in array.iter().enumerate() {
                    path.push(n.to_string());
                    values.push(self.value(value, path)?);
                    path.pop();
                }
                Ok(Value::Array(values))
            }
            scalar => from_toml(scalar).map_err(|why| (scalar.span().map_or(0, |span| span.start), why)),
        }
    }
}

/// A value, or where it is wrong and why.
type Parsed<T> = std::result::Result<T, (usize, String)>;

/// TOML as JSON; what JSON lacks is a text (times) or an error (infinity).
pub(super) fn from_toml(value: &toml_edit::Value) -> std::result::Result<Value, String> {
    use toml_edit::Value::{Array, Boolean, Datetime, Float, InlineTable, Integer, String};
    Ok(match value {
        String(text) => Value::String(text.value().clone()),
        Integer(number) => Value::from(*number.value()),
        Float(number) => Number::from_f64(*number.value())
            .map(Value::Number)
            .ok_or_else(|| format!("`{}` is not a finite number", number.value()))?,
        Boolean(flag) => Value::Bool(*flag.value()),
        Datetime(time) => Value::String(time.value().to_string()),
        Array(array) => Value::Array(array.iter().map(from_toml).collect::<std::result::Result<_, _>>()?),
        InlineTable(table) => {
            let pairs = table.iter().map(|(name, value)| Ok((name.to_owned(), from_toml(value)?)));
            Value::Object(pairs.collect::<std::result::Result<_, std::string::String>>()?)
        }
    })
}

fn read_text(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            Error::new(ErrorKind::InvalidConfig, format!("{}:{line}: not UTF-8 text", path.display()))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::io(format!("cannot read {}", path.display()), &e)),
    }
}

/// Line and column of a byte, in characters, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// A token of a JSON pointer as it was.
fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}
