//! Configuration files of other programs, changed without being rewritten.
//!
//! A file is parsed for where things stand in it, and then changed by *splices*: a range of its bytes gives way
//! to other bytes. Whatever is not spliced stays as it is, byte for byte: comments, order, line ends, quotes.

mod json;
mod toml;

use std::{ops::Range, path::Path, time::Duration};

use hms_core::{Error, ErrorKind, Result};

pub(crate) use toml::{Plugin, plugin_entries, set_notify, take_notify, with_plugin, without_plugin};

/// The keys of a server whose values may be secrets.
const SECRETS: [&str; 3] = ["env", "headers", "http_headers"];

/// How a client writes its servers down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Codex: tables `[mcp_servers.NAME]`.
    Toml,
    /// Everybody else: an object of this name; comments and trailing commas are tolerated.
    Json(&'static str),
}

/// A range of the text and what replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    /// Where.
    pub(crate) at: Range<usize>,
    /// What comes there.
    pub(crate) text: String,
}

/// A server as a file declares it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Server {
    /// The project it belongs to; empty: all of them.
    pub(crate) scope: String,
    /// Its name.
    pub(crate) name: String,
    /// How it is reached.
    pub(crate) how: How,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum How {
    /// By a program's standard input and output.
    Stdio(Box<Stdio>),
    /// At this address.
    Http(String),
    /// It does not say, or in a way that is not known here.
    Unclear(String),
}

/// A server that is a program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stdio {
    /// The program.
    pub(crate) command: String,
    /// Where its name stands, quotes included.
    pub(crate) command_at: Range<usize>,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Where they stand, brackets included; `None` when there is no such key.
    pub(crate) args_at: Option<Range<usize>>,
    /// Where the key would be put, and with what around it.
    pub(crate) gap: Gap,
    /// What to cut so that there is no such key; `None` when that would take something else along.
    pub(crate) cut: Option<Range<usize>>,
    /// How long the client waits for a tool, where it says so.
    pub(crate) timeout: Option<Duration>,
    /// Whether the client starts it.
    pub(crate) enabled: bool,
    /// The folder it is started in, where it says so.
    pub(crate) cwd: Option<String>,
    /// The `PATH` it is given, where it says so.
    pub(crate) path: Option<String>,
}

/// A place for a key that is not there yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Where.
    pub(crate) at: usize,
    /// What comes before the list.
    pub(crate) before: String,
    /// What comes behind it.
    pub(crate) after: String,
}

impl Stdio {
    /// Program and arguments.
    pub(crate) fn argv(&self) -> Vec<String> {
        std::iter::once(&self.command).chain(&self.args).cloned().collect()
    }

    /// Changes the entry to run `argv`.
    pub(crate) fn run(&self, format: Format, argv: &[String]) -> Vec<Splice> {
        let Some((program, args)) = argv.split_first() else { return Vec::new() };
        let mut splices = vec![Splice { at: self.command_at.clone(), text: format.string(program) }];
        let list = format.list(args);
        splices.push(match &self.args_at {
            Some(at) => Splice { at: at.clone(), text: list },
            None => Splice {
                at: self.gap.at..self.gap.at,
                text: format!("{}{list}{}", self.gap.before, self.gap.after),
            },
        });
        splices
    }

    /// Puts back what the entry said in these very words; `args` is `None` when it had no such key.
    pub(crate) fn restore(&self, format: Format, command: &str, args: Option<&str>) -> Vec<Splice> {
        let mut splices = vec![Splice { at: self.command_at.clone(), text: command.to_owned() }];
        match (&self.args_at, args) {
            (Some(at), Some(args)) => splices.push(Splice { at: at.clone(), text: args.to_owned() }),
            (Some(at), None) => splices.push(match &self.cut {
                Some(cut) => Splice { at: cut.clone(), text: String::new() },
                None => Splice { at: at.clone(), text: format.list::<String>(&[]) },
            }),
            (None, _) => {}
        }
        splices
    }
}

impl Format {
    /// A text as the format writes it.
    pub(crate) fn string(self, text: &str) -> String {
        match self {
            Self::Toml => toml::string(text),
            Self::Json(_) => json::string(text),
        }
    }

    /// A list of texts as the format writes it.
    pub(crate) fn list<S: AsRef<str>>(self, texts: &[S]) -> String {
        let texts: Vec<String> = texts.iter().map(|text| self.string(text.as_ref())).collect();
        format!("[{}]", texts.join(", "))
    }

    /// The servers that the file declares, in its order.
    ///
    /// # Errors
    /// `invalid-config` with file, line and column for what cannot be parsed.
    pub(crate) fn servers(self, file: &Path, text: &str) -> Result<Vec<Server>> {
        match self {
            Self::Toml => toml::servers(file, text),
            Self::Json(root) => json::servers(file, text, root),
        }
    }
}

/// The text without the values that may be secrets: what is shown is copied into reports and logs.
///
/// # Errors
/// As [`Format::servers`].
pub(crate) fn shown(format: Format, file: &Path, text: &str) -> Result<String> {
    let secrets = match format {
        Format::Toml => toml::secrets(file, text),
        Format::Json(root) => json::secrets(file, text, root),
    }?;
    let hidden = secrets.into_iter().map(|at| Splice { at, text: "\"(hidden)\"".into() });
    Ok(apply(text, hidden.collect()))
}

/// The file with a server added to those of all projects. The JSON formats only: Codex gets a plugin.
///
/// # Errors
/// `invalid-config` when the file is not what the client would read.
pub(crate) fn add_server(
    file: &Path,
    text: &str,
    root: &str,
    name: &str,
    entry: &serde_json::Value,
) -> Result<String> {
    json::add_server(file, text, root, name, entry).map(|splices| apply(text, splices))
}

/// The file without the server that [`add_server`] added.
///
/// # Errors
/// As [`add_server`].
pub(crate) fn remove_server(file: &Path, text: &str, root: &str, name: &str) -> Result<String> {
    json::remove_server(file, text, root, name).map(|splices| apply(text, splices))
}

/// The text with the splices, which do not overlap.
pub(crate) fn apply(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|splice| (splice.at.start, splice.at.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for splice in splices {
        out.push_str(text.get(done..splice.at.start).unwrap_or_default());
        out.push_str(&splice.text);
        done = splice.at.end.max(done);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// An error about a place in a file.
fn malformed(file: &Path, text: &str, at: usize, why: &str) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::new(ErrorKind::InvalidConfig, format!("{}:{line}:{column}: {why}", file.display()))
        .hint("nothing was changed: mend the file, then try again")
}

/// The line end that the text uses.
fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Where the line of `at` begins.
fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
}

/// Where the line of `at` ends, its line end included.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|after| after.find('\n')).map_or(text.len(), |end| at + end + 1)
}
