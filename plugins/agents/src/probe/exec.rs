//! The exec check: does a program exit with 0?
//!
//! The program is a real process in a group of its own, started without a shell, and is bounded in time and
//! in output. It carries a token of its own (`<agent>.probe` instead of the agent's), so that ending it with
//! all its descendants never touches the agent, and so that a stop of the system finds it even when this host
//! has died meanwhile. It reads from `/dev/null`; its standard output is not kept, of its standard error the
//! first line is told. That one is a pipe: what a check says does not outlive the check.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hms_core::{
    Error, Result,
    os::{self, Exit, Incarnations, KillTree, Output, Process, Spawn, TOKEN_VARIABLE, Token},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{ProbeContext, no_answer, plain};
use crate::keys::Keys;

/// So much of what a program writes to its standard error is kept; the rest is read and forgotten.
const KEPT: usize = 1024;
/// So many characters of it are told.
const TOLD: usize = 200;
/// So often a pipe is read after the program's end: it holds at most 64 KiB, unless somebody goes on writing.
const READS: usize = 32;
/// How long a killed program may take to be reaped. It is dead by then, unless it waits for a device.
const REAP: Duration = Duration::from_secs(1);

/// Reads the command of an exec check from key `exec`.
pub(super) fn command(keys: &Keys<'_>) -> Result<Vec<String>> {
    let command = keys.texts("exec")?.unwrap_or_default();
    let wrong = |problem: &str| -> Error {
        keys.wrong("exec", problem).hint("write it as [\"program\", \"argument\"]; no shell reads it")
    };
    if command.first().is_none_or(String::is_empty) {
        return Err(wrong("names no program"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(wrong("contains a NUL character"));
    }
    Ok(command)
}

/// Runs `command` and waits for its end. At the timeout, and when this future is dropped, it is killed with
/// everything that descends from it.
pub(super) async fn run(command: &[String], cx: &ProbeContext, timeout: Duration) -> Result<(), String> {
    let deadline = cx.clock.now() + timeout;
    let (command, context) = (command.to_vec(), cx.clone());
    let started = tokio::task::spawn_blocking(move || start(&command, &context)).await;
    let Running { tree, mut errors } = match started {
        Ok(Ok(running)) => running,
        Ok(Err(e)) => return Err(plain(&e)),
        Err(e) => return Err(format!("could not be started: {e}")),
    };
    let mut said = Said::default();
    let ended = tokio::select! {
        exit = end_of(&tree.process, &mut errors, &mut said) => Some(exit),
        () = cx.clock.sleep_until(deadline) => None,
    };
    match ended {
        Some(Ok(exit)) => {
            said.rest(&errors);
            // Somebody still holds its standard error: it left a descendant behind.
            if said.open {
                tree.end().await;
            } else {
                tree.has_ended();
            }
            if exit.success() { Ok(()) } else { Err(told(&exit, &said)) }
        }
        Some(Err(e)) => {
            tree.end().await;
            Err(format!("could not be waited for: {}", plain(&e)))
        }
        None => {
            tree.end().await;
            Err(no_answer(timeout))
        }
    }
}

/// Waits for the exit while reading what the program has to say, so that it never blocks on a full pipe.
async fn end_of(process: &Process, errors: &mut pipe::Receiver, said: &mut Said) -> io::Result<Exit> {
    let exit = process.wait();
    tokio::pin!(exit);
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            biased;
            read = errors.read(&mut buffer), if said.open => said.take(read.ok().map(|n| &buffer[..n])),
            exit = &mut exit => return exit,
        }
    }
}

fn told(exit: &Exit, said: &Said) -> String {
    match said.first_line() {
        Some(line) => format!("{exit}: {line}"),
        None => exit.to_string(),
    }
}

/// What a program wrote to its standard error.
struct Said {
    kept: Vec<u8>,
    /// Whether somebody may still write.
    open: bool,
}

impl Default for Said {
    fn default() -> Self {
        Self { kept: Vec::new(), open: true }
    }
}

impl Said {
    /// Takes what was read; nothing means the end.
    fn take(&mut self, read: Option<&[u8]>) {
        match read {
            Some(bytes) if !bytes.is_empty() => {
                let room = KEPT.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => self.open = false,
        }
    }

    /// Takes what is left in the pipe (which is bounded) without waiting. Past the runtime, which may not have
    /// noticed yet that there is something to read.
    fn rest(&mut self, errors: &pipe::Receiver) {
        let mut buffer = [0; 4096];
        for _ in 0..READS {
            match rustix::io::read(errors, &mut buffer) {
                Ok(n) => self.take(Some(&buffer[..n])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return,
                Err(_) => self.take(None),
            }
            if !self.open {
                return;
            }
        }
    }

    fn first_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.kept);
        let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(TOLD).collect::<String>();
        text.lines().map(|line| clean(line.trim())).find(|line| !line.is_empty())
    }
}

struct Running {
    tree: Tree,
    errors: pipe::Receiver,
}

/// Starts the program. Blocks for about a millisecond.
fn start(command: &[String], cx: &ProbeContext) -> io::Result<Running> {
    let (reader, writer) = io::pipe()?;
    let errors = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    // The writing end by a name, as a file that the program appends to.
    let output = PathBuf::from(format!("/dev/fd/{}", writer.as_raw_fd()));

    let token = token(cx);
    let args: Vec<OsString> = command[1..].iter().map(OsString::from).collect();
    let mut env: Vec<_> = cx.env.iter().filter(|(name, _)| name != TOKEN_VARIABLE).cloned().collect();
    env.push(token.to_env());
    let process = Process::spawn(&Spawn {
        args: &args,
        clear_env: true,
        env: &env,
        cwd: cx.cwd.as_deref(),
        stderr: Output::Append(&output),
        ..Spawn::new(&command[0])
    })?;
    Ok(Running { tree: Tree { token, process: Arc::new(process), armed: true }, errors })
}

/// A token for one run, of the agent whose token is in the environment. No other run has it, not even of a
/// process that takes itself for the host of the same home.
fn token(cx: &ProbeContext) -> Token {
    static RUNS: AtomicU32 = AtomicU32::new(1);
    let run = u64::from(std::process::id()) << 32 | u64::from(RUNS.fetch_add(1, Ordering::Relaxed));
    let agent =
        cx.env.iter().find(|(name, _)| name == TOKEN_VARIABLE).and_then(|(_, value)| Token::parse(value));
    match agent {
        Some(agent) => Token::new(agent.home, format!("{}.probe", agent.agent), run),
        None => Token::new("/", "probe", run),
    }
}

/// A running program and what descends from it; dropping it ends them all.
struct Tree {
    token: Token,
    process: Arc<Process>,
    armed: bool,
}

impl Tree {
    /// It ended by itself and left nothing behind.
    fn has_ended(mut self) {
        self.armed = false;
    }

    /// Ends it; returns when it is gone.
    async fn end(mut self) {
        self.armed = false;
        let (token, process) = (self.token.clone(), self.process.clone());
        let _ = tokio::task::spawn_blocking(move || kill(&token, &process)).await;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (token, process) = (self.token.clone(), self.process.clone());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || kill(&token, &process))),
            Err(_) => kill(&token, &process),
        }
    }
}

fn kill(token: &Token, process: &Process) {
    let report = os::kill_tree(&KillTree {
        home: &token.home,
        agent: Some(&token.agent),
        incarnations: Incarnations::Exactly(token.incarnation),
        leader: Some(process.id()),
        cgroup: None,
    });
    if !report.survived.is_empty() {
        tracing::warn!(%token, survived = report.survived.len(), "a probe left processes that cannot be killed");
    }
    let _ = process.wait_timeout(REAP);
}
