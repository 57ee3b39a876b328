//! Codex's `config.toml`: its servers, its plugins, its `notify`.

use std::{ops::Range, path::Path, time::Duration};

use hms_core::Result;
use toml_edit::{Document, Item, Key, TableLike, Value};

use super::{Gap, How, Server, Splice, Stdio, apply, line_end, line_start, malformed, newline};

/// The byte order mark that some editors begin a file with.
const MARK: char = '\u{feff}';

/// What the plugin's two tables say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// The marketplace's name.
    pub(crate) marketplace: String,
    /// The folder it is in; `None`: no such table.
    pub(crate) source: Option<String>,
    /// `PLUGIN@MARKETPLACE`.
    pub(crate) id: String,
    /// Whether it is enabled; `None`: no such table.
    pub(crate) enabled: Option<bool>,
    /// The keys of its hooks that somebody trusted.
    pub(crate) trusted: Vec<String>,
    /// Whether hooks are allowed at all (`features.hooks`).
    pub(crate) hooks_allowed: bool,
    /// Whether plugins are allowed at all (`features.plugins`).
    pub(crate) plugins_allowed: bool,
}

/// A text as TOML writes it, on one line.
pub(super) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A parsed file, and where its text begins behind a byte order mark.
struct Parsed<'t> {
    document: Document<&'t str>,
    text: &'t str,
    skipped: usize,
}

impl Parsed<'_> {
    fn at(&self, span: Range<usize>) -> Range<usize> {
        span.start + self.skipped..span.end + self.skipped
    }
}

fn parse<'t>(file: &Path, whole: &'t str) -> Result<Parsed<'t>> {
    let text = whole.strip_prefix(MARK).unwrap_or(whole);
    let skipped = whole.len() - text.len();
    let document = Document::parse(text).map_err(|e| {
        let at = e.span().map_or(text.len(), |span| span.start);
        malformed(file, whole, at + skipped, &e.message().trim().replace('\n', ", "))
    })?;
    Ok(Parsed { document, text, skipped })
}

fn text_of(item: Option<&Item>) -> Option<String> {
    item.and_then(Item::as_str).map(str::to_owned)
}

fn seconds(item: &Item) -> Option<Duration> {
    let seconds = item.as_float().or_else(|| item.as_integer().map(|n| n as f64))?;
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero())
}

/// The servers that the file declares.
pub(super) fn servers(file: &Path, whole: &str) -> Result<Vec<Server>> {
    let parsed = parse(file, whole)?;
    let Some(item) = parsed.document.get("mcp_servers") else { return Ok(Vec::new()) };
    let Some(table) = item.as_table_like() else {
        let at = item.span().map_or(0, |span| parsed.at(span).start);
        return Err(malformed(file, whole, at, "`mcp_servers` is not a table"));
    };
    let server = |(name, item): (&str, &Item)| Server {
        scope: String::new(),
        name: name.to_owned(),
        how: match item.as_table_like() {
            Some(entry) => how(&parsed, entry, item.is_inline_table()),
            None => How::Unclear("it is not a table".into()),
        },
    };
    Ok(table.iter().map(server).collect())
}

/// Where the values stand that may be secrets: those of variables and headers.
pub(super) fn secrets(file: &Path, whole: &str) -> Result<Vec<Range<usize>>> {
    let parsed = parse(file, whole)?;
    let servers = parsed.document.get("mcp_servers").and_then(Item::as_table_like);
    let entries = servers.into_iter().flat_map(TableLike::iter).filter_map(|(_, item)| item.as_table_like());
    let kept = entries.flat_map(|entry| super::SECRETS.iter().filter_map(|key| entry.get(key)));
    let values = kept.filter_map(Item::as_table_like).flat_map(TableLike::iter);
    Ok(values.filter_map(|(_, value)| value.span()).map(|span| parsed.at(span)).collect())
}

fn how(parsed: &Parsed<'_>, entry: &dyn TableLike, inline: bool) -> How {
    if let Some(url) = text_of(entry.get("url")) {
        return How::Http(url);
    }
    for elsewhere in ["environment_id", "experimental_environment"] {
        if let Some(place) = text_of(entry.get(elsewhere)).filter(|place| place != "local") {
            return How::Unclear(format!("it runs in the environment `{place}`, not on this machine"));
        }
    }
    match stdio(parsed, entry, inline) {
        Some(stdio) => How::Stdio(Box::new(stdio)),
        None => How::Unclear("it has neither `command` nor `url`, or `args` are not texts".into()),
    }
}

fn stdio(parsed: &Parsed<'_>, entry: &dyn TableLike, inline: bool) -> Option<Stdio> {
    let (command_key, command_item) = entry.get_key_value("command")?;
    let command_span = command_item.span()?;
    let args = match entry.get_key_value("args") {
        None => None,
        Some((key, item)) => {
            let texts: Option<Vec<String>> =
                item.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            Some((key, texts?, item.span()?))
        }
    };
    let gap = gap(parsed, command_key, &command_span, inline)?;
    let cut = args.as_ref().and_then(|(key, _, span)| cut(parsed, key, span, &command_span, inline));
    let args_at = args.as_ref().map(|(_, _, span)| parsed.at(span.clone()));
    Some(Stdio {
        command: command_item.as_str()?.to_owned(),
        command_at: parsed.at(command_span),
        args: args.map(|(_, texts, _)| texts).unwrap_or_default(),
        args_at,
        gap,
        cut,
        timeout: entry.get("tool_timeout_sec").and_then(seconds),
        enabled: entry.get("enabled").and_then(Item::as_bool).unwrap_or(true),
        cwd: text_of(entry.get("cwd")),
        path: entry.get("env").and_then(Item::as_table_like).and_then(|env| text_of(env.get("PATH"))),
    })
}

/// Where `args` would come: behind the command in an inline table, else on a line of its own before it, where a
/// comment behind the command is not in the way.
fn gap(parsed: &Parsed<'_>, key: &Key, command: &Range<usize>, inline: bool) -> Option<Gap> {
    if inline {
        let at = parsed.at(command.clone()).end;
        return Some(Gap { at, before: ", args = ".into(), after: String::new() });
    }
    let key_at = key.span()?.start;
    let start = line_start(parsed.text, key_at);
    // What stands before the key: an indent, and the way to it where the keys are dotted.
    let before = parsed.text.get(start..key_at)?;
    Some(Gap {
        at: start + parsed.skipped,
        before: format!("{before}args = "),
        after: newline(parsed.text).into(),
    })
}

fn cut(
    parsed: &Parsed<'_>,
    key: &Key,
    args: &Range<usize>,
    command: &Range<usize>,
    inline: bool,
) -> Option<Range<usize>> {
    let text = parsed.text;
    if inline {
        let between = text.get(command.end..args.start)?;
        let only_the_key = between.trim_start().strip_prefix(',')?.trim() == "args =";
        return only_the_key.then(|| parsed.at(command.end..args.end));
    }
    let (start, end) = (line_start(text, key.span()?.start), line_end(text, args.end));
    text.get(args.end..end)?.trim().is_empty().then(|| parsed.at(start..end))
}

// ---- the plugin ---------------------------------------------------------------------------------------

/// What the file says about the plugin `id` (`PLUGIN@MARKETPLACE`).
///
/// # Errors
/// `invalid-config` for what cannot be parsed.
pub(crate) fn plugin_entries(file: &Path, whole: &str, id: &str) -> Result<Plugin> {
    let parsed = parse(file, whole)?;
    let marketplace = id.rsplit('@').next().unwrap_or(id).to_owned();
    let at = |way: &[&str]| {
        way.iter().try_fold(parsed.document.as_item(), |item, key| item.as_table_like()?.get(key))
    };
    let allowed = |feature: &str| at(&["features", feature]).and_then(Item::as_bool).unwrap_or(true);
    let trusted = at(&["hooks", "state"]).and_then(Item::as_table_like).map_or_else(Vec::new, |state| {
        let ours = state.iter().filter(|(key, item)| {
            key.starts_with(&format!("{id}:"))
                && item.as_table_like().is_some_and(|hook| hook.contains_key("trusted_hash"))
        });
        ours.map(|(key, _)| key.to_owned()).collect()
    });
    Ok(Plugin {
        source: at(&["marketplaces", &marketplace]).map(|item| {
            item.as_table_like().and_then(|table| text_of(table.get("source"))).unwrap_or_default()
        }),
        enabled: at(&["plugins", id])
            .map(|item| item.as_table_like().and_then(|t| t.get("enabled")?.as_bool()).unwrap_or(true)),
        trusted,
        hooks_allowed: allowed("hooks"),
        plugins_allowed: allowed("plugins"),
        marketplace,
        id: id.to_owned(),
    })
}

/// The file with the plugin `id` enabled, from the marketplace in the folder `source`.
///
/// # Errors
/// `invalid-config` for what cannot be parsed, and when tables of these names say something else.
pub(crate) fn with_plugin(file: &Path, whole: &str, id: &str, source: &str) -> Result<String> {
    let there = plugin_entries(file, whole, id)?;
    let mut text = whole.to_owned();
    if there.source.as_deref() != Some(source) {
        text = without_table(file, &text, &["marketplaces", &there.marketplace])?;
        text = with_table(
            &text,
            &format!("marketplaces.{}", there.marketplace),
            &[("source_type", string("local")), ("source", string(source))],
        );
    }
    if there.enabled != Some(true) {
        text = without_table(file, &text, &["plugins", id])?;
        text = with_table(&text, &format!("plugins.{}", string(id)), &[("enabled", "true".into())]);
    }
    // What is appended must be read as it is meant, whatever the file's tables look like.
    let after = plugin_entries(file, &text, id)?;
    if after.source.as_deref() != Some(source) || after.enabled != Some(true) {
        return Err(malformed(file, whole, whole.len(), "its tables leave no room for a plugin"));
    }
    Ok(text)
}

/// The file without the plugin `id`, its marketplace and what is remembered of its hooks.
///
/// # Errors
/// `invalid-config` for what cannot be parsed.
pub(crate) fn without_plugin(file: &Path, whole: &str, id: &str) -> Result<String> {
    let there = plugin_entries(file, whole, id)?;
    let mut text = whole.to_owned();
    let states = hook_states(file, &text, id)?;
    for key in &states {
        text = without_table(file, &text, &["hooks", "state", key])?;
    }
    if !states.is_empty() {
        // Codex makes these around the first hook that is trusted.
        text = without_empty(file, &text, &["hooks", "state"])?;
        text = without_empty(file, &text, &["hooks"])?;
    }
    text = without_table(file, &text, &["plugins", id])?;
    without_table(file, &text, &["marketplaces", &there.marketplace])
}

/// The file without a table that has nothing in it.
fn without_empty(file: &Path, whole: &str, way: &[&str]) -> Result<String> {
    let parsed = parse(file, whole)?;
    let found = way.iter().try_fold(parsed.document.as_item(), |item, key| item.as_table_like()?.get(key));
    let empty = found.and_then(Item::as_table).is_some_and(|table| table.is_empty() && !table.is_implicit());
    if empty { without_table(file, whole, way) } else { Ok(whole.to_owned()) }
}

fn hook_states(file: &Path, whole: &str, id: &str) -> Result<Vec<String>> {
    let parsed = parse(file, whole)?;
    let state =
        parsed.document.get("hooks").and_then(Item::as_table_like).and_then(|hooks| hooks.get("state"));
    let state = state.and_then(Item::as_table_like);
    let prefix = format!("{id}:");
    let keys = state.map(|state| state.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>());
    Ok(keys.unwrap_or_default().into_iter().filter(|key| key.starts_with(&prefix)).collect())
}

fn with_table(text: &str, header: &str, entries: &[(&str, String)]) -> String {
    let nl = newline(text);
    let mut out = text.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push_str(nl);
    }
    if !out.trim_start_matches(MARK).is_empty() {
        out.push_str(nl);
    }
    out.push_str(&format!("[{header}]{nl}"));
    for (key, value) in entries {
        out.push_str(&format!("{key} = {value}{nl}"));
    }
    out
}

/// The file without a table that stands by itself, `[a.b]`, with its keys; a blank line before it goes too. One that
/// is written in another way is left, and switched off if it can be.
fn without_table(file: &Path, whole: &str, way: &[&str]) -> Result<String> {
    let parsed = parse(file, whole)?;
    let found = way.iter().try_fold(parsed.document.as_item(), |item, key| item.as_table_like()?.get(key));
    let Some(table) = found.and_then(Item::as_table).filter(|table| !table.is_dotted()) else {
        return Ok(whole.to_owned());
    };
    let text = parsed.text;
    let Some(header) = table.span().map(|span| span.start) else { return Ok(whole.to_owned()) };
    let header = line_start(text, header);
    if !text.get(header..).unwrap_or_default().trim_start().starts_with('[') {
        return Ok(whole.to_owned());
    }
    let last = table.get_values().iter().filter_map(|(_, value)| Value::span(value)).map(|s| s.end).max();
    let end = line_end(text, last.unwrap_or(header));
    let before = text.get(..header).unwrap_or_default();
    let blank = before.strip_suffix("\r\n\r\n").map(|_| 2).or_else(|| before.strip_suffix("\n\n").map(|_| 1));
    // The first table of a file has no line before it.
    let blank = blank.unwrap_or(if before == "\n" {
        1
    } else if before == "\r\n" {
        2
    } else {
        0
    });
    let splice = Splice { at: parsed.at(header - blank..end), text: String::new() };
    Ok(apply(whole, vec![splice]))
}

// ---- notify -------------------------------------------------------------------------------------------

/// The program that Codex tells of each completed turn, and the words it is written in.
///
/// # Errors
/// `invalid-config` for what cannot be parsed.
pub(crate) fn take_notify(file: &Path, whole: &str) -> Result<Option<(Vec<String>, String)>> {
    let parsed = parse(file, whole)?;
    let Some(item) = parsed.document.get("notify") else { return Ok(None) };
    let texts = item.as_array().map(|all| all.iter().map(|v| v.as_str().map(str::to_owned)).collect());
    let raw = item.span().and_then(|span| whole.get(parsed.at(span))).map(str::to_owned);
    match (texts.unwrap_or(None::<Vec<String>>), raw) {
        (Some(argv), Some(raw)) => Ok(Some((argv, raw))),
        _ => Err(malformed(file, whole, 0, "`notify` is not a list of texts")),
    }
}

/// The file with `notify` set to `raw` (as TOML writes it), or without it.
///
/// # Errors
/// `invalid-config` for what cannot be parsed.
pub(crate) fn set_notify(file: &Path, whole: &str, raw: Option<&str>) -> Result<String> {
    let parsed = parse(file, whole)?;
    let there =
        parsed.document.get_key_value("notify").and_then(|(key, item)| Some((key.span()?, item.span()?)));
    let nl = newline(whole);
    let splice = match (there, raw) {
        (Some((_, at)), Some(raw)) => Splice { at: parsed.at(at), text: raw.to_owned() },
        (Some((key, at)), None) => {
            let (start, end) = (line_start(parsed.text, key.start), line_end(parsed.text, at.end));
            Splice { at: parsed.at(start..end), text: String::new() }
        }
        // Before everything: keys of the file itself cannot follow a table.
        (None, Some(raw)) => {
            let at = parsed.skipped;
            Splice { at: at..at, text: format!("notify = {raw}{nl}") }
        }
        (None, None) => return Ok(whole.to_owned()),
    };
    Ok(apply(whole, vec![splice]))
}
