//! A proxy's client: streamable HTTP on one kept connection, as little of it as a benchmark needs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Any, HELLO, INITIALIZED, Way};

/// Stands for the port in a command line.
pub(super) const PORT: &str = "{port}";
/// No proxy takes longer to come up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Http {
    child: Child,
    port: u16,
    stream: BufReader<TcpStream>,
    session: Option<String>,
}

impl Http {
    /// Starts a proxy, and waits until `initialize` is answered.
    pub(super) fn begin(command: &[String]) -> Result<Self, Any> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let words: Vec<String> = command.iter().map(|w| w.replace(PORT, &port.to_string())).collect();
        let (program, args) = words.split_first().ok_or("no command")?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut guard = Proxy(Some(child));
        let begun = Instant::now();
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                stream.set_nodelay(true)?;
                let child = guard.0.take().ok_or("it is there")?;
                let mut way = Self { child, port, stream: BufReader::new(stream), session: None };
                way.ask(0, HELLO)?;
                return Ok(way);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("`{program}` does not listen").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn post(&mut self, body: &str) -> Result<String, Any> {
        let session = self
            .session
            .as_ref()
            .map(|s| format!("Mcp-Session-Id: {s}\r\nMCP-Protocol-Version: 2025-06-18\r\n"));
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{}Content-Length: {}\r\n\r\n",
            self.port,
            session.unwrap_or_default(),
            body.len()
        );
        self.stream.get_mut().write_all((head + body).as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = Some(value.parse::<usize>()?),
                ("transfer-encoding", _) => chunked = true,
                ("mcp-session-id", value) => self.session = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                line.clear();
                self.stream.read_line(&mut line)?;
                let size =
                    usize::from_str_radix(line.trim(), 16).map_err(|_| format!("no chunk: {line:?}"))?;
                let from = answer.len();
                answer.resize(from + size, 0);
                self.stream.read_exact(&mut answer[from..])?;
                line.clear();
                self.stream.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            answer.resize(length.unwrap_or(0), 0);
            self.stream.read_exact(&mut answer)?;
        }
        let answer = String::from_utf8(answer)?;
        if status.starts_with('2') { Ok(answer) } else { Err(format!("{status}: {answer}").into()) }
    }
}

impl Way for Http {
    fn ask(&mut self, id: usize, what: &str) -> Result<(), Any> {
        let answer = self.post(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{what}}}"))?;
        if answer.contains("\"result\"") { Ok(()) } else { Err(answer.into()) }
    }

    fn initialized(&mut self) -> Result<(), Any> {
        self.post(INITIALIZED).map(drop)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends the proxy when its start fails.
struct Proxy(Option<Child>);

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}
