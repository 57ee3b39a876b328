//! Command lines as users write them, and what they come to.

mod any_schema;

use std::{ffi::OsString, io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use hms_core::{ErrorKind, command::CommandSpec};
use serde_json::{Value, json};

use super::{
    ColorChoice, EXIT_CODES, Invocation, Parsed, Parser, SHELLS, TypeSource, exit_code, plan::kebab,
};

/// Two agent types, as a host would describe them.
struct Types;

impl TypeSource for Types {
    fn type_names(&self) -> Vec<(String, String)> {
        vec![("process".into(), "Runs a program".into()), ("http".into(), "Watches a URL".into())]
    }

    fn type_schema(&self, name: &str) -> Option<Value> {
        let process = json!({
            "type": "object",
            "x-trailing": "command",
            "required": ["command"],
            "properties": {
                "command": { "type": "array", "items": { "type": "string" }, "description": "The program" },
                "cwd": { "type": "string", "x-value": "DIR" },
                "env": { "type": "object", "additionalProperties": { "type": "string" } },
                "name": { "type": "string", "description": "The title of the process" },
                "stop_timeout": { "type": "string", "default": "10s", "x-value": "DURATION" },
                "adopt": { "type": "boolean", "default": true, "description": "Adopt what still runs" },
                "restart": {
                    "type": "object",
                    "properties": {
                        "max": { "type": "integer", "minimum": 0 },
                        "mode": { "enum": ["permanent", "transient"] },
                        "backoff": { "type": "object", "properties": { "first": { "type": "string" } } },
                    },
                },
                "liveness": { "anyOf": [{ "$ref": "#/$defs/Probe" }, { "type": "null" }] },
                "memory": { "type": ["integer", "string"] },
            },
            "$defs": { "Probe": {
                "type": "object",
                "properties": { "exec": { "type": "array", "items": { "type": "string" } }, "then": { "$ref": "#/$defs/Probe" } },
            } },
        });
        match name {
            "process" => Some(process),
            "http" => Some(json!({ "type": "object", "properties": { "url": { "type": "string" } } })),
            _ => None,
        }
    }
}

fn commands() -> Vec<Arc<CommandSpec>> {
    let mut create = CommandSpec::new("agent create", "Creates an agent")
        .about("It starts at once.")
        .args(
            json!({
                "type": { "type": "string", "description": "The type" },
                "name": { "type": "string", "description": "Its name", "x-short": "n" },
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                "depends_on": { "type": "array", "items": { "type": "string" } },
                "config": { "type": "object" },
            }),
            &["type"],
        )
        .positional(&["type"])
        .writes()
        .example("agent create process --name web -- python3 -m http.server");
    create.typed_by = Some("type".into());
    let every = CommandSpec::new("every", "Has every kind of option")
        .args(
            json!({
                "id": { "type": "string" },
                "more": { "type": "array", "items": { "type": "string" } },
                "count": { "type": "integer", "minimum": 1, "maximum": 10 },
                "ratio": { "type": "number", "exclusiveMinimum": 0 },
                "follow": { "type": "boolean", "x-short": "f" },
                "wait": { "type": "boolean", "default": true, "description": "Wait for the end" },
                "level": { "type": "string", "enum": ["low", "high"] },
                "states": { "type": "array", "items": { "oneOf": [{ "const": "up" }, { "const": "down" }] } },
                "tags": { "type": "array", "items": { "type": "string" } },
                "ports": { "type": "array", "items": { "type": "integer" } },
                "limits": { "type": "object", "additionalProperties": { "type": "integer" } },
                "payload": {},
                "either": { "anyOf": [{ "type": "string" }, { "type": "object" }] },
                "checks": { "type": "array", "items": { "type": "object" } },
                "maxAge": { "type": "string", "default": "1m", "x-value": "DURATION" },
                "json": { "type": "string" },
                "secret": { "type": "string", "x-hidden": true },
            }),
            &["id"],
        )
        .positional(&["id", "more"]);
    let mut exec = CommandSpec::new("agent exec", "Runs a command beside an agent")
        .args(
            json!({ "id": { "type": "string" }, "command": { "type": "array", "items": { "type": "string" } } }),
            &["id", "command"],
        )
        .positional(&["id"]);
    exec.trailing = Some("command".into());
    let mut reset = CommandSpec::new("system reset", "Erases everything").destructive();
    reset = reset.args(json!({ "yes": { "type": "boolean" } }), &[]);
    vec![
        CommandSpec::new("agent list", "Lists agents").watchable().example("agent list --json"),
        create,
        exec,
        CommandSpec::new("agent destroy", "Destroys an agent")
            .destructive()
            .args(json!({ "id": { "type": "string" } }), &["id"])
            .positional(&["id"]),
        every,
        reset,
        CommandSpec::new("up", "Applies a file")
            .args(json!({ "file": { "type": "string" }, "check": { "type": "boolean" } }), &[])
            .positional(&["file"]),
        CommandSpec::new("up plan", "Shows what `up` would do"),
        CommandSpec::new("agent inner", "For programs alone").hidden(),
    ]
    .into_iter()
    .map(Arc::new)
    .collect()
}

fn parser() -> Parser {
    Parser::new("codex-hms", "1.2.3", commands(), Arc::new(Types))
        .about("Keeps things alive")
        .group("agent", "Agents")
}

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

fn run(line: &[&str]) -> Invocation {
    match parser().parse(&words(line)) {
        Parsed::Run(run) => *run,
        Parsed::Text { text, .. } => panic!("{line:?}: {text}"),
    }
}

/// The arguments that a line comes to.
fn args(line: &[&str]) -> Value {
    run(line).args
}

/// The arguments of `every x` with these options.
fn every(options: &[&str]) -> Value {
    let mut args = args(&[&["every", "x"], options].concat());
    args.as_object_mut().unwrap().remove("id");
    args
}

/// The text of a usage error.
fn fails(line: &[&str]) -> String {
    match parser().parse(&words(line)) {
        Parsed::Text { text, exit_code: 2, to_stderr: true } => text,
        other => panic!("{line:?}: {other:?}"),
    }
}

/// The text of help or version.
fn shows(line: &[&str]) -> String {
    match parser().parse(&words(line)) {
        Parsed::Text { text, exit_code: 0, to_stderr: false } => text,
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn each_form_of_option_gives_its_json() {
    for (options, expected) in [
        (&["--count", "3"][..], json!({ "count": 3 })),
        (&["--ratio", "0.5"], json!({ "ratio": 0.5 })),
        (&["--ratio=2"], json!({ "ratio": 2 })),
        (&["-f"], json!({ "follow": true })),
        (&["--follow", "--no-follow"], json!({ "follow": false })),
        (&["--no-wait"], json!({ "wait": false })),
        (&["--no-wait", "--wait"], json!({ "wait": true })),
        (&["--level", "high"], json!({ "level": "high" })),
        (&["--state", "up,down", "--state", "up"], json!({ "states": ["up", "down", "up"] })),
        (&["--states", "down"], json!({ "states": ["down"] })),
        (&["--tag", "a,b", "--tag", "c"], json!({ "tags": ["a", "b", "c"] })),
        (&["--tag", r#"["a,b"]"#], json!({ "tags": ["a,b"] })),
        (&["--tag", ""], json!({ "tags": [] })),
        (&["--port", "80,443"], json!({ "ports": [80, 443] })),
        (&["--limit", "cpu=2", "--limits", "mem=5"], json!({ "limits": { "cpu": 2, "mem": 5 } })),
        (&["--limit", r#"{"cpu":1}"#, "--limit", "cpu=2"], json!({ "limits": { "cpu": 2 } })),
        (&["--payload", r#"{"a":[1]}"#], json!({ "payload": { "a": [1] } })),
        (&["--payload", "just words"], json!({ "payload": "just words" })),
        (&["--payload", "-5"], json!({ "payload": -5 })),
        (&["--either", "7"], json!({ "either": "7" })),
        (&["--either", r#"{"a":1}"#], json!({ "either": { "a": 1 } })),
        (
            &["--check", r#"{"a":1}"#, "--check", r#"[{"b":2}]"#],
            json!({ "checks": [{ "a": 1 }, { "b": 2 }] }),
        ),
        (&["--max-age", "5m"], json!({ "maxAge": "5m" })),
        (&["--arg-json", "a"], json!({ "json": "a" })),
        (&["--secret", "s"], json!({ "secret": "s" })),
        (&["y", "z,z"], json!({ "more": ["y", "z,z"] })),
    ] {
        assert_eq!(every(options), expected, "{options:?}");
    }
}

#[test]
fn bad_values_say_which_option_and_why() {
    for (options, problem) in [
        (&["--count", "0"][..], "invalid value '0' for '--count <N>': must be at least 1"),
        (&["--count", "11"], "must be at most 10"),
        (&["--count", "two"], "invalid value 'two' for '--count <N>': not a whole number"),
        (&["--ratio", "0"], "must be more than 0"),
        (&["--ratio", "nan"], "not a finite number"),
        (&["--level", "hihg"], "a similar value exists: 'high'"),
        (&["--state", "up,sideways"], "invalid value 'sideways' for '--state <STATE>'"),
        (&["--port", "80,x"], "invalid value '80,x' for '--port <PORT>': not a whole number"),
        (&["--limit", "cpu"], "invalid value 'cpu' for '--limit <KEY=VALUE>': write it as KEY=VALUE"),
        (&["--limit", "cpu=x"], "not a whole number"),
        (&["--limit", "{"], "must be a JSON object: EOF"),
        (&["--check", "7"], "must be JSON of type object"),
        (&["--cuont", "3"], "a similar argument exists: '--count'"),
        (&["--level", "low", "--level", "high"], "cannot be used multiple times"),
    ] {
        let text = fails(&[&["every", "x"], options].concat());
        assert!(text.contains(problem), "{options:?}: {text}");
    }
}

#[test]
fn unknown_and_missing_words_are_explained() {
    let text = fails(&["agent", "lst"]);
    assert_eq!(
        text,
        "error: unrecognized subcommand 'lst'\n\n  tip: a similar subcommand exists: 'list'\n\n\
         Usage: codex-hms agent [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.\n"
    );
    assert!(fails(&["agnet", "list"]).contains("a similar subcommand exists: 'agent'"));
    assert!(fails(&["agent", "destroy"]).contains("required arguments were not provided:\n  <ID>"));
    assert!(fails(&["agent", "exec", "web"]).contains("<COMMAND>..."));
    assert!(fails(&["agent", "list", "extra"]).contains("unexpected argument 'extra'"));
    // A group alone shows its help, as a mistake.
    assert!(fails(&["agent"]).contains("Usage: codex-hms agent [OPTIONS] <COMMAND>"));
    assert!(fails(&[]).contains("Usage: codex-hms [OPTIONS] <COMMAND>"));
}

#[test]
fn errors_are_json_where_json_was_asked_for() {
    let error = |line: &[&str]| serde_json::from_str::<Value>(&fails(line)).unwrap();
    assert_eq!(
        error(&["agent", "lst", "--json"]),
        json!({ "error": {
            "kind": "invalid-argument",
            "message": "unrecognized subcommand 'lst'",
            "hint": "a similar subcommand exists: 'list'",
        } })
    );
    assert_eq!(error(&["--json", "agent"])["error"]["message"], "a command is required");
    let missing = error(&["agent", "destroy", "--json"]);
    assert_eq!(missing["error"]["message"], "the following required arguments were not provided: <ID>");
    // After `--` it belongs to somebody else.
    assert!(fails(&["agent", "create", "proces", "--", "x", "--json"]).starts_with("error: "));
}

#[test]
fn every_command_takes_the_global_options_anywhere() {
    for line in [
        &["--json", "--home", "/h", "--color", "never", "-q", "agent", "list"][..],
        &["agent", "--json", "--home=/h", "list", "--color=never", "--quiet"],
        &["agent", "list", "--json", "--json", "--home", "/h", "--color", "never", "-q"],
    ] {
        let run = run(line);
        assert_eq!(run.spec.path, "agent list", "{line:?}");
        assert!(run.output.json && run.output.quiet, "{line:?}");
        assert_eq!(run.output.color, ColorChoice::Never, "{line:?}");
        assert_eq!(run.home, Some(PathBuf::from("/h")), "{line:?}");
    }
    assert!(
        fails(&["agent", "list", "--color", "often"]).contains("invalid value 'often' for '--color <WHEN>'")
    );
}

#[test]
fn watch_and_yes_are_there_where_they_make_sense() {
    assert_eq!(run(&["agent", "list"]).output.watch, None);
    assert_eq!(run(&["agent", "list", "--watch"]).output.watch, Some(Duration::from_secs(1)));
    assert_eq!(run(&["agent", "list", "--watch=250ms"]).output.watch, Some(Duration::from_millis(250)));
    assert!(fails(&["agent", "list", "--watch=1ms"]).contains("must be at least 100ms"));
    assert!(fails(&["agent", "list", "--watch=soon"]).contains("`soon` is not a duration"));
    assert!(fails(&["every", "x", "--watch"]).contains("unexpected argument '--watch'"));
    assert!(!run(&["agent", "destroy", "x"]).yes);
    let yes = run(&["agent", "destroy", "x", "-y"]);
    assert!(yes.yes);
    assert_eq!(yes.args, json!({ "id": "x" }));
    assert_eq!(run(&["system", "reset", "--yes"]).args, json!({ "yes": true }));
    assert!(fails(&["every", "x", "--yes"]).contains("unexpected argument '--yes'"));
}

#[test]
fn a_word_can_be_a_command_and_a_group() {
    assert_eq!(run(&["up"]).args, json!({}));
    assert_eq!(run(&["up", "hms.toml", "--check"]).args, json!({ "file": "hms.toml", "check": true }));
    assert_eq!(run(&["up", "plan"]).spec.path, "up plan");
    assert_eq!(run(&["up", "--check", "plan"]).spec.path, "up plan");
}

#[test]
fn what_follows_two_dashes_is_taken_as_it_is() {
    assert_eq!(
        args(&["agent", "exec", "web", "--", "sh", "-c", "a,b", "--json", "--", "[1]"]),
        json!({ "id": "web", "command": ["sh", "-c", "a,b", "--json", "--", "[1]"] })
    );
    assert!(!run(&["agent", "exec", "web", "--", "x", "--json"]).output.json);
}

#[test]
fn a_type_brings_its_own_options() {
    assert_eq!(
        args(&[
            "agent",
            "create",
            "process",
            "--name",
            "web",
            "--label",
            "tier=1",
            "--depends-on",
            "db,cache",
            "--cwd",
            "/srv",
            "--env",
            "A=b=c",
            "--no-adopt",
            "--restart-max",
            "3",
            "--restart.backoff.first",
            "1s",
            "--memory",
            "512MiB",
            "--liveness",
            r#"{"exec":["true"]}"#,
            "--",
            "python3",
            "-m",
            "http.server",
        ]),
        json!({
            "type": "process",
            "name": "web",
            "labels": { "tier": "1" },
            "depends_on": ["db", "cache"],
            "config": {
                "cwd": "/srv",
                "env": { "A": "b=c" },
                "adopt": false,
                "restart": { "max": 3, "backoff": { "first": "1s" } },
                "liveness": { "exec": ["true"] },
                "memory": "512MiB",
                "command": ["python3", "-m", "http.server"],
            },
        })
    );
    let probe = args(&["agent", "create", "process", "--liveness-exec", "test,-e,/x", "--", "x"]);
    assert_eq!(probe["config"]["liveness"], json!({ "exec": ["test", "-e", "/x"] }));
    // The command's own option wins; the type's of that name has another.
    let both = args(&["agent", "create", "process", "-n", "web", "--config-name", "title", "--", "x"]);
    assert_eq!((&both["name"], &both["config"]["name"]), (&json!("web"), &json!("title")));
    assert_eq!(args(&["agent", "create", "http", "--url", "u"])["config"], json!({ "url": "u" }));
    assert_eq!(args(&["agent", "create", "http"]), json!({ "type": "http" }));
}

#[test]
fn the_type_is_found_among_options_that_are_not_known_yet() {
    for line in [
        &["agent", "create", "--cwd", "/srv", "process", "--", "x"][..],
        &["agent", "create", "--name", "http", "process", "--cwd=/srv", "--", "x"],
        &["agent", "create", "--no-adopt", "--cwd", "/srv", "process", "--", "x"],
        // Even where the value of an option of the type is the name of another type.
        &["agent", "create", "--env", "http=1", "--cwd", "/srv", "process", "--", "x"],
    ] {
        let args = args(line);
        assert_eq!(args["type"], "process", "{line:?}");
        assert_eq!(args["config"]["cwd"], "/srv", "{line:?}");
    }
}

#[test]
fn config_lies_beneath_the_options() {
    let mut file = tempfile_with(r#"{"cwd":"/file","restart":{"max":1,"mode":"transient"}}"#);
    file.flush().unwrap();
    let from = format!("@{}", file.path().display());
    let line = [
        "agent",
        "create",
        "process",
        "--restart-max",
        "9",
        "--config",
        &from,
        "--config",
        r#"{"cwd":"/json"}"#,
    ];
    assert_eq!(
        args(&line)["config"],
        json!({ "cwd": "/json", "restart": { "max": 9, "mode": "transient" } })
    );
    let object =
        ["agent", "create", "process", "--restart-max", "2", "--restart", r#"{"max":1,"mode":"permanent"}"#];
    let object = args(&[&object[..], &["--", "x"]].concat());
    assert_eq!(object["config"]["restart"], json!({ "max": 2, "mode": "permanent" }));
    let text = fails(&["agent", "create", "process", "--config", "@/no/such/file.json"]);
    assert!(text.contains("cannot read /no/such/file.json"), "{text}");
    assert!(fails(&["agent", "create", "process", "--config", "[1]"]).contains("must be a JSON object"));
}

fn tempfile_with(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn an_unknown_type_is_answered_with_those_there_are() {
    let text = fails(&["agent", "create", "proces", "--cwd", "/", "--", "x"]);
    assert!(text.contains("invalid value 'proces' for '<TYPE>'"), "{text}");
    assert!(text.contains("[possible values: process, http]"), "{text}");
    assert!(text.contains("a similar value exists: 'process'"), "{text}");
    assert!(fails(&["agent", "create"]).contains("<TYPE>"));
    let missing = fails(&["agent", "create", "process"]);
    assert!(missing.contains("required arguments were not provided:\n  <COMMAND>..."), "{missing}");
    assert!(fails(&["agent", "create", "http", "--cwd", "/"]).contains("unexpected argument '--cwd'"));
}

#[test]
fn types_that_are_not_known_here_are_the_hosts_to_judge() {
    struct Nothing;
    impl TypeSource for Nothing {
        fn type_names(&self) -> Vec<(String, String)> {
            Vec::new()
        }
        fn type_schema(&self, _: &str) -> Option<Value> {
            None
        }
    }
    let parser = Parser::new("codex-hms", "1.2.3", commands(), Arc::new(Nothing));
    let Parsed::Run(run) = parser.parse(&words(&["agent", "create", "custom", "--config", r#"{"a":1}"#]))
    else {
        panic!("an unknown type was refused");
    };
    assert_eq!(run.args, json!({ "type": "custom", "config": { "a": 1 } }));
}

#[test]
fn help_of_a_typed_command_lists_the_types_and_then_their_options() {
    assert_eq!(
        shows(&["agent", "create", "--help"]),
        "\
Creates an agent

It starts at once.

Usage: codex-hms agent create [OPTIONS] <TYPE>

Arguments:
  <TYPE>  The type

Options:
  -n, --name <NAME>              Its name
      --label <KEY=VALUE>        
      --depends-on <DEPENDS_ON>  
      --config <JSON|@FILE>      The type's configuration as JSON, or @ and a file of it; other
                                 options win over it

Global options:
      --json          Prints JSON
      --color <WHEN>  Colours: on a terminal (auto), always or never
      --home <DIR>    The home to use, instead of HMS_HOME or the default
  -q, --quiet         Prints nothing but errors and what was asked for
  -h, --help          Prints help

Types:
  process  Runs a program
  http     Watches a URL

Each type has options of its own: `codex-hms agent create <TYPE> --help` shows them.

Examples:
  codex-hms agent create process --name web -- python3 -m http.server
"
    );
    let typed = shows(&["help", "agent", "create", "process"]);
    // Columns are as wide as the longest option: not the point here.
    let typed = typed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    for line in [
        "Usage: codex-hms agent create [OPTIONS] <TYPE> [-- <COMMAND>...]",
        "[COMMAND]... The program",
        "Options of type `process`:",
        "--cwd <DIR>",
        "--stop-timeout <DURATION> [default: 10s]",
        "--no-adopt Turns this off: Adopt what still runs",
        "--restart <JSON>",
        "--restart-mode <MODE> [possible values: permanent, transient]",
        "--restart-backoff-first <FIRST>",
        "--liveness-exec <EXEC>",
        "--config-name <NAME> The title of the process",
    ] {
        assert!(typed.iter().any(|there| there == line), "{line}: {typed:#?}");
    }
    assert!(
        typed.iter().all(|line| !line.contains("--url") && line != "--restart-backoff <JSON>"),
        "{typed:#?}"
    );
    assert!(!shows(&["every", "--help"]).contains("--secret"));
}

#[test]
fn the_program_is_called_what_the_user_calls_it() {
    let parser = Parser::new("codex hms", "1.2.3", commands(), Arc::new(Types)).color(true);
    let Parsed::Text { text, .. } = parser.parse(&words(&["agent", "list", "--help", "--color", "never"]))
    else {
        panic!("no help");
    };
    assert!(text.contains("Usage: codex hms agent list [OPTIONS]"), "{text}");
    assert!(text.contains("Examples:\n  codex hms agent list --json"), "{text}");
    assert!(!text.contains('\x1b'));
    let Parsed::Text { text, .. } = parser.parse(&words(&["agent", "lst"])) else { panic!("no error") };
    assert!(text.contains("\x1b["), "{text}");
    assert_eq!(shows(&["--version"]), "codex-hms 1.2.3\n");
    let root = shows(&["--help"]);
    assert!(
        root.contains("  agent   Agents\n  every   Has every kind of option\n  system  reset\n"),
        "{root}"
    );
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in SHELLS {
        let script = parser().completions(shell).unwrap();
        assert!(script.contains("codex-hms") && script.contains("destroy"), "{shell}");
    }
    let error = parser().completions("tcsh").unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert_eq!(error.hint.as_deref(), Some("they are written for bash, zsh, fish, powershell, elvish"));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let pages = parser().man_page().unwrap();
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "codex-hms.1",
        "codex-hms-agent.1",
        "codex-hms-agent-create.1",
        "codex-hms-up.1",
        "codex-hms-up-plan.1",
    ] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    let (_, create) = pages.iter().find(|(name, _)| name == "codex-hms-agent-create.1").unwrap();
    assert!(create.contains("It starts at once."), "{create}");
    assert!(create.contains(r"\fBcodex\-hms agent create\fR"), "{create}");
}

#[test]
fn the_reference_lists_commands_types_and_exit_codes() {
    let text = parser().reference_markdown();
    for spec in commands().iter().filter(|spec| !spec.hidden) {
        assert!(text.contains(&format!("### `codex-hms {}`\n", spec.path)), "{}", spec.path);
    }
    for part in [
        "```text\ncodex-hms agent exec <ID> -- <COMMAND>...\n```",
        "| `-n, --name <NAME>` | Its name |",
        "| `--no-wait` | turns this off: Wait for the end |",
        "| `--level <LEVEL>` | (`low`, `high`) |",
        "### Options of type `process`\n\nRuns a program\n",
        "| `-- <COMMAND>...` | The program (required) |",
        "| 130 | cancelled | interrupted by a signal, or cancelled |",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("--secret"));
}

#[test]
fn exit_codes_are_those_of_the_table() {
    for (kind, code) in [
        (ErrorKind::InvalidArgument, 2),
        (ErrorKind::InvalidConfig, 2),
        (ErrorKind::NotFound, 3),
        (ErrorKind::AlreadyExists, 4),
        (ErrorKind::InvalidState, 4),
        (ErrorKind::Timeout, 5),
        (ErrorKind::HostUnavailable, 6),
        (ErrorKind::HomeBusy, 6),
        (ErrorKind::VersionMismatch, 6),
        (ErrorKind::PermissionDenied, 7),
        (ErrorKind::StoreCorrupt, 8),
        (ErrorKind::StoreNewer, 8),
        (ErrorKind::DiskFull, 8),
        (ErrorKind::Cancelled, 130),
        (ErrorKind::HandlerFailed, 1),
    ] {
        assert_eq!(exit_code(kind), code, "{kind:?}");
        assert!(EXIT_CODES.iter().any(|exit| exit.code == code), "{code} is not in the table");
    }
    assert!(EXIT_CODES.is_sorted_by_key(|exit| exit.code));
}

#[test]
fn names_read_as_options_do() {
    for (name, long) in [
        ("maxRestarts", "max-restarts"),
        ("state_version", "state-version"),
        ("CPUUsage", "cpu-usage"),
        ("http2Port", "http2-port"),
        ("already-kebab", "already-kebab"),
        ("_odd__name_", "odd-name"),
        ("$", ""),
    ] {
        assert_eq!(kebab(name), long, "{name}");
    }
}

#[test]
fn a_command_for_programs_alone_runs_and_is_not_shown() {
    assert_eq!(run(&["agent", "inner"]).spec.path, "agent inner");
    let Parsed::Text { text, .. } = parser().parse(&words(&["agent", "--help"])) else { panic!("no help") };
    assert!(text.contains("destroy") && !text.contains("inner"), "{text}");
    assert!(!parser().reference_markdown().contains("agent inner"));
    assert!(!parser().completions("bash").unwrap().contains("inner"));
}
