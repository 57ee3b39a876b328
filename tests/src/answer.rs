//! What one run of the command line came to.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The end of a run.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
    line: String,
}

/// An error as `--json` shows it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Exit code.
    pub code: i32,
    /// `error.kind`.
    pub kind: String,
    /// `error.message`.
    pub message: String,
    /// `error.hint`, or nothing.
    pub hint: String,
}

impl Answer {
    /// Runs a command to its end. Panics when it takes longer than `within`.
    pub fn of(mut command: Command, within: Duration) -> Self {
        let line = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
        let out = reader(child.stdout.take());
        let err = reader(child.stderr.take());
        let Some(code) = wait(&mut child, begun, within) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{line}: did not end within {within:?}");
        };
        let read = |thread: thread::JoinHandle<String>| thread.join().expect("readers do not panic");
        Self { code, out: read(out), err: read(err), took: begun.elapsed(), line }
    }

    /// It succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}: {}{}", self.line, self.out, self.err);
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{}: {e}: {}{}", self.line, self.out, self.err))
    }

    /// It failed, with one error and no output.
    #[track_caller]
    pub fn failure(&self) -> Failure {
        let code = self.code.unwrap_or_else(|| panic!("{}: ended by a signal", self.line));
        assert_ne!(code, 0, "{}: succeeded: {}", self.line, self.out);
        assert_eq!(self.out, "", "{}: printed something, and failed", self.line);
        let value: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{}: {e}: {}", self.line, self.err));
        let field = |name: &str| value["error"][name].as_str().unwrap_or_default().to_owned();
        Failure { code, kind: field("kind"), message: field("message"), hint: field("hint") }
    }
}

impl Failure {
    /// It is of this kind and exit code, and its message has all of these words.
    #[track_caller]
    pub fn says(&self, kind: &str, code: i32, words: &[&str]) -> &Self {
        assert_eq!((self.kind.as_str(), self.code), (kind, code), "{self:?}");
        for word in words {
            assert!(self.message.contains(word), "`{word}` is not in: {self:?}");
        }
        let full_stop = self.message.ends_with('.') && !self.message.ends_with("...");
        assert!(!full_stop && !self.message.contains('\n'), "one sentence: {self:?}");
        self
    }

    /// Its hint has all of these words.
    #[track_caller]
    pub fn hints(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.hint.contains(word), "`{word}` is not in the hint of: {self:?}");
        }
        self
    }
}

fn reader(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut from = from.expect("it is piped");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The exit code, with `None` inside for a signal; `None` when the time is up.
fn wait(child: &mut Child, begun: Instant, within: Duration) -> Option<Option<i32>> {
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status.code());
        }
        if begun.elapsed() > within {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
