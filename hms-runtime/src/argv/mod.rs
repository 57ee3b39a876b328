//! Command lines, read once for every front end.
//!
//! A [`Parser`] turns words into an [`Invocation`] of one of the registered commands, or into a text to
//! print (help, version, a usage error); it prints nothing itself and starts nothing. Options are drawn
//! from the commands' schemas, and for a command that takes an agent type from that type's schema too.
//! The program's name is a parameter: `codex-hms` and the command group of any other host CLI read, fail
//! and explain themselves alike.
//!
//! Start-up time counts, so only the part of the command tree that the first words name is built; help of
//! groups, completions and the manual build what they need.

mod build;
mod docs;
mod exit;
mod kind;
mod plan;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use clap::{ArgMatches, Command, error::ErrorKind as ClapKind};
use hms_core::{Error, ErrorKind, command::CommandSpec};
use serde_json::{Map, Value};

use self::{
    kind::{Kind, merge},
    plan::{Field, Plan},
};

pub use docs::SHELLS;
pub use exit::{
    CANCELLED, CONFLICT, EXIT_CODES, ExitCode, FAILED, NOT_FOUND, OK, PERMISSION, STORE, TIMEOUT,
    UNAVAILABLE, USAGE, exit_code,
};

/// Where the agent types come from, asked only by commands that take one.
pub trait TypeSource: Send + Sync {
    /// The names of the types with one line about each. None at all means that they are not known here:
    /// then any name is taken, and the host decides.
    fn type_names(&self) -> Vec<(String, String)>;

    /// The JSON Schema of a type's configuration. `x-trailing` names the property that takes what
    /// follows `--`.
    fn type_schema(&self, name: &str) -> Option<Value>;
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the result is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Output {
    /// As JSON.
    pub json: bool,
    /// With colours.
    pub color: ColorChoice,
    /// Again and again, this often.
    pub watch: Option<Duration>,
    /// Nothing but errors and what was asked for.
    pub quiet: bool,
}

/// A command to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Which.
    pub spec: Arc<CommandSpec>,
    /// What was given, as an object. Defaults are not filled in: the command's schema does that.
    pub args: Value,
    /// How to show the result.
    pub output: Output,
    /// Do not ask for confirmation.
    pub yes: bool,
    /// The home to use, when it was named on the command line.
    pub home: Option<PathBuf>,
}

/// What a command line comes to.
#[derive(Debug, Clone)]
pub enum Parsed {
    /// Run this.
    Run(Box<Invocation>),
    /// Print this and end.
    Text {
        /// What to print, with its last newline.
        text: String,
        /// What to return.
        exit_code: i32,
        /// Where to print it.
        to_stderr: bool,
    },
}

/// Reads command lines of one program.
pub struct Parser {
    program: String,
    version: String,
    about: String,
    commands: Vec<Arc<CommandSpec>>,
    groups: Vec<(String, String)>,
    types: Arc<dyn TypeSource>,
    color: bool,
    width: usize,
}

impl Parser {
    /// A parser for `program` (as a user types it, several words where that is so: `codex hms`). Help
    /// lists the commands in the given order.
    pub fn new(
        program: &str,
        version: &str,
        commands: Vec<Arc<CommandSpec>>,
        types: Arc<dyn TypeSource>,
    ) -> Self {
        Self {
            program: program.into(),
            version: version.into(),
            about: String::new(),
            commands: commands.into_iter().filter(|c| is_path(&c.path)).collect(),
            groups: Vec::new(),
            types,
            color: false,
            width: 100,
        }
    }

    /// What the program is, for its help.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.about = text.into();
        self
    }

    /// One line about a group of commands, e.g. `agent`. Without it the group's commands are listed.
    #[must_use]
    pub fn group(mut self, path: &str, summary: &str) -> Self {
        self.groups.push((path.into(), summary.into()));
        self
    }

    /// Whether help and errors may be coloured. `--color` on the command line wins.
    #[must_use]
    pub fn color(mut self, on: bool) -> Self {
        self.color = on;
        self
    }

    /// The width that help is wrapped at; 0 for no wrapping.
    #[must_use]
    pub fn width(mut self, columns: usize) -> Self {
        self.width = columns;
        self
    }

    /// Reads `args`, which do not include the program's own name.
    #[must_use]
    pub fn parse(&self, args: &[OsString]) -> Parsed {
        let args = self.without_help_word(args);
        let (path, rest) = self.path_of(&args);
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let Some(spec) = self.spec(&words) else {
            let tree = self.tree_for(&words, None);
            return match tree.try_get_matches_from(&args) {
                Err(e) => self.text(&e, &args),
                // Unreachable by construction (a group requires a subcommand and builds no arguments),
                // yet an answer all the same.
                Ok(_) => self.usage_error(&args, &self.tree_for(&words, None), "a command is required"),
            };
        };
        match &spec.typed_by {
            Some(property) => self.parse_typed(spec, property, &words, &args, rest),
            None => self.parse_with(&words, &Plan::new(spec, None), &args),
        }
    }

    /// Reads a command whose options depend on the type that one of its words names.
    fn parse_typed(
        &self,
        spec: &CommandSpec,
        property: &str,
        words: &[&str],
        args: &[OsString],
        rest: usize,
    ) -> Parsed {
        let untyped = Plan::new(spec, None);
        let index = untyped.positionals.iter().position(|f| f.path.last().is_some_and(|p| p == property));
        let names = self.types.type_names();
        let is_type = |word: &str| names.iter().any(|(name, _)| name == word);
        let Some(mut name) = index.and_then(|index| type_word(&untyped, index, &args[rest..], is_type))
        else {
            return self.parse_with(words, &untyped, args);
        };
        // The word was found without knowing which options of the type take a value: when the real
        // reading finds another one in that place, that one is read once more.
        for _ in 0..2 {
            if !names.is_empty() && !is_type(&name) && index == Some(0) {
                let only: Vec<OsString> =
                    words.iter().map(OsString::from).chain([OsString::from(&name)]).collect();
                if let Err(e) = self.tree_for(words, Some(&untyped)).try_get_matches_from(only) {
                    return self.text(&e, args);
                }
            }
            let schema = self.types.type_schema(&name);
            let plan = Plan::new(spec, schema.as_ref().map(|schema| (name.as_str(), schema)));
            let parsed = self.parse_with(words, &plan, args);
            match &parsed {
                Parsed::Run(run) => match run.args.get(property).and_then(Value::as_str) {
                    Some(found) if found != name => name = found.to_owned(),
                    _ => return parsed,
                },
                Parsed::Text { .. } => return parsed,
            }
        }
        self.parse_with(words, &untyped, args)
    }

    fn parse_with(&self, words: &[&str], plan: &Plan, args: &[OsString]) -> Parsed {
        let matches = match self.tree_for(words, Some(plan)).try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(e) => return self.text(&e, args),
        };
        let (mut at, mut found) = (&matches, Vec::new());
        while let Some((word, inner)) = at.subcommand() {
            found.push(word);
            at = inner;
        }
        let Some(spec) = self.spec(&found) else {
            return self.usage_error(args, &self.tree_for(words, Some(plan)), "a command is required");
        };
        // A command that is a group too: what follows its options may be one of the group's commands.
        let other = (found != words).then(|| Plan::new(spec, None));
        let plan = other.as_ref().unwrap_or(plan);
        Parsed::Run(Box::new(invocation(spec.clone(), plan, at)))
    }

    /// `help agent list` as `agent list --help`.
    fn without_help_word(&self, args: &[OsString]) -> Vec<OsString> {
        let mut args = args.to_vec();
        if args.first().is_some_and(|word| word == "help") && self.spec(&["help"]).is_none() {
            args.remove(0);
            args.push("--help".into());
        }
        args
    }

    /// The command or group that the first words name, and where the words after it begin.
    fn path_of(&self, args: &[OsString]) -> (Vec<String>, usize) {
        let (mut path, mut at, mut end) = (Vec::<String>::new(), 0, 0);
        while let Some(word) = args.get(at).and_then(|arg| arg.to_str()) {
            at += match word {
                "--json" | "-q" | "--quiet" | "-h" | "--help" => 1,
                "--color" | "--home" => 2,
                _ if word.starts_with("--color=") || word.starts_with("--home=") => 1,
                _ if word.starts_with('-') => break,
                _ => {
                    path.push(word.to_owned());
                    let words: Vec<&str> = path.iter().map(String::as_str).collect();
                    if self.spec(&words).is_none() && self.children(&words).is_empty() {
                        path.pop();
                        break;
                    }
                    end = at + 1;
                    1
                }
            };
        }
        (path, end)
    }

    fn spec(&self, path: &[&str]) -> Option<&Arc<CommandSpec>> {
        self.commands.iter().find(|c| c.path.split(' ').eq(path.iter().copied()))
    }

    /// The words that may follow `path`, each once, in the order of the commands.
    fn children(&self, path: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for command in self.commands.iter().filter(|c| !c.hidden) {
            let mut words = command.path.split(' ');
            if path.iter().all(|word| words.next() == Some(word))
                && let Some(next) = words.next()
                && !all.iter().any(|there| there == next)
            {
                all.push(next.to_owned());
            }
        }
        all
    }

    /// One line about a command or group.
    fn summary(&self, path: &[&str]) -> String {
        if let Some(spec) = self.spec(path) {
            return spec.summary.clone();
        }
        match self.groups.iter().find(|(group, _)| group.split(' ').eq(path.iter().copied())) {
            Some((_, summary)) => summary.clone(),
            None => self.children(path).join(", "),
        }
    }

    /// The program's name where no space may be: in files and scripts.
    fn file_name(&self) -> String {
        self.program.replace(' ', "-")
    }

    fn usage_error(&self, args: &[OsString], command: &Command, message: &str) -> Parsed {
        self.text(&command.clone().error(ClapKind::MissingSubcommand, message), args)
    }

    /// What clap has to say, as text.
    fn text(&self, e: &clap::Error, args: &[OsString]) -> Parsed {
        let options = || args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
        let wants = |flag: &str, value: &str| {
            let joined = format!("{flag}={value}");
            options().any(|arg| arg == joined)
                || options().zip(options().skip(1)).any(|(a, b)| a == flag && b == value)
        };
        let color = (self.color || wants("--color", "always")) && !wants("--color", "never");
        let rendered = e.render();
        let asked_for = matches!(e.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion);
        let mut text = if color { rendered.ansi().to_string() } else { rendered.to_string() };
        if !asked_for && options().any(|arg| arg == "--json") {
            text = crate::view::error_json(&as_error(e.kind(), &rendered.to_string()), &self.program)
                .to_string();
        }
        let text = format!("{}\n", text.trim_end());
        Parsed::Text { text, exit_code: if asked_for { OK } else { USAGE }, to_stderr: !asked_for }
    }
}

/// A usage error for programs: the sentence and the tips, without the usage lines.
fn as_error(kind: ClapKind, rendered: &str) -> Error {
    if let ClapKind::DisplayHelpOnMissingArgumentOrSubcommand | ClapKind::MissingSubcommand = kind {
        return Error::new(ErrorKind::InvalidArgument, "a command is required")
            .hint("`{program} --help` lists the commands");
    }
    let mut parts = rendered.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or("the command line is not valid");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = Error::new(ErrorKind::InvalidArgument, words(first.strip_prefix("error:").unwrap_or(first)));
    let tips: Vec<String> = parts.filter_map(|part| part.strip_prefix("tip:")).map(words).collect();
    if tips.is_empty() { error } else { error.hint(tips.join("; ")) }
}

fn is_path(path: &str) -> bool {
    !path.is_empty() && path.split(' ').all(|word| !word.is_empty() && !word.starts_with('-'))
}

/// The word that names the type, in a command line whose options are not all known yet.
fn type_word(plan: &Plan, index: usize, args: &[OsString], is_type: impl Fn(&str) -> bool) -> Option<String> {
    // Sure ones cannot be the value of an option; after an option that is not known, who can tell.
    let (mut sure, mut doubtful): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut words = args.iter().map(|arg| arg.to_str().unwrap_or_default());
    let mut after_unknown = false;
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        if word.len() < 2 || !word.starts_with('-') {
            if after_unknown {
                doubtful.push(word)
            } else {
                sure.push(word)
            }
            after_unknown = false;
            continue;
        }
        let takes_next = next_is_value(plan, word);
        after_unknown = takes_next.is_none();
        if takes_next == Some(true) {
            words.next();
        }
    }
    let named = sure.get(index).copied();
    let known =
        named.filter(|word| is_type(word)).or_else(|| doubtful.into_iter().find(|word| is_type(word)));
    known.or(named).map(String::from)
}

/// Whether the word after this option is its value; none when the option is not known.
fn next_is_value(plan: &Plan, word: &str) -> Option<bool> {
    let Some(long) = word.strip_prefix("--") else {
        let mut letters = word.chars().skip(1);
        let (letter, alone) = (letters.next()?, letters.next().is_none());
        let field = plan.options.iter().find(|f| f.short == Some(letter));
        return match field {
            Some(field) => Some(alone && field.takes_value()),
            None => ['h', 'q', 'y'].contains(&letter).then_some(false),
        };
    };
    if long.contains('=') {
        return Some(false);
    }
    match long {
        "json" | "quiet" | "help" | "yes" | "watch" => return Some(false),
        "color" | "home" | "config" => return Some(true),
        _ => {}
    }
    let named = |field: &&Field| field.long == long || field.aliases.iter().any(|alias| alias == long);
    match plan.options.iter().find(named) {
        Some(field) => Some(field.takes_value()),
        None => plan.options.iter().any(|f| f.negation.as_deref() == Some(long)).then_some(false),
    }
}

fn invocation(spec: Arc<CommandSpec>, plan: &Plan, matches: &ArgMatches) -> Invocation {
    let flag = |name: &str| matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let yes = plan.yes && flag("yes");
    let mut args = Value::Object(Map::new());
    if plan.config {
        let mut base: Option<Value> = None;
        for given in matches.get_many::<Value>("config").into_iter().flatten() {
            merge(base.get_or_insert_with(|| Value::Object(Map::new())), given.clone());
        }
        if let Some(base) = base {
            put(&mut args, &["config".into()], base);
        }
    }
    for field in plan.positionals.iter().chain(&plan.options) {
        if let Some(value) = given(field, matches) {
            put(&mut args, &field.path, value);
        }
    }
    if let Some(field) = &plan.trailing
        && let Some(value) = given(field, matches)
    {
        put(&mut args, &field.path, value);
    }
    if yes && plan.yes_property {
        put(&mut args, &["yes".into()], true.into());
    }
    let yes = yes || args.get("yes") == Some(&Value::Bool(true));
    let color = match matches.get_one::<String>("color").map(String::as_str) {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    };
    let watch = if plan.watch { matches.get_one::<Duration>("watch").copied() } else { None };
    let output = Output { json: flag("json"), color, watch, quiet: flag("quiet") };
    Invocation { spec, args, output, yes, home: matches.get_one::<PathBuf>("home").cloned() }
}

/// The value of a field, when it was given.
fn given(field: &Field, matches: &ArgMatches) -> Option<Value> {
    if let Kind::Flag { .. } = field.kind {
        let set = |id: &str| matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false);
        return if set(&field.id) {
            Some(true.into())
        } else {
            (field.negation.is_some() && set(&build::no_id(field))).then(|| false.into())
        };
    }
    let mut occurrences = matches.get_many::<Value>(&field.id)?.cloned().peekable();
    occurrences.peek()?;
    let mut value = field.kind.empty();
    for more in occurrences {
        field.kind.add(&mut value, more);
    }
    Some(value)
}

/// Writes `value` at `path`, on top of what an outer option put there.
fn put(args: &mut Value, path: &[String], value: Value) {
    let nested =
        path.iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])));
    merge(args, nested);
}
