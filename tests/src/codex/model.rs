//! A model with a script: the Responses API on the loopback, one connection at a time in a thread of its own.
//!
//! Codex posts the whole conversation each time; the script is asked what the model says next, and may do
//! things to the world before it answers. What came back from the tools is kept.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What the model says.
#[derive(Debug, Clone)]
pub enum Say {
    /// It calls a tool of an MCP server.
    Call {
        /// The server's name in Codex's configuration.
        server: String,
        /// The tool.
        tool: String,
        /// Its arguments.
        arguments: Value,
    },
    /// It runs a command line in Codex's own shell tool.
    Shell(String),
    /// The end of its turn.
    Done,
}

impl Say {
    /// A call with one argument, `text`.
    pub fn call(server: &str, tool: &str, text: &str) -> Self {
        Self::with(server, tool, json!({"text": text}))
    }

    /// A call.
    pub fn with(server: &str, tool: &str, arguments: Value) -> Self {
        Self::Call { server: server.to_owned(), tool: tool.to_owned(), arguments }
    }
}

/// What a tool's call came back with, as the model sees it.
#[derive(Debug, Clone)]
pub struct Output {
    /// All its text.
    pub text: String,
    /// From the model's call to the model's being asked again.
    pub took: Duration,
}

/// What the model knows.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The outputs of its calls, in order.
    pub outputs: Vec<Output>,
    /// The tools that the newest request offers, as `server/tool` for those of MCP servers.
    pub tools: Vec<String>,
}

impl Seen {
    /// The last output.
    #[track_caller]
    pub fn last(&self) -> &Output {
        self.outputs.last().expect("a tool was called before")
    }
}

type Script = Box<dyn FnMut(&Seen) -> Say + Send>;

/// A model that listens. It answers until the test ends.
pub struct Model {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    script: Script,
    seen: Seen,
    asked: usize,
    answered: Instant,
    problem: Option<String>,
}

impl Model {
    /// A model whose every turn is what `script` says; it may take its time.
    pub fn new(script: impl FnMut(&Seen) -> Say + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
        let port = listener.local_addr().expect("a listener has an address").port();
        let state = State {
            script: Box::new(script),
            seen: Seen::default(),
            asked: 0,
            answered: Instant::now(),
            problem: None,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || {
                    // A client that goes in the middle is one of the things that tests do.
                    let _ = converse(stream, &state);
                });
            }
        });
        Self { port, state }
    }

    /// A model that says these things, in order, then is done.
    pub fn saying(turns: Vec<Say>) -> Self {
        let mut turns = turns.into_iter();
        Self::new(move |_| turns.next().unwrap_or(Say::Done))
    }

    /// The value for `base_url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// What it has seen. Panics when the script did.
    #[track_caller]
    pub fn seen(&self) -> Seen {
        let state = lock(&self.state);
        assert!(
            state.problem.is_none(),
            "the script failed: {}",
            state.problem.as_deref().unwrap_or_default()
        );
        state.seen.clone()
    }
}

/// Answers the requests of one connection.
fn converse(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some((line, body)) = request(&mut reader)? {
        if !line.starts_with("POST /v1/responses ") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let events = turn(&body, state);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{events}", events.len())?;
    }
    Ok(())
}

/// The next request's first line and body.
fn request(reader: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((first, body)))
}

/// One turn of the model, as server-sent events.
fn turn(body: &[u8], state: &Mutex<State>) -> String {
    let mut state = lock(state);
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    state.look(&request);
    let State { script, seen, .. } = &mut *state;
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script(seen)));
    let say = asked.unwrap_or_else(|problem| {
        let text = problem.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| problem.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        state.problem.get_or_insert_with(|| text.to_owned());
        Say::Done
    });
    state.asked += 1;
    state.answered = Instant::now();
    events(state.asked, say)
}

impl State {
    /// Takes what is new in a request: the output of the last call, the tools.
    fn look(&mut self, request: &Value) {
        let outputs: Vec<&Value> = request["input"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| item["type"] == "function_call_output")
            .collect();
        for output in outputs.iter().skip(self.seen.outputs.len()) {
            let output = Output { text: text_of(&output["output"]), took: self.answered.elapsed() };
            self.seen.outputs.push(output);
        }
        self.seen.tools = request["tools"].as_array().into_iter().flatten().flat_map(names_of).collect();
    }
}

/// `server/tool` for a namespace of an MCP server, else the name.
fn names_of(tool: &Value) -> Vec<String> {
    let name = tool["name"].as_str().unwrap_or_default();
    match name.strip_prefix("mcp__") {
        Some(server) => {
            let tools = tool["tools"].as_array().into_iter().flatten();
            tools.filter_map(|t| t["name"].as_str()).map(|t| format!("{server}/{t}")).collect()
        }
        None => vec![name.to_owned()],
    }
}

/// An output is a text, or parts of text.
fn text_of(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
            texts.join("\n")
        }
        other => other.to_string(),
    }
}

fn events(number: usize, say: Say) -> String {
    let call = format!("call-{number}");
    let item = match say {
        Say::Call { server, tool, arguments } => json!({
            "type": "function_call", "call_id": call, "namespace": format!("mcp__{server}"),
            "name": tool, "arguments": arguments.to_string(),
        }),
        Say::Shell(line) => json!({
            "type": "function_call", "call_id": call, "name": "exec_command",
            "arguments": json!({"cmd": line}).to_string(),
        }),
        Say::Done => json!({
            "type": "message", "role": "assistant", "id": format!("message-{number}"),
            "content": [{"type": "output_text", "text": "done"}],
        }),
    };
    let id = format!("response-{number}");
    let usage = json!({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0});
    [
        json!({"type": "response.created", "response": {"id": id}}),
        json!({"type": "response.output_item.done", "item": item}),
        json!({"type": "response.completed", "response": {"id": id, "usage": usage}}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
    .collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
