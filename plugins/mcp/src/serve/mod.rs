//! `mcp serve`: the command registry as tools of an MCP server, health and incidents as resources.
//!
//! | file | room |
//! | --- | --- |
//! | `link.rs` | the way to the home's host, over its deaths |
//! | `tools.rs` | commands as tools: names, schemas, descriptions |
//! | `call.rs` | one call: consent, where it runs, progress, result |
//! | `resources.rs` | health, agents, logs and incidents as resources |
//! | `changes.rs` | events of the host as notifications |
//! | `prompts.rs` | what a model is told; prompts; completions |
//! | `session.rs` | one client: the protocol's requests |
//! | `stdio.rs`, `http.rs` | where clients come from |
//!
//! The protocol itself, in both its eras, is the official SDK's (`rmcp`).

mod call;
mod changes;
mod http;
mod link;
mod prompts;
mod resources;
mod session;
mod stdio;
mod tools;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{CommandContext, CommandSpec, Runs, Surroundings, handler},
    plugin::Registrar,
};
use rmcp::model::Tool;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use changes::{Change, Hub, PATTERNS, changes as changes_of};
use link::Link;
use resources::Place;
use tools::{Catalog, Choice, Words};

/// Registers what this room offers.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let spec = CommandSpec::new("mcp serve", "Offer HMS to MCP clients: commands as tools, health as resources")
        .about(
            "Speaks MCP on standard input and output, or with --listen over Streamable HTTP. Every command is a \
             tool (`agent list` is agent_list) with its schema and hints on what it changes; health, agents and \
             incidents are resources that tell when they change. The host of the home is attached to, and started \
             when the first tool needs it.",
        )
        .args(
            json!({
                "read_only": {"type": "boolean", "default": false,
                    "description": "offer only tools that change nothing"},
                "tools": {"type": "array", "items": {"type": "string"}, "x-value": "GLOB",
                    "description": "offer only tools with such a name, as in agent_*; may be given several times"},
                "listen": {"type": "string", "x-value": "ADDRESS",
                    "description": "serve over HTTP at this address, as in 127.0.0.1:7171 (port 0: any), at /mcp"},
                "token": {"type": "string", "x-value": "TOKEN", "x-secret": true,
                    "description": "what HTTP clients send as Authorization: Bearer (default: $HMS_MCP_TOKEN, else one is made up and printed; `none` for no token)"},
            }),
            &[],
        )
        .caller()
        .writes()
        .example("mcp serve")
        .example("mcp serve --read-only")
        .example("mcp serve --listen 127.0.0.1:7171");
    let kernel = to.kernel().clone();
    to.command(spec, handler(move |cx, args: Serve| serve(kernel.clone(), cx, args)))
}

#[derive(Deserialize)]
struct Serve {
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    tools: Vec<String>,
    listen: Option<String>,
    token: Option<String>,
}

async fn serve(kernel: Kernel, cx: CommandContext, args: Serve) -> Result<Value> {
    let surroundings = Surroundings::clone(cx.surroundings()?);
    let mut attach = surroundings.attach.clone();
    attach.name = "mcp".into();
    let server = Arc::new(Server {
        kernel,
        link: Link::new(surroundings.home.clone(), attach),
        surroundings,
        choice: Choice { read_only: args.read_only, patterns: args.tools },
        hub: Arc::new(Hub::default()),
        known: Mutex::default(),
        changes: AtomicU64::new(0),
    });
    // From before the first client can attach.
    let attachments = server.link.attachments();
    let listening = Guard(tokio::spawn(listen_to_host(server.clone(), attachments)).abort_handle());
    let served = match args.listen {
        None => stdio::serve(&server, &cx).await,
        Some(address) => http::serve(&server, &cx, &address, args.token).await,
    };
    drop(listening);
    served?;
    if cx.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "asked to end"));
    }
    Ok(Value::Null)
}

/// Ends a task with whoever holds this.
pub(crate) struct Guard(pub(crate) tokio::task::AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all clients of this process share.
pub(crate) struct Server {
    /// The commands that this program has, host or no host.
    kernel: Kernel,
    link: Link,
    surroundings: Surroundings,
    choice: Choice,
    hub: Arc<Hub>,
    known: Mutex<Known>,
    /// How often the tools may have changed.
    changes: AtomicU64,
}

/// The tools as they were last seen.
#[derive(Default)]
struct Known {
    catalog: Option<(Arc<Catalog>, Arc<Words>)>,
    /// What clients were told last, to find out whether it is still true.
    told: Option<Vec<Tool>>,
}

impl Server {
    /// The tools there are now: those of the host that runs; where none runs, those of this program, which are
    /// what the host would offer that is started by the first call.
    async fn tools(&self) -> Vec<Tool> {
        loop {
            let seen = self.changes.load(Ordering::Acquire);
            let (catalog, _) = self.look().await;
            let tools = catalog.tools();
            self.known().told = Some(tools.clone());
            // What changed while it was looked at is told now: who hears of the change compares with what was told.
            if self.changes.load(Ordering::Acquire) == seen {
                return tools;
            }
        }
    }

    /// The command behind a tool.
    async fn find(&self, tool: &str) -> Option<(Arc<CommandSpec>, Arc<Words>)> {
        let known = self.known().catalog.clone();
        if let Some((catalog, words)) = known
            && let Some(offer) = catalog.offers.get(tool)
        {
            return Some((offer.spec.clone(), words));
        }
        let (catalog, words) = self.look().await;
        catalog.offers.get(tool).map(|offer| (offer.spec.clone(), words))
    }

    async fn words(&self) -> Arc<Words> {
        let known = self.known().catalog.clone();
        match known {
            Some((_, words)) => words,
            None => self.look().await.1,
        }
    }

    /// Asks anew what commands there are.
    async fn look(&self) -> (Arc<Catalog>, Arc<Words>) {
        let (specs, types) = self.at_host().await.unwrap_or_else(|| (self.own(), self.own_types()));
        let catalog = Arc::new(Catalog::new(specs, &types, &self.choice));
        let words = Arc::new(Words::of(&catalog));
        self.known().catalog = Some((catalog.clone(), words.clone()));
        (catalog, words)
    }

    /// The commands and types of the host that runs, with this program's own commands that run here.
    async fn at_host(&self) -> Option<(Vec<Arc<CommandSpec>>, Types)> {
        let client = match self.link.client_if_running().await {
            Ok(client) => client?,
            Err(e) => {
                tracing::warn!(error = %e, "the host cannot be asked for its commands");
                return None;
            }
        };
        let specs = client.request("command.list", Value::Null).await.ok()?;
        let mut specs: Vec<Arc<CommandSpec>> = serde_json::from_value(specs).ok()?;
        specs.retain(|spec| spec.runs == Runs::Host);
        specs.extend(self.own().into_iter().filter(|spec| spec.runs == Runs::Caller));
        let types = client.request("type.list", Value::Null).await.unwrap_or_default();
        let types = types.as_array().into_iter().flatten();
        let types =
            types.filter_map(|t| Some((t["name"].as_str()?.to_owned(), t["schema"].clone()))).collect();
        Some((specs, types))
    }

    fn own(&self) -> Vec<Arc<CommandSpec>> {
        self.kernel.commands().list()
    }

    fn own_types(&self) -> Types {
        self.kernel.types().list().iter().map(|t| (t.name.clone(), t.schema.clone())).collect()
    }

    /// Whether clients have to be told that the tools are others now.
    async fn tools_changed(&self) -> bool {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let Some(told) = self.known().told.clone() else { return false };
        let (catalog, _) = self.look().await;
        let now = catalog.tools();
        let changed = now != told;
        if changed {
            self.known().told = Some(now);
        }
        changed
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Agent types with the schemas of their configuration.
type Types = Vec<(String, Value)>;

/// Hears what happens at each host that is attached to, and tells the listeners.
async fn listen_to_host(server: Arc<Server>, mut attachments: watch::Receiver<u64>) {
    while attachments.changed().await.is_ok() {
        let Some(client) = server.link.current().await else { continue };
        let patterns = PATTERNS.map(String::from).to_vec();
        let mut events = match client.subscribe(patterns, None, 4096, None).await {
            Ok(events) => events,
            Err(e) => {
                tracing::warn!(error = %e, "the host's events cannot be followed");
                continue;
            }
        };
        // The subscription keeps its client; ours would keep the attachment of a host that is over.
        drop(client);
        // What happened before is not known.
        server.hub.note_all();
        note_tools(&server).await;
        while let Some(batch) = events.next_batch(256).await {
            if batch.lost_before > 0 {
                server.hub.note_all();
            }
            let mut tools = batch.lost_before > 0;
            for event in &batch.items {
                for change in changes_of(event) {
                    match change {
                        Change::Tools => tools = true,
                        change => server.hub.note(&change),
                    }
                }
            }
            if tools {
                note_tools(&server).await;
            }
        }
        // The host was stopped: what is known of it is known no more.
        server.hub.note(&Change::Resource(Place::Health));
    }
}

async fn note_tools(server: &Server) {
    if server.tools_changed().await {
        server.hub.note(&Change::Tools);
    }
}
