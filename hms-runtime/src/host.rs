//! `system run`: this process becomes the home's host.

use std::{path::Path, sync::atomic::Ordering};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{STOP_DEADLINE, Stop},
    command::CommandContext,
    host::Host,
    os,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{home, organs};

const SIGINT: i32 = 2;
/// A host's log is moved aside when it is longer than this at a start.
const LOG_LIMIT: u64 = 8 << 20;

#[derive(Deserialize)]
pub(crate) struct Run {
    #[serde(default)]
    detached: bool,
}

/// Runs a host until it is asked to end. Ctrl-C stops the agents; other signals let them go on, to be
/// adopted by the next host, so that a restart of the service or an upgrade interrupts nothing.
pub(crate) async fn run(cx: CommandContext, args: Run) -> Result<Value> {
    let around = cx.surroundings()?.clone();
    if args.detached {
        // Out of the terminal's session, so that closing it does not end the host.
        let _ = os::host::detach();
    }
    os::host::raise_nofile();
    begin_logging();
    let host = match open(&around.home).await {
        Ok(host) => host,
        Err(e) if args.detached => {
            let busy = e.kind == ErrorKind::HomeBusy;
            say(if busy { "busy".into() } else { json!(e).to_string() })?;
            return if busy { Ok(Value::Null) } else { Err(e) };
        }
        Err(e) => return Err(e),
    };
    tracing::info!(home = %around.home.display(), pid = std::process::id(), "the host listens");
    if args.detached {
        say("ready".into())?;
    }
    let how = tokio::select! {
        how = host.kernel().shutdown_requested() => how,
        () = cx.cancelled() => match around.signal.load(Ordering::Acquire) {
            SIGINT => Stop::Graceful(STOP_DEADLINE),
            _ => Stop::Detach,
        },
    };
    tracing::info!(agents_stay = how == Stop::Detach, "the host ends");
    host.close(how).await?;
    Ok(Value::Null)
}

async fn open(home: &Path) -> Result<Host> {
    let home = home::prepare(Some(home))?;
    let host = Host::open(Kernel::describe(organs())?, &home, &home::runtime_dir(&home)?).await?;
    // Only whoever owns the home may: another host may be writing to it otherwise.
    make_room(&home.join("host.log"));
    Ok(host)
}

/// Tells whoever started us, who reads one line from our standard output and then goes its way.
fn say(line: String) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    let null =
        std::fs::File::options().write(true).open("/dev/null").map_err(|e| Error::io("/dev/null", &e))?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| Error::io("standard output", &e.into()))
}

fn begin_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("HMS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second host in one process (tests) keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

/// Keeps the log of earlier hosts aside. Our own standard error is this file already, opened for appending by
/// whoever started us: so it is emptied, not moved.
fn make_room(log: &Path) {
    if !std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_LIMIT) {
        return;
    }
    let kept = std::fs::copy(log, log.with_extension("log.1"))
        .and_then(|_| std::fs::File::options().write(true).open(log)?.set_len(0));
    if let Err(e) = kept {
        tracing::warn!(error = %e, "{} could not be put aside", log.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_put_aside_and_who_writes_to_it_goes_on() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("host.log");
        let mut writer = std::fs::File::options().append(true).create(true).open(&log).unwrap();
        writer.write_all(b"short").unwrap();
        make_room(&log);
        assert_eq!(std::fs::read(&log).unwrap(), b"short");
        writer.write_all(&vec![b'x'; LOG_LIMIT as usize]).unwrap();
        make_room(&log);
        writer.write_all(b"next").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"next");
        assert_eq!(std::fs::metadata(dir.path().join("host.log.1")).unwrap().len(), LOG_LIMIT + 5);
    }
}
