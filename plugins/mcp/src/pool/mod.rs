//! `mcp pool`: many clients over HTTP, few servers.
//!
//! | file | what |
//! | --- | --- |
//! | `options` | the command line, the configuration, clients' JSON files |
//! | `http`, `gate` | connections, routes, limits; who may come in |
//! | `legacy`, `session` | Streamable HTTP with sessions (2025-03-26 to 2025-11-25) |
//! | `stateless`, `modern` | Streamable HTTP without (2026-07-28) |
//! | `stream` | what is on its way to a client, and can be come back to |
//! | `hosted` | a configured server: **the rule of sharing**, limits, idleness |
//! | `unit` | one process and its clients |
//! | `mux`, `message` | clients told apart: ids, tokens, questions |
//! | `link`, `launch` | the seam to `server/` and `relay/`, which supervise the process |
//! | `upstream` | in front of a server that speaks HTTP itself |

mod gate;
mod hosted;
mod http;
mod launch;
mod legacy;
mod link;
mod message;
mod modern;
mod mux;
mod options;
mod session;
mod stateless;
mod stream;
mod unit;
mod upstream;

use std::{fs::OpenOptions, io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    clock::SystemClock,
    command::{CommandContext, CommandSpec, Surroundings, handler},
    config::Section,
    os,
    plugin::Registrar,
};
use serde_json::Value;

use self::{
    gate::Gate,
    hosted::{Common, Hosted, Limits},
    http::{Backend, Front},
    launch::Command,
    options::{Args, Reach},
    upstream::{Bounds, Upstream},
};
use crate::{bearer::secret, server::Program};

const ABOUT: &str = "\
Serves stdio MCP servers over Streamable HTTP, so that many clients, sessions and sub-agents share one process \
instead of starting one each. Clients never see each other's traffic: ids and progress tokens are told apart, and \
what a server asks of a client goes to the one whose call it belongs to. Where that is not certain, clients get \
processes of their own (--share).

Servers start when they are first needed, are restarted as by `mcp wrap` when they crash or hang, and stop when \
nobody uses them. One server is at /mcp, several are at /NAME/mcp; GET /status says what runs.

Only programs of this machine that know the token are served, unless you say otherwise.";

/// Registers what this room offers.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let mut spec = CommandSpec::new("mcp pool", "Serve stdio MCP servers to many clients over HTTP")
        .about(ABOUT)
        .args(options::properties(), &[])
        .caller()
        .writes()
        .example("mcp pool -- npx -y @modelcontextprotocol/server-everything")
        .example("mcp pool --config ~/.claude.json --listen 127.0.0.1:0")
        .example("mcp pool --url http://127.0.0.1:9000/mcp");
    spec.trailing = Some("command".into());
    let kernel = to.kernel().clone();
    to.command(spec, handler(move |cx, args: Args| run(kernel.clone(), cx, args)))
}

/// The section of the configuration that names servers.
pub(crate) fn section() -> Section {
    options::section()
}

/// Serves until the command is cancelled.
async fn run(kernel: Kernel, cx: CommandContext, args: Args) -> Result<Value> {
    let around = Surroundings::clone(cx.surroundings()?);
    if !args.listen.ip().is_loopback() && !args.expose {
        return Err(Error::argument("listen", format!("{} can be reached from other machines", args.listen))
            .hint("add --expose if that is wanted"));
    }
    let servers = options::servers(&args, &kernel, &around.home)?;
    let (token, word) = token(&args, &around.home)?;
    let clock = SystemClock::shared();
    let limits = Limits {
        servers: args.max_servers,
        sessions: args.max_sessions,
        idle: args.idle,
        session_idle: args.session_idle,
    };
    let bounds = Bounds { patience: args.wait, sessions: args.max_sessions, session_idle: args.session_idle };
    let common = Common::new(limits, clock.clone());
    let (mut routes, mut all) = (Vec::new(), Vec::new());
    let single = servers.len() == 1;
    for server in servers {
        let path = if single { "/mcp".to_owned() } else { format!("/{}/mcp", server.name) };
        let backend = match server.reach {
            Reach::Url(url, headers) => {
                Backend::Http(Upstream::new(&server.name, &url, &headers, bounds, clock.clone())?)
            }
            Reach::Command { command, env, cwd, share, settings } => {
                let realm = around.home.join("mcp-pool");
                let program = Program { command, env, cwd, realm, id: String::new() };
                let hms = around.attach.start.as_ref().map(|start| start.program.clone());
                let stderr = os::files::lent(around.stdio[2]).map_err(|e| Error::io("standard error", &e))?;
                let stateful = settings.stateful;
                let (attach, presence) = (around.attach.clone(), args.host);
                let launcher =
                    Arc::new(Command { program, settings: *settings, hms, stderr, attach, presence });
                let hosted = Hosted::new(&server.name, share, stateful, launcher, &common);
                all.push(hosted.clone());
                Backend::Stdio(hosted)
            }
        };
        routes.push((path, backend));
    }
    let listener = http::listen(args.listen).await?;
    let bound = listener.local_addr().map_err(|e| Error::io("the listener's address", &e))?;
    announce(&around, bound, &routes, word.as_deref())?;
    let front = Arc::new(Front {
        routes,
        gate: Gate::new(bound, token, &args.allow_host, &args.allow_origin),
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        poll_after: args.poll_after,
        clock,
    });
    let tidy = tokio::spawn(common.tidy());
    front.serve(listener, cx.cancelled()).await;
    tidy.abort();
    for hosted in all {
        hosted.shut().await;
    }
    Err(Error::new(ErrorKind::Cancelled, "asked to end"))
}

/// The token that clients must show, and what to say about it.
fn token(args: &Args, home: &Path) -> Result<(Option<String>, Option<String>)> {
    let said = args.token.clone().or_else(|| std::env::var("HMS_MCP_TOKEN").ok()).filter(|t| !t.is_empty());
    match (said.as_deref(), &args.token_file) {
        (Some("none"), _) if args.listen.ip().is_loopback() => Ok((None, None)),
        (Some("none"), _) => Err(Error::argument("token", format!("may not be none at {}", args.listen))
            .hint("who is not on this machine must carry a token")),
        (Some(token), None) => Ok((Some(token.to_owned()), None)),
        (Some(_), Some(_)) => Err(Error::argument("token_file", "excludes a token given directly")),
        (None, Some(file)) => token_of(file),
        (None, None) => {
            os::files::create_private_dir(home).map_err(|e| Error::io(home.display(), &e))?;
            token_of(&home.join("mcp-pool.token"))
        }
    }
}

/// The token in a file that only we can read, so that clients know it tomorrow too; made up when there is none.
fn token_of(file: &Path) -> Result<(Option<String>, Option<String>)> {
    let error = |e| Error::io(file.display(), &e);
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => {
            Err(Error::argument("token_file", format!("{} is empty", file.display())))
        }
        Ok(text) => Ok((Some(text.trim().to_owned()), Some(format!("the token is in {}", file.display())))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let token = secret()?;
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
            made.and_then(|mut f| writeln!(f, "{token}")).map_err(error)?;
            let word = format!("token {token} (kept in {})", file.display());
            Ok((Some(token), Some(word)))
        }
        Err(e) => Err(error(e)),
    }
}

fn announce(
    around: &Surroundings,
    bound: SocketAddr,
    routes: &[(String, Backend)],
    word: Option<&str>,
) -> Result<()> {
    let mut err = os::files::lent(around.stdio[2]).map_err(|e| Error::io("standard error", &e))?;
    for (path, _) in routes {
        // Whoever closed standard error does not want to know.
        let _ = writeln!(err, "listening at http://{bound}{path}");
    }
    if let Some(word) = word {
        let _ = writeln!(err, "{word}");
    }
    Ok(())
}
