//! In front of an MCP server that already speaks HTTP: requests pass, and outages do not.
//!
//! Nothing is repeated that might have been carried out: a request is sent again when the connection could not
//! be made at all (nothing was sent), when the server no longer knows the session (it refused before it looked),
//! or when its method only reads. Clients get sessions of the pool; when the server forgets its own, the pool
//! says the client's `initialize` again and goes on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    clock::{Mono, SharedClock},
};
use http_body_util::{BodyExt, Full as Whole};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch};

use super::{
    http::{Answer, Asked, failed, problem, unfit},
    message::{self, Kind},
};
use crate::{bearer::secret, relay::READS};

/// Between two attempts to reach a server that is away: from, to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Headers that concern one connection, or that the pool writes itself.
const OWN: [HeaderName; 12] = [
    header::CONNECTION,
    header::HOST,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::EXPECT,
];
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A server on HTTP.
pub(super) struct Upstream {
    name: String,
    authority: String,
    path: String,
    extra: HeaderMap,
    /// How long a request waits for a server that is away.
    patience: Duration,
    most: usize,
    session_idle: Duration,
    clock: SharedClock,
    sessions: Mutex<HashMap<String, Arc<Remote>>>,
    reachable: watch::Sender<bool>,
}

/// A client's session, and the server's that stands behind it at present.
struct Remote {
    id: String,
    initialize: Asked,
    now: Mutex<Now>,
    renewing: tokio::sync::Mutex<()>,
}

struct Now {
    theirs: HeaderValue,
    version: Option<HeaderValue>,
    used: Mono,
}

/// Why there is no answer.
enum Lost {
    /// No connection: nothing was sent.
    Unreachable(String),
    /// It broke; the request may have been carried out.
    Broken(String),
}

impl Upstream {
    /// The server at `url`, with headers that every request to it carries.
    ///
    /// # Errors
    /// For an address that is not `http://host:port/path`, or a header that is none.
    pub(super) fn new(
        name: &str,
        url: &str,
        headers: &[String],
        limits: Bounds,
        clock: SharedClock,
    ) -> Result<Arc<Self>> {
        let wrong = |why: &str| Error::argument("url", format!("'{url}' {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("is no address"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("does not begin with http://").hint("put a proxy that speaks TLS before it"));
        }
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let mut extra = HeaderMap::new();
        for line in headers {
            let pair = line
                .split_once(':')
                .and_then(|(n, v)| Some((n.trim().parse().ok()?, v.trim().parse().ok()?)));
            let (name, value): (HeaderName, HeaderValue) =
                pair.ok_or_else(|| Error::argument("header", "is not `Name: value`"))?;
            extra.append(name, value);
        }
        let (sessions, reachable) = (Mutex::default(), watch::Sender::new(true));
        let Bounds { patience, sessions: most, session_idle } = limits;
        let name = name.into();
        Ok(Arc::new(Self {
            name,
            authority,
            path,
            extra,
            patience,
            most,
            session_idle,
            clock,
            sessions,
            reachable,
        }))
    }

    /// What there is at the moment.
    pub(super) fn status(&self) -> Value {
        json!({ "name": self.name, "reachable": *self.reachable.borrow(), "sessions": self.lock().len() })
    }

    /// Answers a client.
    pub(super) async fn answer(self: &Arc<Self>, asked: Asked) -> Answer {
        if let Some(refused) = unfit(&asked) {
            return refused;
        }
        let remote = match asked.header("mcp-session-id") {
            None => None,
            Some(id) => match self.lock().get(id).cloned() {
                Some(remote) => Some(remote),
                None => {
                    return problem(
                        StatusCode::NOT_FOUND,
                        "there is no such session; send `initialize` again",
                    );
                }
            },
        };
        if let Some(remote) = &remote {
            remote.lock().used = self.clock.now();
        }
        let (methods, id) = what(&asked);
        let opens = methods.iter().any(|m| m == "initialize");
        if opens && !self.room() {
            let why = format!("the pool holds {} sessions already", self.most);
            return failed(id.as_deref(), &Error::new(ErrorKind::QueueFull, why));
        }
        let safe = asked.method != Method::POST || methods.iter().all(|m| READS.contains(&m.as_str()));
        match self.forward(&asked, remote.as_ref(), safe).await {
            Ok(answer) => self.deliver(asked, remote, opens, answer),
            Err(e) => failed(id.as_deref(), &e),
        }
    }

    fn deliver(
        &self,
        asked: Asked,
        remote: Option<Arc<Remote>>,
        opens: bool,
        mut answer: Response<Incoming>,
    ) -> Answer {
        let theirs = answer.headers_mut().remove(SESSION);
        OWN.iter()
            .filter(|h| **h != header::CONTENT_LENGTH)
            .for_each(|h| drop(answer.headers_mut().remove(h)));
        let mut ours = remote.as_ref().map(|r| r.id.clone());
        if opens
            && answer.status().is_success()
            && let Some(theirs) = theirs
        {
            match secret() {
                Ok(id) => {
                    let now = Mutex::new(Now { theirs, version: None, used: self.clock.now() });
                    let remote = Remote {
                        id: id.clone(),
                        initialize: asked,
                        now,
                        renewing: tokio::sync::Mutex::default(),
                    };
                    self.lock().insert(id.clone(), Arc::new(remote));
                    ours = Some(id);
                }
                Err(e) => return failed(None, &e),
            }
        } else if let Some(remote) = remote {
            if asked.method == Method::DELETE && answer.status().is_success() {
                self.lock().remove(&remote.id);
            }
            if let Some(version) = asked.headers.get("mcp-protocol-version") {
                remote.lock().version = Some(version.clone());
            }
        }
        if let Some(Ok(id)) = ours.map(HeaderValue::try_from) {
            answer.headers_mut().insert(SESSION, id);
        }
        answer.map(BodyExt::boxed_unsync)
    }

    /// Sends a request until it is answered or must not be repeated.
    async fn forward(
        self: &Arc<Self>,
        asked: &Asked,
        remote: Option<&Arc<Remote>>,
        safe: bool,
    ) -> Result<Response<Incoming>> {
        let deadline = self.clock.now() + self.patience;
        let (mut repeated, mut renewed) = (false, false);
        loop {
            let theirs = remote.map(|r| r.lock().theirs.clone());
            match self.send(asked, theirs.as_ref(), !renewed).await {
                Ok(answer) => {
                    let forgotten =
                        answer.status() == StatusCode::NOT_FOUND && asked.method != Method::DELETE;
                    match (remote, theirs) {
                        (Some(remote), Some(theirs)) if forgotten && !renewed => {
                            renewed = true;
                            self.renew(remote, &theirs).await?;
                        }
                        _ => return Ok(answer),
                    }
                }
                Err(Lost::Unreachable(why)) => self.wait(deadline, &why).await?,
                Err(Lost::Broken(why)) if safe && !repeated => {
                    tracing::debug!(server = self.name, why, "a request that only reads is sent again");
                    repeated = true;
                }
                Err(Lost::Broken(why)) => {
                    return Err(Error::new(
                        ErrorKind::ServiceUnavailable,
                        format!("the connection to {} broke: {why}", self.authority),
                    )
                    .hint("the request may have been carried out, so it is not sent again"));
                }
            }
        }
    }

    async fn send(
        &self,
        asked: &Asked,
        session: Option<&HeaderValue>,
        resume: bool,
    ) -> Result<Response<Incoming>, Lost> {
        let stream = self.connect().await.map_err(Lost::Unreachable)?;
        self.reachable.send_if_modified(|r| !std::mem::replace(r, true));
        let _ = stream.set_nodelay(true);
        let broken = |e: hyper::Error| Lost::Broken(e.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::new(Whole::new(Bytes::from(asked.body.clone())));
        *request.method_mut() = asked.method.clone();
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        for (name, value) in &asked.headers {
            let stale = name == "last-event-id" && !resume;
            if !OWN.contains(name) && *name != SESSION && !stale {
                headers.append(name, value.clone());
            }
        }
        if let Ok(host) = HeaderValue::from_str(&self.authority) {
            headers.insert(header::HOST, host);
        }
        for (name, value) in &self.extra {
            headers.append(name, value.clone());
        }
        if let Some(session) = session {
            headers.insert(SESSION, session.clone());
        }
        sender.send_request(request).await.map_err(broken)
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        tokio::select! {
            connected = TcpStream::connect(&self.authority) => connected.map_err(|e| e.to_string()),
            // A machine that is off answers nothing, and the system would wait for minutes.
            () = self.clock.sleep_until(self.clock.now() + CONNECT) => Err("nobody answers".into()),
        }
    }

    /// Waits until the server can be reached again, if that is soon enough.
    async fn wait(self: &Arc<Self>, deadline: Mono, why: &str) -> Result<()> {
        if self.reachable.send_if_modified(|r| std::mem::replace(r, false)) {
            tracing::warn!(server = self.name, address = self.authority, why, "the server cannot be reached");
            tokio::spawn(self.clone().knock());
        }
        let mut reachable = self.reachable.subscribe();
        tokio::select! {
            _ = reachable.wait_for(|r| *r) => Ok(()),
            () = self.clock.sleep_until(deadline) => {
                Err(Error::new(ErrorKind::ServiceUnavailable, format!("{} cannot be reached: {why}", self.authority))
                    .hint("the request was not sent"))
            }
        }
    }

    /// Tries to connect until it works: one at a time, however many requests wait.
    async fn knock(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        while !*self.reachable.borrow() {
            self.clock.sleep_until(self.clock.now() + pause).await;
            pause = (pause * 2).min(PAUSES.1);
            if self.connect().await.is_ok() {
                self.reachable.send_replace(true);
            }
        }
    }

    /// Opens a new session at the server for a client whose old one is forgotten.
    async fn renew(&self, remote: &Arc<Remote>, forgotten: &HeaderValue) -> Result<()> {
        let _one = remote.renewing.lock().await;
        if remote.lock().theirs != *forgotten {
            return Ok(()); // another request was quicker
        }
        let lost = |why: String| {
            Error::new(
                ErrorKind::ServiceUnavailable,
                format!("the server forgot the session and gave no new one: {why}"),
            )
        };
        let sent = |l: Lost| match l {
            Lost::Unreachable(why) | Lost::Broken(why) => lost(why),
        };
        let answer = self.send(&remote.initialize, None, true).await.map_err(sent)?;
        let (status, theirs) = (answer.status(), answer.headers().get(SESSION).cloned());
        let theirs = theirs.filter(|_| status.is_success()).ok_or_else(|| lost(format!("HTTP {status}")))?;
        // The answer has to be there before the session is; what it says is what the client knows already.
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| lost(e.to_string()))?;
            if frame.data_ref().is_some_and(|d| d.windows(8).any(|w| w == b"\"result\"")) {
                break;
            }
        }
        let mut headers = remote.initialize.headers.clone();
        if let Some(version) = remote.lock().version.clone() {
            headers.insert("mcp-protocol-version", version);
        }
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        let ready = Asked { method: Method::POST, headers, body: ready };
        self.send(&ready, Some(&theirs), true).await.map_err(sent)?;
        tracing::info!(server = self.name, "a session was opened anew");
        remote.lock().theirs = theirs;
        Ok(())
    }

    /// Whether one more session may be opened, once those nobody uses are forgotten.
    fn room(&self) -> bool {
        let now = self.clock.now();
        let mut sessions = self.lock();
        if sessions.len() >= self.most {
            sessions.retain(|_, s| now < s.lock().used + self.session_idle);
        }
        sessions.len() < self.most
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Remote>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pool allows in front of a server on HTTP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How long a request waits for a server that is away.
    pub(super) patience: Duration,
    /// Sessions at the same time.
    pub(super) sessions: usize,
    /// After how long without a request a session may be forgotten when there are too many.
    pub(super) session_idle: Duration,
}

/// The methods that a body asks for, and the id to answer with.
fn what(asked: &Asked) -> (Vec<String>, Option<String>) {
    let Ok((messages, _)) = message::messages(&asked.body) else {
        return (vec!["?".into()], None); // the server says what is wrong with it
    };
    let id = messages.first().and_then(|m| m.id()).map(Into::into);
    let methods = messages.into_iter().filter(|m| m.kind != Kind::Response).map(|m| match m.kind {
        Kind::Request => m.method,
        _ if m.method == "notifications/initialized" => "ping".into(),
        _ => m.method,
    });
    (methods.collect(), id)
}
