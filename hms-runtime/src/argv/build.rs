//! clap commands built from plans: only the part of the tree that a command line needs, or all of it.

use std::path::PathBuf;

use clap::{
    Arg, ArgAction, Command,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser},
};
use hms_core::{command::CommandSpec, duration};
use serde_json::Value;

use super::{
    Parser,
    kind::{Kind, object},
    plan::{Field, Plan},
};

const GLOBAL: &str = "Global options";

/// How much of a node's children is built.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Depth {
    /// Names and summaries.
    Names,
    /// Everything.
    Full,
}

impl Parser {
    /// The root and the one line of subcommands that `path` names, with the arguments of the last.
    pub(super) fn tree_for(&self, path: &[&str], plan: Option<&Plan>) -> Command {
        let mut node = self.node(path, plan, if plan.is_some() { Depth::Full } else { Depth::Names });
        if let Some(spec) = self.spec(path)
            && !spec.description.is_empty()
        {
            // Its help is the short one, which fits a screen, but says all that there is to say.
            node = node.about(self.description(spec));
        }
        for len in (0..path.len()).rev() {
            node = self.bare(&path[..len]).subcommand(node);
        }
        node
    }

    /// Every command.
    pub(super) fn full_tree(&self) -> Command {
        self.node(&[], None, Depth::Full)
    }

    fn node(&self, path: &[&str], plan: Option<&Plan>, depth: Depth) -> Command {
        let mut command = self.bare(path);
        for word in self.children(path) {
            let child: Vec<&str> = path.iter().copied().chain([word.as_str()]).collect();
            command = command.subcommand(match depth {
                Depth::Names => self.bare(&child),
                Depth::Full => self.node(&child, None, Depth::Full),
            });
        }
        if let Some(spec) = self.spec(path) {
            command = match plan {
                Some(plan) => self.with_arguments(command, spec, plan),
                None if depth == Depth::Full => self.with_arguments(command, spec, &Plan::new(spec, None)),
                None => command,
            };
        }
        // Last, as help shows headings in the order of their first options.
        command.arg(help_arg())
    }

    /// A command with its name and its texts, and what every command has.
    fn bare(&self, path: &[&str]) -> Command {
        let Some(name) = path.last() else { return self.root() };
        let mut command = Command::new((*name).to_owned()).about(self.summary(path));
        command = command.disable_help_flag(true).disable_help_subcommand(true);
        match self.spec(path) {
            Some(spec) => {
                if !spec.description.is_empty() {
                    command = command.long_about(self.description(spec));
                }
                if !spec.examples.is_empty() {
                    command = command.after_help(self.examples(spec));
                }
                command
            }
            None => command
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand_value_name("COMMAND"),
        }
    }

    fn root(&self) -> Command {
        let global = |arg: Arg| arg.global(true).help_heading(GLOBAL);
        Command::new(self.program.clone())
            .bin_name(self.program.clone())
            .display_name(self.file_name())
            .version(self.version.clone())
            .about(self.about.clone())
            .term_width(self.width)
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_help_subcommand(true)
            .disable_version_flag(true)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("COMMAND")
            .arg(global(flag("json").help("Prints JSON")))
            .arg(global(
                Arg::new("color")
                    .long("color")
                    .value_name("WHEN")
                    .value_parser(["auto", "always", "never"])
                    .hide_possible_values(true)
                    .help("Colours: on a terminal (auto), always or never"),
            ))
            .arg(global(
                Arg::new("home")
                    .long("home")
                    .value_name("DIR")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("The home to use, instead of HMS_HOME or the default"),
            ))
            .arg(global(flag("quiet").short('q').help("Prints nothing but errors and what was asked for")))
            .arg(
                Arg::new("version")
                    .short('V')
                    .long("version")
                    .action(ArgAction::Version)
                    .help_heading(GLOBAL)
                    .display_order(1001)
                    .help("Prints the version"),
            )
    }

    fn description(&self, spec: &CommandSpec) -> String {
        format!("{}\n\n{}", spec.summary, spec.description.replace("{program}", &self.program))
    }

    fn examples(&self, spec: &CommandSpec) -> String {
        let lines = spec.examples.iter().map(|line| format!("\n  {} {line}", self.program));
        format!("Examples:{}", lines.collect::<String>())
    }

    fn with_arguments(&self, mut command: Command, spec: &CommandSpec, plan: &Plan) -> Command {
        for field in &plan.positionals {
            let mut arg = positional(field);
            if spec.typed_by.as_ref() == field.path.last() {
                arg = self.type_names(arg);
            }
            command = command.arg(arg);
        }
        let heading = plan.type_name.as_ref().map(|name| format!("Options of type `{name}`"));
        for field in &plan.options {
            for arg in option(field) {
                let typed = heading.clone().filter(|_| field.typed);
                command = command.arg(match typed {
                    Some(heading) => arg.help_heading(heading),
                    None => arg,
                });
            }
        }
        if let Some(field) = &plan.trailing {
            let arg = positional(field).last(true).num_args(1..).value_parser(trailing_parser(&field.kind));
            command = command.arg(require(arg, field));
        }
        if plan.config {
            command = command.arg(config_arg());
            if plan.type_name.is_none() {
                command = command.after_help(self.typed_help(spec));
            }
        }
        if plan.watch {
            command = command.arg(watch_arg());
        }
        if plan.yes {
            command = command.arg(flag("yes").short('y').help("Does not ask"));
        }
        command
    }

    /// Restricts `arg` to the agent types there are, where they are known.
    fn type_names(&self, arg: Arg) -> Arg {
        let names = self.types.type_names();
        if names.is_empty() {
            return arg;
        }
        let values = names.into_iter().map(|(name, summary)| PossibleValue::new(name).help(summary));
        arg.value_parser(PossibleValuesParser::new(values).map(Value::from)).hide_possible_values(true)
    }

    /// What stands below the help of a command that takes a type, until the type is named.
    fn typed_help(&self, spec: &CommandSpec) -> String {
        let word = spec.typed_by.as_deref().unwrap_or("type").to_uppercase();
        let names = self.types.type_names();
        let widest = names.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        if !names.is_empty() {
            let lines = names.iter().map(|(name, summary)| format!("\n  {name:widest$}  {summary}"));
            text.push_str(&format!("Types:{}\n\n", lines.collect::<String>()));
        }
        let command = format!("{} {} <{word}> --help", self.program, spec.path);
        text.push_str(&format!("Each type has options of its own: `{command}` shows them."));
        if !spec.examples.is_empty() {
            text.push_str(&format!("\n\n{}", self.examples(spec)));
        }
        text
    }
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).overrides_with(name)
}

fn help_arg() -> Arg {
    let arg = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Prints help");
    arg.help_heading(GLOBAL).display_order(1000)
}

fn config_arg() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("JSON|@FILE")
        .action(ArgAction::Append)
        .value_parser(|text: &str| object(text))
        .help("The type's configuration as JSON, or @ and a file of it; other options win over it")
}

fn watch_arg() -> Arg {
    Arg::new("watch")
        .long("watch")
        .value_name("DURATION")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("1s")
        .value_parser(|text: &str| match duration::parse(text) {
            Ok(every) if every.as_millis() >= 100 => Ok(every),
            Ok(_) => Err("must be at least 100ms".to_owned()),
            Err(e) => Err(e.to_string()),
        })
        .help("Shows it again and again, every second or as often as said")
}

fn positional(field: &Field) -> Arg {
    let mut arg = Arg::new(field.id.clone())
        .value_name(field.value_name.clone())
        .help(field.help.clone())
        .hide(field.hidden)
        .required(field.required)
        .allow_negative_numbers(!matches!(field.kind, Kind::Text | Kind::Choice(_)))
        .value_parser(parser_of(&field.kind));
    if let Kind::List(item) | Kind::Map(item) = &field.kind {
        arg = arg.action(ArgAction::Append).num_args(if field.required { 1.. } else { 0.. });
        if let Kind::List(_) = field.kind {
            arg = arg.value_parser(parser_of(item));
        }
    }
    arg
}

/// The option of a field, and for a flag also the one that says no.
fn option(field: &Field) -> Vec<Arg> {
    let named = |id: String, long: String| Arg::new(id).long(long).hide(field.hidden);
    let mut yes = named(field.id.clone(), field.long.clone()).help(field.help.clone());
    yes = yes.aliases(field.aliases.clone());
    if let Some(letter) = field.short {
        yes = yes.short(letter);
    }
    let Kind::Flag { default } = field.kind else {
        let action = match field.kind {
            Kind::List(_) | Kind::Map(_) | Kind::Object => ArgAction::Append,
            _ => ArgAction::Set,
        };
        yes = yes
            .action(action)
            .value_name(field.value_name.clone())
            .allow_negative_numbers(true)
            .value_parser(parser_of(&field.kind));
        if let Kind::List(item) = &field.kind
            && let Kind::Choice(_) = **item
        {
            yes = yes.value_delimiter(',');
        }
        return vec![require(yes, field)];
    };
    yes = yes.action(ArgAction::SetTrue).hide(field.hidden || (default && field.negation.is_some()));
    let Some(no_long) = field.negation.clone() else { return vec![yes.overrides_with(field.id.clone())] };
    let no_id = no_id(field);
    let no = named(no_id.clone(), no_long)
        .action(ArgAction::SetTrue)
        .hide(field.hidden || !default)
        .help(format!("Turns this off: {}", field.help))
        .overrides_with_all([field.id.clone(), no_id.clone()]);
    vec![yes.overrides_with_all([field.id.clone(), no_id]), no]
}

/// The clap id of a flag's negation.
pub(super) fn no_id(field: &Field) -> String {
    format!("!{}", field.id)
}

fn require(arg: Arg, field: &Field) -> Arg {
    match (field.required, field.typed) {
        (true, true) => arg.required(false).required_unless_present("config"),
        (required, _) => arg.required(required),
    }
}

fn parser_of(kind: &Kind) -> ValueParser {
    let words = match kind {
        Kind::Choice(words) => words,
        Kind::List(item) => match &**item {
            Kind::Choice(words) => words,
            _ => return reader(kind.clone()),
        },
        _ => return reader(kind.clone()),
    };
    let values = words.iter().map(|(word, about)| {
        let value = PossibleValue::new(word.clone());
        match about {
            Some(about) => value.help(about.clone()),
            None => value,
        }
    });
    PossibleValuesParser::new(values).map(Value::from).into()
}

/// A word after `--` is one element whatever it looks like.
fn trailing_parser(kind: &Kind) -> ValueParser {
    match kind {
        Kind::List(item) if **item == Kind::Text => reader(Kind::Text),
        Kind::List(item) => reader((**item).clone()),
        other => reader(other.clone()),
    }
}

fn reader(kind: Kind) -> ValueParser {
    ValueParser::from(move |text: &str| kind.read(text))
}
