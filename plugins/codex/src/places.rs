//! Where things are: the user's folders, this program, the home. Read once, from what the caller sent
//! of its environment or from the process.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use hms_core::{
    Error, ErrorKind, Result,
    command::{Caller, Surroundings},
};

/// What the first line but one of the shim says, by which it is known.
pub(crate) const SHIM_MARK: &str = "# hms-codex-shim";

/// The user's folders.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The user's folder.
    pub(crate) user: PathBuf,
    /// `CODEX_HOME`.
    pub(crate) codex: PathBuf,
    /// Where Claude Code keeps `.claude.json`.
    pub(crate) claude: PathBuf,
    /// `XDG_CONFIG_HOME`.
    pub(crate) config: PathBuf,
    /// The working directory.
    pub(crate) cwd: PathBuf,
    /// Where programs are looked for.
    pub(crate) path: OsString,
}

/// This program, as others are told to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hms {
    /// Its absolute path: the one on `PATH` if that leads here, so that an upgrade is followed.
    pub(crate) program: PathBuf,
    /// The home, unless it is the one that an empty environment leads to.
    pub(crate) home: Option<PathBuf>,
    /// Whether what is installed may start a host; `None`: as it was installed before, else not.
    pub(crate) starts_host: Option<bool>,
}

impl Places {
    /// As the caller sees them: by the environment and the folder that it sent, else those of this process.
    ///
    /// # Errors
    /// `invalid-config` when there is no `HOME`.
    pub(crate) fn of(caller: &Caller) -> Result<Self> {
        let variable = |name: &str| -> Option<OsString> {
            let value = match &caller.env {
                Some(env) => env.get(name).map(OsString::from),
                None => env::var_os(name),
            };
            value.filter(|value| !value.is_empty())
        };
        let user = variable("HOME").map(PathBuf::from).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "HOME is not set, so that no configuration can be found")
        })?;
        let cwd = match &caller.cwd {
            Some(folder) => PathBuf::from(folder),
            None => env::current_dir().map_err(|e| Error::io("the working directory", &e))?,
        };
        Ok(Self {
            codex: variable("CODEX_HOME").map_or_else(|| user.join(".codex"), |folder| cwd.join(folder)),
            claude: variable("CLAUDE_CONFIG_DIR").map_or_else(|| user.clone(), |folder| cwd.join(folder)),
            config: variable("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .filter(|folder| folder.is_absolute())
                .unwrap_or_else(|| user.join(".config")),
            path: variable("PATH").unwrap_or_default(),
            user,
            cwd,
        })
    }

    /// The first program of this name on `PATH` that `wanted` accepts.
    pub(crate) fn find(&self, name: &str, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let folders = env::split_paths(&self.path).filter(|folder| folder.is_absolute());
        folders.map(|folder| folder.join(name)).find(|file| is_program(file) && wanted(file))
    }

    /// The real codex: not our shim.
    pub(crate) fn real_codex(&self) -> Option<PathBuf> {
        self.find("codex", |file| !is_shim(file))
    }
}

impl Hms {
    /// This program, as a command runs in it.
    ///
    /// # Errors
    /// `not-found` when another program runs the command and there is no `codex-hms` on `PATH`.
    pub(crate) fn of(
        surroundings: &Surroundings,
        places: &Places,
        starts_host: Option<bool>,
    ) -> Result<Self> {
        let running = surroundings.attach.start.as_ref().map(|start| start.program.clone());
        let program = match running.filter(|program| is_hms(program.as_os_str())) {
            Some(program) => stable(&program, places),
            None => places.find("codex-hms", |_| true).ok_or_else(|| {
                Error::not_found("program on PATH named", "codex-hms")
                    .hint("install it: what is written must name a program that stays")
            })?,
        };
        Ok(Self { program, home: unusual(&surroundings.home, &places.user), starts_host })
    }

    /// The same, where what is not decided is as it was.
    pub(crate) fn as_before(&self, starts_host: bool) -> Self {
        Self { starts_host: Some(self.starts_host.unwrap_or(starts_host)), ..self.clone() }
    }

    /// Whether what is installed may start a host.
    pub(crate) fn starts_host(&self) -> bool {
        self.starts_host.unwrap_or(false)
    }

    /// The program's path as text.
    ///
    /// # Errors
    /// `invalid-argument` when it is none.
    pub(crate) fn program(&self) -> Result<String> {
        text_of(&self.program)
    }

    /// The words before a command: the program, and the home where it must be named.
    ///
    /// # Errors
    /// `invalid-argument` when a path is no text.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        let mut words = vec![self.program()?];
        if let Some(home) = &self.home {
            words.extend(["--home".to_owned(), text_of(home)?]);
        }
        Ok(words)
    }
}

/// The path on `PATH` that leads to `program`, else `program`.
fn stable(program: &Path, places: &Places) -> PathBuf {
    let (Some(name), Ok(real)) = (program.file_name().and_then(OsStr::to_str), program.canonicalize()) else {
        return program.to_owned();
    };
    places
        .find(name, |file| file.canonicalize().is_ok_and(|f| f == real))
        .unwrap_or_else(|| program.to_owned())
}

/// The home, unless a process with nothing but `HOME` in its environment finds it too.
fn unusual(home: &Path, user: &Path) -> Option<PathBuf> {
    let usual = user.join(".local/state/hms");
    let usual = usual.canonicalize().unwrap_or(usual);
    (home != usual).then(|| home.to_owned())
}

/// One path for every spelling of it: its folders are what they really are, there or not. The file may be a link, and
/// is not followed.
pub(crate) fn settled(file: &Path) -> PathBuf {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return file.to_owned() };
    folder.canonicalize().unwrap_or_else(|_| settled(folder)).join(name)
}

/// Whether a command names this program.
pub(crate) fn is_hms(command: &OsStr) -> bool {
    Path::new(command).file_name().and_then(OsStr::to_str).is_some_and(|name| name == "codex-hms")
}

/// Whether the file is our shim. Reads its first bytes only.
pub(crate) fn is_shim(file: &Path) -> bool {
    let mut head = [0_u8; 256];
    let read = fs::File::open(file).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    head[..read].windows(SHIM_MARK.len()).any(|window| window == SHIM_MARK.as_bytes())
}

/// Whether this user may run the file.
pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A path as text.
///
/// # Errors
/// `invalid-argument` when it is none.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("{} is not UTF-8 and cannot be written down", path.display()),
        )
    })
}
