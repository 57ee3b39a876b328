//! Starting a program.
//!
//! Everything goes through [`std::process::Command`] on its `posix_spawn` path:
//! no fork of a large process, no code between fork and exec. That path is left
//! as soon as a closure, a user, a group or a changed `PATH` together with a
//! bare program name is asked for, which is why the program is looked up here
//! and handed over as an absolute path. Doing so also yields errors that say
//! which file was meant. Only [`Spawn::user`] gives the fast path up.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{Access, FileType, OFlags};
use rustix::process::{Resource, Rlimit};

use crate::exit::Limit;

/// Where bare names are looked for when there is no `PATH`, as in execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What a child reads from.
#[derive(Clone, Copy, Debug, Default)]
pub enum Stdin<'a> {
    /// `/dev/null`.
    #[default]
    Null,
    /// A FIFO (see [`crate::files::mkfifo`]), opened for reading and writing:
    /// the child holds a writing end itself and so never sees end of file, and
    /// any later host can open the FIFO and write.
    Fifo(&'a Path),
}

/// Where a child writes to.
#[derive(Clone, Copy, Debug, Default)]
pub enum Output<'a> {
    /// `/dev/null`.
    #[default]
    Null,
    /// The end of this file, created with mode 0600 when missing. It is not a
    /// pipe: what the child writes survives the host, and the child does not
    /// die of SIGPIPE with it.
    Append(&'a Path),
}

/// A program to start. Fill in the fields, then [`crate::Process::spawn`].
///
/// The child becomes the leader of a process group of its own. Its signal mask
/// is that of the calling thread: call from a thread that blocks no signals.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// A bare name is looked for in the child's `PATH`; a relative path with a
    /// slash counts from `cwd`. It becomes `argv[0]` as it is.
    pub program: &'a OsStr,
    /// The arguments after the program. No shell sees them.
    pub args: &'a [OsString],
    /// Begin with an empty environment instead of this process's.
    pub clear_env: bool,
    /// Variables to set.
    pub env: &'a [(OsString, OsString)],
    /// The working directory; `None`: that of this process.
    pub cwd: Option<&'a Path>,
    /// Standard input.
    pub stdin: Stdin<'a>,
    /// Standard output.
    pub stdout: Output<'a>,
    /// Standard error.
    pub stderr: Output<'a>,
    /// Run as this user and group, with no supplementary groups. Needs root,
    /// and gives up the `posix_spawn` path.
    pub user: Option<(u32, u32)>,
    /// Resource limits: soft, hard; `u64::MAX` is unlimited. They are set by
    /// prlimit(2) right *after* the spawn, so that the program may run a few
    /// instructions without them.
    pub limits: &'a [(Limit, u64, u64)],
}

impl<'a> Spawn<'a> {
    /// This program, without arguments, in this environment and directory,
    /// reading from and writing to `/dev/null`.
    pub fn new(program: &'a (impl AsRef<OsStr> + ?Sized)) -> Self {
        Spawn {
            program: program.as_ref(),
            args: &[],
            clear_env: false,
            env: &[],
            cwd: None,
            stdin: Stdin::Null,
            stdout: Output::Null,
            stderr: Output::Null,
            user: None,
            limits: &[],
        }
    }

    /// The file that would be started, or why none would be: the checks of a
    /// spawn without the spawn.
    pub fn check(&self) -> io::Result<PathBuf> {
        if let Some(cwd) = self.cwd {
            check_cwd(cwd)?;
        }
        self.resolve()
    }

    /// Start it. The child's standard streams are not pipes, so nothing is
    /// lost when the returned [`Child`] is dropped.
    pub(crate) fn start(&self) -> io::Result<Child> {
        let program = self.check()?;
        let mut command = Command::new(&program);
        command
            .arg0(self.program)
            .args(self.args)
            .stdin(self.open_stdin()?)
            .stdout(open_output(self.stdout)?)
            .stderr(open_output(self.stderr)?)
            .process_group(0);
        if self.clear_env {
            command.env_clear();
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = self.cwd {
            command.current_dir(cwd);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.spawn().map_err(|e| self.explain_spawn_error(&program, e))
    }

    /// The absolute path of the program, so that exec need not search.
    fn resolve(&self) -> io::Result<PathBuf> {
        if self.program.is_empty() {
            return Err(error(io::ErrorKind::InvalidInput, "the name of the program is empty".into()));
        }
        if self.program.as_encoded_bytes().contains(&b'/') {
            let path = self.absolute(Path::new(self.program))?;
            check_executable(&path)?;
            return Ok(path);
        }

        let search = self.child_path();
        let mut refused = None;
        for folder in std::env::split_paths(&search) {
            // An empty entry of PATH is the working directory.
            let path = self.absolute(&folder.join(self.program))?;
            match check_executable(&path) {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let name = self.program.display();
            let search = search.display();
            error(io::ErrorKind::NotFound, format!("program '{name}' was not found in PATH ({search})"))
        }))
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        match self.cwd {
            Some(cwd) if path.is_relative() => std::path::absolute(cwd.join(path)),
            _ => std::path::absolute(path),
        }
    }

    /// The PATH that the child will have.
    fn child_path(&self) -> OsString {
        let given = self.env.iter().rev().find(|(name, _)| name == "PATH");
        let inherited = || std::env::var_os("PATH").filter(|_| !self.clear_env);
        given.map(|(_, value)| value.clone()).or_else(inherited).unwrap_or_else(|| DEFAULT_PATH.into())
    }

    fn open_stdin(&self) -> io::Result<Stdio> {
        match self.stdin {
            Stdin::Null => Ok(Stdio::null()),
            Stdin::Fifo(path) => open_fifo_both_ways(path).map(Stdio::from),
        }
    }

    /// What the checks before the spawn could not see.
    fn explain_spawn_error(&self, program: &Path, e: io::Error) -> io::Error {
        let path = program.display();
        let message = match e.kind() {
            // The file itself was there a moment ago.
            io::ErrorKind::NotFound => {
                format!("'{path}' cannot be started: its interpreter or loader is missing")
            }
            io::ErrorKind::PermissionDenied => {
                format!("'{path}' cannot be started: permission denied")
            }
            _ if e.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
                format!("'{path}' cannot be started: it is no program (a script needs a '#!' line)")
            }
            _ => format!("'{path}' cannot be started: {e}"),
        };
        error(e.kind(), message)
    }

    /// Set the limits of the child `pid`. A child that has already ended needs
    /// none.
    pub(crate) fn apply_limits(&self, pid: i32) -> io::Result<()> {
        let infinite = |value: u64| (value != u64::MAX).then_some(value);
        for (limit, soft, hard) in self.limits {
            let wanted = Rlimit { current: infinite(*soft), maximum: infinite(*hard) };
            let pid = rustix::process::Pid::from_raw(pid);
            match rustix::process::prlimit(pid, resource(*limit), wanted) {
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => {
                    let e = io::Error::from(e);
                    return Err(error(
                        e.kind(),
                        format!("limit '{limit}' cannot be set to {soft} (hard {hard}): {e}"),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn resource(limit: Limit) -> Resource {
    match limit {
        Limit::AddressSpace => Resource::As,
        Limit::Core => Resource::Core,
        Limit::Cpu => Resource::Cpu,
        Limit::Data => Resource::Data,
        Limit::FileSize => Resource::Fsize,
        Limit::LockedMemory => Resource::Memlock,
        Limit::OpenFiles => Resource::Nofile,
        Limit::Processes => Resource::Nproc,
        Limit::Stack => Resource::Stack,
    }
}

fn check_cwd(cwd: &Path) -> io::Result<()> {
    let path = cwd.display();
    match std::fs::metadata(cwd) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => {
            Err(error(io::ErrorKind::NotADirectory, format!("working directory '{path}' is not a directory")))
        }
        Err(e) => {
            let why = match e.kind() {
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                _ => format!("cannot be entered: {e}"),
            };
            // Not `NotFound`, which means the program.
            Err(error(io::ErrorKind::NotADirectory, format!("working directory '{path}' {why}")))
        }
    }
}

fn check_executable(path: &Path) -> io::Result<()> {
    let name = path.display();
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            error(io::ErrorKind::NotFound, format!("program '{name}' does not exist"))
        }
        kind => error(kind, format!("program '{name}' cannot be read: {e}")),
    })?;
    if !meta.is_file() {
        return Err(error(io::ErrorKind::PermissionDenied, format!("program '{name}' is not a file")));
    }
    rustix::fs::access(path, Access::EXEC_OK)
        .map_err(|_| error(io::ErrorKind::PermissionDenied, format!("program '{name}' is not executable")))
}

fn open_output(output: Output<'_>) -> io::Result<Stdio> {
    match output {
        Output::Null => Ok(Stdio::null()),
        Output::Append(path) => {
            crate::files::append(path).map(Stdio::from).map_err(|e| about("output file", path, e))
        }
    }
}

fn open_fifo_both_ways(path: &Path) -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|e| about("input FIFO", path, e))?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(error(
            io::ErrorKind::InvalidInput,
            format!("input FIFO '{}' is not a FIFO", path.display()),
        ));
    }
    Ok(file.into())
}

fn about(what: &str, path: &Path, e: io::Error) -> io::Error {
    // Not `NotFound` either: a missing folder is no missing program.
    let kind = match e.kind() {
        io::ErrorKind::NotFound => io::ErrorKind::Other,
        kind => kind,
    };
    error(kind, format!("{what} '{}' cannot be opened: {e}", path.display()))
}

fn error(kind: io::ErrorKind, message: String) -> io::Error {
    io::Error::new(kind, message)
}
