//! The host: the one process that owns a home, and the socket at which all others attach.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hms_os::files::HomeLock;
use serde_json::json;
use tokio::net::UnixListener;

use crate::{
    Error, ErrorKind, Kernel, Result,
    agent::Stop,
    event::EventDraft,
    peer::{self, Connection, SOCKET},
};

/// Beside the socket: the last host was stopped on purpose, so that no peer starts the next one by itself.
pub(crate) const STOPPED: &str = "stopped";

/// A process that owns a home.
pub struct Host {
    kernel: Kernel,
    socket: PathBuf,
    peers: Arc<Mutex<Vec<Weak<Connection>>>>,
    accepting: tokio::task::AbortHandle,
    _lock: HomeLock,
}

impl Host {
    /// Takes the home's lock, opens the kernel on it and listens.
    ///
    /// Errors: `home-busy` when another process owns the home; what opening the store or reading the
    /// configuration reports. An error changes nothing.
    pub async fn open(kernel: Kernel, home: &Path, runtime_dir: &Path) -> Result<Self> {
        hms_os::files::create_private_dir(home).map_err(|e| {
            Error::io(format!("home {}", home.display()), &e).hint("name another one with HMS_HOME or --home")
        })?;
        let lock_path = home.join("lock");
        let lock = HomeLock::try_acquire(&lock_path)
            .map_err(|e| Error::io(lock_path.display(), &e))?
            .ok_or_else(|| {
                Error::new(ErrorKind::HomeBusy, format!("another process owns {}", home.display()))
                    .hint("attach to it instead: every command does so by itself")
            })?;
        kernel.open(home, runtime_dir).await?;
        let socket = runtime_dir.join(SOCKET);
        let listener = match listen(&socket) {
            Ok(listener) => listener,
            Err(e) => {
                let _ = kernel.close(Stop::Detach).await;
                return Err(e);
            }
        };
        let _ = std::fs::remove_file(runtime_dir.join(STOPPED));
        let peers: Arc<Mutex<Vec<Weak<Connection>>>> = Arc::default();
        let accepting = tokio::spawn(accept(kernel.clone(), listener, peers.clone())).abort_handle();
        let data = json!({"pid": std::process::id(), "version": env!("CARGO_PKG_VERSION")});
        kernel.publish(EventDraft::json("system.host.started", data).source("/host"));
        Ok(Self { kernel, socket, peers, accepting, _lock: lock })
    }

    /// The system.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Serves until somebody asks for the end, then ends in that way.
    pub async fn serve(self) -> Result<()> {
        let how = self.kernel.shutdown_requested().await;
        self.close(how).await
    }

    /// Ends: tells the peers, stops or lets go of the agents, closes the store, gives the home up.
    pub async fn close(self, how: Stop) -> Result<()> {
        self.accepting.abort();
        let restart = how == Stop::Detach;
        let data = json!({"pid": std::process::id(), "agents_stay": restart});
        self.kernel.publish(EventDraft::json("system.host.stopping", data).source("/host"));
        let peers = std::mem::take(&mut *self.peers.lock().unwrap_or_else(PoisonError::into_inner));
        let peers: Vec<_> = peers.iter().filter_map(Weak::upgrade).collect();
        if !restart {
            // For those whose queue is full, or who are not running just now: the message may not reach them.
            let marker = self.socket.with_file_name(STOPPED);
            if let Err(e) = hms_os::files::write_private(&marker, b"") {
                tracing::warn!(error = %e, "{} could not be written: a peer may start the next host", marker.display());
            }
        }
        for peer in &peers {
            let _ = peer.try_notify("host.stopping", json!({"restart": restart}));
        }
        let closed = self.kernel.close(how).await;
        let _ = std::fs::remove_file(&self.socket);
        if let (false, Some(dir)) = (restart, self.socket.parent()) {
            // Only when it is empty: agents that go on may have sockets in it.
            let _ = std::fs::remove_dir(dir);
        }
        // The lock goes before the peers learn of the end, so that the first to race finds it free.
        drop(self._lock);
        let finish = |peer: Arc<Connection>| tokio::spawn(async move { peer.finish().await });
        for finishing in peers.into_iter().map(finish).collect::<Vec<_>>() {
            let _ = finishing.await;
        }
        closed
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    // We own the home, so a socket that is there is a dead host's.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(socket.display(), &e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket)
        .map_err(|e| Error::io(format!("listening at {}", socket.display()), &e))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| Error::io(socket.display(), &e))?;
    Ok(listener)
}

async fn accept(kernel: Kernel, listener: UnixListener, peers: Arc<Mutex<Vec<Weak<Connection>>>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = peer::serve(kernel.clone(), stream);
                let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
                peers.retain(|p| p.strong_count() > 0);
                peers.push(Arc::downgrade(&peer));
            }
            Err(e) => {
                // Out of descriptors, most likely: give others time to close some.
                tracing::warn!(error = %e, "a peer could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
