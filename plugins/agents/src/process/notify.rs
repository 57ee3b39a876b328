//! The sd_notify protocol: what a program says of itself, by datagrams of `KEY=VALUE` lines.
//!
//! Each agent has one socket, `n-<agent id>` in the system's runtime folder. The path is the same for all
//! lives of the agent and of its host: the next host binds it again, and what writes to it (libsystemd and
//! the many reimplementations connect anew for each message) is heard from then on.
//!
//! Understood: `READY=1`, `STOPPING=1`, `STATUS=…`, `WATCHDOG=1`, `WATCHDOG=trigger`, `WATCHDOG_USEC=n` and
//! `ERRNO=n`. Everything else is ignored, `MAINPID=` too: an agent's main process is the one that was
//! spawned. A descriptor that comes along (`FDSTORE=1`, `BARRIER=1`) is closed by the kernel.
//!
//! A child is told of the socket by `NOTIFY_SOCKET`, and of a watchdog by `WATCHDOG_USEC`. `WATCHDOG_PID` is
//! left out: the pid is not known before the spawn, and without it the variables are for whoever finds them.
//!
//! Who may speak: the socket is 0600 in a folder that only its owner may enter, so whoever can send is the
//! same user or root, and could as well signal the process. The sender's pid is not asked for, so that
//! helpers such as `systemd-notify`, which are gone before they could be looked up, are heard. A process that
//! runs as another user cannot reach the socket.

use std::{
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hms_core::{Error, ErrorKind, Result};
use tokio::net::UnixDatagram;

/// Bytes in a socket's address, its NUL included.
const SOCKET_PATH: usize = 108;
/// Longest datagram that is read; systemd has the same limit.
const LONGEST: usize = 4096;
/// Longest status that is kept, in characters.
const STATUS: usize = 512;

/// What one datagram says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notification {
    /// `READY=1`: it does its work now.
    pub(crate) ready: bool,
    /// `STOPPING=1`: it is about to end.
    pub(crate) stopping: bool,
    /// `WATCHDOG=1`: it is alive.
    pub(crate) watchdog: bool,
    /// `WATCHDOG=trigger`: it asks to be treated as hung.
    pub(crate) watchdog_trigger: bool,
    /// `WATCHDOG_USEC=n`: it will say that it is alive this often from now on.
    pub(crate) watchdog_interval: Option<Duration>,
    /// `STATUS=…`: what it does, for people. Shortened, without control characters.
    pub(crate) status: Option<String>,
    /// `ERRNO=n`: why it fails.
    pub(crate) errno: Option<i32>,
}

impl Notification {
    /// Reads a datagram; `None` when it is none of this protocol, or says nothing that is understood.
    fn parse(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok().filter(|text| !text.contains('\0'))?;
        let mut heard = Self::default();
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=')?;
            match (key, value) {
                ("READY", "1") => heard.ready = true,
                ("STOPPING", "1") => heard.stopping = true,
                ("WATCHDOG", "1") => heard.watchdog = true,
                ("WATCHDOG", "trigger") => heard.watchdog_trigger = true,
                ("WATCHDOG_USEC", usec) => {
                    heard.watchdog_interval = usec.parse().ok().filter(|n| *n > 0).map(Duration::from_micros)
                }
                ("STATUS", status) => {
                    heard.status = Some(status.chars().filter(|c| !c.is_control()).take(STATUS).collect())
                }
                ("ERRNO", errno) => heard.errno = errno.parse().ok(),
                _ => {}
            }
        }
        Some(heard)
    }
}

/// An agent's notify socket. Dropping it leaves the file, for the next host to take its place.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
    ignored: AtomicU64,
}

impl NotifySocket {
    /// Where the socket of an agent is.
    pub(crate) fn path_of(runtime: &Path, agent: &str) -> PathBuf {
        runtime.join(format!("n-{agent}"))
    }

    /// Binds the socket, in place of what an earlier host left. Call within a tokio runtime.
    ///
    /// # Errors
    /// `invalid-config` when the path is too long for a socket, `already-exists` when a file that is no socket
    /// has the name, or what the operating system says.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let context = |e: &io::Error| Error::io(format_args!("notify socket {shown}"), e);
        if path.as_os_str().as_bytes().len() >= SOCKET_PATH {
            let message = format!("notify socket {shown}: the path is longer than {} bytes", SOCKET_PATH - 1);
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint("choose a shorter runtime folder"));
        }
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(|e| context(&e))?
            }
            Ok(_) => {
                let message = format!("notify socket {shown}: something that is no socket has this name");
                return Err(Error::new(ErrorKind::AlreadyExists, message).hint("remove it"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(context(&e)),
        }
        let socket = UnixDatagram::bind(path).map_err(|e| context(&e))?;
        // Between these two calls the folder's mode (0700) keeps others out.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(|e| context(&e))?;
        Ok(Self { path: path.to_owned(), socket, ignored: AtomicU64::new(0) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next thing that is said; what is malformed or too long is counted and passed over. May be
    /// cancelled without losing anything. Should the socket fail, nothing is ever said again.
    pub(crate) async fn next(&self) -> Notification {
        // One byte more than allowed, to tell a long datagram from one that was cut off.
        let mut buffer = [0; LONGEST + 1];
        loop {
            let length = match self.socket.recv(&mut buffer).await {
                Ok(length) => length,
                Err(e) => {
                    tracing::warn!(socket = %self.path.display(), error = %e, "the notify socket failed");
                    return std::future::pending().await;
                }
            };
            let datagram = buffer.get(..length).filter(|datagram| datagram.len() <= LONGEST);
            match datagram.and_then(Notification::parse) {
                Some(heard) => return heard,
                None => {
                    let ignored = self.ignored.fetch_add(1, Ordering::Relaxed) + 1;
                    tracing::debug!(socket = %self.path.display(), length, ignored, "a datagram that is no notification");
                }
            }
        }
    }

    /// How many datagrams were malformed or too long.
    pub(crate) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Removes the file: the agent will not be spoken for again.
    pub(crate) fn remove(path: &Path) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram as Sender;

    use super::*;

    async fn hear(socket: &NotifySocket) -> Notification {
        let heard = tokio::time::timeout(Duration::from_secs(30), socket.next()).await;
        heard.expect("something is heard")
    }

    fn say(path: &Path, datagram: &[u8]) {
        let sender = Sender::unbound().unwrap();
        assert_eq!(sender.send_to(datagram, path).unwrap(), datagram.len());
    }

    #[tokio::test]
    async fn what_programs_say_is_heard_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = NotifySocket::path_of(folder.path(), "abcd");
        let socket = NotifySocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        say(&path, b"READY=1\nSTATUS=Serving \x1b[31mall\nMAINPID=1\nFDNAME=x");
        say(&path, b"WATCHDOG=1\n");
        say(&path, b"WATCHDOG=trigger\nERRNO=5");
        say(&path, b"WATCHDOG_USEC=2500000\nSTOPPING=1");
        say(&path, b"READY=0\nWATCHDOG_USEC=0\nERRNO=x");
        let ready =
            Notification { ready: true, status: Some("Serving [31mall".into()), ..Notification::default() };
        assert_eq!(hear(&socket).await, ready);
        assert_eq!(hear(&socket).await, Notification { watchdog: true, ..Notification::default() });
        assert_eq!(
            hear(&socket).await,
            Notification { watchdog_trigger: true, errno: Some(5), ..Notification::default() }
        );
        let stopping = Notification {
            stopping: true,
            watchdog_interval: Some(Duration::from_millis(2500)),
            ..Notification::default()
        };
        assert_eq!(hear(&socket).await, stopping);
        assert_eq!(hear(&socket).await, Notification::default());
        assert_eq!(socket.ignored(), 0);
    }

    #[tokio::test]
    async fn garbage_is_counted_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(&folder.path().join("n-x")).unwrap();
        let path = socket.path().to_owned();
        let mut huge = b"READY=1\nSTATUS=".to_vec();
        huge.resize(LONGEST + 1, b'x');
        let mut long = b"READY=1\nSTATUS=".to_vec();
        long.resize(LONGEST, b'x');
        // Fewer than the socket's queue holds (net.unix.max_dgram_qlen, 10 by default).
        for datagram in [b"\xff\xfe".as_slice(), b"hello", b"READY=1\0", &huge, &long] {
            say(&path, datagram);
        }
        let heard = hear(&socket).await;
        assert!(heard.ready && heard.status.is_some_and(|status| status.len() == STATUS));
        assert_eq!(socket.ignored(), 4);
    }

    #[tokio::test]
    async fn the_next_host_takes_the_place_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n-x");
        let first = NotifySocket::bind(&path).unwrap();
        drop(first);
        let second = NotifySocket::bind(&path).unwrap();
        say(&path, b"READY=1");
        assert!(hear(&second).await.ready);
        NotifySocket::remove(&path);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_bound_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("n-file");
        std::fs::write(&file, "mine").unwrap();
        let taken = NotifySocket::bind(&file).unwrap_err();
        assert_eq!(taken.kind, ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        let long = NotifySocket::bind(&folder.path().join("n".repeat(108))).unwrap_err();
        assert!(long.message.contains("longer than 107 bytes"), "{long}");
        let nowhere = NotifySocket::bind(&folder.path().join("missing/n-x")).unwrap_err();
        assert_eq!(nowhere.kind, ErrorKind::NotFound);
    }
}
