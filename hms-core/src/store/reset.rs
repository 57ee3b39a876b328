//! Starting afresh without losing anything: the database is moved aside, not erased.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::migrate::{backups, free_name, stamp};
use crate::error::{Error, Result};

/// The name of the database in its home.
pub const DATABASE: &str = "hms.db";

/// Moves the database of `home` into its folder `backups`; says where it is now, `None` when there was none.
/// The log goes with it, so that the copy is complete after a kill too. The caller owns the home, and no
/// [`Store`](super::Store) is open on it; `now_ms` names the copy.
///
/// # Errors
/// `io`, `permission-denied`: what was not moved is where it was.
pub fn reset(home: &Path, now_ms: u64) -> Result<Option<PathBuf>> {
    let database = home.join(DATABASE);
    if !database.exists() {
        return Ok(None);
    }
    let target = free_name(&backups(&database)?, &format!("hms-{}-reset", stamp(now_ms)));
    // The log first: a database without its log is older, a log without its database is nothing.
    for part in ["-wal", "-journal", ""] {
        let (from, to) = (with_suffix(&database, part), with_suffix(&target, part));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !part.is_empty() => {}
            Err(e) => {
                return Err(Error::io(format!("cannot move {} to {}", from.display(), to.display()), &e));
            }
        }
    }
    // The index of the log is rebuilt from it.
    match fs::remove_file(with_suffix(&database, "-shm")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}-shm", database.display()), &e))
        }
        _ => Ok(Some(target)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
