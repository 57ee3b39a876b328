//! The record of a running child: written right after the spawn, read by the next host.
//!
//! One line: incarnation, whether it was ready, and who it is. It is a plain file rather than a row of the
//! store because a respawn must not wait for the store, and a page-cache write survives `kill -9`.

use std::{io, path::Path};

use hms_core::os::identity::ProcessId;

const FILE: &str = "process";
/// Every record is as long as the next, so that one write replaces it whole.
const LENGTH: usize = 126;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) incarnation: u64,
    pub(super) ready: bool,
    pub(super) id: ProcessId,
}

impl Record {
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        let line = format!("{} {} {}", self.incarnation, u8::from(self.ready), self.id.to_line());
        let padded = format!("{line:<LENGTH$}\n");
        let options = std::fs::OpenOptions::new().write(true).create(true).mode(0o600).clone();
        options.open(dir.join(FILE))?.write_all_at(padded.as_bytes(), 0)
    }

    /// The record in `dir`; `None` when there is none that makes sense.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join(FILE)).ok()?;
        let mut parts = text.trim_end().splitn(3, ' ');
        let incarnation = parts.next()?.parse().ok()?;
        let ready = parts.next()? == "1";
        let id = ProcessId::parse(parts.next()?).ok()?;
        Some(Self { incarnation, ready, id })
    }

    pub(super) fn remove(dir: &Path) {
        let _ = std::fs::remove_file(dir.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()), None);
        let id = ProcessId::of(std::process::id() as i32).unwrap();
        let record = Record { incarnation: 7, ready: true, id };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()), Some(record));
        std::fs::write(dir.path().join(FILE), "7 1").unwrap();
        assert_eq!(Record::read(dir.path()), None);
    }
}
