//! What a wrapped entry looks like, how it is recognised, and how it is undone. Texts in, texts out.

use std::{path::Path, time::Duration};

use hms_core::{Result, duration};

use crate::{
    backup::Saved,
    edit::{Format, How, Server, Stdio, apply},
    places::{Hms, is_hms},
};

/// The share of a client's own deadline after which a call is taken for hung: the client must still be there to
/// hear the answer.
const HANG_SHARE: (u32, u32) = (4, 5);

/// A server that was left as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// The project; empty: all.
    pub(crate) scope: String,
    /// The server.
    pub(crate) name: String,
    /// Why.
    pub(crate) why: String,
}

/// A file after wrapping.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wrapped {
    /// Its text.
    pub(crate) text: String,
    /// What the entries said before.
    pub(crate) saved: Vec<Saved>,
    /// Those that were wrapped already, by this program or another one.
    pub(crate) already: Vec<String>,
    /// Those that were left.
    pub(crate) left: Vec<Left>,
}

/// The command line inside a wrapped one; `None` when it is not wrapped.
pub(crate) fn inner(argv: &[String]) -> Option<&[String]> {
    let (program, rest) = argv.split_first()?;
    if !is_hms(program.as_ref()) {
        return None;
    }
    let end = rest.iter().position(|word| word == "--")?;
    let is_wrap = rest[..end].windows(2).any(|two| two[0] == "mcp" && two[1] == "wrap");
    let inner = &rest[end + 1..];
    (is_wrap && !inner.is_empty()).then_some(inner)
}

/// Whether the entry runs HMS itself: wrapping that would guard nothing.
fn is_own(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| is_hms(program.as_ref())) && inner(argv).is_none()
}

/// The command line that wraps `server`.
fn outer(hms: &Hms, name: &str, server: &Stdio) -> Result<Vec<String>> {
    let mut words = hms.words()?;
    words.extend(["mcp", "wrap", "--name", name].map(String::from));
    if let Some(timeout) = server.timeout {
        words.extend(["--hang-timeout".into(), duration::format(hang_timeout(timeout))]);
    }
    if hms.starts_host() {
        words.extend(["--host", "auto"].map(String::from));
    }
    words.push("--".into());
    words.extend(server.argv());
    Ok(words)
}

fn hang_timeout(client: Duration) -> Duration {
    // In whole milliseconds: that is how it is written.
    let ms = (client * HANG_SHARE.0 / HANG_SHARE.1).as_millis().max(1);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Wraps the stdio servers that `wanted` accepts.
///
/// # Errors
/// As [`Format::servers`]; `invalid-argument` when a path is no text.
pub(crate) fn wrap(
    format: Format,
    file: &Path,
    text: &str,
    hms: &Hms,
    wanted: impl Fn(&Server) -> bool,
) -> Result<Wrapped> {
    let mut done = Wrapped::default();
    let mut splices = Vec::new();
    let program = hms.program()?;
    for server in format.servers(file, text)? {
        let leave = |why: String| Left { scope: server.scope.clone(), name: server.name.clone(), why };
        let stdio = match &server.how {
            How::Stdio(stdio) => stdio,
            How::Http(url) => {
                done.left
                    .push(leave(format!("it is reached over HTTP ({}), not started here", host_of(url))));
                continue;
            }
            How::Unclear(why) => {
                done.left.push(leave(why.clone()));
                continue;
            }
        };
        let argv = stdio.argv();
        if inner(&argv).is_some() {
            done.already.push(server.name.clone());
            // It keeps its options; only a program that is elsewhere now is named anew.
            if stdio.command != program {
                splices.extend(stdio.run(format, &[std::slice::from_ref(&program), &argv[1..]].concat()));
            }
        } else if is_own(&argv) {
            done.left.push(leave("it is HMS itself".into()));
        } else if wanted(&server) {
            let raw = |at: &std::ops::Range<usize>| text.get(at.clone()).unwrap_or_default().to_owned();
            done.saved.push(Saved {
                scope: server.scope.clone(),
                name: server.name.clone(),
                command: raw(&stdio.command_at),
                args: stdio.args_at.as_ref().map(raw),
            });
            splices.extend(stdio.run(format, &outer(hms, &server.name, stdio)?));
        }
    }
    done.text = apply(text, splices);
    Ok(done)
}

/// Unwraps every entry that is wrapped; those in `saved` get their very words back. Returns the text and the names.
///
/// # Errors
/// As [`Format::servers`].
pub(crate) fn unwrap(
    format: Format,
    file: &Path,
    text: &str,
    saved: &[Saved],
) -> Result<(String, Vec<String>)> {
    let mut splices = Vec::new();
    let mut names = Vec::new();
    for server in format.servers(file, text)? {
        let How::Stdio(stdio) = &server.how else { continue };
        let argv = stdio.argv();
        let Some(inner) = inner(&argv) else { continue };
        names.push(server.name.clone());
        let known = saved.iter().find(|s| s.scope == server.scope && s.name == server.name);
        match known.filter(|saved| says(format, saved, inner)) {
            Some(saved) => splices.extend(stdio.restore(format, &saved.command, saved.args.as_deref())),
            None if inner.len() == 1 => {
                splices.extend(stdio.restore(format, &format.string(&inner[0]), None))
            }
            None => splices.extend(stdio.run(format, inner)),
        }
    }
    Ok((apply(text, splices), names))
}

/// Whether the saved words mean the command line that is wrapped now: somebody may have changed it since.
fn says(format: Format, saved: &Saved, inner: &[String]) -> bool {
    let (text, file) = match format {
        Format::Toml => {
            let args = saved.args.as_ref().map(|args| format!("args = {args}\n")).unwrap_or_default();
            (format!("[mcp_servers.x]\ncommand = {}\n{args}", saved.command), "saved.toml")
        }
        Format::Json(root) => {
            let args = saved.args.as_ref().map(|args| format!(", \"args\": {args}")).unwrap_or_default();
            (format!("{{\"{root}\": {{\"x\": {{\"command\": {}{args}}}}}}}", saved.command), "saved.json")
        }
    };
    let servers = format.servers(Path::new(file), &text).unwrap_or_default();
    servers.iter().any(|server| matches!(&server.how, How::Stdio(stdio) if stdio.argv() == inner))
}

/// Scheme and host of an address: the rest may hold a key.
fn host_of(url: &str) -> &str {
    let from = url.find("://").map_or(0, |at| at + 3);
    let end = url[from..].find(['/', '?', '#']).map_or(url.len(), |at| from + at);
    let user = url[from..end].rfind('@').map_or(from, |at| from + at + 1);
    url.get(user..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(String::from).collect()
    }

    #[test]
    fn a_wrapped_command_line_is_known_by_its_words() {
        let wrapped = words("/opt/codex-hms --home /h mcp wrap --name x -- uvx a --");
        assert_eq!(inner(&wrapped), Some(&words("uvx a --")[..]));
        for other in [
            "uvx a",
            "codex-hms mcp serve",
            "codex-hms mcp wrap --",
            "codex-hms agent list -- mcp wrap",
            "wrap mcp -- x",
        ] {
            assert_eq!(inner(&words(other)), None, "{other}");
        }
        assert!(is_own(&words("/a/codex-hms mcp serve")));
        assert!(!is_own(&wrapped));
    }

    #[test]
    fn a_client_waits_longer_than_a_hang_is_waited_for() {
        for (client, ours) in [(60_000, 48_000), (1_500, 1_200), (1, 1), (333, 266)] {
            assert_eq!(hang_timeout(Duration::from_millis(client)), Duration::from_millis(ours), "{client}");
        }
    }

    #[test]
    fn an_address_is_told_without_its_secrets() {
        assert_eq!(host_of("https://user:key@api.example.com:8443/mcp?token=abc"), "api.example.com:8443");
        assert_eq!(host_of("localhost"), "localhost");
    }
}
