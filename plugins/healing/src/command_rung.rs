//! The rung `command`: a program of the user's that knows how to heal, run with the incident in its
//! environment, a deadline, and its output kept.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result, duration,
    os::{Incarnations, KillTree, Output, Process, ProcessId, Spawn, Token},
};
use serde_json::{Value, json};

use crate::ladder::Request;

/// How much of the end of the output goes into the incident.
const TAIL: u64 = 2048;

/// Runs the command; an exit code other than 0, or no end by the deadline, is an error.
pub(crate) async fn run(kernel: &Kernel, request: &Request) -> Result<Value> {
    let Some((program, args)) = request.config.command.split_first() else {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "the ladder has the rung `command`, and no command is configured",
        )
        .hint("set `healing.command` to a program and its arguments"));
    };
    let dir = kernel.agents().dir(&request.id)?;
    let log = dir.join("heal-command.log");
    let _ = std::fs::remove_file(&log);
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    // A token of its own: neither is the agent's end the command's, nor the other way round.
    let token = Token::new(
        &kernel.dirs().home,
        format!("heal-{}", request.incident.id),
        request.incident.steps.len() as u64,
    );
    let env = [token.to_env(), ("HMS_INCIDENT".into(), json!(request.incident).to_string().into())];
    let output = Output::Append(&log);
    let spawn = Spawn {
        args: &args,
        env: &env,
        cwd: Some(&dir),
        stdout: output,
        stderr: output,
        ..Spawn::new(program)
    };
    let process =
        Process::spawn(&spawn).map_err(|e| Error::io(format!("healing command `{program}`"), &e))?;
    let mut guard = Guard { token, leader: Some(process.id()) };
    let clock = kernel.clock();
    let limit = request.config.command_timeout;
    let exit = tokio::select! {
        exit = process.wait() => exit.map_err(|e| Error::io(format!("healing command `{program}`"), &e))?,
        () = clock.sleep_until(clock.now() + limit) => {
            guard.kill().await;
            let why = format!("healing command `{program}` did not end within {}", duration::format(limit));
            return Err(Error::new(ErrorKind::Timeout, with_output(why, tail(log).await)));
        }
    };
    guard.leader = None;
    let said = tail(log).await;
    if exit.success() {
        return Ok(json!({"result": "applied", "detail": said}));
    }
    Err(Error::new(
        ErrorKind::HandlerFailed,
        with_output(format!("healing command `{program}`: {exit}"), said),
    ))
}

/// Ends the command, whatever becomes of who runs it.
struct Guard {
    token: Token,
    /// While it runs.
    leader: Option<ProcessId>,
}

impl Guard {
    fn take(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        let (leader, token) = (self.leader.take()?, self.token.clone());
        Some(move || {
            let Token { home, agent, .. } = &token;
            let incarnations = Incarnations::All;
            let target =
                KillTree { home, agent: Some(agent), incarnations, leader: Some(leader), cgroup: None };
            hms_core::os::kill_tree(&target);
        })
    }

    async fn kill(&mut self) {
        if let Some(kill) = self.take() {
            let _ = tokio::task::spawn_blocking(kill).await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let (Some(kill), Ok(runtime)) = (self.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(kill);
        }
    }
}

/// The end of what the command wrote.
async fn tail(log: PathBuf) -> Option<String> {
    tokio::task::spawn_blocking(move || read_tail(&log)).await.ok()?.ok().filter(|text| !text.is_empty())
}

fn read_tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn with_output(why: String, said: Option<String>) -> String {
    match said {
        Some(said) => format!("{why}: {said}"),
        None => why,
    }
}
