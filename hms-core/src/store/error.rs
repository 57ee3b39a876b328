//! What SQLite's errors mean to HMS.

use std::{any::Any, path::Path};

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        let kind = match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => ErrorKind::DiskFull,
            // SQLite has no better word for a log's index that does not fit.
            _ if extended_code(&e) == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => ErrorKind::DiskFull,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => ErrorKind::StoreCorrupt,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
            Some(ErrorCode::ConstraintViolation) => match extended_code(&e) {
                Some(
                    rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
                ) => ErrorKind::AlreadyExists,
                _ => ErrorKind::InvalidState,
            },
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory,
            ) => ErrorKind::Io,
            _ if matches!(e, rusqlite::Error::QueryReturnedNoRows) => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("database: {e}"))
    }
}

fn extended_code(e: &rusqlite::Error) -> Option<i32> {
    e.sqlite_error().map(|e| e.extended_code)
}

/// Whether trying again later may help: the disk's fault, not the job's.
pub(super) fn is_transient(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::DiskFull | ErrorKind::Io)
}

/// Names the file in an error that people will read, and says what to do.
pub(super) fn locate(e: Error, path: &Path) -> Error {
    let shown = path.display();
    match e.kind {
        ErrorKind::DiskFull if e.hint.is_none() => {
            let folder = path.parent().unwrap_or(path).display().to_string();
            Error::new(ErrorKind::DiskFull, format!("{shown}: cannot write, the disk is full")).hint(format!(
                "free space on the file system of {folder}; nothing that was acknowledged is lost"
            ))
        }
        ErrorKind::StoreCorrupt if e.hint.is_none() => corrupt(path, &e.message),
        ErrorKind::Io | ErrorKind::PermissionDenied if !e.message.contains(&*shown.to_string()) => {
            e.context(shown)
        }
        _ => e,
    }
}

/// The file cannot be read; it was left as it is.
pub(super) fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::StoreCorrupt, format!("{}: {why}", path.display())).hint(
        "nothing was changed; copy a file from the folder `backups` back in its place, or run \
         `codex-hms system reset`, which moves this one into `backups` and starts afresh",
    )
}

/// The error for a job that panicked.
pub(super) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::new(ErrorKind::Panic, format!("a store job panicked: {said}"))
}
