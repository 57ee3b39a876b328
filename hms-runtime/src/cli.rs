//! A whole command line: from words to an exit code.
//!
//! `codex-hms` and the `hms` group of other programs are this function. It describes the system (no store, no
//! host), parses, and then runs a `caller` command here or a `host` command at the home's host, which it
//! starts if there is none.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{Caller, CommandContext, CommandSpec, Runs, Surroundings, Update},
    peer::Client,
    plugin::Plugin,
};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use crate::{
    Cancel,
    argv::{self, ColorChoice, Invocation, Parsed, Parser, TypeSource},
    attach, home, organs,
    terminal::{Closed, Terminal},
    view::{Redraw, Style, error_json, render, render_error},
};

/// The program whose command line it is.
#[derive(Debug, Clone)]
pub struct Program {
    /// As a user types it: `codex-hms`, or `codex hms`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The program that runs hosts, as `<program> system run`.
    pub host_program: PathBuf,
    /// Standard input, output and error.
    pub stdio: [i32; 3],
}

/// What the groups of commands are for, in the order of `--help`.
const GROUPS: [(&str, &str); 6] = [
    ("agent", "Create, look at and control agents"),
    ("monitor", "See health, metrics, alerts and events"),
    ("heal", "See and steer healing"),
    ("system", "Run and configure the system itself"),
    ("mcp", "Keep MCP servers alive"),
    ("codex", "Put HMS into Codex and other MCP clients"),
];

const ABOUT: &str = "Keeps processes and other moving parts alive: supervision, health, verified healing.";

/// Parses `args` (without the program's name), runs the command, prints, and returns the exit code.
pub async fn run(program: Program, args: Vec<OsString>, cancel: Cancel) -> i32 {
    let terminal = match Terminal::open(program.stdio) {
        Ok(terminal) => Arc::new(terminal),
        Err(_) => return argv::FAILED, // there is nobody to tell
    };
    let kernel = match Kernel::describe(organs_for(&args)) {
        Ok(kernel) => kernel,
        Err(e) => return complain(&terminal, &program.name, false, &e),
    };
    let parser = parser(&program.name, &program.version, &kernel)
        .color(wants_color(ColorChoice::Auto, &terminal))
        .width(match terminal.size() {
            (0, _) => 100,
            (columns, _) => columns,
        });
    match parser.parse(&args) {
        Parsed::Text { text, exit_code, to_stderr: true } => {
            terminal.complain(&text);
            exit_code
        }
        Parsed::Text { text, exit_code, to_stderr: false } => {
            terminal.write(&text).map_or(argv::OK, |()| exit_code)
        }
        Parsed::Run(invocation) => {
            let json = invocation.output.json;
            let line = CommandLine {
                program: &program,
                terminal: terminal.clone(),
                kernel,
                invocation: *invocation,
                cancel,
            };
            match line.run().await {
                Ok(code) => code,
                Err(End::Closed) => argv::OK,
                Err(End::Failed(e)) => complain(&terminal, &program.name, json, &e),
            }
        }
    }
}

/// The organs whose commands a command line can mean. A wrapper of MCP servers starts and stays once for every
/// server of every session: it takes no time, and keeps nothing in memory, for commands of others.
fn organs_for(args: &[OsString]) -> Vec<Arc<dyn Plugin>> {
    match args {
        [group, command, ..] if group == "mcp" && (command == "wrap" || command == "guard") => {
            vec![Arc::new(hms_mcp::McpPlugin)]
        }
        _ => organs(),
    }
}

/// The parser of a program's command line.
pub fn parser(name: &str, version: &str, kernel: &Kernel) -> Parser {
    let parser =
        Parser::new(name, version, kernel.commands().list(), Arc::new(Types(kernel.clone()))).about(ABOUT);
    GROUPS.iter().fold(parser, |parser, (path, summary)| parser.group(path, summary))
}

struct Types(Kernel);

impl TypeSource for Types {
    fn type_names(&self) -> Vec<(String, String)> {
        self.0.types().list().iter().map(|t| (t.name.clone(), t.summary.clone())).collect()
    }

    fn type_schema(&self, name: &str) -> Option<Value> {
        self.0.types().get(name).ok().map(|t| t.schema.clone())
    }
}

/// Why a command line ends without an exit code of its own.
enum End {
    Failed(Error),
    Closed,
}

impl From<Error> for End {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// Where a command is run.
#[derive(Clone, Copy)]
enum At<'a> {
    Here(&'a Surroundings),
    Host(&'a Client),
}

struct CommandLine<'p> {
    program: &'p Program,
    terminal: Arc<Terminal>,
    kernel: Kernel,
    invocation: Invocation,
    cancel: Cancel,
}

impl CommandLine<'_> {
    async fn run(self) -> Result<i32, End> {
        self.confirm()?;
        let home = match home::resolve(self.invocation.home.as_deref()) {
            // What stands in for another program runs in whatever environment that was given.
            Err(_) if self.invocation.spec.args.get("x-homeless") == Some(&Value::Bool(true)) => {
                home::nowhere()
            }
            home => home?,
        };
        match self.invocation.spec.runs {
            Runs::Caller => self.run_here(&home).await,
            Runs::Host => self.run_at_host(&home).await,
        }
    }

    fn confirm(&self) -> Result<()> {
        let Some(question) = &self.invocation.spec.confirm else { return Ok(()) };
        if self.invocation.yes {
            return Ok(());
        }
        let question = question.replace("{program}", &self.program.name);
        if !self.terminal.asks() {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("this needs a yes: {question}"))
                .hint("pass --yes to say so without a terminal"));
        }
        if self.terminal.confirm(&question) {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Cancelled, "nothing was changed"))
        }
    }

    async fn run_here(self, home: &Path) -> Result<i32, End> {
        let exit_code = Arc::new(AtomicI32::new(argv::OK));
        let surroundings = Surroundings {
            program: self.program.name.clone(),
            home: home.to_owned(),
            attach: attach(home, "cli", Some(&self.program.host_program))?,
            stdio: self.program.stdio,
            terminal: self.terminal.is_terminal(),
            color: self.wants_color(),
            json: self.invocation.output.json,
            signal: Arc::new(AtomicI32::new(0)),
            exit_code: exit_code.clone(),
        };
        if let Some(every) = self.invocation.output.watch {
            return self.watch(At::Here(&surroundings), every).await;
        }
        match self.here(&surroundings).await? {
            Some(result) => {
                self.show(&result)?;
                Ok(exit_code.load(Ordering::Acquire))
            }
            None => Ok(self.cancelled_code()),
        }
    }

    /// Runs the command once in this process; `None` when it was cancelled.
    async fn here(&self, surroundings: &Surroundings) -> Result<Option<Value>, End> {
        let command = self.kernel.commands().get(&self.invocation.spec.path)?;
        let (tx, mut updates) = mpsc::channel(64);
        let (cx, canceller) = CommandContext::new(self.caller(), Some(tx));
        let work = command.run(cx.within(surroundings.clone()), self.invocation.args.clone());
        tokio::pin!(work);
        let mut asked = false;
        let outcome = loop {
            tokio::select! {
                biased;
                Some(update) = updates.recv() => self.show_update(update)?,
                number = self.cancel.cancelled(), if !asked => {
                    // It ends in its own time: it may hold agents or a terminal.
                    asked = true;
                    surroundings.signal.store(number, Ordering::Release);
                    canceller.cancel();
                }
                outcome = &mut work => break outcome,
            }
        };
        while let Ok(update) = updates.try_recv() {
            self.show_update(update)?;
        }
        match outcome {
            Err(e) if asked && e.kind == ErrorKind::Cancelled => Ok(None),
            outcome => Ok(Some(outcome?)),
        }
    }

    async fn run_at_host(self, home: &Path) -> Result<i32, End> {
        home::prepare(Some(home))?;
        let attach = attach(home, "cli", Some(&self.program.host_program))?;
        let client = tokio::select! {
            client = Client::attach(attach) => client?,
            _ = self.cancel.cancelled() => return Ok(self.cancelled_code()),
        };
        match self.invocation.output.watch {
            Some(every) => self.watch(At::Host(&client), every).await,
            None => match self.ask(&client).await? {
                Some(result) => {
                    self.clear_progress();
                    self.show(&result)?;
                    Ok(argv::OK)
                }
                None => Ok(self.cancelled_code()),
            },
        }
    }

    /// Runs the command once at the host; `None` when it was cancelled.
    async fn ask(&self, client: &Client) -> Result<Option<Value>, End> {
        let closed = Notify::new();
        let spec = &self.invocation.spec;
        let updates = |update| {
            if self.show_update(update).is_err() {
                closed.notify_one();
            }
        };
        let result = tokio::select! {
            result = client.run(&spec.path, self.invocation.args.clone(), self.caller(), updates) => Some(result),
            _ = self.cancel.cancelled() => None,
            () = closed.notified() => return Err(End::Closed),
        };
        Ok(result.transpose()?)
    }

    /// Runs the command again and again, and draws each result over the last one.
    async fn watch(&self, at: At<'_>, every: Duration) -> Result<i32, End> {
        let in_place = self.terminal.is_terminal() && !self.invocation.output.json;
        let mut redraw = Redraw::new(in_place);
        loop {
            let result = match at {
                At::Here(surroundings) => self.here(surroundings).await?,
                At::Host(client) => self.ask(client).await?,
            };
            let Some(result) = result else { break };
            let (columns, rows) = self.terminal.size();
            let text = if self.invocation.output.json {
                json_line(&result)
            } else {
                render(&self.invocation.spec.view, &result, &self.style())
            };
            self.terminal.write(&redraw.frame(&text, columns, rows))?;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                _ = self.cancel.cancelled() => break,
            }
        }
        Ok(self.cancelled_code())
    }

    fn show_update(&self, update: Update) -> Result<(), Closed> {
        match update {
            Update::Item { value } if self.invocation.output.json => self.terminal.write(&json_line(&value)),
            Update::Item { value } => {
                self.terminal.write(&render(&self.invocation.spec.view, &value, &self.style()))
            }
            Update::Resume { .. } => Ok(()),
            // Of a stream it is a remark about the items, such as that some are missing.
            Update::Progress { message, .. }
                if self.invocation.spec.streams && !self.invocation.output.quiet =>
            {
                self.terminal.complain(&format!("{message}\n"));
                Ok(())
            }
            Update::Progress { fraction, message } => {
                if self.terminal.err_is_terminal() && !self.invocation.output.quiet {
                    let percent = fraction.map(|f| format!("{:3.0}% ", f * 100.0)).unwrap_or_default();
                    self.terminal.complain(&format!("\r\x1b[K{percent}{message}"));
                }
                Ok(())
            }
        }
    }

    fn clear_progress(&self) {
        if self.terminal.err_is_terminal() {
            self.terminal.complain("\r\x1b[K");
        }
    }

    fn show(&self, result: &Value) -> Result<(), Closed> {
        // A streaming command has shown its items; what it returns is for programs that call it otherwise.
        if result.is_null() || self.invocation.spec.streams {
            return Ok(());
        }
        let text = if self.invocation.output.json {
            format!("{}\n", serde_json::to_string_pretty(result).unwrap_or_default())
        } else {
            render(&self.invocation.spec.view, result, &self.style())
        };
        self.terminal.write(&text)
    }

    fn caller(&self) -> Caller {
        let wants_env = self.invocation.spec.args.get("x-caller-env").and_then(Value::as_bool) == Some(true);
        Caller {
            source: "cli".into(),
            cwd: std::env::current_dir().ok().map(|d| d.display().to_string()),
            env: wants_env.then(|| {
                // Not `vars()`: one name that is not UTF-8 must not end the command line.
                std::env::vars_os()
                    .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                    .collect()
            }),
        }
    }

    fn style(&self) -> Style {
        style(&self.program.name, &self.terminal, self.wants_color())
    }

    fn wants_color(&self) -> bool {
        wants_color(self.invocation.output.color, &self.terminal)
    }

    fn cancelled_code(&self) -> i32 {
        match self.cancel.signal() {
            Some(signal) if signal > 0 => 128 + signal,
            _ => argv::CANCELLED,
        }
    }
}

fn style(program: &str, terminal: &Terminal, color: bool) -> Style {
    if terminal.is_terminal() {
        Style::terminal(program, now_ms(), terminal.size().0, color)
    } else {
        Style { color, ..Style::plain(program, now_ms()) }
    }
}

fn wants_color(choice: ColorChoice, terminal: &Terminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            terminal.is_terminal() && !unwanted && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        }
    }
}

fn complain(terminal: &Terminal, program: &str, json: bool, error: &Error) -> i32 {
    let text = if json {
        json_line(&error_json(error, program))
    } else {
        let color = terminal.err_is_terminal() && wants_color(ColorChoice::Auto, terminal);
        render_error(error, &Style { color, ..Style::plain(program, now_ms()) })
    };
    if terminal.err_is_terminal() {
        terminal.complain("\r\x1b[K");
    }
    terminal.complain(&text);
    argv::exit_code(error.kind)
}

fn json_line(value: &Value) -> String {
    format!("{value}\n")
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A command's specification by its path, for tests and documentation.
pub fn spec(path: &str) -> Result<Arc<CommandSpec>> {
    Ok(Kernel::describe(organs())?.commands().get(path)?.spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_described_in_part_is_the_same_command() {
        for name in ["wrap", "guard"] {
            let few = Kernel::describe(organs_for(&["mcp".into(), name.into()])).unwrap();
            let path = format!("mcp {name}");
            let short = few.commands().get(&path).unwrap().spec;
            let whole = spec(&path).unwrap();
            assert_eq!(short, whole);
            assert!(few.commands().get("agent list").is_err(), "all was described");
        }
        let all = Kernel::describe(organs_for(&["mcp".into(), "pool".into()])).unwrap();
        assert!(all.commands().get("agent list").is_ok());
    }
}
