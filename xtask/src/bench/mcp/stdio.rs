//! The client of a server, or of what stands before it, on pipes.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Any, INITIALIZED, Way, hello, is_answer};

pub(super) struct Pipes {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    line: String,
}

impl Pipes {
    /// Starts it, and waits until `initialize` is answered.
    pub(super) fn begin(mut command: Command) -> Result<Self, Any> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or("no pipe")?);
        let mut way = Self { child, stdin, stdout: BufReader::new(stdout), line: String::new() };
        way.ask(0, &hello())?;
        Ok(way)
    }

    fn say(&mut self, message: &str) -> Result<(), Any> {
        // In one write, as every SDK does it.
        Ok(self.stdin.as_mut().ok_or("closed")?.write_all(message.as_bytes())?)
    }
}

impl Way for Pipes {
    fn ask(&mut self, id: usize, message: &str) -> Result<Duration, Any> {
        let message = format!("{message}\n");
        self.line.clear();
        let begun = Instant::now();
        self.say(&message)?;
        self.stdout.read_line(&mut self.line)?;
        let took = begun.elapsed();
        if is_answer(&self.line, id) { Ok(took) } else { Err(format!("no answer: {:?}", self.line).into()) }
    }

    fn initialized(&mut self) -> Result<(), Any> {
        self.say(&format!("{INITIALIZED}\n"))
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}
