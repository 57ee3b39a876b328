//! What is written from the whole command tree: completions, the manual and the reference.

use std::{fmt::Write as _, io, str::FromStr};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use hms_core::{Error, Result, command::CommandSpec};

use super::{
    EXIT_CODES, Parser,
    kind::Kind,
    plan::{Field, Plan},
};

/// The shells that completions are written for.
pub const SHELLS: [&str; 5] = ["bash", "zsh", "fish", "powershell", "elvish"];

impl Parser {
    /// The completion script for `shell`, one of [`SHELLS`]. Another name is `invalid-argument`.
    pub fn completions(&self, shell: &str) -> Result<String> {
        let shell = Shell::from_str(shell).map_err(|_| {
            Error::argument("shell", format!("no completions for `{shell}`"))
                .hint(format!("they are written for {}", SHELLS.join(", ")))
        })?;
        let mut script = Vec::new();
        let name = self.file_name();
        let mut tree = self.full_tree().name(name.clone()).bin_name(name.clone());
        clap_complete::generate(shell, &mut tree, name, &mut script);
        Ok(String::from_utf8_lossy(&script).into_owned())
    }

    /// The manual, a page for each command and group, as (file name, roff).
    pub fn man_page(&self) -> Result<Vec<(String, String)>> {
        let mut tree = self.full_tree();
        tree.build();
        let mut pages = Vec::new();
        write_pages(&tree, &self.version, &mut pages).map_err(|e| Error::io("writing the manual", &e))?;
        Ok(pages)
    }

    /// The reference in Markdown: every command with its arguments, the options of the agent types, and
    /// the exit codes.
    #[must_use]
    pub fn reference_markdown(&self) -> String {
        let mut out = format!("# `{}`\n", self.program);
        if !self.about.is_empty() {
            let _ = write!(out, "\n{}\n", self.about);
        }
        out.push_str(GLOBALS);
        out.push_str("\n## Commands\n");
        for spec in self.commands.iter().filter(|spec| !spec.hidden) {
            self.write_command(&mut out, spec);
        }
        self.write_types(&mut out);
        out.push_str("\n## Exit codes\n\n| code | name | meaning |\n| ---: | --- | --- |\n");
        for exit in EXIT_CODES {
            let _ = writeln!(out, "| {} | {} | {} |", exit.code, exit.name, exit.meaning);
        }
        out
    }

    fn write_command(&self, out: &mut String, spec: &CommandSpec) {
        let plan = Plan::new(spec, None);
        let _ = write!(out, "\n### `{} {}`\n\n{}\n", self.program, spec.path, prose(&spec.summary));
        if !spec.description.is_empty() {
            let _ = write!(out, "\n{}\n", spec.description.trim().replace("{program}", &self.program));
        }
        let _ = write!(out, "\n```text\n{} {}", self.program, spec.path);
        if !plan.options.is_empty() || plan.watch || plan.yes || plan.config {
            out.push_str(" [OPTIONS]");
        }
        for field in &plan.positionals {
            let _ = write!(out, " {}", word(field));
        }
        if let Some(field) = &plan.trailing {
            let rest = format!("-- <{}>...", field.value_name);
            let _ = if field.required { write!(out, " {rest}") } else { write!(out, " [{rest}]") };
        }
        out.push_str("\n```\n");
        let mut rows: Vec<(String, String)> =
            plan.positionals.iter().chain(&plan.trailing).map(|f| (word(f), meaning(f))).collect();
        rows.extend(plan.options.iter().filter(|f| !f.hidden).map(|f| (option(f), meaning(f))));
        if plan.config {
            rows.push((
                "--config <JSON|@FILE>".into(),
                "the type's configuration, beneath the other options".into(),
            ));
        }
        if plan.watch {
            rows.push((
                "--watch[=<DURATION>]".into(),
                "shows it again and again, every second or as often as said".into(),
            ));
        }
        if plan.yes {
            rows.push(("-y, --yes".into(), "does not ask".into()));
        }
        write_rows(out, "argument", &rows);
        if !spec.examples.is_empty() {
            out.push_str("\n```sh\n");
            for line in &spec.examples {
                let _ = writeln!(out, "{} {line}", self.program);
            }
            out.push_str("```\n");
        }
    }

    fn write_types(&self, out: &mut String) {
        let Some(spec) = self.commands.iter().find(|spec| spec.typed_by.is_some()) else { return };
        for (name, summary) in self.types.type_names() {
            let Some(schema) = self.types.type_schema(&name) else { continue };
            let plan = Plan::new(spec, Some((&name, &schema)));
            let _ = write!(out, "\n### Options of type `{name}`\n\n{}\n", prose(&summary));
            let trailing =
                plan.trailing.iter().filter(|f| f.typed).map(|f| (format!("-- {}", word(f)), meaning(f)));
            let options =
                plan.options.iter().filter(|f| f.typed && !f.hidden).map(|f| (option(f), meaning(f)));
            write_rows(out, "option", &trailing.chain(options).collect::<Vec<_>>());
        }
    }
}

const GLOBALS: &str = "
Every command takes `--json` (prints JSON), `--color auto|always|never`, `--home DIR` (the home to use, instead
of `HMS_HOME` or the default), `-q`/`--quiet` and `-h`/`--help`. Durations are written `500ms`, `2s`, `1m`.
";

fn write_pages(command: &Command, version: &str, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        write_pages(inner, version, pages)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    // Each page stands alone: its name is the whole path.
    let page = Man::new(command.clone().name(name.clone()).version(version.to_owned()));
    let mut roff = Vec::new();
    page.render(&mut roff)?;
    pages.push((format!("{name}.1"), String::from_utf8_lossy(&roff).into_owned()));
    Ok(())
}

fn write_rows(out: &mut String, title: &str, rows: &[(String, String)]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "\n| {title} | meaning |\n| --- | --- |\n");
    for (left, right) in rows {
        let _ = writeln!(out, "| `{}` | {} |", cell(left), cell(&prose(right)));
    }
}

fn word(field: &Field) -> String {
    let dots = if matches!(field.kind, Kind::List(_) | Kind::Map(_)) { "..." } else { "" };
    let name = &field.value_name;
    if field.required { format!("<{name}>{dots}") } else { format!("[{name}]{dots}") }
}

fn option(field: &Field) -> String {
    let short = field.short.map(|letter| format!("-{letter}, ")).unwrap_or_default();
    match (&field.kind, &field.negation) {
        (Kind::Flag { default: true }, Some(no)) => format!("{short}--{no}"),
        (Kind::Flag { .. }, _) => format!("{short}--{}", field.long),
        _ => format!("{short}--{} <{}>", field.long, field.value_name),
    }
}

fn meaning(field: &Field) -> String {
    let mut text = match field.kind {
        Kind::Flag { default: true } => format!("turns this off: {}", field.help),
        _ => field.help.clone(),
    };
    let choice = match &field.kind {
        Kind::List(item) => item,
        kind => kind,
    };
    if let Kind::Choice(words) = choice {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        text = format!("{text} ({})", words.join(", "));
    }
    if field.required {
        text.push_str(" (required)");
    }
    text.trim().to_owned()
}

/// Text that Markdown would read as an HTML tag is not one.
fn prose(text: &str) -> String {
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
