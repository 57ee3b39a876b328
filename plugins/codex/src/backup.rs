//! Files of other programs: read whole, replaced in one step, and remembered as they were.
//!
//! What was done to a file is in a *record* below the home, `codex/installs/`, and the file as it was is beside it
//! in `codex/backups/`. Both are the owner's alone: configurations hold secrets.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use hms_core::{Error, ErrorKind, Result, os};
use serde::{Deserialize, Serialize};

/// What an entry said before it was wrapped, in the very words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The project; empty: all.
    pub(crate) scope: String,
    /// The server.
    pub(crate) name: String,
    /// The value of `command`.
    pub(crate) command: String,
    /// The value of `args`; `None` when there was no such key.
    pub(crate) args: Option<String>,
}

/// What was done to a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The file.
    pub(crate) file: PathBuf,
    /// The client.
    pub(crate) client: String,
    /// What it held without us; `None`: it was not there.
    pub(crate) original: Option<String>,
    /// What it held when we were done.
    pub(crate) written: String,
    /// The copy of it as it was, for people.
    pub(crate) backup: Option<PathBuf>,
    /// The entries that were wrapped.
    pub(crate) saved: Vec<Saved>,
    /// What `notify` said, where it was changed; empty: there was none.
    pub(crate) notify: Option<String>,
    /// Whether what is installed may start a host.
    #[serde(default)]
    pub(crate) starts_host: bool,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The version that did it.
    pub(crate) version: String,
}

/// The records of a home.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those below `home`.
    pub(crate) fn of(home: &Path) -> Self {
        Self { folder: home.join("codex") }
    }

    /// The record of a file, if there is one that can be read.
    pub(crate) fn get(&self, file: &Path) -> Option<Record> {
        let text = fs::read(self.path(file)).ok()?;
        serde_json::from_slice::<Record>(&text).ok().filter(|record| record.file == file)
    }

    /// Remembers; a copy of what the file held goes to the backups first, if there was anything.
    ///
    /// # Errors
    /// When the home cannot be written.
    pub(crate) fn put(&self, record: &mut Record) -> Result<()> {
        let failed = |what: &Path, e: &io::Error| Error::io(format!("cannot write {}", what.display()), e);
        for folder in [self.folder.clone(), self.folder.join("installs"), self.folder.join("backups")] {
            os::files::create_private_dir(&folder).map_err(|e| failed(&folder, &e))?;
        }
        if let Some(original) = &record.original {
            let name = record.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let copy = self.folder.join("backups").join(format!("{}-{name}", id(&record.file)));
            os::files::write_private(&copy, original.as_bytes()).map_err(|e| failed(&copy, &e))?;
            record.backup = Some(copy);
        }
        let path = self.path(&record.file);
        let text =
            serde_json::to_vec_pretty(record).map_err(|e| Error::internal(format!("a record: {e}")))?;
        os::files::write_private(&path, &text).map_err(|e| failed(&path, &e))
    }

    /// Forgets a file; its copy too, when the file is as it was.
    pub(crate) fn forget(&self, record: &Record, restored: bool) {
        // What cannot be removed does no harm: it is overwritten by the next installation.
        let _ = fs::remove_file(self.path(&record.file));
        if let Some(copy) = record.backup.as_ref().filter(|_| restored) {
            let _ = fs::remove_file(copy);
        }
    }

    fn path(&self, file: &Path) -> PathBuf {
        self.folder.join("installs").join(format!("{}.json", id(file)))
    }
}

/// A short name for a path: FNV-1a, which stays the same from version to version.
fn id(file: &Path) -> String {
    let bytes = file.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What the file holds; `None` when it is not there.
///
/// # Errors
/// When it cannot be read, or is not text.
pub(crate) fn read(file: &Path) -> Result<Option<String>> {
    match fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
            Error::new(ErrorKind::InvalidConfig, format!("{}:{line}: the file is not UTF-8", file.display()))
                .hint("nothing was changed")
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("cannot read {}", file.display()), &e)),
    }
}

/// Replaces what the file held (`old`; `None`: it was not there) by `new` (`None`: it shall not be there), in one
/// step: readers see the one or the other. A link stays a link, mode and owner stay.
///
/// # Errors
/// `invalid-state` when somebody changed the file since it was read; what the system says otherwise. The file is
/// then as it was.
pub(crate) fn replace(file: &Path, old: Option<&str>, new: Option<&str>) -> Result<()> {
    let failed = |e: &io::Error| Error::io(format!("cannot write {}", file.display()), e);
    let target = target_of(file).map_err(|e| failed(&e))?;
    let Some(new) = new else {
        unchanged(file, old)?;
        return match fs::remove_file(&target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&e)),
            _ => Ok(()),
        };
    };
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    }
    let fresh = beside(&target);
    let written = write_fresh(&fresh, &target, new.as_bytes()).map_err(|e| failed(&e)).and_then(|()| {
        unchanged(file, old)?;
        fs::rename(&fresh, &target).map_err(|e| failed(&e))
    });
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn unchanged(file: &Path, old: Option<&str>) -> Result<()> {
    if read(file)?.as_deref() == old {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidState, format!("{}: somebody changed it meanwhile", file.display()))
        .hint("nothing was changed: try again"))
}

/// Where a file really is: behind its links, also when nothing is there yet.
fn target_of(file: &Path) -> io::Result<PathBuf> {
    if let Ok(real) = file.canonicalize() {
        return Ok(real);
    }
    let mut at = file.to_owned();
    for _ in 0..40 {
        match fs::read_link(&at) {
            Ok(next) => at = at.parent().unwrap_or(Path::new("/")).join(next),
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::other("too many links"))
}

fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.hms-{}", std::process::id()))
}

fn write_fresh(fresh: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(bytes)?;
    if let Ok(old) = fs::metadata(target) {
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        // Only root meets somebody else's file here and may write it; it stays theirs.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.sync_all()
}
