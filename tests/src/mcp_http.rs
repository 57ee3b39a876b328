//! A small client of Streamable HTTP that does exactly what a test says, also what no good client would do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};

use crate::{Home, PATIENCE};

/// A pool that runs, and ends with the test.
pub struct Pool {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The token it made up, if it did.
    pub token: Option<String>,
    child: Child,
    errors: mpsc::Receiver<String>,
}

impl Pool {
    /// Starts `codex-hms mcp pool --listen 127.0.0.1:0` with these arguments.
    pub fn start(home: &Home, args: &[&str]) -> Self {
        let mut command = home.command(&["mcp", "pool", "--listen", "127.0.0.1:0"]);
        command.args(args);
        Self::run(command)
    }

    /// Starts a command line that is a pool.
    pub fn run(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("HMS_MCP_TOKEN");
        let mut child = command.spawn().expect("it can be started");
        let stderr = child.stderr.take().expect("it is piped");
        let (tell, errors) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut pool = Self { address: String::new(), token: None, child, errors };
        let with_token = !command.get_args().any(|a| a == "none" || a == "--token");
        while pool.address.is_empty() || (with_token && pool.token.is_none()) {
            let line = pool.line();
            if let Some(url) = line.strip_prefix("listening at http://") {
                pool.address = url.split('/').next().unwrap_or_default().into();
            } else if let Some(token) = line.strip_prefix("token ") {
                pool.token = token.split(' ').next().map(Into::into);
            } else if let Some(file) = line.strip_prefix("the token is in ") {
                pool.token = std::fs::read_to_string(file).ok().map(|t| t.trim().to_owned());
            }
        }
        pool
    }

    /// The next line of its standard error.
    pub fn line(&self) -> String {
        self.errors.recv_timeout(PATIENCE).expect("the pool says something before it ends")
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client of its `/mcp`.
    pub fn client(&self) -> McpClient {
        let token = self.token.as_ref().map(|t| ("Authorization".to_owned(), format!("Bearer {t}")));
        McpClient { address: self.address.clone(), path: "/mcp".into(), headers: token.into_iter().collect() }
    }

    /// What `GET /status` says of its first server.
    pub fn status(&self) -> Value {
        let mut client = self.client();
        client.path = "/status".into();
        client.send("GET", &[], None).json()["servers"][0].clone()
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.child.wait().expect("it ends");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

/// A client: an address, and what it sends with every request.
#[derive(Clone, Debug)]
pub struct McpClient {
    /// Where it sends to.
    pub address: String,
    /// The path.
    pub path: String,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
}

impl McpClient {
    /// Opens a session of `version` with these capabilities; the client carries it from then on.
    pub fn open(mut self, version: &str, capabilities: Value) -> Self {
        let params = json!({
            "protocolVersion": version,
            "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" },
        });
        let reply =
            self.post(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
        if reply.status != 200 {
            panic!("no session: {}", reply.text());
        }
        let session = reply.header("mcp-session-id").expect("a session");
        self.headers.push(("Mcp-Session-Id".into(), session));
        self.headers.push(("MCP-Protocol-Version".into(), version.into()));
        let ready = self.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        assert_eq!(ready.status, 202);
        self
    }

    /// Sends a message.
    pub fn post(&self, message: &Value) -> Reply {
        self.send("POST", &[], Some(&message.to_string()))
    }

    /// Calls a tool; the reply is its stream.
    pub fn call(&self, id: Value, tool: &str, text: &str) -> Reply {
        let params = json!({ "name": tool, "arguments": { "text": text }, "_meta": { "progressToken": id } });
        self.post(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
    }

    /// Calls a tool and returns its text.
    pub fn result(&self, id: Value, tool: &str, text: &str) -> String {
        let answer = self.call(id, tool, text).answer();
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).into()
    }

    /// Sends a request with further headers.
    pub fn send(&self, method: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
        let mut stream = TcpStream::connect(&self.address).expect("the pool listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("sockets have timeouts");
        let mut head = format!("{method} {} HTTP/1.1\r\nConnection: close\r\n", self.path);
        let own = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let all: Vec<(&str, &str)> = own.chain(headers.iter().copied()).collect();
        let mut defaults =
            vec![("Host", self.address.as_str()), ("Accept", "application/json, text/event-stream")];
        if body.is_some() {
            defaults.push(("Content-Type", "application/json"));
        }
        defaults.retain(|(name, _)| !all.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)));
        for (name, value) in defaults.into_iter().chain(all) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.unwrap_or_default();
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).expect("the pool reads");
        // A body that is too large may be refused before it is read.
        let _ = stream.write_all(body.as_bytes());
        Reply::read(stream)
    }
}

/// An answer, whose body is read as it comes.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<Body>,
}

impl Reply {
    fn read(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            stream.read_line(&mut line).expect("an answer");
            line.trim_end().to_owned()
        };
        let status: u16 = line().split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        let headers: Vec<(String, String)> = std::iter::from_fn(|| Some(line()).filter(|l| !l.is_empty()))
            .filter_map(|l| l.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())))
            .collect();
        let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let length = of("content-length").and_then(|l| l.parse().ok());
        let body = Body { chunked: of("transfer-encoding").is_some(), left: length.unwrap_or(0), stream };
        Self { status, headers, body: BufReader::with_capacity(1, body) }
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    /// The whole body.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).expect("a body");
        text
    }

    /// The whole body as JSON.
    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The next event of the stream: its id, and its data.
    pub fn event(&mut self) -> Option<(String, String)> {
        let (mut id, mut data, mut any) = (String::new(), None, false);
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line).expect("a stream") == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(value) = line.strip_prefix("id: ") {
                id = value.into();
            } else if let Some(value) = line.strip_prefix("data:") {
                data = Some(value.trim_start().to_owned());
            }
            any |= line.starts_with("id:") || line.starts_with("data:");
            if line.is_empty() && any {
                return Some((id, data.unwrap_or_default()));
            }
        }
    }

    /// The next event that has data, as JSON, and its id.
    pub fn message(&mut self) -> Option<(String, Value)> {
        loop {
            let (id, data) = self.event()?;
            if !data.is_empty() {
                return Some((id, serde_json::from_str(&data).expect("events are JSON")));
            }
        }
    }

    /// All messages until the stream ends.
    pub fn messages(mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.message().map(|(_, m)| m)).collect()
    }

    /// The answer, which is the last message.
    pub fn answer(self) -> Value {
        if self.header("content-type").is_some_and(|t| t.starts_with("application/json")) {
            return self.json();
        }
        self.messages().pop().expect("an answer")
    }
}

struct Body {
    chunked: bool,
    left: usize,
    stream: BufReader<TcpStream>,
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && self.chunked {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            if self.left == 0 {
                self.chunked = false;
            }
        }
        let most = into.len().min(self.left);
        let read = self.stream.read(&mut into[..most])?;
        self.left -= read;
        if self.left == 0 && self.chunked && read > 0 {
            self.stream.read_exact(&mut [0; 2])?;
        }
        Ok(read)
    }
}
