//! Which home is meant, and where its sockets are.

use std::path::{Path, PathBuf};

use hms_core::{Error, Result};

/// The home to use: `named`, else `HMS_HOME`, else `hms` in the XDG state folder.
///
/// The result is absolute and, where the folder exists, canonical, so that every process that means the
/// same home agrees on its sockets and tokens.
pub fn resolve(named: Option<&Path>) -> Result<PathBuf> {
    let home = match named.map(Path::to_owned).or_else(|| variable("HMS_HOME")) {
        Some(home) => home,
        None => default_home()?,
    };
    let absolute =
        std::path::absolute(&home).map_err(|e| Error::io(format!("home {}", home.display()), &e))?;
    Ok(absolute.canonicalize().unwrap_or(absolute))
}

/// The home of commands that need none, where none can be found: a name, and no folder.
pub(crate) fn nowhere() -> PathBuf {
    std::env::temp_dir().join(format!("hms-{}", hms_core::os::host::own_uid())).join("nowhere")
}

/// The same, with the folder made if it is not there.
pub fn prepare(named: Option<&Path>) -> Result<PathBuf> {
    let home = resolve(named)?;
    hms_core::os::files::create_private_dir(&home).map_err(|e| unusable(&home, &e))?;
    resolve(Some(&home))
}

/// Why there is no home at `home`, in words that name what stands in the way.
fn unusable(home: &Path, e: &std::io::Error) -> Error {
    let kind = Error::io("", e).kind;
    let there = home.ancestors().find(|folder| folder.exists()).unwrap_or(home);
    let what = match there {
        _ if there == home && home.is_dir() => {
            return Error::io(format!("home {}", home.display()), e).hint(OTHER);
        }
        _ if there == home => "it is not a folder".to_owned(),
        file if !file.is_dir() => format!("{} is not a folder", file.display()),
        folder => format!("no folder can be made in {}: {e}", folder.display()),
    };
    Error::new(kind, format!("home {} cannot be used: {what}", home.display())).hint(OTHER)
}

const OTHER: &str = "name another one with HMS_HOME or --home";

/// The folder of a home's sockets.
pub fn runtime_dir(home: &Path) -> Result<PathBuf> {
    if home.exists() && !home.is_dir() || home.parent().is_some_and(|above| above.exists() && !above.is_dir())
    {
        return Err(unusable(home, &std::io::ErrorKind::NotADirectory.into()));
    }
    hms_core::os::host::default_runtime_dir(home)
        .map_err(|e| Error::io(format!("runtime folder of {}", home.display()), &e))
}

fn default_home() -> Result<PathBuf> {
    variable("XDG_STATE_HOME")
        .filter(|p| p.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("hms"))
        .ok_or_else(|| {
            Error::new(
                hms_core::ErrorKind::InvalidConfig,
                "there is no home: neither HMS_HOME, XDG_STATE_HOME nor HOME is set",
            )
        })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}
