//! Putting HMS into a client's configuration, and taking it out again.
//!
//! One file a client. Everything that will be in it is worked out first, from its text; then the record is written,
//! then the plugin's files, then the file itself, in one step. A file that somebody changes meanwhile is read again.

use std::path::{Path, PathBuf};

use hms_core::{Error, ErrorKind, Result, clock::SystemClock};
use serde_json::{Value, json};

use crate::{
    ask::Asked,
    backup::{self, Record, Records, Saved},
    clients::Client,
    diff,
    edit::{self, Format, Plugin},
    places::{Hms, Places, is_hms, settled},
    plugin_files::{self, ID, PluginFiles, SERVER, VERSION},
    wrapping::{self, Wrapped},
};

/// How often a file that is changed meanwhile is read again.
const TRIES: usize = 3;

/// What shall be done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices {
    /// Wrap servers; `None`: those that are wrapped stay so, no others.
    pub(crate) wrap: Option<bool>,
    /// Add the plugin (for clients without plugins: the server); `None`: yes.
    pub(crate) plugin: Option<bool>,
    /// Only these servers; none: all.
    pub(crate) servers: Vec<String>,
    /// Another file than the client's own.
    pub(crate) config: Option<PathBuf>,
    /// Trust the plugin's hooks.
    pub(crate) trust: bool,
    /// Only say what would be done.
    pub(crate) dry_run: bool,
}

/// Where and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The user's folders.
    pub(crate) places: Places,
    /// This program.
    pub(crate) hms: Hms,
    /// What was done before.
    pub(crate) records: Records,
}

impl Site {
    /// The same, where what is not decided is as it was installed before.
    pub(crate) fn as_before(&self, record: Option<&Record>) -> Self {
        let starts_host = record.is_some_and(|record| record.starts_host);
        Self { hms: self.hms.as_before(starts_host), ..self.clone() }
    }
}

/// One client's file.
struct Target<'c> {
    client: &'c Client,
    file: PathBuf,
    /// The plugin's files, for Codex.
    plugin: Option<PluginFiles>,
}

impl<'c> Target<'c> {
    fn of(client: &'c Client, config: Option<&Path>, places: &Places) -> Self {
        let file = config.map_or_else(|| client.file(places), |file| settled(&places.cwd.join(file)));
        // The plugin belongs to the folder that its configuration is in.
        let codex = file.parent().map_or_else(|| places.codex.clone(), Path::to_owned);
        Self { plugin: client.is_codex().then(|| PluginFiles::of(&codex)), client, file }
    }
}

/// What a change comes to.
struct Change {
    text: String,
    wrapped: Wrapped,
    /// The plugin or the server is in the file now.
    plugin: bool,
    notify: Option<String>,
    unwrapped: Vec<String>,
}

/// Installs for one client; what was done.
///
/// # Errors
/// `invalid-config` for a malformed file, `not-found` for a server that is not there, and what writing says. Then
/// nothing was changed.
pub(crate) fn install(site: &Site, client: &Client, choices: &Choices) -> Result<Value> {
    retried(|| {
        let target = Target::of(client, choices.config.as_deref(), &site.places);
        let old = backup::read(&target.file)?;
        let before = site.records.get(&target.file);
        let site = &site.as_before(before.as_ref());
        let change = work_out(site, &target, choices, old.as_deref(), before.as_ref())?;
        let mut notes = notes(client, choices, &change);
        let same_hooks = target.plugin.as_ref().is_some_and(|files| files.copied(&site.hms).1);
        if !choices.dry_run {
            apply(site, &target, old.as_deref(), before, &change)?;
            if change.plugin && target.plugin.is_some() {
                notes.extend(trust(site, &target, choices, same_hooks)?);
            }
        }
        let new = if choices.dry_run {
            change.text.clone()
        } else {
            backup::read(&target.file)?.unwrap_or_default()
        };
        let wrapped: Vec<&str> = change.wrapped.saved.iter().map(|s| s.name.as_str()).collect();
        let left: Vec<Value> = change
            .wrapped
            .left
            .iter()
            .map(|left| json!({"server": left.name, "scope": left.scope, "why": left.why}))
            .collect();
        let record = site.records.get(&target.file);
        Ok(json!({
            "client": client.id,
            "title": client.title,
            "file": target.file,
            "changed": old.as_deref().unwrap_or_default() != new,
            "dry_run": choices.dry_run,
            "plugin": change.plugin,
            "wrapped": wrapped,
            "already": change.wrapped.already,
            "unwrapped": change.unwrapped,
            "left": left,
            "backup": record.and_then(|record| record.backup),
            "diff": diff::unified(client.format, &target.file, old.as_deref().unwrap_or_default(), &new)?,
            "notes": notes,
        }))
    })
}

fn retried(mut work: impl FnMut() -> Result<Value>) -> Result<Value> {
    let mut tries = 1;
    loop {
        match work() {
            Err(e) if e.kind == ErrorKind::InvalidState && tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

fn work_out(
    site: &Site,
    target: &Target<'_>,
    choices: &Choices,
    old: Option<&str>,
    before: Option<&Record>,
) -> Result<Change> {
    let (file, format) = (&target.file, target.client.format);
    let mut text = old.unwrap_or_default().to_owned();
    let saved_before: &[Saved] = before.map_or(&[], |record| &record.saved);

    let mut unwrapped = Vec::new();
    if choices.wrap == Some(false) {
        (text, unwrapped) = wrapping::unwrap(format, file, &text, saved_before)?;
    }
    let wants = choices.wrap == Some(true) || (choices.wrap.is_none() && !choices.servers.is_empty());
    known(format, file, &text, &choices.servers)?;
    let chosen = |name: &str| choices.servers.is_empty() || choices.servers.iter().any(|n| n == name);
    let wrapped = wrapping::wrap(format, file, &text, &site.hms, |server| wants && chosen(&server.name))?;
    text.clone_from(&wrapped.text);

    let plugin = choices.plugin != Some(false);
    let mut notify = before.and_then(|record| record.notify.clone());
    match (&target.plugin, format) {
        (Some(files), _) if plugin => {
            text = edit::with_plugin(file, &text, ID, &files.marketplace().to_string_lossy())?;
            (text, notify) = with_notify(site, file, &text, notify)?;
        }
        (Some(_), _) => {
            text = edit::without_plugin(file, &text, ID)?;
            text = without_notify(file, &text, notify.take().as_deref())?;
        }
        (None, Format::Json(root)) if plugin => {
            text = edit::add_server(file, &text, root, SERVER, &plugin_files::server(&site.hms)?)?;
        }
        (None, _) => text = without_server(format, file, &text)?,
    }
    // What was written must be read as it was meant.
    format
        .servers(file, &text)
        .map_err(|e| Error::internal(format!("the change would break the file: {e}")))?;
    Ok(Change { text, wrapped, plugin, notify, unwrapped })
}

/// Fails for a server that is not in the file.
fn known(format: Format, file: &Path, text: &str, names: &[String]) -> Result<()> {
    let servers = format.servers(file, text)?;
    match names.iter().find(|name| !servers.iter().any(|server| server.name == **name)) {
        None => Ok(()),
        Some(name) => {
            let there: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
            let hint =
                if there.is_empty() { "it has none".into() } else { format!("it has: {}", there.join(", ")) };
            Err(Error::not_found(&format!("server in {} named", file.display()), name).hint(hint))
        }
    }
}

/// Codex tells `notify` of each completed turn, trusted or not. A program that is told already is told further on,
/// by ours.
fn with_notify(
    site: &Site,
    file: &Path,
    text: &str,
    before: Option<String>,
) -> Result<(String, Option<String>)> {
    let mut words = plugin_files::hook_words(&site.hms)?;
    words.extend(["--notify", "--"].map(String::from));
    let there = edit::take_notify(file, text)?;
    let (chained, original) = match there {
        // A second installation: what is behind our own words is somebody else's.
        Some((argv, _)) if is_our_notify(&argv) => (behind(&argv), before.unwrap_or_default()),
        Some((argv, raw)) => (argv, raw),
        None => (Vec::new(), String::new()),
    };
    words.extend(chained);
    let raw = Format::Toml.list(&words);
    Ok((edit::set_notify(file, text, Some(&raw))?, Some(original)))
}

fn without_notify(file: &Path, text: &str, original: Option<&str>) -> Result<String> {
    let Some((argv, _)) = edit::take_notify(file, text)?.filter(|(argv, _)| is_our_notify(argv)) else {
        return Ok(text.to_owned());
    };
    let chained = behind(&argv);
    match original {
        _ if chained.is_empty() => edit::set_notify(file, text, None),
        Some(raw) if !raw.is_empty() => edit::set_notify(file, text, Some(raw)),
        _ => edit::set_notify(file, text, Some(&Format::Toml.list(&chained))),
    }
}

fn is_our_notify(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| is_hms(program.as_ref())) && argv.iter().any(|word| word == "--notify")
}

fn behind(argv: &[String]) -> Vec<String> {
    argv.iter().skip_while(|word| *word != "--").skip(1).cloned().collect()
}

/// The file without our server, unless somebody gave another one that name.
fn without_server(format: Format, file: &Path, text: &str) -> Result<String> {
    let Format::Json(root) = format else { return Ok(text.to_owned()) };
    let ours = format.servers(file, text)?.into_iter().any(|server| {
        server.scope.is_empty()
            && server.name == SERVER
            && matches!(&server.how, edit::How::Stdio(stdio) if is_hms(stdio.command.as_ref()))
    });
    if ours { edit::remove_server(file, text, root, SERVER) } else { Ok(text.to_owned()) }
}

fn apply(
    site: &Site,
    target: &Target<'_>,
    old: Option<&str>,
    before: Option<Record>,
    change: &Change,
) -> Result<()> {
    let original = match &before {
        Some(record) if old == Some(record.written.as_str()) => record.original.clone(),
        Some(record) => old.map(|text| stripped(target, text, Some(record))).transpose()?,
        None => old.map(|text| stripped(target, text, None)).transpose()?,
    };
    let mut saved = before.map(|record| record.saved).unwrap_or_default();
    saved
        .retain(|old| !change.wrapped.saved.iter().any(|new| new.scope == old.scope && new.name == old.name));
    saved.extend(change.wrapped.saved.iter().cloned());
    let mut record = Record {
        file: target.file.clone(),
        client: target.client.id.to_owned(),
        original,
        written: change.text.clone(),
        saved,
        notify: change.notify.clone(),
        starts_host: site.hms.starts_host(),
        at_ms: SystemClock::shared().wall_ms(),
        version: VERSION.to_owned(),
        backup: None,
    };
    // The record first: whatever happens then can be undone.
    site.records.put(&mut record)?;
    if let Some(files) = &target.plugin {
        if change.plugin {
            files.write(&site.hms)?;
        } else {
            files.remove()?;
        }
    }
    if old != Some(change.text.as_str()) && !(old.is_none() && change.text.is_empty()) {
        backup::replace(&target.file, old, Some(&change.text))?;
    }
    Ok(())
}

/// The text without what is ours, as far as it can be told from the text and the record.
fn stripped(target: &Target<'_>, text: &str, record: Option<&Record>) -> Result<String> {
    let (file, format) = (&target.file, target.client.format);
    let saved: &[Saved] = record.map_or(&[], |record| &record.saved);
    let (mut text, _) = wrapping::unwrap(format, file, text, saved)?;
    if target.client.is_codex() {
        text = edit::without_plugin(file, &text, ID)?;
        text = without_notify(file, &text, record.and_then(|record| record.notify.as_deref()))?;
    } else {
        text = without_server(format, file, &text)?;
    }
    let original = record.and_then(|record| record.original.as_deref());
    Ok(original.map_or(text.clone(), |original| without_line_end(&text, original)))
}

/// A last line that had no end got one when something was put behind it: it goes with what was put there.
fn without_line_end(text: &str, original: &str) -> String {
    let line = original.rsplit('\n').next().unwrap_or_default();
    let cut = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text);
    let same = !line.is_empty() && cut.rsplit('\n').next() == Some(line);
    if same { cut.to_owned() } else { text.to_owned() }
}

/// Codex runs a plugin's hooks once somebody trusts them. Asked to, Codex is told
/// that they are.
fn trust(site: &Site, target: &Target<'_>, choices: &Choices, same_hooks: bool) -> Result<Vec<String>> {
    let review = "open Codex and run /hooks to review and trust the hooks of the plugin; until then it has no events of sessions and tools";
    if !choices.trust {
        let text = backup::read(&target.file)?.unwrap_or_default();
        let there = edit::plugin_entries(&target.file, &text, ID)?;
        return Ok(match (there.trusted.is_empty(), same_hooks) {
            (true, _) => vec![review.to_owned()],
            (false, false) => {
                vec![format!("the hooks of the plugin changed, and were trusted as they were: {review}")]
            }
            (false, true) => Vec::new(),
        });
    }
    let Some(codex) = site.places.real_codex() else {
        return Ok(vec![format!("there is no codex on PATH that could name the hooks: {review}")]);
    };
    let home = target.file.parent().unwrap_or(Path::new("/"));
    let trusted = match Asked::trust(&codex, home, ID) {
        Ok(trusted) => trusted,
        Err(e) => return Ok(vec![format!("{e}: {review}")]),
    };
    // Codex has written to the file: that too is what we did.
    if let (Some(mut record), Some(text)) = (site.records.get(&target.file), backup::read(&target.file)?) {
        // Unless somebody else wrote to it meanwhile: that must not be taken back with ours.
        let ours = Some(stripped(target, &text, Some(&record))?).filter(|text| !text.trim().is_empty())
            == record.original.clone().filter(|text| !text.trim().is_empty());
        if ours {
            record.written = text;
            site.records.put(&mut record)?;
        }
    }
    Ok(vec![format!("{trusted} hooks are trusted")])
}

fn notes(client: &Client, choices: &Choices, change: &Change) -> Vec<String> {
    let mut notes = Vec::new();
    let format = client.format;
    let unwrapped = format.servers(Path::new(""), &change.text).unwrap_or_default();
    let unwrapped: Vec<String> = unwrapped
        .into_iter()
        .filter(|server| match &server.how {
            edit::How::Stdio(stdio) => !is_hms(stdio.command.as_ref()),
            _ => false,
        })
        .map(|server| server.name)
        .collect();
    if choices.wrap.is_none() && choices.servers.is_empty() && !unwrapped.is_empty() {
        notes.push(format!(
            "not guarded: {}; `--wrap` lets them survive crashes and hangs",
            unwrapped.join(", ")
        ));
    }
    if !choices.dry_run {
        notes.push(format!("sessions of {} that run now keep what they have: start a new one", client.title));
    }
    notes
}

/// Takes HMS out of one client's configuration; what was done.
///
/// # Errors
/// As [`install`].
pub(crate) fn uninstall(site: &Site, client: &Client, config: Option<&Path>, dry_run: bool) -> Result<Value> {
    retried(|| {
        let target = Target::of(client, config, &site.places);
        let old = backup::read(&target.file)?;
        let record = site.records.get(&target.file);
        let untouched = record.as_ref().is_some_and(|record| old.as_deref() == Some(record.written.as_str()));
        let new = match (&old, &record) {
            (_, Some(record)) if untouched => record.original.clone(),
            (Some(text), record) => {
                let text = stripped(&target, text, record.as_ref())?;
                // A file that was made by us and holds nothing else goes.
                let made = record.as_ref().is_some_and(|record| record.original.is_none());
                if made && text.trim().is_empty() { None } else { Some(text) }
            }
            (None, _) => None,
        };
        let mut removed = false;
        if !dry_run {
            if new != old {
                backup::replace(&target.file, old.as_deref(), new.as_deref())?;
            }
            if let Some(files) = &target.plugin {
                removed = files.remove()?;
            }
            if let Some(record) = &record {
                let restored = new == record.original;
                site.records.forget(record, restored);
            }
        }
        let (before, after) = (old.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default());
        let how = match (before == after, untouched) {
            (true, _) => "unchanged",
            (false, true) => "restored",
            (false, false) => "edited",
        };
        Ok(json!({
            "client": client.id,
            "title": client.title,
            "file": target.file,
            "changed": before != after || removed,
            "how": how,
            "dry_run": dry_run,
            "backup": record.filter(|r| new != r.original).and_then(|r| r.backup),
            "diff": diff::unified(client.format, &target.file, before, after).unwrap_or_default(),
        }))
    })
}

/// What is installed for one client.
///
/// # Errors
/// `invalid-config` for a malformed file.
pub(crate) fn status(site: &Site, client: &Client, config: Option<&Path>) -> Result<Value> {
    let target = Target::of(client, config, &site.places);
    let record = site.records.get(&target.file);
    let site = &site.as_before(record.as_ref());
    let text = backup::read(&target.file)?;
    let there = text.is_some();
    let text = text.unwrap_or_default();
    let servers = client.format.servers(&target.file, &text)?;
    let rows: Vec<Value> = servers
        .iter()
        .map(|server| {
            let (how, guarded) = match &server.how {
                edit::How::Stdio(stdio) => {
                    let argv = stdio.argv();
                    ("stdio", wrapping::inner(&argv).is_some() || is_hms(stdio.command.as_ref()))
                }
                edit::How::Http(_) => ("http", false),
                edit::How::Unclear(_) => ("unclear", false),
            };
            json!({"client": client.id, "server": server.name, "scope": server.scope, "transport": how, "guarded": guarded})
        })
        .collect();
    let plugin = match &target.plugin {
        Some(files) => Some(plugin_status(site, files, &edit::plugin_entries(&target.file, &text, ID)?)),
        None => {
            let ours = servers.iter().any(|s| s.scope.is_empty() && s.name == SERVER);
            Some(if ours { "server" } else { "no" }.to_owned())
        }
    };
    Ok(json!({
        "client": client.id,
        "title": client.title,
        "file": target.file,
        "there": there,
        "plugin": plugin,
        "servers": rows,
        "installed_ms": record.as_ref().map(|record| record.at_ms),
        "backup": record.and_then(|record| record.backup),
    }))
}

fn plugin_status(site: &Site, files: &PluginFiles, entries: &Plugin) -> String {
    match (entries.enabled, files.copied(&site.hms)) {
        (None, _) if !files.is_there() => "no".into(),
        (None, _) => "not in the configuration".into(),
        (Some(false), _) => "disabled".into(),
        (Some(true), (versions, _)) if versions.is_empty() => "its files are missing".into(),
        (Some(true), (_, false)) => "stale".into(),
        (Some(true), _) if entries.trusted.is_empty() => "enabled, hooks not trusted".into(),
        (Some(true), _) => "enabled".into(),
    }
}
