//! A relay, its server and its client, and the threads that carry bytes between them.
//!
//! Latency decides the shape. Each direction has one thread that reads, looks and writes, so that a message costs
//! one wake-up more than without us; descriptors are used as they are (a client's may be a pipe, a socket, a file
//! or a terminal, and its flags are not ours to change). What is not on the way of a message — starts, exits,
//! deadlines, measurements — is a task (`supervisor`), and what that has to say is written by two threads that
//! wait for nothing else, so that it never blocks on a peer that does not read.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hms_core::{
    Error, Result,
    clock::{Mono, Rng, SharedClock, SystemClock},
};
use tokio::sync::{Notify, watch};

use super::{
    pipe::Pipe,
    process::{Life, Program, Spawned},
    supervisor,
};
use crate::{
    jsonrpc::Lines,
    relay::{Action, Fact, Memory, Out, Relay, Reporter, Settings},
};

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// Threads here keep little on their stacks.
const STACK: usize = 256 << 10;
/// Answers to requests of ours up to this length are not passed on in pieces.
const OWN_ANSWER: usize = 16 << 20;
/// A longer line of standard error is cut in reports.
const STDERR_LINE: usize = 4 << 10;
/// So much of the last line is repeated in errors.
const LAST_WORDS: usize = 300;

/// Where the bytes for the client go.
pub(crate) trait Client: Send + Sync + 'static {
    /// Writes all of it. May block as long as the client does not read. Whole messages, but for those of many
    /// megabytes, which come in pieces.
    ///
    /// # Errors
    /// When the client is gone; then the server is ended.
    fn write(&self, bytes: &[u8]) -> io::Result<()>;
}

/// What is supervised and how.
pub(crate) struct Launch {
    /// The server.
    pub(crate) program: Program,
    /// How it is supervised.
    pub(crate) settings: Settings,
    /// The program whose `mcp guard` ends the tree when this process is killed; `None`: no guard.
    pub(crate) hms: Option<PathBuf>,
    /// Where the last answers are kept between runs.
    pub(crate) memory_file: Option<PathBuf>,
    /// How long a server may take to end by itself when its input is closed.
    pub(crate) grace: Duration,
    /// Who is told what happens.
    pub(crate) reporter: Option<Reporter>,
    /// Where the server's standard error and our own remarks go; `None`: nowhere.
    pub(crate) stderr: Option<File>,
    /// Whether to make remarks.
    pub(crate) remarks: bool,
}

/// What one may want of a supervised server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// End it, at once or gently; calls wait a moment for a start, then they are refused.
    Halt {
        /// At once.
        kill: bool,
    },
    /// Start what was halted.
    Resume,
}

/// A supervised server. Dropped, it ends as if its client had gone.
pub(crate) struct Supervised(Arc<Shared>);

pub(super) struct Shared {
    pub(super) launch: Launch,
    pub(super) clock: SharedClock,
    pub(super) core: Mutex<Core>,
    /// There may be room again for who was stopped because of too much.
    room: Condvar,
    client_pump: Condvar,
    server_pump: Condvar,
    /// News for the supervisor.
    pub(super) wake: Notify,
    /// An output of a server has ended, or what waits for the client is written.
    pub(super) drained: Notify,
    pub(super) over: watch::Sender<Option<i32>>,
}

pub(super) struct Core {
    pub(super) relay: Relay,
    client_lines: Lines,
    server_lines: Lines,
    pub(super) out: Out,
    pub(super) client: Pipe<Arc<dyn Client>>,
    pub(super) server: Pipe<Arc<PipeWriter>>,
    /// The same input, to ask what of it a dead server has not read; `None` once it is to be closed.
    stdin: Option<Arc<PipeWriter>>,
    pub(super) actions: VecDeque<Action>,
    /// What the supervisor sleeps for.
    pub(super) alarm: Option<Mono>,
    /// How many wait for room.
    waiting: usize,
    /// The last life whose standard output, or error, has ended.
    pub(super) stdout_ended: u64,
    pub(super) stderr_ended: u64,
    pub(super) last_words: Option<String>,
    /// The client went; with the number of a signal, if one was sent.
    pub(super) close: Option<i32>,
    /// The client's end of a stream is closed, since.
    pub(super) hung_up: Option<Mono>,
    pub(super) over: bool,
}

impl Supervised {
    /// Starts the server and its supervision. Must run on a tokio runtime with I/O and time; blocks for about
    /// two milliseconds.
    ///
    /// # Errors
    /// When the server cannot be started at all: its program is missing or may not be executed.
    pub(crate) fn start(launch: Launch, client: Arc<dyn Client>) -> Result<Self> {
        let clock = SystemClock::shared();
        let memory = launch.memory_file.as_ref().filter(|_| launch.settings.warm).and_then(|file| {
            let text = std::fs::read(file).ok()?;
            serde_json::from_slice::<Memory>(&text).ok()
        });
        let mut relay = Relay::new(launch.settings.clone(), Rng::from_os(), memory);
        let mut out = Out::default();
        relay.open(clock.now(), &mut out);
        out.actions.clear(); // it is the start that follows here
        let spawned = launch.program.spawn(relay.life()).map_err(|e| {
            let name = launch.program.command.first().map(|p| p.display().to_string()).unwrap_or_default();
            Error::io(format!("starting `{name}`"), &e)
        })?;
        let core = Core {
            relay,
            client_lines: Lines::default(),
            server_lines: Lines::default(),
            out,
            client: Pipe::new(0, Some(client)),
            server: Pipe::new(0, None),
            stdin: None,
            actions: VecDeque::new(),
            alarm: None,
            waiting: 0,
            stdout_ended: 0,
            stderr_ended: 0,
            last_words: None,
            close: None,
            hung_up: None,
            over: false,
        };
        let shared = Arc::new(Shared {
            launch,
            clock,
            core: Mutex::new(core),
            room: Condvar::new(),
            client_pump: Condvar::new(),
            server_pump: Condvar::new(),
            wake: Notify::new(),
            drained: Notify::new(),
            over: watch::Sender::new(None),
        });
        let life = shared.begin(spawned)?;
        for (name, pump) in
            [("mcp to client", Shared::pump_client as fn(&Shared)), ("mcp to server", Shared::pump_server)]
        {
            let shared = shared.clone();
            spawn_thread(name, move || pump(&shared))?;
        }
        tokio::spawn(supervisor::run(shared.clone(), life));
        Ok(Self(shared))
    }

    /// Takes bytes from the client. Blocks while the server, or what is held back for it, takes no more.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        self.0.hear(bytes);
    }

    /// The client went: by itself (0) or by this signal. The server gets what was said, then its input is
    /// closed, and what is left after a moment is ended.
    pub(crate) fn close(&self, signal: i32) {
        self.0.close(signal);
    }

    /// The client's end of a stream is gone, whether or not all that it said has been read.
    pub(crate) fn hung_up(&self) {
        let now = self.0.clock.now();
        self.0.lock().hung_up.get_or_insert(now);
        self.0.wake.notify_one();
    }

    /// Asks for something.
    pub(crate) fn order(&self, order: &Order) {
        self.0.with(|core, now| match order {
            Order::Halt { kill } => core.relay.halt(now, *kill, &mut core.out),
            Order::Resume => core.relay.resume(now, &mut core.out),
        });
    }

    /// Waits until all is over: the server's exit code, or 128 and the signal that ended it.
    pub(crate) async fn ended(&self) -> i32 {
        let mut over = self.0.over.subscribe();
        let code = over.wait_for(Option::is_some).await;
        code.ok().and_then(|code| *code).unwrap_or(0)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.close(0);
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the relay something, from outside of the two directions.
    pub(super) fn with<R>(&self, tell: impl FnOnce(&mut Core, Mono) -> R) -> R {
        let mut core = self.lock();
        let answer = tell(&mut core, self.clock.now());
        self.settle(&mut core);
        self.kick(&core, true, true);
        answer
    }

    fn close(&self, signal: i32) {
        self.with(|core, _| {
            core.relay.client_closed(&mut core.out);
            // A signal after an end of file hurries it.
            if core.close.is_none_or(|before| before == 0) {
                core.close = Some(signal);
            }
        });
        self.wake.notify_one();
    }

    /// Takes a spawned server over: its output is read from here on, and the relay knows that it runs.
    pub(super) fn begin(self: &Arc<Self>, spawned: Spawned) -> Result<Arc<Life>> {
        let Spawned { life, stdin, stdout, stderr } = spawned;
        let number = life.number;
        {
            let mut core = self.lock();
            let stdin = Arc::new(stdin);
            core.server = Pipe::new(number, Some(stdin.clone()));
            core.stdin = Some(stdin);
            core.server_lines = Lines::default();
            core.last_words = None;
        }
        let shared = self.clone();
        spawn_thread("mcp from server", move || shared.read_stdout(number, stdout))?;
        let shared = self.clone();
        spawn_thread("mcp stderr", move || shared.read_stderr(number, stderr))?;
        self.with(|core, now| core.relay.started(now, number, life.pid, &mut core.out));
        Ok(Arc::new(life))
    }

    /// Closes the server's input as soon as all is written.
    pub(super) fn close_stdin(&self) {
        self.with(|core, _| {
            core.stdin = None;
            core.server.close();
        });
    }

    /// How many of its bytes a server that is dead has read, when that can be told.
    pub(super) fn read_by_server(&self) -> Option<u64> {
        let core = self.lock();
        let unread = rustix::io::ioctl_fionread(core.stdin.as_deref()?).ok()?;
        // While somebody writes, what it has put into the pipe is not yet counted.
        core.server.is_quiet().then(|| core.server.written().saturating_sub(unread))
    }

    fn hear(&self, bytes: &[u8]) {
        let mut core = self.lock();
        let now = self.clock.now();
        {
            let Core { relay, client_lines, out, .. } = &mut *core;
            client_lines.feed(bytes, |piece| relay.client(now, piece, out));
        }
        self.settle(&mut core);
        loop {
            let behind = core.server.is_full() && !core.server.is_idle_with_bytes();
            if core.over || core.close.is_some() || (core.relay.takes_more() && !behind) {
                break;
            }
            self.kick(&core, true, true);
            core = self.wait(core);
        }
        self.kick(&core, true, false);
        self.flush_server(core);
    }

    fn read_stdout(&self, life: u64, mut stdout: PipeReader) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match stdout.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            let mut core = self.lock();
            if core.over || core.relay.life() != life {
                return;
            }
            let now = self.clock.now();
            {
                let Core { relay, server_lines, out, .. } = &mut *core;
                server_lines.feed(&buffer[..read], |piece| relay.server(now, life, piece, out));
            }
            self.settle(&mut core);
            while core.client.is_full() && !core.client.is_idle_with_bytes() && !core.over {
                self.kick(&core, true, true);
                core = self.wait(core);
            }
            self.kick(&core, false, true);
            self.flush_client(core);
        }
        {
            let mut core = self.lock();
            core.stdout_ended = core.stdout_ended.max(life);
        }
        self.drained.notify_one();
        self.wake.notify_one();
    }

    fn read_stderr(&self, life: u64, mut stderr: PipeReader) {
        let (mut buffer, mut line) = (vec![0; CHUNK / 8], Vec::new());
        loop {
            let read = match stderr.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            if let Some(mut file) = self.launch.stderr.as_ref() {
                // Nobody reads it any more: the server may go on writing all the same.
                let _ = file.write_all(&buffer[..read]);
            }
            for byte in &buffer[..read] {
                match byte {
                    b'\n' => self.stderr_line(&mut line),
                    _ if line.len() < STDERR_LINE => line.push(*byte),
                    _ => {}
                }
            }
        }
        self.stderr_line(&mut line);
        {
            let mut core = self.lock();
            core.stderr_ended = core.stderr_ended.max(life);
        }
        self.drained.notify_one();
    }

    fn stderr_line(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if text.trim().is_empty() {
            return;
        }
        self.lock().last_words = Some(text.chars().take(LAST_WORDS).collect());
        if let Some(reporter) = &self.launch.reporter {
            reporter.tell(Fact::Stderr { line: text });
        }
    }

    /// Puts what the relay said where it belongs.
    fn settle(&self, core: &mut Core) {
        let Core { relay, out, client, server, actions, server_lines, .. } = core;
        client.put(&out.client);
        server.put(&out.server);
        for buffer in [&mut out.client, &mut out.server] {
            buffer.clear();
            buffer.shrink_to(CHUNK);
        }
        let mut news = false;
        for action in out.actions.drain(..) {
            match (action, &self.launch.reporter) {
                (Action::Tell(fact), Some(reporter)) => reporter.tell(fact),
                (Action::Tell(_), None) => {}
                (action, _) => {
                    news = true;
                    actions.push_back(action);
                }
            }
        }
        server_lines.whole_up_to(if relay.expects_own() { OWN_ANSWER } else { 0 });
        let due = relay.deadline();
        news |= due.is_some_and(|due| core.alarm.is_none_or(|alarm| due < alarm));
        if news {
            core.alarm = due;
            self.wake.notify_one();
        }
        if core.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Wakes the threads that write what nobody else does.
    fn kick(&self, core: &Core, client: bool, server: bool) {
        if client && core.client.is_idle_with_bytes() {
            self.client_pump.notify_one();
        }
        if server && core.server.is_idle_with_bytes() {
            self.server_pump.notify_one();
        }
    }

    fn wait<'a>(&self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        core.waiting += 1;
        let mut core = self.room.wait(core).unwrap_or_else(PoisonError::into_inner);
        core.waiting -= 1;
        core
    }

    fn flush_client<'a>(&'a self, mut core: MutexGuard<'a, Core>) {
        while let Some((number, to, bytes)) = core.client.take() {
            drop(core);
            let length = bytes.len();
            let written = to.write(&bytes).map_or(0, |()| length);
            core = self.lock();
            core.client.done(number, bytes, written);
            if written < length && core.close.is_none() {
                core.relay.client_closed(&mut Out::default());
                core.close = Some(0);
                self.wake.notify_one();
            }
            if core.waiting > 0 {
                self.room.notify_all();
            }
            if core.close.is_some() {
                self.drained.notify_one();
            }
        }
    }

    fn flush_server<'a>(&'a self, mut core: MutexGuard<'a, Core>) {
        while let Some((number, to, bytes)) = core.server.take() {
            drop(core);
            // A server that does not read any more has ended or will be found out.
            let written = write(&to, &bytes);
            drop(to);
            core = self.lock();
            core.server.done(number, bytes, written);
            if core.waiting > 0 {
                self.room.notify_all();
            }
        }
    }

    fn pump_client(&self) {
        let mut core = self.lock();
        while !core.over {
            if core.client.is_idle_with_bytes() {
                self.flush_client(core);
                core = self.lock();
            } else {
                core = self.client_pump.wait(core).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn pump_server(&self) {
        let mut core = self.lock();
        while !core.over {
            if core.server.is_idle_with_bytes() {
                self.flush_server(core);
                core = self.lock();
            } else {
                core = self.server_pump.wait(core).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// All is over: every thread that can, ends.
    pub(super) fn finish(&self, code: i32) {
        self.lock().over = true;
        self.room.notify_all();
        self.client_pump.notify_all();
        self.server_pump.notify_all();
        self.over.send_replace(Some(code));
    }
}

/// Writes, and says how much of it could be.
fn write(mut to: &PipeWriter, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work);
    started.map(drop).map_err(|e| Error::io("starting a thread", &e))
}
