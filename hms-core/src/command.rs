//! Commands are data: a path, a JSON Schema of the arguments, where it runs, a handler, and a
//! structured result with a view. The CLI, other languages' command groups and tools are all drawn
//! from this one registry.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    path::PathBuf,
    pin::{Pin, pin},
    sync::{Arc, PoisonError, RwLock, atomic::AtomicI32},
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{Error, ErrorKind, Result, owner::Owner, peer::Attach, schema::LazySchema};

/// Where a command's handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// In the host, beside the agents. Arguments and result are JSON.
    Host,
    /// In the process that asks, because it owns the terminal or byte streams. Opens no store and
    /// starts no host by itself.
    Caller,
}

/// What a command does to the system, for confirmation and for tools' hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Changes nothing.
    #[default]
    Read,
    /// Changes something that can be changed back.
    Write,
    /// Ends or erases something.
    Destructive,
}

/// How a cell of a view is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As it is.
    #[default]
    Text,
    /// Agent status, health, alert state or outcome: coloured by meaning.
    State,
    /// Milliseconds since the Unix epoch, shown as local time.
    Time,
    /// Milliseconds since the Unix epoch, shown as how long ago.
    Age,
    /// Milliseconds, shown as `1m 3s`.
    Millis,
    /// Bytes, shown as `12.3 MiB`.
    Bytes,
    /// 0–1, shown as a percentage.
    Percent,
    /// A number, right aligned.
    Number,
}

/// A column of a table or a field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Heading.
    pub title: String,
    /// JSON Pointer into the row, e.g. `/name`.
    pub pointer: String,
    /// How it is written.
    #[serde(default)]
    pub format: Format,
}

/// How a structured result is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "as")]
pub enum View {
    /// Rows of an array.
    Table {
        /// JSON Pointer to the array (empty: the result itself).
        rows: String,
        /// The columns, in order.
        columns: Vec<Column>,
        /// What to say when there are no rows.
        empty: String,
    },
    /// The fields of one object, then the tables below it.
    Record {
        /// The fields, in order.
        fields: Vec<Column>,
        /// Titled tables under the fields.
        #[serde(default)]
        tables: Vec<(String, View)>,
    },
    /// An indented tree.
    Tree {
        /// JSON Pointer to the array of roots.
        roots: String,
        /// Pointer to a node's children.
        children: String,
        /// What is written on a node's line.
        columns: Vec<Column>,
    },
    /// Points over time: an array of `[time_ms, value]` under each series of an array.
    Series {
        /// JSON Pointer to the array of series.
        rows: String,
        /// Pointer to a series' name.
        name: String,
        /// Pointer to its points.
        points: String,
    },
    /// A text found at a pointer.
    Text {
        /// JSON Pointer to a string.
        pointer: String,
        /// JSON Pointer to the word that colours it, as [`Format::State`] does; empty: none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        state: String,
    },
    /// A sentence with `{/pointer}` places.
    Message {
        /// The template.
        template: String,
    },
}

impl View {
    /// A table of the result itself.
    pub fn table(empty: &str, columns: &[(&str, &str, Format)]) -> Self {
        Self::Table { rows: String::new(), columns: columns_of(columns), empty: empty.into() }
    }

    /// A table of the array at `rows`.
    pub fn table_at(rows: &str, empty: &str, columns: &[(&str, &str, Format)]) -> Self {
        Self::Table { rows: rows.into(), columns: columns_of(columns), empty: empty.into() }
    }

    /// A record.
    pub fn record(fields: &[(&str, &str, Format)]) -> Self {
        Self::Record { fields: columns_of(fields), tables: Vec::new() }
    }

    /// Adds a titled table to a record.
    #[must_use]
    pub fn with(mut self, title: &str, view: View) -> Self {
        if let Self::Record { tables, .. } = &mut self {
            tables.push((title.into(), view));
        }
        self
    }

    /// A sentence with `{/pointer}` places.
    pub fn message(template: &str) -> Self {
        Self::Message { template: template.into() }
    }

    /// A text found at `pointer`.
    pub fn text(pointer: &str) -> Self {
        Self::Text { pointer: pointer.into(), state: String::new() }
    }

    /// The same, coloured by the state at `state`.
    pub fn text_by_state(pointer: &str, state: &str) -> Self {
        Self::Text { pointer: pointer.into(), state: state.into() }
    }
}

fn columns_of(columns: &[(&str, &str, Format)]) -> Vec<Column> {
    columns
        .iter()
        .map(|&(title, pointer, format)| Column { title: title.into(), pointer: pointer.into(), format })
        .collect()
}

/// What a command is, without its handler. Serialisable: peers list and register commands.
///
/// The argument schema is an object schema; front ends also read these keys of a property:
/// `x-short` (a letter), `x-value` (placeholder, e.g. `DURATION`), `x-hidden`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Words separated by single spaces: `agent list`.
    pub path: String,
    /// One line.
    pub summary: String,
    /// More, for `--help`.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the arguments object.
    pub args: Value,
    /// Properties that are positional on a command line, in order.
    #[serde(default)]
    pub positional: Vec<String>,
    /// The property (array of strings) that takes everything after `--`.
    #[serde(default)]
    pub trailing: Option<String>,
    /// The positional whose value names an agent type: that type's own schema then gives further
    /// options, collected under `config`.
    #[serde(default)]
    pub typed_by: Option<String>,
    /// Where it runs.
    pub runs: Runs,
    /// What it does to the system.
    #[serde(default)]
    pub effect: Effect,
    /// Asks before it runs on a terminal, with this question, unless the argument `yes` is true.
    #[serde(default)]
    pub confirm: Option<String>,
    /// Emits items while it runs; with a view per item.
    #[serde(default)]
    pub streams: bool,
    /// Makes sense to repeat and redraw (`--watch`).
    #[serde(default)]
    pub watchable: bool,
    /// How the result (or, when it streams, each item) is shown.
    pub view: View,
    /// Command lines worth showing, without the program's name.
    #[serde(default)]
    pub examples: Vec<String>,
    /// For programs alone: no front end shows it or offers it to people or models.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

impl CommandSpec {
    /// A host command that reads, with no arguments and a JSON-ish text view; refine by the methods below.
    pub fn new(path: &str, summary: &str) -> Self {
        Self {
            path: path.into(),
            summary: summary.into(),
            description: String::new(),
            args: crate::schema::object(serde_json::json!({}), &[]),
            positional: Vec::new(),
            trailing: None,
            typed_by: None,
            runs: Runs::Host,
            effect: Effect::Read,
            confirm: None,
            streams: false,
            watchable: false,
            view: View::text(""),
            examples: Vec::new(),
            hidden: false,
        }
    }

    /// The longer description.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.description = text.into();
        self
    }

    /// The arguments: properties and which are required.
    #[must_use]
    pub fn args(mut self, properties: Value, required: &[&str]) -> Self {
        self.args = crate::schema::object(properties, required);
        self
    }

    /// The positional arguments, in order.
    #[must_use]
    pub fn positional(mut self, names: &[&str]) -> Self {
        self.positional = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Runs in the process that asks.
    #[must_use]
    pub fn caller(mut self) -> Self {
        self.runs = Runs::Caller;
        self
    }

    /// A `caller` command that needs neither a terminal nor byte streams: front ends that have none, such as
    /// tools for models, may offer it. Say so after the arguments; it is their key `x-tool`.
    #[must_use]
    pub fn as_tool(mut self) -> Self {
        self.args["x-tool"] = true.into();
        self
    }

    /// Changes something.
    #[must_use]
    pub fn writes(mut self) -> Self {
        self.effect = Effect::Write;
        self
    }

    /// Ends or erases something.
    #[must_use]
    pub fn destructive(mut self) -> Self {
        self.effect = Effect::Destructive;
        self
    }

    /// For programs alone.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Emits items while it runs.
    #[must_use]
    pub fn streaming(mut self) -> Self {
        self.streams = true;
        self
    }

    /// Makes sense under `--watch`.
    #[must_use]
    pub fn watchable(mut self) -> Self {
        self.watchable = true;
        self
    }

    /// How it is shown.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        self.view = view;
        self
    }

    /// A command line worth showing.
    #[must_use]
    pub fn example(mut self, line: &str) -> Self {
        self.examples.push(line.into());
        self
    }
}

/// What a running command says before it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Update {
    /// Work done so far, 0–1 where it is known.
    Progress {
        /// 0–1.
        fraction: Option<f64>,
        /// What it is doing.
        message: String,
    },
    /// One item of a streaming command.
    Item {
        /// The item.
        value: Value,
    },
    /// How to go on from here at the next host, should this one go. Clients keep it for themselves.
    Resume {
        /// Arguments that replace those the command was run with, key by key.
        args: Value,
    },
}

impl Update {
    /// Runs `work` to its end, and hands on what it says meanwhile in order: all of it before the outcome.
    /// `next` polls for the next update, as [`mpsc::Receiver::poll_recv`] does.
    pub async fn until<T>(
        work: impl Future<Output = T>,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<Update>>,
        mut on_update: impl FnMut(Update),
    ) -> T {
        let mut work = pin!(work);
        let outcome = poll_fn(|cx| {
            while let Poll::Ready(Some(update)) = next(cx) {
                on_update(update);
            }
            work.as_mut().poll(cx)
        })
        .await;
        // What was said just before the end. Unconstrained: a used-up budget is no empty queue.
        tokio::task::unconstrained(poll_fn(|cx| {
            while let Poll::Ready(Some(update)) = next(cx) {
                on_update(update);
            }
            Poll::Ready(())
        }))
        .await;
        outcome
    }
}

/// Who asks, and what of its surroundings a command may need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// A name for history: `cli`, an agent's id, a language's SDK.
    #[serde(default)]
    pub source: String,
    /// Its working directory, for relative paths.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Its environment, for agents whose `env` is inherited. Sent only where a command asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
}

/// What a `caller` command has of the process it runs in.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The program's name, for hints.
    pub program: String,
    /// The home that is meant.
    pub home: PathBuf,
    /// How to attach to its host.
    pub attach: Attach,
    /// Descriptors of standard input, output and error: the command may read and write them.
    pub stdio: [i32; 3],
    /// Whether standard output is a terminal.
    pub terminal: bool,
    /// Whether colours are wanted.
    pub color: bool,
    /// Whether the output shall be JSON.
    pub json: bool,
    /// The signal that cancelled the command, once it is cancelled; 0 for none.
    pub signal: Arc<AtomicI32>,
    /// What the process ends with when the command succeeds: 0, unless the command stores another, as one
    /// that stands in for another program does.
    pub exit_code: Arc<AtomicI32>,
}

/// What a handler is given beside its arguments.
#[derive(Debug, Clone)]
pub struct CommandContext {
    /// Who asks.
    pub caller: Caller,
    surroundings: Option<Arc<Surroundings>>,
    updates: Option<mpsc::Sender<Update>>,
    cancelled: watch::Receiver<bool>,
}

impl CommandContext {
    /// A context whose updates go to `updates`, and the switch that cancels it.
    pub fn new(caller: Caller, updates: Option<mpsc::Sender<Update>>) -> (Self, Canceller) {
        let (tx, rx) = watch::channel(false);
        (Self { caller, surroundings: None, updates, cancelled: rx }, Canceller(tx))
    }

    /// The same in a process whose terminal, streams and home the command may use.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.surroundings = Some(Arc::new(surroundings));
        self
    }

    /// The process a `caller` command runs in. An error in the host, where such a command does not belong.
    pub fn surroundings(&self) -> Result<&Arc<Surroundings>> {
        self.surroundings.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::NotSupported, "this command runs only in the process that asks for it")
        })
    }

    /// Says how far the work is. Dropped when the caller does not keep up.
    pub fn progress(&self, fraction: impl Into<Option<f64>>, message: impl Into<String>) {
        if let Some(updates) = &self.updates {
            let _ = updates.try_send(Update::Progress { fraction: fraction.into(), message: message.into() });
        }
    }

    /// Emits an item, waiting for a slow caller; an error when the caller has gone.
    pub async fn emit(&self, value: Value) -> Result<()> {
        let gone = || Error::new(ErrorKind::Cancelled, "the caller has gone");
        match &self.updates {
            Some(updates) => updates.send(Update::Item { value }).await.map_err(|_| gone()),
            None => Ok(()),
        }
    }

    /// Says that everything so far has been emitted, and with which arguments (on top of those it was run
    /// with) the command goes on from here. A client that loses its host then runs it again at the next one.
    /// Only for commands that change nothing.
    pub async fn resume_with(&self, args: Value) {
        if let Some(updates) = &self.updates {
            let _ = updates.send(Update::Resume { args }).await; // without a caller there is nothing to resume
        }
    }

    /// Completes when the command is cancelled (or its caller has gone).
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        let _ = cancelled.wait_for(|c| *c).await;
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

/// Cancels a running command; dropping it does too.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

impl Canceller {
    /// Asks the command to end.
    pub fn cancel(&self) {
        let _ = self.0.send(true);
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        let _ = self.0.send(true);
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What runs when a command is called.
pub type Handler = Arc<dyn Fn(CommandContext, Value) -> BoxFuture<Result<Value>> + Send + Sync>;

/// Makes a [`Handler`] of an async function with typed arguments.
pub fn handler<A, F, Fut>(f: F) -> Handler
where
    A: DeserializeOwned + Send + 'static,
    F: Fn(CommandContext, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value>> + Send + 'static,
{
    Arc::new(move |cx, args| match serde_json::from_value::<A>(args) {
        Ok(args) => Box::pin(f(cx, args)),
        Err(e) => Box::pin(std::future::ready(Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the arguments do not fit: {e}"),
        )))),
    })
}

/// A registered command.
#[derive(Clone)]
pub struct Command {
    /// What it is.
    pub spec: Arc<CommandSpec>,
    /// Who registered it.
    pub owner: Owner,
    schema: Arc<LazySchema>,
    handler: Handler,
}

impl Command {
    /// Validates `args` (defaults filled in) and runs the handler. Errors name the argument.
    pub async fn run(&self, cx: CommandContext, mut args: Value) -> Result<Value> {
        if args.is_null() {
            args = Value::Object(serde_json::Map::new());
        }
        self.schema.get()?.check(&format!("`{}`", self.spec.path), ErrorKind::InvalidArgument, &mut args)?;
        (self.handler)(cx, args).await
    }
}

/// The commands of the system.
#[derive(Default)]
pub struct Commands {
    by_path: RwLock<BTreeMap<String, Command>>,
}

impl Commands {
    /// Registers a command. A second one with the same path is an error.
    pub fn register(&self, owner: Owner, spec: CommandSpec, handler: Handler) -> Result<()> {
        let schema = Arc::new(LazySchema::new(spec.args.clone()));
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = by_path.get(&spec.path) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("command `{}` is already registered by {}", spec.path, there.owner),
            ));
        }
        by_path.insert(spec.path.clone(), Command { spec: Arc::new(spec), owner, schema, handler });
        Ok(())
    }

    /// The command at `path`.
    pub fn get(&self, path: &str) -> Result<Command> {
        let by_path = self.by_path.read().unwrap_or_else(PoisonError::into_inner);
        by_path
            .get(path)
            .cloned()
            .ok_or_else(|| Error::not_found("command", path).hint("`--help` lists the commands"))
    }

    /// Compiles every argument schema; the error names the command. They are compiled at first use otherwise.
    pub fn verify(&self) -> Result<()> {
        let by_path = self.by_path.read().unwrap_or_else(PoisonError::into_inner);
        by_path.values().try_for_each(|c| {
            c.schema.get().map(drop).map_err(|e| e.context(format!("command `{}`", c.spec.path)))
        })
    }

    /// All specs, by path.
    pub fn list(&self) -> Vec<Arc<CommandSpec>> {
        let by_path = self.by_path.read().unwrap_or_else(PoisonError::into_inner);
        by_path.values().map(|c| c.spec.clone()).collect()
    }

    /// Removes one command of `owner`.
    pub fn unregister(&self, owner: &Owner, path: &str) -> Result<()> {
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        match by_path.get(path) {
            Some(c) if c.owner == *owner => {
                by_path.remove(path);
                Ok(())
            }
            _ => Err(Error::not_found("command of this owner", path)),
        }
    }

    /// Removes what `owner` registered; the answer is the paths that are gone.
    pub fn remove_owner(&self, owner: &Owner) -> Vec<String> {
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        let gone = by_path.values().filter(|c| c.owner == *owner).map(|c| c.spec.path.clone()).collect();
        by_path.retain(|_, c| c.owner != *owner);
        gone
    }
}
