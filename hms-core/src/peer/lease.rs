//! What a peer offers: services and commands that live as long as its connection.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
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
    pub(super) peer: Weak<Connection>,
}

#[async_trait]
impl Service for PeerService {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        let peer = alive(&self.peer, &self.id)?;
        peer.request("service.invoke", json!({"id": self.id, "method": method, "args": args})).await.map_err(
            |e| {
                if peer.is_closed() { gone(&self.id) } else { e }
            },
        )
    }
}

/// A handler that lets a peer run a command of its own.
pub(super) fn peer_command(path: String, peer: Weak<Connection>) -> Handler {
    Arc::new(move |cx: CommandContext, args: Value| {
        let (path, peer) = (path.clone(), peer.clone());
        Box::pin(async move {
            let peer = alive(&peer, &path)?;
            let params = json!({"path": path, "args": args, "caller": cx.caller});
            tokio::select! {
                answer = peer.request("command.invoke", params) => answer,
                () = cx.cancelled() => Err(Error::new(ErrorKind::Cancelled, format!("`{path}` was cancelled"))),
            }
        })
    })
}

fn alive(peer: &Weak<Connection>, what: &str) -> Result<Arc<Connection>> {
    peer.upgrade().filter(|p| !p.is_closed()).ok_or_else(|| gone(what))
}

fn gone(what: &str) -> Error {
    Error::new(ErrorKind::ServiceUnavailable, format!("the peer that offered `{what}` has gone"))
}
