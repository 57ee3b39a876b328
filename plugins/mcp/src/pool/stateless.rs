//! Streamable HTTP without sessions: 2026-07-28. Every request says everything itself.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::StatusCode;
use serde_json::Value;

use super::{
    hosted::Hosted,
    http::{Answer, Asked, Front, empty, events, failed, json_answer, problem, refusal},
    message::{Kind, Message},
    modern::{self, Refusal},
    stream::{Full, Reading, Stream},
    unit::{Greeting, Unit},
};

/// What the stream of a request may hold while nobody reads it.
const BYTES: usize = 8 << 20;
/// After how long without a word a stream is opened, so that the connection is kept alive.
const QUIET: Duration = Duration::from_secs(15);

/// A POST: one request, or a notification, of which this version has none.
pub(super) async fn post(
    front: &Front,
    hosted: &Arc<Hosted>,
    asked: Asked,
    messages: Vec<Message>,
    batch: bool,
) -> Answer {
    let request = match messages.as_slice() {
        [one] if !batch && one.kind == Kind::Request => one,
        [one] if !batch && one.kind == Kind::Notification => return empty(StatusCode::ACCEPTED),
        _ => return problem(StatusCode::BAD_REQUEST, "the body must be a single request or notification"),
    };
    let refuse = |r: Refusal| refusal(request.id(), r.code, &r.message, r.data);
    if let Err(refused) = modern::check(&asked.headers, request) {
        return refuse(refused);
    }
    if request.method == "initialize" {
        // A server that speaks sessions too would take it for the beginning of one.
        return refusal(request.id(), -32601, "there is no `initialize` in this version", None);
    }
    let (unit, greeting) = match hosted.modern().await {
        Ok(greeted) => greeted,
        Err(e) => return failed(request.id(), &e),
    };
    let hello = match greeting {
        Greeting::Welcome(hello) => hello,
        Greeting::Refused(error) => {
            // No error of this version, so that a client which also speaks earlier ones goes on with `initialize`.
            let why = error.get("message").and_then(Value::as_str).unwrap_or("no reason");
            let why = format!("this server speaks no version without a handshake ({why})");
            return problem(StatusCode::BAD_REQUEST, &why);
        }
    };
    if let Err(refused) = modern::check_version(request, &hello.value) {
        return refuse(refused);
    }
    if request.method == "tools/call"
        && let Err(refused) = hosted.check_parameters(&unit, &asked.headers, request).await
    {
        return refuse(refused);
    }
    if let Err(e) = hosted.room_for(&unit).await {
        return failed(request.id(), &e);
    }
    let stream = Stream::new(0, BYTES, Full::Lose);
    match unit.request(None, request, &stream).await {
        Ok(number) => answer(front, unit, number, &stream).await,
        Err(e) => failed(request.id(), &e),
    }
}

/// The answer alone where nothing came before it, else the stream.
async fn answer(front: &Front, unit: Arc<Unit>, number: u64, stream: &Arc<Stream>) -> Answer {
    // Closing the connection cancels the request, before the answer begins and after.
    let guard = Arc::new(Cancel { unit, number: Mutex::new(Some(number)) });
    let quiet = front.clock.sleep_until(front.clock.now() + QUIET);
    let first = tokio::select! {
        first = stream.first() => Some(first),
        () = quiet => None,
    };
    let whole = match first {
        Some(Some(text)) => Message::parse(&*text).ok().filter(|m| m.kind == Kind::Response),
        Some(None) => {
            guard.disarm();
            return problem(StatusCode::BAD_GATEWAY, "the server ended the request without an answer");
        }
        None => None,
    };
    if let Some(message) = whole {
        guard.disarm();
        let code = message.error().and_then(|e| e.get("code").and_then(Value::as_i64));
        return json_answer(code.map_or(StatusCode::OK, modern::status), message.text().into());
    }
    let held = guard.clone();
    let gone: Arc<dyn Fn() + Send + Sync> = Arc::new(move || held.cancel());
    let how = Reading {
        ids: false,
        primed: false,
        hang_up_after: None,
        gone: Some(gone),
        clock: front.clock.clone(),
    };
    match stream.read(0, how) {
        Some(reader) => events(reader), // it holds the guard as long as the connection lives
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer was lost"),
    }
}

/// Cancels a request unless it was answered.
struct Cancel {
    unit: Arc<Unit>,
    number: Mutex<Option<u64>>,
}

impl Cancel {
    fn cancel(&self) {
        let number = self.number.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(number) = number {
            self.unit.with(|mux| mux.cancel(number, "the client closed the connection"));
        }
    }

    fn disarm(&self) {
        self.number.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.cancel();
    }
}
