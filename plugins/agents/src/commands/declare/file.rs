//! A declaration as it was read: values, and where in the text each of them stands.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use hms_core::{Error, ErrorKind, Result, config::closest};
use serde_json::{Map, Number, Value};
use toml_edit::{Document, Item, TableLike};

/// A longer file is no declaration.
const LONGEST: u64 = 4 << 20;

/// The label that says which declaration an agent comes from.
pub(super) const LABEL: &str = "hms.project";

/// Something wrong with a file, and the byte where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) at: usize,
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into(), hint: None }
    }

    /// Adds what was probably meant, if something near was.
    pub(super) fn meant(mut self, near: Option<&str>) -> Self {
        self.hint = near.map(|near| format!("did you mean `{near}`?"));
        self
    }
}

/// A parsed declaration.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    text: String,
    /// The value of the label of its agents.
    pub(super) project: String,
    pub(super) agents: Vec<Declared>,
    /// By path from the top.
    places: HashMap<Vec<String>, usize>,
}

/// One `[agents.NAME]` table.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) keys: Map<String, Value>,
}

impl File {
    /// Reads and parses `path`, an absolute one. What is wrong at the top of the file is in the problems.
    pub(super) fn read(path: &Path) -> Result<(Self, Vec<Problem>)> {
        let text = read_text(path)?;
        Self::parse(path, text)
    }

    pub(super) fn parse(path: &Path, text: String) -> Result<(Self, Vec<Problem>)> {
        let mut file = Self {
            path: path.to_owned(),
            text: String::new(),
            project: unnamed_project(path),
            agents: Vec::new(),
            places: HashMap::new(),
        };
        let document = match Document::parse(text.as_str()) {
            Ok(document) => document,
            Err(e) => {
                let at = e.span().map_or(text.len(), |span| span.start);
                // The parser explains itself in several lines.
                let why = e.message().trim().replace('\n', ", ");
                file.text.clone_from(&text);
                return Err(file.error(vec![Problem::new(at, why)]));
            }
        };
        let mut problems = Vec::new();
        let values = file.table(document.as_table(), &mut Vec::new(), &mut problems);
        drop(document);
        file.text = text;
        file.take_top(values, &mut problems);
        Ok((file, problems))
    }

    /// Where `path`, or the nearest thing around it, stands.
    pub(super) fn place(&self, path: &[&str]) -> usize {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        (1..=path.len()).rev().find_map(|len| self.places.get(&path[..len])).copied().unwrap_or(0)
    }

    /// Whether something stands exactly at `path`.
    pub(super) fn has(&self, path: &[&str]) -> bool {
        self.places.contains_key(&path.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// One error out of all problems, in the order of the file: `hms.toml:3:1: what` for each.
    pub(super) fn error(&self, mut problems: Vec<Problem>) -> Error {
        problems.sort_by_key(|p| p.at);
        problems.dedup();
        let hint = problems.iter().find_map(|p| p.hint.clone()).filter(|_| problems.len() == 1);
        let line = |p: &Problem| {
            let (line, column) = position(&self.text, p.at);
            let near =
                p.hint.as_ref().filter(|_| hint.is_none()).map(|h| format!(" ({h})")).unwrap_or_default();
            format!("{}:{line}:{column}: {}{near}", self.path.display(), p.what)
        };
        let message = problems.iter().map(line).collect::<Vec<_>>().join("\n");
        Error { kind: ErrorKind::InvalidConfig, message, hint }
    }

    fn take_top(&mut self, values: Map<String, Value>, problems: &mut Vec<Problem>) {
        for (name, value) in values {
            let at = self.place(&[&name]);
            match (name.as_str(), value) {
                ("project", Value::Object(project)) => self.take_project(&project, problems),
                ("agents", Value::Object(agents)) => {
                    for (name, keys) in agents {
                        match keys {
                            Value::Object(keys) => self.agents.push(Declared { name, keys }),
                            _ => problems.push(Problem::new(
                                self.place(&["agents", &name]),
                                format!("agents.{name}: expected a table, `[agents.{name}]`"),
                            )),
                        }
                    }
                }
                ("project" | "agents", _) => {
                    problems.push(Problem::new(at, format!("{name}: expected a table")))
                }
                _ => {
                    let near = closest(&name, ["project", "agents"]);
                    let problem = Problem::new(at, format!("unknown key `{name}`"));
                    problems.push(problem.meant(near));
                }
            }
        }
    }

    fn take_project(&mut self, project: &Map<String, Value>, problems: &mut Vec<Problem>) {
        for (key, value) in project {
            let at = self.place(&["project", key]);
            match (key.as_str(), value) {
                ("name", Value::String(name)) => match check_project(name) {
                    Ok(()) => self.project.clone_from(name),
                    Err(e) => problems.push(Problem::new(at, e.message)),
                },
                ("name", _) => problems.push(Problem::new(at, "project.name: expected a string")),
                _ => {
                    let problem = Problem::new(at, format!("unknown key `project.{key}`"));
                    problems.push(problem.meant(closest(key, ["name"])));
                }
            }
        }
    }

    fn table(
        &mut self,
        table: &dyn TableLike,
        path: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, item) in table.iter() {
            path.push(name.to_owned());
            let key = table.key(name).and_then(toml_edit::Key::span);
            if let Some(span) = key.or_else(|| item.span()) {
                self.places.insert(path.clone(), span.start);
            }
            let value = self.item(item, path, problems);
            path.pop();
            values.insert(name.to_owned(), value);
        }
        values
    }

    fn item(&mut self, item: &Item, path: &mut Vec<String>, problems: &mut Vec<Problem>) -> Value {
        match item {
            Item::None => Value::Null,
            Item::Table(table) => Value::Object(self.table(table, path, problems)),
            Item::Value(value) => self.value(value, path, problems),
            Item::ArrayOfTables(tables) => {
                let mut values = Vec::new();
                for (n, table) in tables.iter().enumerate() {
                    path.push(n.to_string());
                    values.push(Value::Object(self.table(table, path, problems)));
                    path.pop();
                }
                Value::Array(values)
            }
        }
    }

    fn value(
        &mut self,
        value: &toml_edit::Value,
        path: &mut Vec<String>,
        problems: &mut Vec<Problem>,
    ) -> Value {
        use toml_edit::Value as Toml;
        let at = value.span().map(|span| span.start);
        if let Some(at) = at {
            // A key says more than its value: elements of arrays have none.
            self.places.entry(path.clone()).or_insert(at);
        }
        match value {
            Toml::String(text) => Value::String(text.value().clone()),
            Toml::Integer(number) => Value::from(*number.value()),
            Toml::Boolean(flag) => Value::Bool(*flag.value()),
            Toml::Datetime(time) => Value::String(time.value().to_string()),
            Toml::Float(number) => {
                Number::from_f64(*number.value()).map(Value::Number).unwrap_or_else(|| {
                    let what = format!("{}: `{}` is not a finite number", path.join("."), number.value());
                    problems.push(Problem::new(at.unwrap_or(0), what));
                    Value::Null
                })
            }
            Toml::InlineTable(table) => Value::Object(self.table(table, path, problems)),
            Toml::Array(array) => {
                let mut values = Vec::new();
                for (n, value) in array.iter().enumerate() {
                    path.push(n.to_string());
                    values.push(self.value(value, path, problems));
                    path.pop();
                }
                Value::Array(values)
            }
        }
    }
}

/// Checks the name of a project: it becomes the value of a label and is typed by people.
pub(super) fn check_project(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) || name.starts_with("file-") {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "`{name}` is not a project's name: use 1 to 63 of a-z 0-9 - _ . and do not begin with `file-`"
            ),
        ));
    }
    Ok(())
}

/// The project of a file that names none: the file itself, by where it really is. It may be gone: then its
/// folder says where it was.
pub(super) fn unnamed_project(path: &Path) -> String {
    let real = path
        .canonicalize()
        .ok()
        .or_else(|| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)));
    let real = real.unwrap_or_else(|| path.to_owned());
    // FNV-1a: the label is kept, so the hash must be the same in every build.
    let hash = real.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("file-{hash:016x}")
}

fn read_text(path: &Path) -> Result<String> {
    let place = path.display();
    let bad = |what: &str| Error::new(ErrorKind::InvalidConfig, format!("{place}: {what}"));
    let meta = fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{place}: no such file"))
            .hint("name the file that declares the agents: `{program} up FILE`"),
        _ => Error::io(&place, &e),
    })?;
    if !meta.is_file() {
        return Err(bad("not a file"));
    }
    if meta.len() > LONGEST {
        return Err(bad("longer than 4 MiB"));
    }
    let bytes = fs::read(path).map_err(|e| Error::io(&place, &e))?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(ErrorKind::InvalidConfig, format!("{place}:{line}: not UTF-8 text"))
    })
}

/// Line and column of a byte, in characters, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}
