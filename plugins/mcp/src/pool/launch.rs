//! A supervised server as a conversation of lines: the bridge from a pool's tasks to the threads of `server`.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use hms_core::{
    Error, Result,
    clock::{Rng, SystemClock},
    peer::Attach,
};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::link::{Launch, Line, Link, Said, Way};
use crate::{
    agent::{self, Described, Order, Presence},
    relay::{Facts, Settings, facts},
    server::{self, Client, Program, Supervised},
};

/// Lines of a server that may wait for the pool.
const LINES: usize = 256;
/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_millis(700);
/// How long what was said last may take to be written to a server that shall end.
const LAST_WORDS: Duration = Duration::from_millis(700);
/// The longest line of a server. One that writes on and on must not take the memory that all servers share.
const LINE: usize = 256 << 20;
const STACK: usize = 256 << 10;

/// A server that is started by its command line.
pub(super) struct Command {
    /// What is started.
    pub(super) program: Program,
    /// How it is supervised.
    pub(super) settings: Settings,
    /// The program of our command line, for the guard.
    pub(super) hms: Option<PathBuf>,
    /// Where its standard error goes.
    pub(super) stderr: File,
    /// The host in which it is shown as an agent, and whether.
    pub(super) attach: Attach,
    /// Whether it is shown.
    pub(super) presence: Presence,
}

impl Command {
    /// Shows a process in the host for as long as it lives, and does what is asked of the agent.
    fn show(&self, facts: Facts, supervised: &Arc<Supervised>) {
        let settings = &self.settings;
        let options = json!({
            "stateful": settings.stateful,
            "hang_timeout": settings.hang_timeout.map(hms_core::duration::format),
            "memory_limit": settings.memory_limit.map(hms_core::bytesize::format),
        });
        let described = Described {
            by: "pool",
            name: settings.name.clone(),
            command: self.program.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            labels: BTreeMap::from([("pool".to_owned(), std::process::id().to_string())]),
            options: match options {
                Value::Object(options) => options,
                _ => Map::new(),
            },
            budget: settings.intensity,
        };
        let mut orders = agent::link(self.attach.clone(), self.presence, described, facts);
        let listener = Arc::downgrade(supervised);
        let over = supervised.clone();
        tokio::spawn(async move {
            let obey = async {
                loop {
                    let order = match orders.next().await {
                        Order::Stop { kill } => server::Order::Halt { kill },
                        Order::Start => server::Order::Resume,
                    };
                    if let Some(supervised) = listener.upgrade() {
                        supervised.order(&order);
                    }
                }
            };
            tokio::select! {
                () = obey => {}
                _ = over.ended() => {}
            }
        });
    }
}

impl Launch for Command {
    fn launch(&self) -> Result<Link> {
        let (to, mut lines) = mpsc::unbounded_channel::<Line>();
        let (said, from) = mpsc::channel(LINES);
        let stderr = self.stderr.try_clone().map_err(|e| Error::io("standard error", &e))?;
        let (reporter, facts) = facts();
        let shown = self.presence != Presence::Never;
        let launch = server::Launch {
            program: Program { id: Rng::from_os().token(12), ..self.program.clone() },
            settings: self.settings.clone(),
            hms: self.hms.clone(),
            memory_file: None,
            grace: GRACE,
            reporter: shown.then_some(reporter),
            stderr: Some(stderr),
            remarks: true,
        };
        let sink = Arc::new(Sink { part: Mutex::default(), longest: LINE, said: said.clone() });
        let supervised = Arc::new(Supervised::start(launch, sink)?);
        if shown {
            self.show(facts, &supervised);
        }
        let writer = supervised.clone();
        let write = move || {
            while let Some(mut line) = lines.blocking_recv() {
                line.text.push('\n');
                writer.hear(line.text.as_bytes());
            }
            writer.close(0);
        };
        let started = thread::Builder::new().name("mcp pool".into()).stack_size(STACK).spawn(write);
        started.map_err(|e| Error::io("starting a thread", &e))?;
        let (held, let_go) = oneshot::channel();
        let closer = supervised.clone();
        tokio::spawn(async move {
            let all_said = async {
                let _ = let_go.await;
                let clock = SystemClock::shared();
                clock.sleep_until(clock.now() + LAST_WORDS).await;
            };
            tokio::select! {
                // A server that reads nothing holds up the thread that writes to it: that one will not close.
                () = all_said => closer.close(0),
                _ = closer.ended() => {}
            }
        });
        tokio::spawn(async move {
            let code = supervised.ended().await;
            // The pool may be gone itself by now.
            let _ = said.send(Said::Over(format!("the server ended with code {code}"))).await;
        });
        Ok(Link { to: Way { lines: to, _held: held }, from })
    }
}

/// Cuts what comes for the client into lines.
struct Sink {
    part: Mutex<Vec<u8>>,
    longest: usize,
    said: mpsc::Sender<Said>,
}

impl Client for Sink {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if part.len() + piece.len() > self.longest {
                *part = Vec::new();
                tracing::warn!(bytes = self.longest, "the server wrote a line without an end and is stopped");
                return Err(io::ErrorKind::InvalidData.into());
            }
            part.extend_from_slice(piece);
            if piece.last() != Some(&b'\n') {
                continue;
            }
            let line = std::mem::take(&mut *part);
            match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => {
                    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                    self.said.blocking_send(Said::Line(line)).map_err(gone)?;
                }
                Err(e) => {
                    tracing::warn!(bytes = e.as_bytes().len(), "the server wrote a line that is not UTF-8")
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn command(words: &[&str], folder: &Path) -> Command {
        let program = Program {
            command: words.iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            realm: folder.to_owned(),
            id: String::new(),
        };
        let stderr = File::create(folder.join("stderr")).unwrap();
        let attach = Attach {
            runtime_dir: folder.to_owned(),
            name: "test".into(),
            start: None,
            deadline: Duration::from_secs(5),
        };
        let (settings, presence) = (Settings::default(), Presence::Never);
        Command { program, settings, hms: None, stderr, attach, presence }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_reads_nothing_ends_when_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let Link { to, mut from } = command(&["sleep", "600"], folder.path()).launch().unwrap();
        for _ in 0..64 {
            let line = Line { text: "x".repeat(1 << 20), _place: None };
            assert!(to.lines.send(line).is_ok());
        }
        drop(to);
        let over = async { while from.recv().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), over).await.expect("it ends");
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_forgotten() {
        let (said, mut from) = mpsc::channel(2);
        let sink = Sink { part: Mutex::default(), longest: 100, said };
        sink.write(&[b'a'; 60]).unwrap();
        sink.write(&[[b'a'; 39].as_slice(), b"\n"].concat()).unwrap();
        assert!(matches!(from.try_recv(), Ok(Said::Line(line)) if line.len() == 100));
        sink.write(&[b'b'; 60]).unwrap();
        assert!(sink.write(&[b'b'; 60]).is_err());
        assert_eq!(sink.part.lock().unwrap().capacity(), 0);
    }
}
