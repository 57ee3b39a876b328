//! A proxy's client: Streamable HTTP on one kept connection, as little of it as a benchmark needs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Any, INITIALIZED, Way, hello, is_answer};

/// No proxy takes longer to come up, or to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Proxies tell in ways of their own, or not at all, that they listen: they are asked so often.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Http {
    proxy: Proxy,
    /// The lines of every request but the session's and the length.
    head: String,
    stream: BufReader<TcpStream>,
    session: String,
}

impl Http {
    /// Starts a proxy, whose command line is made for a port, and waits until `initialize` is answered.
    pub(super) fn begin(path: &str, command: impl Fn(u16) -> Command) -> Result<Self, Any> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = command(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut proxy = Proxy(command.spawn().map_err(|e| format!("{command:?}: {e}"))?);
        let begun = Instant::now();
        let stream = loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                break stream;
            }
            if let Some(status) = proxy.0.try_wait()? {
                return Err(format!("{command:?} ended: {status}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{command:?} does not listen").into());
            }
            thread::sleep(PAUSE);
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n"
        );
        let mut way = Self { proxy, head, stream: BufReader::new(stream), session: String::new() };
        way.ask(0, &hello())?;
        Ok(way)
    }

    /// Posts a message. How long it took until `is_enough` of the body, and the whole of it.
    fn post(
        &mut self,
        message: &str,
        is_enough: impl Fn(&str) -> bool,
    ) -> Result<(Option<Duration>, String), Any> {
        let request =
            format!("{}{}Content-Length: {}\r\n\r\n{message}", self.head, self.session, message.len());
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = value.parse()?,
                ("transfer-encoding", _) => chunked = true,
                ("mcp-session-id", value) => {
                    self.session = format!("Mcp-Session-Id: {value}\r\nMCP-Protocol-Version: 2025-06-18\r\n");
                }
                _ => {}
            }
        }
        let (mut body, mut took) = (String::new(), None);
        loop {
            if chunked {
                let size = self.line()?;
                length = usize::from_str_radix(&size, 16).map_err(|_| format!("no chunk: {size:?}"))?;
            }
            (&mut self.stream).take(length as u64).read_to_string(&mut body)?;
            if took.is_none() && is_enough(&body) {
                took = Some(begun.elapsed());
            }
            if chunked {
                self.line()?;
            }
            if !chunked || length == 0 {
                break;
            }
        }
        // A stream may begin with events that carry nothing; a redirection or an error is neither.
        if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            return Ok((took, body));
        }
        Err(format!("{status}: {body}").into())
    }

    fn line(&mut self) -> Result<String, Any> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err("the proxy hung up".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Way for Http {
    fn ask(&mut self, id: usize, message: &str) -> Result<Duration, Any> {
        let (took, body) = self.post(message, |body| is_answer(body, id))?;
        took.ok_or_else(|| format!("no answer: {body:?}").into())
    }

    fn initialized(&mut self) -> Result<(), Any> {
        self.post(INITIALIZED, |_| true).map(drop)
    }

    fn pid(&self) -> u32 {
        self.proxy.0.id()
    }
}

/// A running proxy. It ends gently, so that its server does, and then at once.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        const GRACE: Duration = Duration::from_secs(2);
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < GRACE && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(PAUSE);
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}
