//! What a peer offers: services and commands that live as long as its connection.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use semver::Version;
use serde_json::{Value, json};

use super::Connection;
use crate::{
    Error, ErrorKind, Result,
    command::{CommandContext, Handler},
    service::Service,
};

/// A service whose methods a peer answers.
pub(super) struct PeerService {
    pub(super) id: String,
    pub(super) version: Version,
    pub(super) peer: Weak<Connection>,
}

#[async_trait]
impl Service for PeerService {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        let peer = alive(&self.peer, &self.id)?;
        let params = json!({"id": self.id, "version": self.version, "method": method, "args": args});
        let answer = peer.request("service.invoke", params).await;
        answer.map_err(|e| if peer.is_closed() { gone(&self.id) } else { e })
    }
}

/// A handler that lets a peer run a command of its own.
pub(super) fn peer_command(path: String, peer: Weak<Connection>) -> Handler {
    Arc::new(move |cx: CommandContext, args: Value| {
        let (path, peer) = (path.clone(), peer.clone());
        Box::pin(async move {
            let peer = alive(&peer, &path)?;
            let call = NEXT_CALL.fetch_add(1, Ordering::Relaxed);
            let mut running = Running { peer: &peer, call, answered: false };
            let params = json!({"call": call, "path": path, "args": args, "caller": cx.caller});
            tokio::select! {
                answer = peer.request("command.invoke", params) => {
                    running.answered = true;
                    answer.map_err(|e| if peer.is_closed() { gone(&path) } else { e })
                }
                () = cx.cancelled() => Err(Error::new(ErrorKind::Cancelled, format!("`{path}` was cancelled"))),
            }
        })
    })
}

/// Names runs of peers' commands, so that they can be cancelled.
static NEXT_CALL: AtomicU64 = AtomicU64::new(1);

/// A run at a peer, which is told when nobody waits for it any more.
struct Running<'p> {
    peer: &'p Connection,
    call: u64,
    answered: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // One that has no room for it does not read; it would not stop for this either.
            let _ = self.peer.try_notify("command.cancel", json!({"call": self.call}));
        }
    }
}

fn alive(peer: &Weak<Connection>, what: &str) -> Result<Arc<Connection>> {
    peer.upgrade().filter(|p| !p.is_closed()).ok_or_else(|| gone(what))
}

fn gone(what: &str) -> Error {
    Error::new(ErrorKind::ServiceUnavailable, format!("the peer that offered `{what}` has gone"))
}
