//! Streamable HTTP with a handshake and sessions: 2025-03-26 to 2025-11-25.

use std::sync::Arc;

use hyper::{StatusCode, header::HeaderValue};

use super::{
    hosted::{Hosted, Opened},
    http::{Answer, Asked, Front, empty, events, failed, json_answer, problem},
    message::{self, Kind, Message},
    modern,
    session::Session,
    stream::Reading,
};

/// A POST: messages of a client.
pub(super) async fn post(
    front: &Front,
    hosted: &Arc<Hosted>,
    asked: &Asked,
    messages: Vec<Message>,
    batch: bool,
) -> Answer {
    if let [first] = messages.as_slice()
        && first.method == "initialize"
        && first.kind == Kind::Request
    {
        if asked.headers.contains_key("mcp-session-id") {
            return problem(StatusCode::BAD_REQUEST, "this session is initialized already");
        }
        return initialize(hosted, first).await;
    }
    let session = match session(hosted, asked) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    if batch && session.version() != "2025-03-26" {
        return problem(StatusCode::BAD_REQUEST, "batches exist in version 2025-03-26 alone");
    }
    let (requests, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(|m| m.kind == Kind::Request);
    if requests.iter().any(|r| r.method == "initialize") {
        return problem(StatusCode::BAD_REQUEST, "`initialize` must stand alone");
    }
    for message in rest {
        session.unit.pass(session.seat, &message).await;
    }
    if requests.is_empty() {
        return empty(StatusCode::ACCEPTED);
    }
    let Some(stream) = session.open(requests.len()) else {
        return problem(StatusCode::TOO_MANY_REQUESTS, "too many requests of this session are unanswered");
    };
    for request in &requests {
        let sent = match hosted.room_for(&session.unit).await {
            Ok(()) => session.unit.request(Some(session.seat), request, &stream).await.map(drop),
            Err(e) => Err(e),
        };
        if let Err(e) = sent {
            if let ([only], false) = (requests.as_slice(), batch) {
                stream.end();
                return failed(only.id(), &e);
            }
            stream.push(&message::error(request.id(), super::mux::INTERNAL, &e.to_string(), None), true);
        }
    }
    let mut how = reading(front, &session);
    how.hang_up_after = front.poll_after.filter(|_| how.primed);
    match stream.read(0, how) {
        Some(reader) => with_session(events(reader), &session),
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answers were lost"),
    }
}

/// A GET: the stream of what belongs to no request, or the rest of one that was broken off.
pub(super) fn get(front: &Front, hosted: &Arc<Hosted>, asked: &Asked) -> Answer {
    let session = match session(hosted, asked) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    let (number, after) = match asked.header("last-event-id") {
        None => (0, 0),
        Some(id) => match id.split_once('-').map(|(s, a)| (s.parse(), a.parse())) {
            Some((Ok(number), Ok(after))) => (number, after),
            _ => return problem(StatusCode::BAD_REQUEST, "the Last-Event-ID is none of this server's"),
        },
    };
    // Hung up on once: who has come back for the answer is not sent away again.
    let how = reading(front, &session);
    let reader = session.stream(number).and_then(|stream| {
        // The news go on from where they are unless the client says what it has seen.
        let after = if asked.header("last-event-id").is_some() { after } else { stream.seen() };
        stream.read(after, how)
    });
    match reader {
        Some(reader) => with_session(events(reader), &session),
        None => problem(StatusCode::BAD_REQUEST, "what followed this event is not kept any more"),
    }
}

/// A DELETE: the end of a session.
pub(super) fn delete(hosted: &Arc<Hosted>, asked: &Asked) -> Answer {
    match session(hosted, asked) {
        Ok(session) => {
            hosted.close(&session.id);
            empty(StatusCode::OK)
        }
        Err(refused) => *refused,
    }
}

async fn initialize(hosted: &Arc<Hosted>, request: &Message) -> Answer {
    let id = request.id().unwrap_or("null");
    match hosted.open(request).await {
        Ok(Opened::Session(session, hello)) => {
            with_session(json_answer(StatusCode::OK, message::result(id, &hello.result)), &session)
        }
        Ok(Opened::Refused(error)) => json_answer(StatusCode::OK, message::refused(id, &error)),
        Err(e) => failed(Some(id), &e),
    }
}

/// The session that a request names.
fn session(hosted: &Hosted, asked: &Asked) -> Result<Arc<Session>, Box<Answer>> {
    let Some(id) = asked.header("mcp-session-id") else {
        return Err(Box::new(problem(
            StatusCode::BAD_REQUEST,
            "the header Mcp-Session-Id is missing; send `initialize` first",
        )));
    };
    let version = asked.header("mcp-protocol-version");
    if version.is_some_and(|v| !modern::LEGACY.contains(&v)) {
        return Err(Box::new(problem(
            StatusCode::BAD_REQUEST,
            "the header MCP-Protocol-Version names no version of sessions",
        )));
    }
    hosted.session(id).ok_or_else(|| {
        Box::new(problem(StatusCode::NOT_FOUND, "there is no such session; send `initialize` again"))
    })
}

fn reading(front: &Front, session: &Session) -> Reading {
    let primed = session.version().as_str() >= "2025-11-25";
    Reading { ids: true, primed, hang_up_after: None, gone: None, clock: front.clock.clone() }
}

fn with_session(mut answer: Answer, session: &Session) -> Answer {
    if let Ok(id) = HeaderValue::from_str(&session.id) {
        answer.headers_mut().insert("mcp-session-id", id);
    }
    answer
}
