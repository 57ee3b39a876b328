//! The HTTP check: does an endpoint answer with a status that is expected?
//!
//! One GET over one connection, HTTP/1.1, over TCP or a Unix socket. Redirects are answers (not followed):
//! an endpoint that moved is worth knowing of. Nothing is spawned, so dropping the future closes everything.

use std::{fmt, ops::RangeInclusive, path::PathBuf, pin::pin};

use hms_core::{Error, ErrorKind, Result};
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::plain;
use crate::keys::Keys;

/// At most so much of an answer's body is read: enough that a server which writes a short one is not cut off.
const BODY_READ: usize = 64 * 1024;

/// Asks one URL.
#[derive(Debug, Clone)]
pub(crate) struct HttpCheck {
    url: Uri,
    host: String,
    port: u16,
    socket: Option<PathBuf>,
    expect: Statuses,
    headers: HeaderMap,
}

/// The properties of an HTTP check, for schemas.
pub(super) fn schema() -> Value {
    json!({
        "url": {"type": "string", "x-value": "URL", "description": "http:// address"},
        "expect": {"type": ["integer", "string", "array"], "x-value": "STATUS", "items": {"type": ["integer", "string"]},
            "description": "statuses that count as well, such as 200, 200-299 or a list of them (default 200-399)"},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}, "description": "headers to send"},
        "socket": {"type": "string", "x-value": "PATH", "description": "Unix socket to connect to instead of the URL's host"},
    })
}

impl HttpCheck {
    /// Reads a URL, or an object with `url`, `expect`, `headers` and `socket`, at key `at`.
    pub(crate) fn parse(at: &str, value: &Value) -> Result<Self> {
        if value.is_string() {
            return Self::new(at, value, Statuses::default(), HeaderMap::new(), None);
        }
        let keys = Keys::of(at, value)?;
        keys.only(&["url", "expect", "headers", "socket"])?;
        Self::from_keys(&keys)
    }

    /// The same from an object that may have other keys as well.
    pub(crate) fn from_keys(keys: &Keys<'_>) -> Result<Self> {
        let url = keys.get("url").ok_or_else(|| keys.wrong("url", "is missing"))?;
        let expect = match keys.get("expect") {
            Some(value) => Statuses::parse(value).map_err(|problem| {
                keys.wrong("expect", problem).hint("write it as 200, 200-299, or a list of these")
            })?,
            None => Statuses::default(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in keys.table("headers")? {
            let known = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
            let Some((name, mut value)) = known else {
                return Err(keys.wrong("headers", format_args!("`{name}` is not a header")));
            };
            // They may hold credentials: never shown, not even by Debug.
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let socket = keys.text("socket")?.map(PathBuf::from);
        let name = keys.name("url");
        Self::new(&name, url, expect, headers, socket)
    }

    fn new(
        at: &str,
        url: &Value,
        expect: Statuses,
        headers: HeaderMap,
        socket: Option<PathBuf>,
    ) -> Result<Self> {
        let text = url.as_str().unwrap_or_default();
        let wrong = |problem: &str, hint: &str| {
            Error::new(ErrorKind::InvalidConfig, format!("`{at}`: `{text}` {problem}")).hint(hint)
        };
        let form = "write it as http://host:port/path";
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL", form))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(
                    "needs TLS, which is not built in",
                    "use exec with `curl -fsS URL` instead",
                ));
            }
            _ => return Err(wrong("is not an http:// URL", form)),
        }
        let host = uri.host().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            let error = Error::new(ErrorKind::InvalidConfig, format!("`{at}`: the URL contains credentials"));
            return Err(error.hint("put them into the header `authorization`"));
        }
        let has_port = authority.len() > host.len();
        if host.is_empty() || has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("is not a URL", form));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { port: uri.port_u16().unwrap_or(80), url: uri, host, socket, expect, headers })
    }

    /// Asks once, without a deadline of its own; the error says what happened.
    pub(crate) async fn run(&self) -> Result<(), String> {
        let status = self.fetch().await?;
        self.judge(status)
    }

    /// Whether `status` is expected.
    pub(crate) fn judge(&self, status: u16) -> Result<(), String> {
        if self.expect.contain(status) { Ok(()) } else { Err(format!("status {status}")) }
    }

    /// The status that the endpoint answers with.
    pub(crate) async fn fetch(&self) -> Result<u16, String> {
        match &self.socket {
            Some(path) => {
                let stream = UnixStream::connect(path).await;
                self.exchange(stream.map_err(|e| format!("{}: {}", path.display(), plain(&e)))?).await
            }
            None => {
                let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
                self.exchange(stream.map_err(|e| plain(&e))?).await
            }
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<u16, String> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| explain(&e))?;
        let conversation = async {
            let response = sender.send_request(self.request()).await.map_err(|e| explain(&e))?;
            let status = response.status().as_u16();
            drain(response).await;
            Ok(status)
        };
        // The connection does the reading and writing, so it is polled beside the conversation.
        let (mut conversation, mut connection) = (pin!(conversation), pin!(connection));
        tokio::select! {
            answer = &mut conversation => return answer,
            _ = &mut connection => {}
        }
        conversation.await
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        // A URL's path and authority are a valid request target and header; else the server says so.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(authority) {
            headers.insert(HOST, host);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("hms/", env!("CARGO_PKG_VERSION"))));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        request
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Reads what has come of a short body. Only what is there already or comes in the same breath: a stream of
/// events never ends, and its status has been told.
async fn drain(response: Response<Incoming>) {
    let declared = response
        .headers()
        .get(hyper::header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if declared.is_none_or(|length| length > BODY_READ) {
        return;
    }
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

fn explain(e: &hyper::Error) -> String {
    if e.is_incomplete_message() || e.is_canceled() || e.is_closed() {
        return "the connection was closed before an answer came".into();
    }
    if e.is_parse() {
        return "the answer is not HTTP".into();
    }
    let source = std::error::Error::source(e).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.map_or_else(|| e.to_string(), plain)
}

/// A set of statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Statuses(Vec<RangeInclusive<u16>>);

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl Statuses {
    /// Reads `200`, `"200-299"`, `"200,301"` or a list of these.
    fn parse(value: &Value) -> Result<Self, String> {
        let mut all = Vec::new();
        match value {
            Value::Array(list) if !list.is_empty() => {
                for item in list {
                    all.extend(Self::parse(item)?.0);
                }
            }
            Value::Number(number) => all.push(Self::range(&number.to_string())?),
            Value::String(text) => {
                for part in text.split(',') {
                    all.push(Self::range(part.trim())?);
                }
            }
            other => return Err(format!("`{other}` is not a status")),
        }
        Ok(Self(all))
    }

    fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
        let status =
            |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match status(first).zip(status(last)) {
            Some((first, last)) if first <= last => Ok(first..=last),
            _ => Err(format!("`{text}` is not a status")),
        }
    }

    fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        let read = |value: Value| Statuses::parse(&value);
        assert_eq!(read(json!(204)), Ok(Statuses(vec![204..=204])));
        assert_eq!(read(json!("200-299, 404")), Ok(Statuses(vec![200..=299, 404..=404])));
        assert_eq!(read(json!([200, "300-308"])), Ok(Statuses(vec![200..=200, 300..=308])));
        for bad in [
            json!(99),
            json!(600),
            json!("299-200"),
            json!("ok"),
            json!([]),
            json!(true),
            json!(-200),
            json!(""),
        ] {
            assert!(read(bad.clone()).unwrap_err().contains("is not a status"), "{bad}");
        }
    }

    #[test]
    fn urls_that_cannot_work_are_refused_in_words() {
        let problem = |value: Value| HttpCheck::parse("liveness.http", &value).unwrap_err().to_string();
        let https = problem(json!("https://example.org/"));
        assert!(
            https.contains("`liveness.http`: `https://example.org/` needs TLS") && https.contains("curl"),
            "{https}"
        );
        for bad in [
            "",
            "localhost:80",
            "/health",
            "ftp://x/",
            "http://",
            "http://x:0/",
            "http://x:99999/",
            "http://a b/",
        ] {
            let text = problem(json!(bad));
            assert!(
                text.starts_with("`liveness.http`: ") && text.contains("http://host:port/path"),
                "{bad}: {text}"
            );
        }
        let secret = problem(json!("http://user:hunter2@x/"));
        assert!(secret.contains("authorization") && !secret.contains("hunter2"), "{secret}");
        assert!(problem(json!({"expect": 200})).starts_with("`liveness.http.url`: is missing"));
        assert!(
            problem(json!({"url": "http://x/", "port": 1})).starts_with("`liveness.http.port`: is not known")
        );
        assert!(
            problem(json!({"url": "http://x/", "headers": {"a b": "c"}}))
                .starts_with("`liveness.http.headers`")
        );
        let check = HttpCheck::parse(
            "http",
            &json!({"url": "http://[::1]/", "headers": {"authorization": "s3cret"}}),
        )
        .unwrap();
        assert_eq!((check.host.as_str(), check.port), ("::1", 80));
        assert!(!format!("{check:?}").contains("s3cret"));
    }
}
