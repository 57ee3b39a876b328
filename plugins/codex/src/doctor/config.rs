//! What can be seen in configurations: programs that are not there, what is stale, what is not guarded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use hms_core::Result;

use super::{Finding, Severity};
use crate::{
    ask::Asked,
    backup,
    clients::Client,
    edit::{self, How, Stdio},
    install::Site,
    places::{Hms, Places, is_hms, is_program},
    plugin_files::{ID, PluginFiles},
    wrapping,
};

/// A server that some client starts: for finding its processes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    /// The client.
    pub(crate) client: &'static Client,
    /// Its name there.
    pub(crate) name: String,
    /// Program and arguments, unwrapped.
    pub(crate) argv: Vec<String>,
    /// Whether the client starts it always.
    pub(crate) always: bool,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// Looks at the configurations of `clients`; what was found, and the servers that they start.
pub(super) fn look(site: &Site, clients: &[&'static Client]) -> (Vec<Finding>, Vec<Known>) {
    let (mut findings, mut known) = (Vec::new(), Vec::new());
    for client in clients {
        if let Err(e) = of_client(site, client, &mut findings, &mut known) {
            let finding = Finding::new(Severity::Critical, "config-unreadable", client.id, e.message);
            findings.push(finding.remedy("mend the file: the client does not start with it either"));
        }
    }
    shims(site, &mut findings);
    (findings, known)
}

fn of_client(
    site: &Site,
    client: &'static Client,
    findings: &mut Vec<Finding>,
    known: &mut Vec<Known>,
) -> Result<()> {
    let file = client.file(&site.places);
    let text = backup::read(&file)?.unwrap_or_default();
    let servers = client.format.servers(&file, &text)?;
    let record = site.records.get(&file);
    let (site, installed) = (&site.as_before(record.as_ref()), record.is_some());
    let mut bare = Vec::new();
    for server in &servers {
        let How::Stdio(stdio) = &server.how else { continue };
        let argv = stdio.argv();
        let inner = wrapping::inner(&argv).map(<[String]>::to_vec);
        if stdio.enabled {
            of_programs(site, client, &server.name, stdio, inner.as_deref(), findings);
        }
        if inner.is_none() && !is_hms(stdio.command.as_ref()) && stdio.enabled {
            bare.push(server.name.as_str());
        }
        known.push(Known {
            client,
            name: server.name.clone(),
            argv: inner.unwrap_or(argv),
            always: stdio.enabled && server.scope.is_empty(),
        });
    }
    if !bare.is_empty() {
        let found = format!("not guarded: {}", bare.join(", "));
        let finding = Finding::new(Severity::Info, "not-wrapped", client.id, found);
        findings.push(finding.remedy(format!("codex-hms codex install --client {} --wrap", client.id)));
    }
    if client.is_codex() {
        of_plugin(site, client, &file, &text, installed, findings)?;
    }
    Ok(())
}

fn of_programs(
    site: &Site,
    client: &Client,
    name: &str,
    stdio: &Stdio,
    inner: Option<&[String]>,
    findings: &mut Vec<Finding>,
) {
    let again = format!("codex-hms codex install --client {} --wrap", client.id);
    if is_hms(stdio.command.as_ref()) {
        let own = Path::new(&stdio.command);
        if own.is_absolute() && !is_program(own) {
            let found = format!("it is wrapped by {}, which is not there", stdio.command);
            findings.push(
                Finding::new(Severity::Critical, "binary-missing", client.id, found).of(name).remedy(again),
            );
        } else if is_other(own, &site.hms) {
            let found = format!("it is wrapped by {}, not by this program", stdio.command);
            findings.push(
                Finding::new(Severity::Warning, "binary-stale", client.id, found).of(name).remedy(again),
            );
        }
    }
    let command = match inner {
        Some(inner) => inner.first(),
        None if is_hms(stdio.command.as_ref()) => None,
        None => Some(&stdio.command),
    };
    if let Some(command) = command.filter(|command| !can_run(command, stdio, &site.places)) {
        let found = format!("its program `{command}` is not found");
        let remedy =
            format!("install it, or write its absolute path into {}", client.file(&site.places).display());
        findings.push(
            Finding::new(Severity::Critical, "command-missing", client.id, found).of(name).remedy(remedy),
        );
    }
}

/// Whether an absolute path leads to another program than ours.
fn is_other(own: &Path, hms: &Hms) -> bool {
    let (Ok(own), Ok(this)) = (own.canonicalize(), hms.program.canonicalize()) else { return false };
    own != this
}

fn can_run(command: &str, stdio: &Stdio, places: &Places) -> bool {
    let command = Path::new(command);
    if command.components().count() > 1 {
        let folder = stdio.cwd.as_deref().map_or_else(|| places.user.clone(), PathBuf::from);
        // A relative path may be meant from the session's folder, which is not known here.
        return command.is_relative() || is_program(&folder.join(command));
    }
    let path = stdio.path.as_deref().map_or_else(|| places.path.clone(), Into::into);
    std::env::split_paths(&path).any(|folder| is_program(&folder.join(command)))
}

fn of_plugin(
    site: &Site,
    client: &Client,
    file: &Path,
    text: &str,
    installed: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let entries = edit::plugin_entries(file, text, ID)?;
    let home = file.parent().unwrap_or(Path::new("/"));
    let files = PluginFiles::of(home);
    let again = "codex-hms codex install";
    let mut find = |severity, code, found: String, remedy: &str| {
        findings.push(Finding::new(severity, code, client.id, found).remedy(remedy));
    };
    if entries.enabled.is_none() && !files.is_there() {
        if installed {
            find(Severity::Info, "plugin-missing", "the plugin is not installed".into(), again);
        }
        return Ok(());
    }
    if entries.enabled != Some(true) {
        find(Severity::Warning, "plugin-disabled", "the plugin is not enabled".into(), again);
    }
    match &entries.source {
        None => find(
            Severity::Warning,
            "marketplace-missing",
            "the plugin's marketplace is not configured".into(),
            again,
        ),
        Some(source) if !Path::new(source).is_dir() => {
            find(
                Severity::Warning,
                "marketplace-missing",
                format!("the plugin's marketplace {source} is not there"),
                again,
            );
        }
        Some(_) => {}
    }
    let (versions, same) = files.copied(&site.hms);
    if versions.is_empty() {
        find(Severity::Critical, "plugin-missing", "Codex has no copy of the plugin".into(), again);
    } else if files.program().is_some_and(|program| !is_program(&program)) {
        let program = files.program().unwrap_or_default();
        find(
            Severity::Critical,
            "binary-missing",
            format!("the plugin runs {}, which is not there", program.display()),
            again,
        );
    } else if !same {
        find(
            Severity::Warning,
            "plugin-stale",
            format!("the plugin's copy is of another version or installation ({})", versions.join(", ")),
            again,
        );
    }
    for (allowed, feature) in [(entries.plugins_allowed, "plugins"), (entries.hooks_allowed, "hooks")] {
        if !allowed {
            let found = format!("`features.{feature}` is off: the plugin has no effect");
            find(Severity::Warning, "feature-off", found, &format!("codex features enable {feature}"));
        }
    }
    if entries.enabled == Some(true) && entries.hooks_allowed {
        let trust = trust(site, home, &entries.trusted);
        if let Some(found) = trust {
            find(
                Severity::Warning,
                "hooks-untrusted",
                found,
                "open Codex and run /hooks, or: codex-hms codex install --trust-hooks",
            );
        }
    }
    Ok(())
}

/// What is missing of the hooks' trust: as Codex sees it, if it can be asked.
fn trust(site: &Site, home: &Path, trusted: &[String]) -> Option<String> {
    let asked = site.places.real_codex().and_then(|codex| Asked::hooks(&codex, home).ok());
    let Some(hooks) = asked else {
        return trusted
            .is_empty()
            .then(|| "nobody has trusted the plugin's hooks: Codex does not run them".into());
    };
    let mut by_state: BTreeMap<String, usize> = BTreeMap::new();
    for hook in hooks.into_iter().filter(|hook| hook.plugin == ID) {
        *by_state.entry(hook.trust).or_default() += 1;
    }
    if by_state.is_empty() {
        return Some("Codex does not see the plugin's hooks".into());
    }
    by_state.retain(|state, _| state == "untrusted" || state == "modified");
    let states: Vec<String> = by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    (!states.is_empty()).then(|| format!("hooks that Codex does not run: {}", states.join(", ")))
}

fn shims(site: &Site, findings: &mut Vec<Finding>) {
    let Some(shim) = site.places.find("codex", crate::places::is_shim) else { return };
    if site.places.real_codex().is_none() {
        let found = format!("{} is a shim, and there is no codex behind it on PATH", shim.display());
        findings.push(
            Finding::new(Severity::Warning, "codex-missing", "codex", found)
                .remedy("npm install -g @openai/codex"),
        );
    }
    let text = fs::read_to_string(&shim).unwrap_or_default();
    let program = text.lines().find_map(|line| line.trim().strip_prefix("program=")).unwrap_or_default();
    let program = program.trim_matches('\'');
    if program.starts_with('/') && !is_program(Path::new(program)) {
        let found = format!("the shim {} leads to {program}, which is not there", shim.display());
        findings.push(
            Finding::new(Severity::Warning, "shim-stale", "codex", found).remedy("codex-hms codex shim"),
        );
    }
}
