//! What a host needs from the system: its boot, its runtime directory, who is
//! on the other end of a socket, and the two steps that only a dedicated host
//! process may take ([`raise_nofile`] and [`detach`]).

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit};

use crate::identity::BootId;

/// What fits into `sun_path`, with the NUL at its end.
const SOCKET_PATH: usize = 108;
/// The longest name of a socket in the runtime directory.
pub const SOCKET_NAME: usize = 32;

/// The id of this boot, read once. Zero where the system does not tell.
pub fn boot_id() -> BootId {
    static BOOT: OnceLock<BootId> = OnceLock::new();
    *BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default()
    })
}

/// **For a dedicated host process only**, because it changes the whole process:
/// raise the soft limit of open files to the hard one, so that a thousand
/// children and peers have room. Children inherit it; programs that use
/// select(2) break above 1024 descriptors, so give them the old limit back
/// ([`crate::Spawn::limits`]). Answers the old soft and the hard limit
/// (`u64::MAX` is unlimited), or `None` when there was nothing to raise.
pub fn raise_nofile() -> Option<(u64, u64)> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let (soft, hard) = (value(limit.current), value(limit.maximum));
    if soft >= hard {
        return None;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok()?;
    Some(*ORIGINAL_NOFILE.get_or_init(|| (soft, hard)))
}

static ORIGINAL_NOFILE: OnceLock<(u64, u64)> = OnceLock::new();

/// The soft and hard limit of open files before [`raise_nofile`] raised it; `None` when it did not.
pub fn original_nofile() -> Option<(u64, u64)> {
    ORIGINAL_NOFILE.get().copied()
}

/// **For a dedicated host process only**: leave the terminal and found a new
/// session, so that closing the terminal does not end the host.
///
/// # Errors
/// `PermissionDenied` when this process already leads a process group: start
/// the host as a child that does not.
pub fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Take this program's code and constants out of memory; what is used again comes back from its file, page by
/// page. For a process that has started with much and goes on with little. Answers how many bytes of addresses
/// were let go; 0 when nothing could be.
#[allow(unsafe_code)]
pub fn trim_code() -> usize {
    let (Ok(program), Ok(maps)) = (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/maps"))
    else {
        return 0;
    };
    let mut let_go = 0;
    for map in maps.lines() {
        let mut fields = map.splitn(6, ' ');
        let (Some(range), Some(mode), Some(offset), Some(path)) =
            (fields.next(), fields.next(), fields.next(), fields.nth(2))
        else {
            continue;
        };
        // Of what is only read, the first part alone: the linker has written into another.
        let unwritten = mode == "r-xp" || (mode == "r--p" && offset.bytes().all(|b| b == b'0'));
        if !unwritten || Path::new(path.trim_start()) != program {
            continue;
        }
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((from, to)) = range.split_once('-').and_then(|(a, b)| Some((address(a)?, address(b)?)))
        else {
            continue;
        };
        let start = std::ptr::with_exposed_provenance_mut(from);
        // SAFETY: the kernel has just named this range as a private mapping of our own file, readable and never
        // written to. Its pages are those of the file, and stay so: an access after this reads them again.
        let done = unsafe { rustix::mm::madvise(start, to - from, rustix::mm::Advice::LinuxDontNeed) };
        if done.is_ok() {
            let_go += to - from;
        }
    }
    let_go
}

/// Who is on the other end of a local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its pid when it connected (or listened).
    pub pid: i32,
    /// Its effective user then.
    pub uid: u32,
    /// Its effective group then.
    pub gid: u32,
}

/// Who is on the other end of this connected Unix socket.
///
/// # Errors
/// When it is no such socket.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<PeerCredentials> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCredentials { pid: peer.pid.as_raw_pid(), uid: peer.uid.as_raw(), gid: peer.gid.as_raw() })
}

/// The effective user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The directory for the sockets of a home: made if missing, ours alone (0700),
/// the same for each process of this user, and so short that a name of
/// [`SOCKET_NAME`] bytes in it fits the 108 bytes of a socket's address.
///
/// It is `hms/<hash of the canonical home>` below `$XDG_RUNTIME_DIR`, or below
/// `/run/user/<uid>` when that variable is unset (cron, `su`), else
/// `/tmp/hms-<uid>/<hash>`.
///
/// # Errors
/// When the home cannot be resolved, or a directory on the way is a symbolic link,
/// belongs to somebody else or is open to others. The message names it.
pub fn default_runtime_dir(home: &Path) -> io::Result<PathBuf> {
    let name = hash_of(home)?;
    let uid = own_uid();
    let fallback = || PathBuf::from(format!("/run/user/{uid}"));
    let user = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(fallback, PathBuf::from);

    if user.is_absolute() && check_private(&user, uid).is_ok() {
        let folder = user.join("hms").join(&name);
        if fits_socket(&folder) {
            make_private(&user.join("hms"), uid)?;
            make_private(&folder, uid)?;
            return Ok(folder);
        }
    }
    below_tmp(Path::new("/tmp"), &name, uid)
}

fn below_tmp(tmp: &Path, name: &str, uid: u32) -> io::Result<PathBuf> {
    let user = tmp.join(format!("hms-{uid}"));
    make_private(&user, uid)?;
    let folder = user.join(name);
    make_private(&folder, uid)?;
    Ok(folder)
}

fn fits_socket(folder: &Path) -> bool {
    // A slash between, a NUL behind.
    folder.as_os_str().len() + 1 + SOCKET_NAME < SOCKET_PATH
}

/// 16 hexadecimal digits that stand for the home: FNV-1a, because it must be
/// the same in every process and version, which std's hashers do not promise.
fn hash_of(home: &Path) -> io::Result<String> {
    // A home that is not there yet will be this path, unless a link is made there meanwhile.
    let home = match fs::canonicalize(home) {
        Ok(home) => home,
        Err(e) if e.kind() == io::ErrorKind::NotFound => std::path::absolute(home)?,
        Err(e) => {
            let message = format!("home '{}' cannot be resolved: {e}", home.display());
            return Err(io::Error::new(e.kind(), message));
        }
    };
    let hash = home.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("{hash:016x}"))
}

/// Make the directory with mode 0700, or check that it is one of ours.
fn make_private(folder: &Path, uid: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io::Error::new(
            e.kind(),
            format!("runtime directory '{}' cannot be made: {e}", folder.display()),
        )),
        // Also what was just made is checked: it may have been swapped.
        _ => check_private(folder, uid),
    }
}

fn check_private(folder: &Path, uid: u32) -> io::Result<()> {
    let path = folder.display();
    let refuse = |why: String| {
        let message = format!("runtime directory '{path}' is not safe to use: {why}");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    };
    let meta = fs::symlink_metadata(folder)?;
    if meta.is_symlink() {
        return refuse("it is a symbolic link; remove it".into());
    }
    if !meta.is_dir() {
        return refuse("it is not a directory; remove it".into());
    }
    if meta.uid() != uid {
        return refuse(format!(
            "it belongs to user {}, not to user {uid}; remove it, or set XDG_RUNTIME_DIR to a \
             directory of your own",
            meta.uid()
        ));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return refuse(format!("its mode is {mode:03o} and others may enter; chmod it to 700"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_is_let_go_comes_back() {
        let resident = || crate::usage(std::process::id() as i32).expect("we run").rss_bytes;
        let before = resident();
        assert!(trim_code() > 0);
        assert!(resident() < before, "{} of {before}", resident());
        assert_eq!("still here".to_uppercase(), "STILL HERE");
    }
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_directory_is_private_and_refuses_what_is_not() {
        let tmp = tempfile::tempdir().expect("folder");
        let uid = own_uid();
        let folder = below_tmp(tmp.path(), "abc", uid).expect("made");
        let mode = fs::metadata(&folder).expect("meta").mode() & 0o777;
        assert_eq!(mode, 0o700);
        assert_eq!(below_tmp(tmp.path(), "abc", uid).expect("again"), folder);

        let user = tmp.path().join(format!("hms-{uid}"));
        fs::set_permissions(&user, fs::Permissions::from_mode(0o755)).expect("chmod");
        let loose = below_tmp(tmp.path(), "abc", uid).expect_err("loose");
        assert!(loose.to_string().contains("755"), "{loose}");

        fs::remove_dir_all(&user).expect("remove");
        symlink("/", &user).expect("symlink");
        let link = below_tmp(tmp.path(), "abc", uid).expect_err("link");
        assert!(link.to_string().contains("symbolic link"), "{link}");

        let other = check_private(tmp.path(), uid + 1).expect_err("owner");
        assert!(other.to_string().contains("belongs to user"), "{other}");
    }

    #[test]
    fn homes_have_short_stable_distinct_names() {
        let one = tempfile::tempdir().expect("one");
        let two = tempfile::tempdir().expect("two");
        let link = two.path().join("link");
        symlink(one.path(), &link).expect("symlink");
        let name = hash_of(one.path()).expect("hash");
        assert_eq!(name.len(), 16);
        assert_eq!(hash_of(&link).expect("by link"), name);
        assert_ne!(hash_of(two.path()).expect("hash"), name);
        let later = two.path().canonicalize().expect("canonical").join("later");
        let before = hash_of(&later).expect("hash of what is missing");
        std::fs::create_dir(&later).expect("mkdir");
        assert_eq!(hash_of(&later).expect("hash"), before);

        let long = PathBuf::from("/").join("x".repeat(75));
        assert!(!fits_socket(&long));
        assert!(fits_socket(Path::new("/tmp/hms-4294967295/0123456789abcdef")));
    }

    #[test]
    fn the_runtime_directory_of_a_home_is_usable() {
        let home = tempfile::tempdir().expect("home");
        let folder = default_runtime_dir(home.path()).expect("folder");
        assert_eq!(default_runtime_dir(home.path()).expect("again"), folder);
        assert!(fits_socket(&folder));
        let name = "s".repeat(SOCKET_NAME);
        let socket = std::os::unix::net::UnixListener::bind(folder.join(name)).expect("bind");
        drop(socket);
        fs::remove_dir_all(&folder).expect("remove");
    }

    #[test]
    fn a_peer_is_known() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
        let peer = peer_credentials(&a).expect("peer");
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, own_uid());
    }
}
