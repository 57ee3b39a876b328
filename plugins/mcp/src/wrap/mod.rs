//! `mcp wrap`: one client, one server.
//!
//! Stands between any MCP client and any stdio server. Nothing but the server's bytes goes to standard output;
//! the server's standard error passes, and our own remarks, each one line with `codex-hms: ` before it, are few.

mod options;
mod shown;
mod streams;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hms_core::{
    Result,
    command::{CommandContext, handler},
    plugin::Registrar,
};
use serde_json::Value;

use self::{options::Args, streams::Streams};
use crate::server::{Launch, Supervised};

/// A wrapper is taken to have started after this.
const STARTED: Duration = Duration::from_secs(1);

/// Registers what this room offers.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    crate::server::run_guard(to)?;
    to.command(options::spec(), handler(run))
}

/// Runs a server for the client at standard input and output until either has gone for good.
async fn run(cx: CommandContext, args: Args) -> Result<Value> {
    let around = cx.surroundings()?.clone();
    let streams = Streams::open(around.stdio)?;
    let (reporter, facts) = shown::channel(args.host);
    let launch = Launch { reporter, ..options::launch(&args, &around, streams.stderr()?)? };
    let settings = launch.settings.clone();
    let supervised = Arc::new(Supervised::start(launch, streams.client())?);
    streams.read(&supervised)?;
    if let Some(facts) = facts {
        shown::show(&args, &around, &settings, facts, &supervised);
    }
    tokio::spawn(slim_down());
    let code = tokio::select! {
        code = supervised.ended() => code,
        () = cx.cancelled() => {
            supervised.close(around.signal.load(Ordering::Acquire));
            supervised.ended().await
        }
    };
    around.exit_code.store(code, Ordering::Release);
    Ok(Value::Null)
}

/// Most of what is in memory by now was needed to start: all of the command line and its commands.
async fn slim_down() {
    tokio::time::sleep(STARTED).await;
    hms_core::os::host::trim_code();
}
