//! One life of a process agent: its child, and the tasks around it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    agent::{AgentContext, ExitReport, Health, Issue, Started},
    clock::{Mono, SharedClock},
    os::{
        exit::{Exit, Limit, Signal},
        files,
        process::{Output, Process, Spawn, Stdin},
        token::Incarnations,
    },
};
use serde_json::{Value, json};

use super::{
    Processes, WAKE,
    config::{Config, StdinKind},
    env,
    logs::{LogReader, LogWatch, Stream},
    notify::NotifySocket,
    record::Record,
    undertaker::Undertaker,
};
use crate::probe::{Pattern, Probe, ProbeContext, ProbeKind};

/// How long the end of what was killed may take.
const REAPED: Duration = Duration::from_secs(2);

/// A child and what is known about it.
pub(super) struct Life {
    pub(super) agent: String,
    pub(super) dir: PathBuf,
    pub(super) process: Arc<Process>,
    /// Its environment, for exec probes; empty when there are none.
    pub(super) env: Arc<Vec<(OsString, OsString)>>,
    incarnation: u64,
    clock: SharedClock,
    /// Where the logs were when this life began.
    log_start: [u64; 2],
    /// Where the child speaks, until somebody listens there.
    socket: Mutex<Option<Result<NotifySocket>>>,
    told: Mutex<Told>,
    /// Holds one permit once the child said READY=1.
    told_ready: tokio::sync::Notify,
    /// Why this life was ended by us, where that says more than the signal.
    ended_because: OnceLock<String>,
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
}

/// What the child told by the notify protocol.
#[derive(Default)]
pub(super) struct Told {
    status: Option<String>,
    watchdog_late: bool,
}

impl Life {
    /// Spawns the child and records it.
    pub(super) fn spawn(config: &Config, cx: &AgentContext, nofile: Option<(u64, u64)>) -> Result<Arc<Self>> {
        let dir = cx.dir();
        let path = config.notifies().then(|| notify_path(cx));
        let env = Arc::new(env::build(config, cx, path.as_deref())?);
        let (stdout, stderr) = (Stream::Stdout.path(dir), Stream::Stderr.path(dir));
        let log_start = [file_len(&stdout), file_len(&stderr)];
        let fifo = dir.join("stdin");
        let stdin = match config.stdin {
            StdinKind::Null => Stdin::Null,
            StdinKind::Fifo => {
                files::mkfifo(&fifo).map_err(|e| Error::io(fifo.display(), &e))?;
                Stdin::Fifo(&fifo)
            }
        };
        let mut limits = config.parsed_limits()?;
        if let Some((soft, hard)) = nofile
            && !limits.iter().any(|(limit, ..)| *limit == Limit::OpenFiles)
        {
            limits.push((Limit::OpenFiles, soft, hard));
        }
        let args = config.args();
        // Before the child is there: its first word may be the one that counts.
        let socket = path.as_deref().map(NotifySocket::bind);
        let process = Process::spawn(&Spawn {
            args: &args,
            clear_env: true,
            env: &env,
            cwd: config.cwd.as_deref(),
            stdin,
            stdout: Output::Append(&stdout),
            stderr: Output::Append(&stderr),
            user: config.user.as_deref().map(env::user).transpose()?,
            limits: &limits,
            ..Spawn::new(&config.command[0])
        })
        .map_err(|e| cannot_start(&e))?;
        let record = Record { incarnation: cx.incarnation(), ready: false, id: process.id() };
        if let Err(e) = record.write(dir) {
            // It still carries its token: the next host finds it without the record.
            tracing::warn!(agent = cx.id(), error = %e, "the process could not be recorded");
        }
        let env = if config.probes_by_exec() { env } else { Arc::default() };
        Ok(Self::new(cx, process, env, log_start, socket))
    }

    /// Goes on with a child of an earlier host. What is missing by now may cost its probes something, never its
    /// being watched.
    pub(super) fn adopt(config: &Config, cx: &AgentContext, process: Process, record: Record) -> Arc<Self> {
        let path = config.notifies().then(|| notify_path(cx));
        let socket = path.as_deref().map(NotifySocket::bind);
        let env = if config.probes_by_exec() {
            Arc::new(env::of_adopted(config, cx, path.as_deref(), process.pid()))
        } else {
            Arc::default()
        };
        let ends = [Stream::Stdout, Stream::Stderr].map(|s| file_len(&s.path(cx.dir())));
        let life = Self::new(cx, process, env, ends, socket);
        if record.ready {
            life.told_ready.notify_one();
        }
        life
    }

    fn new(
        cx: &AgentContext,
        process: Process,
        env: Arc<Vec<(OsString, OsString)>>,
        log_start: [u64; 2],
        socket: Option<Result<NotifySocket>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            agent: cx.id().to_owned(),
            dir: cx.dir().to_owned(),
            process: Arc::new(process),
            env,
            incarnation: cx.incarnation(),
            clock: cx.kernel().clock().clone(),
            log_start,
            socket: Mutex::new(socket),
            told: Mutex::default(),
            told_ready: tokio::sync::Notify::new(),
            ended_because: OnceLock::new(),
            tasks: Mutex::default(),
        })
    }

    /// Waits for the end of the child and tells supervision.
    pub(super) fn watch_exit(
        self: &Arc<Self>,
        config: &Config,
        cx: &AgentContext,
        processes: Arc<Processes>,
    ) {
        let (process, cx) = (self.process.clone(), cx.clone());
        let (life, clean_codes) = (self.clone(), config.success_codes.clone());
        let task = tokio::spawn(async move {
            let exit = life.end_of(&process).await;
            let report = ExitReport {
                clean: exit.code.is_some_and(|code| clean_codes.contains(&code)),
                reason: life.ended_because.get().cloned().unwrap_or_else(|| exit.to_string()),
                code: exit.code,
                signal: exit.signal,
            };
            // First the sweep: the next life, which the report begins, ends this task.
            processes.parts().undertaker.sweep(cx.id(), cx.incarnation(), Some(process.id()));
            cx.exited(report);
        });
        self.keep(task.abort_handle());
    }

    /// Its end. Watching takes a descriptor: while there is none to be had the child is looked at now and then,
    /// because to take it for dead would end it.
    async fn end_of(&self, process: &Process) -> Exit {
        loop {
            match process.wait().await {
                Ok(exit) => return exit,
                Err(_) if process.has_ended() => return Exit::default(),
                Err(e) => {
                    tracing::warn!(agent = %self.agent, error = %e, "the process cannot be watched just now")
                }
            }
            self.clock.sleep_until(self.clock.now() + Duration::from_secs(1)).await;
        }
    }

    /// Begins what decides about readiness, and the watchdog.
    pub(super) fn begin_probes(
        self: &Arc<Self>,
        config: &Config,
        cx: &AgentContext,
        was_ready: bool,
    ) -> Started {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = match socket.transpose() {
            Ok(socket) => socket,
            Err(e) => {
                cx.health(Health::of(vec![Issue::degraded(
                    "notify",
                    format!("cannot listen for notifications: {e}"),
                )]));
                None
            }
        };
        let gates = config.startup.is_some() || config.readiness.is_some();
        if let Some(socket) = socket {
            self.follow_notifications(socket, config.watchdog, cx);
        }
        if !gates || was_ready {
            return Started::Ready;
        }
        let (life, cx) = (self.clone(), cx.clone());
        let (startup, readiness) = (config.startup.clone(), config.readiness.clone());
        let (cwd, timeout) = (config.cwd.clone(), config.ready_timeout);
        let task = tokio::spawn(async move {
            let context = ProbeContext { clock: life.clock(), cwd, env: life.env.clone() };
            let pass = async {
                for probe in [&startup, &readiness].into_iter().flatten() {
                    life.pass(probe, &context).await;
                }
            };
            tokio::select! {
                () = pass => {
                    let record = Record { incarnation: life.incarnation, ready: true, id: life.process.id() };
                    if let Err(e) = record.write(&life.dir) {
                        tracing::warn!(agent = %life.agent, error = %e, "readiness could not be recorded");
                    }
                    cx.ready();
                }
                () = life.clock.sleep_until(life.clock.now() + timeout) => {
                    // Ending it tells supervision; the report says why.
                    let why = format!("not ready within {}", hms_core::duration::format(timeout));
                    let _ = life.ended_because.set(why.clone());
                    cx.health(Health::of(vec![Issue::critical("readiness", why)]));
                    let _ = life.process.signal_group(Signal::KILL);
                }
            }
        });
        self.keep(task.abort_handle());
        Started::Pending
    }

    /// Completes when `probe` has passed.
    async fn pass(&self, probe: &Probe, context: &ProbeContext) {
        match &probe.kind {
            ProbeKind::Check(check) => {
                let mut passed = 0;
                loop {
                    let begun = self.clock.now();
                    match check.run(context, probe.timeout).await {
                        Ok(()) => passed += 1,
                        Err(_) => passed = 0,
                    }
                    if passed >= probe.successes {
                        return;
                    }
                    self.clock.sleep_until(begun + probe.interval).await;
                }
            }
            ProbeKind::Log(pattern) => self.log_shows(pattern).await,
            ProbeKind::Notify => self.told_ready.notified().await,
        }
    }

    /// Lets go: no task of this life says anything any more.
    pub(super) fn let_go(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    /// Asks the process group to end, and waits until the child has or the time is up.
    pub(super) async fn ask_to_end(&self, signal: Signal, timeout: Duration) {
        if self.process.signal_group(signal).unwrap_or(false) {
            // A stopped process must run to take the signal.
            let _ = self.process.signal_group(WAKE);
            tokio::select! {
                _ = self.process.wait() => {}
                () = self.clock.sleep_until(self.clock.now() + timeout) => {}
            }
        }
    }

    /// Ends everything of this life and of those before it by force: an order that is carried out late must not
    /// reach the next one. How many could not be ended.
    pub(super) async fn end_tree(&self, undertaker: &Undertaker) -> usize {
        let lives = Incarnations::Below(self.incarnation.saturating_add(1));
        undertaker.end(&self.agent, lives, Some(self.process.id())).await
    }

    /// Whether the child has ended, within a moment; if so, it is reaped.
    pub(super) async fn is_reaped(&self) -> bool {
        let _ = tokio::time::timeout(REAPED, self.process.wait()).await;
        self.process.has_ended()
    }

    /// Writes one line to the child's standard input.
    pub(super) fn write_line(&self, dir: &Path, config: &Config, body: &Value) -> Result<Value> {
        if config.stdin != StdinKind::Fifo {
            return Err(Error::new(ErrorKind::NotSupported, "the process reads nothing")
                .hint("create it with `--stdin fifo` to send it lines"));
        }
        let path = dir.join("stdin");
        let mut fifo = files::open_fifo_writer(&path).map_err(|e| Error::io(path.display(), &e))?;
        let mut line = match body {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        line.push('\n');
        // A FIFO takes up to PIPE_BUF bytes whole or not at all; more could tear a line.
        if line.len() > 4096 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a line of {} bytes is longer than 4096", line.len()),
            ));
        }
        match fifo.write_all(line.as_bytes()) {
            Ok(()) => Ok(json!({"written": line.len()})),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::new(ErrorKind::QueueFull, "the process does not read its input"))
            }
            Err(e) => Err(Error::io(path.display(), &e)),
        }
    }

    pub(super) fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    pub(super) fn now(&self) -> Mono {
        self.clock.now()
    }

    pub(super) fn status_text(&self) -> Option<String> {
        self.told().status.clone()
    }

    pub(super) fn watchdog_issue(&self) -> Option<Issue> {
        self.told().watchdog_late.then(|| Issue::critical("watchdog", "missed its watchdog deadline"))
    }

    /// How long nothing has been printed, by the files' times.
    pub(super) fn silent_for(&self) -> Duration {
        let modified = |s: Stream| std::fs::metadata(s.path(&self.dir)).and_then(|m| m.modified()).ok();
        let last = [Stream::Stdout, Stream::Stderr].into_iter().filter_map(modified).max();
        last.and_then(|t| t.elapsed().ok()).unwrap_or_default()
    }

    /// Follows what the child says by the notify protocol, and its watchdog.
    ///
    /// A watchdog that comes late is told once, and so is its return. A host that takes over grants a fresh
    /// interval.
    fn follow_notifications(
        self: &Arc<Self>,
        socket: NotifySocket,
        watchdog: Option<Duration>,
        cx: &AgentContext,
    ) {
        let (life, cx) = (self.clone(), cx.clone());
        let task = tokio::spawn(async move {
            let mut interval = watchdog;
            let mut due = interval.map(|i| life.clock.now() + i);
            loop {
                let late = async {
                    match due {
                        Some(at) => life.clock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    said = socket.next() => {
                        if said.ready {
                            life.told_ready.notify_one();
                        }
                        if let Some(text) = said.status {
                            life.told().status = Some(text);
                        }
                        if let (Some(changed), true) = (said.watchdog_interval, interval.is_some()) {
                            interval = Some(changed);
                        }
                        if said.watchdog_trigger {
                            due = None;
                            life.told().watchdog_late = true;
                            cx.health(Health::of(vec![Issue::critical("watchdog", "reports its own failure")]));
                        } else if said.watchdog || said.ready {
                            due = interval.map(|i| life.clock.now() + i);
                            if std::mem::take(&mut life.told().watchdog_late) {
                                cx.health(Health::healthy());
                            }
                        }
                    }
                    () = late => {
                        due = None;
                        life.told().watchdog_late = true;
                        let text = hms_core::duration::format(interval.unwrap_or_default());
                        cx.health(Health::of(vec![Issue::critical("watchdog", format!("no WATCHDOG=1 for {text}"))]));
                    }
                }
            }
        });
        self.keep(task.abort_handle());
    }

    /// Completes when either stream has printed a line with `pattern` in this life.
    async fn log_shows(&self, pattern: &Pattern) {
        let mut readers: Vec<LogReader> = [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(self.log_start)
            .filter_map(|(stream, start)| LogReader::open(&self.dir, stream, start).ok())
            .collect();
        let changes = match LogWatch::new(&self.dir) {
            Ok(changes) => changes,
            Err(e) => {
                tracing::error!(agent = %self.agent, error = %e, "the log cannot be watched for its readiness");
                return std::future::pending().await;
            }
        };
        loop {
            for reader in &mut readers {
                while let Ok(chunk) = reader.read_lines(1 << 16) {
                    if chunk.lines.iter().any(|line| pattern.is_match(&line.text)) {
                        return;
                    }
                    if chunk.lines.is_empty() {
                        break;
                    }
                }
            }
            changes.changed().await;
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, task: tokio::task::AbortHandle) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

/// Why a process could not be started, and what may help.
fn cannot_start(e: &std::io::Error) -> Error {
    let error = Error::io("starting the process", e);
    match e.kind() {
        std::io::ErrorKind::NotFound => error.hint("name the program by its full path, or set PATH"),
        // Of all that a start needs, only the working directory is one.
        std::io::ErrorKind::NotADirectory => {
            Error { kind: ErrorKind::NotFound, ..error }.hint("name another working directory")
        }
        std::io::ErrorKind::PermissionDenied => {
            error.hint("it must be executable, by the user that is to run it")
        }
        _ => error,
    }
}

/// Removes what a destroyed agent leaves outside its folder.
pub(super) fn forget(cx: &AgentContext) {
    let _ = std::fs::remove_file(notify_path(cx));
}

/// Whether a child could be started: its program, folder, user, environment and limits.
pub(super) fn check(config: &Config, inherited: Option<&BTreeMap<String, String>>) -> Result<()> {
    let env: Vec<_> = env::of_user(config, inherited)?.into_iter().collect();
    config.user.as_deref().map(env::user).transpose()?;
    let spawn =
        Spawn { clear_env: true, env: &env, cwd: config.cwd.as_deref(), ..Spawn::new(&config.command[0]) };
    spawn.check().map(drop).map_err(|e| cannot_start(&e))
}

fn notify_path(cx: &AgentContext) -> PathBuf {
    cx.kernel().dirs().runtime.join(format!("n-{}", cx.id()))
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).map(|m| m.len()).unwrap_or(0)
}
