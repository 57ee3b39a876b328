//! Changing the file: comments and order stay, and it is replaced in one step or not at all.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde_json::Value;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, value};

use crate::error::{Error, ErrorKind, Result};

/// `text` with `path` set to `new`.
pub(super) fn set(text: &str, path: &[String], new: &Value) -> Result<String> {
    let mut document = parse(text)?;
    let Some((last, way)) = path.split_last() else { return Ok(text.to_owned()) };
    let mut at: &mut dyn TableLike = document.as_table_mut();
    for (depth, name) in way.iter().enumerate() {
        let found = at.entry(name).or_insert_with(|| {
            let mut table = Table::new();
            // `[a.b]` needs no `[a]` above it.
            table.set_implicit(depth + 1 < way.len());
            Item::Table(table)
        });
        at = found.as_table_like_mut().ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("`{}` is not a table", way[..=depth].join(".")))
        })?;
    }
    let mut new = to_toml(new)?;
    match at.get_mut(last) {
        Some(Item::Value(old)) => {
            // What surrounds the old value, a comment behind it included.
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        _ => {
            at.insert(last, value(new));
        }
    }
    Ok(document.to_string())
}

/// `text` without `path`, and without the tables that are empty then and say nothing else.
pub(super) fn unset(text: &str, path: &[String]) -> Result<String> {
    let mut document = parse(text)?;
    remove(document.as_table_mut(), path);
    Ok(document.to_string())
}

fn remove(at: &mut dyn TableLike, path: &[String]) {
    match path {
        [] => {}
        [last] => {
            at.remove(last);
        }
        [name, rest @ ..] => {
            let Some(inner) = at.get_mut(name) else { return };
            let Some(table) = inner.as_table_like_mut() else { return };
            let was_empty = table.is_empty();
            remove(table, rest);
            if !was_empty && table.is_empty() && !is_explained(inner) {
                at.remove(name);
            }
        }
    }
}

/// Whether a comment belongs to a table: somebody wrote it, and may want it there.
fn is_explained(item: &Item) -> bool {
    let Item::Table(table) = item else { return false };
    let has_comment = |raw: Option<&toml_edit::RawString>| {
        raw.and_then(|raw| raw.as_str()).is_some_and(|text| text.contains('#'))
    };
    has_comment(table.decor().prefix()) || has_comment(table.decor().suffix())
}

/// Replaces the file at `path`, for its owner alone, durably. A link stays a link.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = target.as_os_str().to_owned();
    name.push(".new");
    let fresh = Path::new(&name);
    replace(&target, fresh, text).map_err(|e| {
        let _ = fs::remove_file(fresh);
        Error::io(format!("cannot write {}", path.display()), &e)
    })
}

fn replace(target: &Path, fresh: &Path, text: &str) -> io::Result<()> {
    // One host owns the home: a file of this name is what a killed one left.
    match fs::remove_file(fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(fresh, target)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

fn parse(text: &str) -> Result<DocumentMut> {
    // It was parsed when it was read.
    text.parse().map_err(|e| Error::internal(format!("the configuration does not parse again: {e}")))
}

fn to_toml(json: &Value) -> Result<toml_edit::Value> {
    Ok(match json {
        Value::Null => {
            return Err(Error::new(ErrorKind::InvalidArgument, "TOML has no null"));
        }
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(float)) if !number.is_u64() => float.into(),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("{number} is too large for TOML"),
                ));
            }
        },
        Value::Array(items) => {
            let items = items.iter().map(to_toml).collect::<Result<Array>>()?;
            toml_edit::Value::Array(items)
        }
        Value::Object(fields) => {
            let mut table = InlineTable::new();
            for (name, field) in fields {
                table.insert(name, to_toml(field)?);
            }
            toml_edit::Value::InlineTable(table)
        }
    })
}
