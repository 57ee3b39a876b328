//! One life of a stdio server.
//!
//! It gets the environment and the working directory that its client gave us, plus one variable, `HMS_AGENT`:
//! the token by which everything that descends from it can be found, wherever it went. It leads a process group
//! of its own, so that a terminal's Ctrl-C reaches it by us alone.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hms_core::os::{
    Exit, Incarnations, KillTree, Process, ProcessId, Signal, Spawn, Token, descendants, kill_tree,
    tree_usage,
};

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Variables on top of this process's environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where it runs; `None`: where this process does.
    pub(crate) cwd: Option<PathBuf>,
    /// The first part of its token. Not a home of agents: no host may think these processes are its own.
    pub(crate) realm: PathBuf,
    /// The second part: this supervised server and no other.
    pub(crate) id: String,
}

/// A life that was begun.
pub(crate) struct Spawned {
    pub(crate) life: Life,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
}

/// A life.
pub(crate) struct Life {
    /// Which.
    pub(crate) number: u64,
    /// Its process.
    pub(crate) pid: i32,
    process: Option<Process>,
    /// How it ended, when that was known before it could be watched.
    ended: Exit,
}

/// What a tree uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// Resident memory, in bytes.
    pub(crate) memory: u64,
    /// CPU time.
    pub(crate) cpu: Duration,
}

impl Program {
    /// Starts it. Blocks for about a millisecond.
    ///
    /// # Errors
    /// As [`Spawn::check`], with the file in the message.
    pub(crate) fn spawn(&self, life: u64) -> io::Result<Spawned> {
        let (program, args) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let spawn = Spawn { env: &self.env, cwd: self.cwd.as_deref(), ..Spawn::new(program) };
        let path = spawn.check()?;
        let token = Token::new(&self.realm, &self.id, life);
        let (name, value) = token.to_env();
        let (child_in, stdin) = io::pipe()?;
        let (stdout, child_out) = io::pipe()?;
        let (stderr, child_err) = io::pipe()?;
        let mut command = Command::new(&path);
        command
            .arg0(program)
            .args(args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .env(name, value)
            .stdin(Stdio::from(child_in))
            .stdout(Stdio::from(child_out))
            .stderr(Stdio::from(child_err))
            .process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let mut child = command
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("'{}' cannot be started: {e}", path.display())))?;
        drop(command); // and with it our copies of the child's ends
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let watched = ProcessId::of(pid).and_then(|id| Process::adopt(&id).ok().flatten());
        let ended = match &watched {
            Some(_) => Exit::UNKNOWN,
            // It has ended already: what is left of it says how.
            None => {
                use std::os::unix::process::ExitStatusExt;
                let status = child.wait()?;
                Exit { code: status.code(), signal: status.signal(), core_dumped: status.core_dumped() }
            }
        };
        Ok(Spawned { life: Life { number: life, pid, process: watched, ended }, stdin, stdout, stderr })
    }

    /// Ends everything of one life, or of all. Blocks, usually for a few milliseconds.
    pub(crate) fn end(&self, life: Option<u64>, leader: Option<ProcessId>) {
        end(&self.realm, &self.id, life.map_or(Incarnations::All, Incarnations::Exactly), leader);
    }
}

/// Ends everything that carries the token.
pub(super) fn end(realm: &Path, id: &str, incarnations: Incarnations, leader: Option<ProcessId>) {
    kill_tree(&KillTree { home: realm, agent: Some(id), incarnations, leader, cgroup: None });
}

impl Life {
    /// Waits for the end of its first process.
    pub(crate) async fn ended(&self) -> Exit {
        match &self.process {
            Some(process) => process.wait().await.unwrap_or(Exit::UNKNOWN),
            None => self.ended,
        }
    }

    /// Who its first process is.
    pub(crate) fn leader(&self) -> Option<ProcessId> {
        self.process.as_ref().map(Process::id)
    }

    /// Sends its process group a signal.
    pub(crate) fn signal(&self, number: i32) {
        if let (Some(process), Some(signal)) = (&self.process, Signal::from_number(number)) {
            // A process that is gone needs none.
            let _ = process.signal_group(signal);
        }
    }

    /// What it and its descendants use now.
    pub(crate) fn used(&self) -> Used {
        let pids = descendants(self.pid).into_iter().map(|id| id.pid).chain([self.pid]);
        let usage = tree_usage(pids);
        Used { memory: usage.rss_bytes, cpu: usage.cpu_time }
    }
}

/// How a process ended, as in `the server …`.
pub(crate) fn in_words(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (_, Some(signal)) => match Signal::from_number(signal) {
            Some(known) => format!("was ended by signal {known}"),
            None => format!("was ended by signal {signal}"),
        },
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "ended".into(),
    }
}
