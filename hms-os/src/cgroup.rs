//! A control group of one's own, where one is delegated.
//!
//! No process leaves a cgroup without the right to, whatever it does to its
//! session, parents and environment, and `cgroup.kill` ends all members in one
//! step. So where the cgroup v2 directory of this process is writable (a
//! systemd user service, `Delegate=yes`, a container with its own hierarchy),
//! each agent gets a child of it. Everywhere else [`Cgroup::create`] answers
//! `None` and [`crate::tree`] works from tokens, sessions and ancestry alone.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Access;

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// No sane tree of control groups is larger.
const MAX_GROUPS: usize = 4096;

/// A cgroup v2 directory that this process may use as it likes.
///
/// Dropping it removes nothing; the directory is found again by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Make (or find) the cgroup `name` below that of this process. `name` may
    /// have several parts (`hms-3f2a/web`). `None` where that is not possible.
    pub fn create(name: &str) -> Option<Cgroup> {
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return None;
        }
        let path = own_directory()?.join(relative);
        fs::create_dir_all(&path).ok()?;
        let group = Cgroup::open(&path);
        if group.is_none() {
            // It cannot be used, so leave nothing behind.
            let _ = fs::remove_dir(&path);
        }
        group
    }

    /// The cgroup at this path, as an earlier host made it. `None` when it is
    /// gone, is no cgroup v2 directory, has no `cgroup.kill` (before Linux
    /// 5.14) or may not be written.
    pub fn open(path: &Path) -> Option<Cgroup> {
        let magic = rustix::fs::statfs(path).ok()?.f_type as u64;
        let usable = |file: &str| rustix::fs::access(path.join(file), Access::WRITE_OK).is_ok();
        (magic == CGROUP2_MAGIC && usable("cgroup.kill") && usable("cgroup.procs"))
            .then(|| Cgroup { path: path.to_path_buf() })
    }

    /// Its directory, to be stored and given to [`Cgroup::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Move a process into it. What the process forked before stays where it
    /// was.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// SIGKILL everything in it and below it, in one step.
    ///
    /// # Errors
    /// When it is gone.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// The processes in it and below it.
    pub fn pids(&self) -> Vec<i32> {
        self.groups()
            .iter()
            .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
            .flat_map(|list| {
                let pids = list.lines().filter_map(|line| line.trim().parse().ok());
                pids.collect::<Vec<i32>>()
            })
            .filter(|pid| *pid > 0)
            .collect()
    }

    /// Remove it and those below it. It must be empty. That it is gone already
    /// is no error.
    ///
    /// # Errors
    /// `ResourceBusy` while a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        for group in self.groups().iter().rev() {
            match fs::remove_dir(group) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Its directory and those below it, parents before children.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = VecDeque::from([self.path.clone()]);
        while let Some(group) = open.pop_front() {
            if found.len() == MAX_GROUPS {
                break;
            }
            for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push_back(entry.path());
                }
            }
            found.push(group);
        }
        found
    }
}

/// The cgroup v2 directory that this process is in; `None` where there is none.
fn own_directory() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    locate(&cgroups, &mounts)
}

/// Join the cgroup path with the place where that hierarchy is mounted: at
/// `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` in the hybrid layout.
fn locate(cgroups: &str, mounts: &str) -> Option<PathBuf> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        // 36 35 98:0 /root /mount/point options [optional…] - fstype source …
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        // Of a container, only a part of the hierarchy may be mounted.
        let below = Path::new(own).strip_prefix(&root).ok()?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| point.join(below))
    })
}

/// Undo the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_found_in_each_layout() {
        let unified = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "24 1 0:20 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      25 1 0:22 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let part = "25 1 0:22 /docker/abc /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n";

        let found = |own: &str, mounts: &str| locate(own, mounts);
        assert_eq!(
            found("0::/user.slice/x.scope\n", unified),
            Some("/sys/fs/cgroup/user.slice/x.scope".into())
        );
        assert_eq!(found("4:cpu:/a\n0::/\n", hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found("0::/docker/abc/d\n", part), Some("/sys/fs/c g/d".into()));
        assert_eq!(found("0::/elsewhere\n", part), None);
        assert_eq!(found("0::/../up\n", unified), None);
        assert_eq!(found("4:cpu:/a\n", hybrid), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "/abs", "../up", "a/../../b", "."] {
            assert_eq!(Cgroup::create(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_plain_directory_is_no_cgroup() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(Cgroup::open(folder.path()), None);
    }
}
