//! The host: the one process that owns a home, and the socket at which all others attach.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
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

/// Beside the socket: the path of the home whose folder it is.
const WHOSE: &str = "home";

/// A folder that changed since is left alone: its home may be about to be opened.
const LEFT_ALONE: Duration = Duration::from_secs(3600);

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
        claim(runtime_dir, home)?;
        kernel.open(home, runtime_dir).await?;
        let runtime = runtime_dir.to_owned();
        tokio::task::spawn_blocking(move || sweep(&runtime));
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
        // Whoever closes us without having asked: agents may want to know why they are stopped.
        self.kernel.request_shutdown(how);
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
        // The folder stays for those who come too late to be told; a later host sweeps it.
        // The lock goes before the peers learn of the end, so that the first to race finds it free.
        drop(self._lock);
        let finish = |peer: Arc<Connection>| tokio::spawn(async move { peer.finish().await });
        for finishing in peers.into_iter().map(finish).collect::<Vec<_>>() {
            let _ = finishing.await;
        }
        closed
    }
}

/// Makes the folder of a home's sockets ours, and says in it whose it is. Call with the home's lock held: a
/// [`sweep`] may have taken the folder away until then.
///
/// Errors: those of the file system.
pub fn claim(runtime_dir: &Path, home: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |e: std::io::Error| Error::io(format!("runtime folder {}", runtime_dir.display()), &e);
    hms_os::files::create_private_dir(runtime_dir).map_err(failed)?;
    hms_os::files::write_private(&runtime_dir.join(WHOSE), home.as_os_str().as_bytes()).map_err(failed)
}

/// Removes the folders beside `runtime_dir` that homes left which are gone, or that nobody has owned for a while:
/// hosts that are killed leave theirs.
fn sweep(runtime_dir: &Path) {
    let is_ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let Some(above) = runtime_dir.parent().filter(|_| is_ours(runtime_dir)) else { return };
    for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
        let folder = entry.path();
        if folder != runtime_dir && is_ours(&folder) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep_one(&folder);
        }
    }
}

fn sweep_one(folder: &Path) {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let age = std::fs::metadata(folder).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    let is_old = age.is_some_and(|age| age > LEFT_ALONE);
    let Ok(whose) = std::fs::read(folder.join(WHOSE)) else {
        // Made by who only looked for a host; one that is empty serves nobody.
        if is_old {
            let _ = std::fs::remove_dir(folder);
        }
        return;
    };
    let home = Path::new(OsStr::from_bytes(&whose));
    // Held meanwhile: a host that starts now waits its turn, and makes the folder anew.
    let lock = match home.join("lock") {
        lock if lock.exists() => match HomeLock::try_acquire(&lock) {
            Ok(Some(lock)) if is_old => Some(lock),
            _ => return,
        },
        // Gone, or only not to be seen from here: a sandbox has folders of its own, and may share this one.
        lock => match std::fs::symlink_metadata(&lock) {
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound && home.is_absolute() && !is_in_use(folder) =>
            {
                None
            }
            _ => return,
        },
    };
    if let Err(e) = std::fs::remove_dir_all(folder) {
        tracing::debug!(error = %e, "{} could not be swept", folder.display());
    }
    drop(lock);
}

/// Whether somebody listens at a socket in `folder`, whoever that is.
fn is_in_use(folder: &Path) -> bool {
    use std::os::unix::{
        fs::FileTypeExt,
        net::{UnixDatagram, UnixStream},
    };
    let answers = |path: &Path| {
        // A stream or, as those that agents notify at, datagrams; one kind cannot be connected to the other.
        UnixStream::connect(path).is_ok() || UnixDatagram::unbound().is_ok_and(|s| s.connect(path).is_ok())
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .any(|entry| answers(&entry.path()))
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, FileTimes},
        time::SystemTime,
    };

    use super::*;

    #[test]
    fn only_what_nobody_owns_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let run = |n: u8| dir.path().join(format!("{n:016x}"));
        let home = |n: u8| dir.path().join(format!("home-{n}"));
        let long_ago = FileTimes::new().set_modified(SystemTime::now() - 2 * LEFT_ALONE);
        let age = |folder: &Path| fs::File::open(folder).unwrap().set_times(long_ago).unwrap();
        let made = |n: u8| {
            fs::create_dir(home(n)).unwrap();
            let lock = HomeLock::try_acquire(&home(n).join("lock")).unwrap().unwrap();
            claim(&run(n), &home(n)).unwrap();
            fs::write(run(n).join("n-agent"), "").unwrap();
            age(&run(n));
            lock
        };
        let _own = made(1);
        let _owned = made(2);
        drop(made(3)); // killed long ago
        drop(made(4)); // killed just now
        fs::write(run(4).join("just now"), "").unwrap();
        drop(made(5)); // its home is gone
        fs::remove_dir_all(home(5)).unwrap();
        fs::write(run(5).join("just now"), "").unwrap();
        fs::create_dir(run(6)).unwrap(); // of who only looked
        age(&run(6));
        fs::create_dir(run(7)).unwrap();
        drop(made(8)); // its home cannot be seen from here, but it is at work
        fs::remove_dir_all(home(8)).unwrap();
        let _host = std::os::unix::net::UnixListener::bind(run(8).join(SOCKET)).unwrap();
        drop(made(9)); // the same, with no peers
        fs::remove_dir_all(home(9)).unwrap();
        let _notified = std::os::unix::net::UnixDatagram::bind(run(9).join("n-socket")).unwrap();
        let other = dir.path().join("somebody-elses");
        fs::create_dir(&other).unwrap();
        age(&other);

        sweep(&run(1));
        let left: Vec<u8> = (1..=9).filter(|n| run(*n).exists()).collect();
        assert_eq!(left, [1, 2, 4, 7, 8, 9]);
        assert!(other.exists());
        // Where the folder is no home's among others (a test's, say), nothing beside it is touched.
        sweep(&other);
        assert!(run(7).exists());
    }
}
