//! The JSON of the other clients: `mcpServers`, or `servers` in VS Code; with comments, as people write it.

use std::{borrow::Cow, ops::Range, path::Path, time::Duration};

use hms_core::Result;
use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{Object, ObjectProp, Value},
    common::Ranged,
    parse_to_ast,
};

use super::{Gap, How, Server, Splice, Stdio, line_start, malformed, newline};

/// A text as JSON writes it.
pub(super) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text with blanks in place of a byte order mark, so that every place in it stays where it is.
fn blank(whole: &str) -> Cow<'_, str> {
    match whole.strip_prefix('\u{feff}') {
        Some(rest) => Cow::Owned(format!("{}{rest}", " ".repeat('\u{feff}'.len_utf8()))),
        None => Cow::Borrowed(whole),
    }
}

fn range(value: &impl Ranged) -> Range<usize> {
    value.start()..value.end()
}

fn parse<'t>(file: &Path, whole: &'t str) -> Result<Option<Object<'t>>> {
    if whole.trim().is_empty() {
        return Ok(None);
    }
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(whole, &CollectOptions::default(), &options).map_err(|e| {
        let why = e.kind().to_string();
        malformed(file, whole, e.range().start, &why)
    })?;
    match parsed.value {
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(malformed(file, whole, other.start(), "this is not a JSON object")),
        None => Ok(None),
    }
}

fn get<'v, 't>(object: &'v Object<'t>, name: &str) -> Option<&'v ObjectProp<'t>> {
    // Of several with one name the last counts, as for every parser.
    object.properties.iter().rev().find(|property| property.name.as_str() == name)
}

fn object<'v, 't>(object: &'v Object<'t>, name: &str) -> Option<&'v Object<'t>> {
    match &get(object, name)?.value {
        Value::Object(inner) => Some(inner),
        _ => None,
    }
}

fn text<'v>(object: &'v Object<'_>, name: &str) -> Option<&'v str> {
    match &get(object, name)?.value {
        Value::StringLit(literal) => Some(&literal.value),
        _ => None,
    }
}

/// The servers that the file declares: for all projects, then those of single ones (`projects`).
pub(super) fn servers(file: &Path, whole: &str, root: &str) -> Result<Vec<Server>> {
    let whole = &*blank(whole);
    let Some(top) = parse(file, whole)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    if let Some(property) = get(&top, root) {
        let Value::Object(all) = &property.value else {
            return Err(malformed(
                file,
                whole,
                property.value.start(),
                &format!("`{root}` is not an object"),
            ));
        };
        collect(whole, "", all, &mut found);
    }
    for project in object(&top, "projects").into_iter().flat_map(|projects| &projects.properties) {
        if let Value::Object(settings) = &project.value
            && let Some(all) = object(settings, root)
        {
            collect(whole, project.name.as_str(), all, &mut found);
        }
    }
    Ok(found)
}

/// Where the values stand that may be secrets: those of variables and headers.
pub(super) fn secrets(file: &Path, whole: &str, root: &str) -> Result<Vec<Range<usize>>> {
    let whole = &*blank(whole);
    let Some(top) = parse(file, whole)? else { return Ok(Vec::new()) };
    let projects = object(&top, "projects").into_iter().flat_map(|projects| &projects.properties);
    let scopes = projects.filter_map(|project| project.value.as_object()).chain([&top]);
    let servers = scopes.filter_map(|scope| object(scope, root)).flat_map(|all| &all.properties);
    let settings = servers.filter_map(|server| server.value.as_object()).flat_map(|entry| &entry.properties);
    let kept = settings.filter(|property| super::SECRETS.contains(&property.name.as_str()));
    let values = kept.filter_map(|property| property.value.as_object()).flat_map(|all| &all.properties);
    Ok(values.map(|property| range(&property.value)).collect())
}

fn collect(whole: &str, scope: &str, all: &Object<'_>, found: &mut Vec<Server>) {
    for property in &all.properties {
        let how = match &property.value {
            Value::Object(entry) => how(whole, entry),
            _ => How::Unclear("it is not an object".into()),
        };
        found.push(Server { scope: scope.to_owned(), name: property.name.as_str().to_owned(), how });
    }
}

fn how(whole: &str, entry: &Object<'_>) -> How {
    for key in ["url", "serverUrl", "httpUrl"] {
        if let Some(url) = text(entry, key) {
            return How::Http(url.to_owned());
        }
    }
    match stdio(whole, entry) {
        Some(stdio) => How::Stdio(Box::new(stdio)),
        None => How::Unclear("it has neither `command` nor `url`, or `args` are not texts".into()),
    }
}

fn stdio(whole: &str, entry: &Object<'_>) -> Option<Stdio> {
    let command = get(entry, "command")?;
    let Value::StringLit(program) = &command.value else { return None };
    let args = match get(entry, "args") {
        None => None,
        Some(property) => {
            let Value::Array(list) = &property.value else { return None };
            let texts: Option<Vec<String>> = list
                .elements
                .iter()
                .map(|element| match element {
                    Value::StringLit(literal) => Some(literal.value.clone().into_owned()),
                    _ => None,
                })
                .collect();
            Some((texts?, range(property)))
        }
    };
    let args_at = get(entry, "args").map(|property| range(&property.value));
    let cut = args.as_ref().and_then(|(_, property)| {
        let between = whole.get(command.end()..property.start)?;
        (between.trim() == ",").then(|| command.end()..property.end)
    });
    Some(Stdio {
        command: program.value.clone().into_owned(),
        command_at: range(program),
        args: args.map(|(texts, _)| texts).unwrap_or_default(),
        args_at,
        gap: Gap { at: command.end(), before: before(whole, command, "args"), after: String::new() },
        cut,
        timeout: match get(entry, "timeout").map(|property| &property.value) {
            Some(Value::NumberLit(ms)) => {
                ms.value.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis)
            }
            _ => None,
        },
        enabled: !flag(entry, "disabled").unwrap_or(false),
        cwd: text(entry, "cwd").map(str::to_owned),
        path: object(entry, "env").and_then(|env| text(env, "PATH")).map(str::to_owned),
    })
}

fn flag(entry: &Object<'_>, name: &str) -> Option<bool> {
    match get(entry, name)?.value {
        Value::BooleanLit(ref literal) => Some(literal.value),
        _ => None,
    }
}

/// What comes before the value of a new property behind `neighbour`: on a line of its own if that one has its own.
fn before(whole: &str, neighbour: &ObjectProp<'_>, name: &str) -> String {
    let start = line_start(whole, neighbour.start());
    let indent = whole.get(start..neighbour.start()).unwrap_or_default();
    if start > 0 && indent.trim().is_empty() {
        format!(",{}{indent}{}: ", newline(whole), string(name))
    } else {
        format!(", {}: ", string(name))
    }
}

/// The splices that add a server for all projects, behind those that are there.
pub(super) fn add_server(
    file: &Path,
    whole: &str,
    root: &str,
    name: &str,
    entry: &serde_json::Value,
) -> Result<Vec<Splice>> {
    let whole = &*blank(whole);
    let nl = newline(whole);
    let Some(top) = parse(file, whole)? else {
        let all = serde_json::json!({root: {name: entry}});
        let text = serde_json::to_string_pretty(&all).unwrap_or_default();
        return Ok(vec![Splice { at: whole.len()..whole.len(), text: format!("{text}\n") }]);
    };
    let unit = unit(whole, &top);
    match get(&top, root).map(|property| &property.value) {
        Some(Value::Object(all)) => match get(all, name) {
            Some(property) => Ok(vec![Splice {
                at: range(&property.value),
                text: pretty(entry, &unit, indent_of(whole, property.start()), nl),
            }]),
            None => Ok(vec![insertion(whole, all, name, entry, &unit, nl)]),
        },
        Some(other) => Err(malformed(file, whole, other.start(), &format!("`{root}` is not an object"))),
        None => Ok(vec![insertion(whole, &top, root, &serde_json::json!({name: entry}), &unit, nl)]),
    }
}

/// The splices that remove a server of all projects; the object it is in goes too when it was the only one and its
/// object the last of the file, as [`add_server`] makes it.
pub(super) fn remove_server(file: &Path, whole: &str, root: &str, name: &str) -> Result<Vec<Splice>> {
    let whole = &*blank(whole);
    let Some(top) = parse(file, whole)? else { return Ok(Vec::new()) };
    let Some(all) = object(&top, root) else { return Ok(Vec::new()) };
    let Some(index) = all.properties.iter().rposition(|property| property.name.as_str() == name) else {
        return Ok(Vec::new());
    };
    let place = |object: &Object<'_>, index: usize| match index.checked_sub(1).map(|i| &object.properties[i])
    {
        // From behind the one before it, so that its comma goes and the next one's stays.
        Some(before) => before.end()..object.properties[index].end(),
        None => {
            let end = object.properties.get(1).map_or(object.properties[0].end(), ObjectProp::start);
            let start =
                if object.properties.len() > 1 { object.properties[0].start() } else { object.start() + 1 };
            let end = if object.properties.len() > 1 { end } else { object.end() - 1 };
            start..end
        }
    };
    Ok(vec![Splice { at: place(all, index), text: String::new() }])
}

/// A property behind the last one of `object`.
fn insertion(
    whole: &str,
    object: &Object<'_>,
    name: &str,
    value: &serde_json::Value,
    unit: &str,
    nl: &str,
) -> Splice {
    match object.properties.last() {
        Some(last) => {
            let text = format!(
                "{}{}",
                before(whole, last, name),
                pretty(value, unit, indent_of(whole, last.start()), nl)
            );
            Splice { at: last.end()..last.end(), text }
        }
        None => {
            let outer = indent_of(whole, object.start());
            let inner = format!("{outer}{unit}");
            let text = format!(
                "{{{nl}{inner}{}: {}{nl}{outer}}}",
                string(name),
                pretty(value, unit, inner.clone(), nl)
            );
            Splice { at: object.start()..object.end(), text }
        }
    }
}

/// The white space that the line of `at` begins with.
fn indent_of(whole: &str, at: usize) -> String {
    let start = line_start(whole, at);
    let line = whole.get(start..at).unwrap_or_default();
    line.chars().take_while(|c| *c == ' ' || *c == '\t').collect()
}

/// One step of indentation, as the file has it.
fn unit(whole: &str, top: &Object<'_>) -> String {
    let first = top.properties.first().map(|property| indent_of(whole, property.start()));
    first.filter(|indent| !indent.is_empty()).unwrap_or_else(|| "  ".into())
}

fn pretty(value: &serde_json::Value, unit: &str, indent: String, nl: &str) -> String {
    match value {
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            let inner = format!("{indent}{unit}");
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| {
                    format!("{inner}{}: {}", string(name), pretty(value, unit, inner.clone(), nl))
                })
                .collect();
            format!("{{{nl}{}{nl}{indent}}}", fields.join(&format!(",{nl}")))
        }
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}
