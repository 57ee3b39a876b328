//! Clients over Streamable HTTP: `mcp serve --listen`.
//!
//! Meant for this machine: the `Host` and `Origin` of a request must name it, so that a page in a browser cannot
//! reach it, and unless it was said otherwise a request must carry the token.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hms_core::{Error, Result, command::CommandContext, os};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{Server, session::Session};
use crate::bearer::{carries, secret};

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 256;
/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(30);
const PATH: &str = "/mcp";

type Service = StreamableHttpService<Session, LocalSessionManager>;

/// Serves clients until the command is cancelled. The address and the token are said on standard error.
pub(crate) async fn serve(
    server: &Arc<Server>,
    cx: &CommandContext,
    address: &str,
    token: Option<String>,
) -> Result<()> {
    let listener =
        TcpListener::bind(address).await.map_err(|e| Error::io(format!("listening at {address}"), &e))?;
    let bound = listener.local_addr().map_err(|e| Error::io("the listener's address", &e))?;
    let token = token_of(token, bound)?;
    announce(server, bound, token.as_deref())?;

    let (gone, client_gone) = watch::channel(false);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(own_names(bound))
        .with_allowed_origins(own_origins(bound));
    let stop = config.cancellation_token.clone();
    let sessions = server.clone();
    let service: Service = StreamableHttpService::new(
        move || Ok(Session::new(sessions.clone(), client_gone.clone())),
        Arc::default(),
        config,
    );
    let token: Option<Arc<str>> = token.map(Arc::from);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cx.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = next(&listener, &room) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (service, token) = (service.clone(), token.clone());
        connections.spawn(async move {
            let answer = service_fn(move |request| answer(service.clone(), token.clone(), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(e) = served {
                tracing::debug!(error = %e, "a connection ended");
            }
            drop(place);
        });
    }
    gone.send_replace(true);
    stop.cancel();
    connections.shutdown().await;
    Ok(())
}

/// The next connection, once there is room for it.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(e) => {
            tracing::warn!(error = %e, "no connection could be accepted");
            // Most often: no descriptor is left. Trying again at once would only burn time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer(
    service: Service,
    token: Option<Arc<str>>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().path() != PATH {
        return Ok(refusal(StatusCode::NOT_FOUND, "MCP is served at /mcp"));
    }
    if let Some(token) = token
        && !carries(request.headers(), &token)
    {
        let mut refused = refusal(StatusCode::UNAUTHORIZED, "send the token as Authorization: Bearer");
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return Ok(refused);
    }
    Ok(service.handle(request).await)
}

fn refusal(status: StatusCode, why: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::from_static(why.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}

/// The token that was asked for; `None` for none. Without one only this machine is served.
fn token_of(said: Option<String>, bound: SocketAddr) -> Result<Option<String>> {
    let said = said.or_else(|| std::env::var("HMS_MCP_TOKEN").ok()).filter(|token| !token.is_empty());
    match said.as_deref() {
        Some("none") if bound.ip().is_loopback() => Ok(None),
        Some("none") => Err(Error::argument("token", format!("may not be none at {bound}"))
            .hint("who is not on this machine must carry a token")),
        Some(token) => Ok(Some(token.to_owned())),
        None => secret().map(Some),
    }
}

fn announce(server: &Server, bound: SocketAddr, token: Option<&str>) -> Result<()> {
    use std::io::Write;
    let [_, _, err] = server.surroundings.stdio;
    let mut err = os::files::lent(err).map_err(|e| Error::io("standard error", &e))?;
    let token = token.map(|token| format!(", token {token}")).unwrap_or_default();
    // Whoever closed standard error does not want to know.
    let _ = writeln!(err, "listening at http://{bound}{PATH}{token}");
    Ok(())
}

/// What the `Host` of a request may be.
fn own_names(bound: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !bound.ip().is_loopback() {
        names.push(bound.ip().to_string());
    }
    names
}

/// What the `Origin` of a request may be, should a browser send one.
fn own_origins(bound: SocketAddr) -> Vec<String> {
    let port = bound.port();
    ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("http://{name}:{port}")).to_vec()
}
