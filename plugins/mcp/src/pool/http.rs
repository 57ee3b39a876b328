//! The HTTP side: connections, routes, and what every request has to be before MCP is looked at.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hms_core::{Error, ErrorKind, Result, clock::SharedClock};
use http_body_util::{BodyExt, Full as Whole, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    gate::Gate,
    hosted::Hosted,
    legacy,
    message::{self, Flaw, META_VERSION, Message},
    modern, stateless,
    upstream::Upstream,
};

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// What is answered with.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// Where the requests of a path go.
pub(super) enum Backend {
    /// To a server on stdio.
    Stdio(Arc<Hosted>),
    /// To a server on HTTP.
    Http(Arc<Upstream>),
}

/// The front of a pool.
pub(super) struct Front {
    /// By path, such as `/mcp`.
    pub(super) routes: Vec<(String, Backend)>,
    /// Who may come in.
    pub(super) gate: Gate,
    /// The largest body of a request, in bytes.
    pub(super) max_body: usize,
    /// Hang up on a call that takes longer, and let the client come back for its answer (2025-11-25).
    pub(super) poll_after: Option<Duration>,
    /// Where time comes from.
    pub(super) clock: SharedClock,
}

/// A request whose headers and body are read.
pub(super) struct Asked {
    /// The method.
    pub(super) method: Method,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: String,
}

impl Asked {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Front {
    /// Accepts connections until `stop` completes.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut stop = std::pin::pin!(stop);
        loop {
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                // Streams that clients listen to may hold every place for ever.
                () = &mut stop => return,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of descriptors: it gets better when a connection ends, not by asking again at once.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    self.clock.sleep_until(self.clock.now() + Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let front = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let front = front.clone();
                    async move { Ok::<_, Infallible>(front.answer(request).await) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(e) = served.await {
                    tracing::trace!(error = %e, "a connection ended early");
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Err(refused) = self.gate.check(request.headers()) {
            let mut answer = problem(refused.status, refused.why);
            if refused.status == StatusCode::UNAUTHORIZED {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return answer;
        }
        let path = request.uri().path().trim_end_matches('/').to_owned();
        if path == "/status" && request.method() == Method::GET {
            return self.status();
        }
        let Some((_, backend)) = self.routes.iter().find(|(route, _)| *route == path) else {
            let known: Vec<&str> = self.routes.iter().map(|(route, _)| route.as_str()).collect();
            return problem(
                StatusCode::NOT_FOUND,
                &format!("there is no `{path}` here, only {}", known.join(", ")),
            );
        };
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, self.max_body).collect().await {
            Ok(body) => String::from_utf8(body.to_bytes().into()),
            Err(e) if e.is::<LengthLimitError>() => {
                let why = format!("the body is larger than {} bytes", self.max_body);
                return problem(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Err(_) => return problem(StatusCode::BAD_REQUEST, "the body ended early"),
        };
        let Ok(body) = body else { return problem(StatusCode::BAD_REQUEST, "the body is not UTF-8") };
        let asked = Asked { method: parts.method, headers: parts.headers, body };
        match backend {
            Backend::Stdio(hosted) => self.mcp(hosted, asked).await,
            Backend::Http(upstream) => upstream.answer(asked).await,
        }
    }

    /// An MCP request for a server on stdio, in either era.
    async fn mcp(&self, hosted: &Arc<Hosted>, asked: Asked) -> Answer {
        if let Some(refused) = unfit(&asked) {
            return refused;
        }
        let version = asked.header("mcp-protocol-version").unwrap_or_default().to_owned();
        let session = asked.headers.contains_key("mcp-session-id");
        let sessionless = !session && !version.is_empty() && !modern::LEGACY.contains(&version.as_str());
        match asked.method {
            Method::GET if sessionless => not_allowed("POST"),
            Method::DELETE if sessionless => not_allowed("POST"),
            Method::GET => legacy::get(self, hosted, &asked),
            Method::DELETE => legacy::delete(hosted, &asked),
            Method::POST => {
                let (messages, batch) = match message::messages(&asked.body) {
                    Ok(parsed) => parsed,
                    Err(Flaw::Syntax) => return refusal(None, -32700, "the body is not JSON", None),
                    Err(Flaw::Shape) => {
                        return refusal(
                            None,
                            -32600,
                            "the body is no JSON-RPC request, notification or response",
                            None,
                        );
                    }
                };
                let enveloped =
                    |m: &Message| m.method != "initialize" && m.param("/_meta").get(META_VERSION).is_some();
                if sessionless || (!session && messages.iter().any(enveloped)) {
                    stateless::post(self, hosted, asked, messages, batch).await
                } else {
                    legacy::post(self, hosted, &asked, messages, batch).await
                }
            }
            _ => not_allowed("GET, POST, DELETE"),
        }
    }

    fn status(&self) -> Answer {
        let servers: Vec<_> = self
            .routes
            .iter()
            .map(|(_, backend)| match backend {
                Backend::Stdio(hosted) => hosted.status(),
                Backend::Http(upstream) => upstream.status(),
            })
            .collect();
        json_answer(StatusCode::OK, json!({ "servers": servers }).to_string())
    }
}

/// What is wrong with a request before its body is looked at.
pub(super) fn unfit(asked: &Asked) -> Option<Answer> {
    let accepts = |kind: &str| {
        let accept = asked.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let group = kind.split('/').next().unwrap_or_default();
        accept.flat_map(|v| v.split(',')).any(|one| {
            let one = one.split(';').next().unwrap_or_default().trim();
            one.eq_ignore_ascii_case(kind) || one == "*/*" || one.strip_suffix("/*") == Some(group)
        })
    };
    let wanted: &[&str] = match asked.method {
        Method::GET => &["text/event-stream"],
        Method::POST => &["application/json", "text/event-stream"],
        _ => &[],
    };
    if let Some(missing) = wanted.iter().find(|kind| !accepts(kind)) {
        return Some(problem(StatusCode::NOT_ACCEPTABLE, &format!("the Accept header must allow {missing}")));
    }
    let kind = asked.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if asked.method == Method::POST && !kind.eq_ignore_ascii_case("application/json") {
        return Some(problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Type must be application/json",
        ));
    }
    None
}

/// An answer without MCP in it.
pub(super) fn empty(status: StatusCode) -> Answer {
    with_body(status, Bytes::new())
}

fn with_body(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Whole::new(body).map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// A JSON text.
pub(super) fn json_answer(status: StatusCode, text: String) -> Answer {
    let mut answer = with_body(status, text.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A JSON-RPC error with the HTTP status that goes with its code.
pub(super) fn refusal(id: Option<&str>, code: i64, why: &str, data: Option<serde_json::Value>) -> Answer {
    json_answer(modern::status(code), message::error(id, code, why, data))
}

/// An error of HTTP, with a JSON-RPC error as its body.
pub(super) fn problem(status: StatusCode, why: &str) -> Answer {
    json_answer(status, message::error(None, -32600, why, None))
}

/// An error of the pool.
pub(super) fn failed(id: Option<&str>, e: &Error) -> Answer {
    let status = match e.kind {
        ErrorKind::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut answer = json_answer(status, message::error(id, super::mux::INTERNAL, &e.to_string(), None));
    if e.kind == ErrorKind::QueueFull {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// A stream of events.
pub(super) fn events<B>(body: B) -> Answer
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut answer = Response::new(body.map_err(never).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn never(e: Infallible) -> hyper::Error {
    match e {}
}

/// Listens at `address`.
///
/// # Errors
/// When the address cannot be had.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let error = Error::io(format!("listen at {address}"), &e);
        if e.kind() == std::io::ErrorKind::AddrInUse {
            error.hint("choose another port with --listen")
        } else {
            error
        }
    })
}
