//! Versions of the schema, per component, forward only.
//!
//! The kernel and each organ own their tables and number their own migrations from 1. All that are missing
//! are applied in one transaction, after a backup if the database existed.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, params};

use super::error::locate;
use crate::error::{Error, ErrorKind, Result};

/// One step of a component's schema: `sql` brings it from `version - 1` to `version`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Who owns the tables: `kernel`, or an organ's id.
    pub component: &'static str,
    /// 1, 2, 3 …, without a gap.
    pub version: u32,
    /// The statements. Run inside a transaction.
    pub sql: &'static str,
}

/// The kernel's own tables.
const KERNEL: &[Migration] = &[Migration {
    component: "kernel",
    version: 1,
    sql: "
        CREATE TABLE agents (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            spec TEXT NOT NULL,
            desired TEXT NOT NULL,
            incarnation INTEGER NOT NULL,
            state TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            updated_ms INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE snapshots (
            agent TEXT PRIMARY KEY REFERENCES agents(id) ON DELETE CASCADE,
            state_version INTEGER NOT NULL,
            data BLOB NOT NULL,
            time_ms INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE journal (
            sequence INTEGER PRIMARY KEY,
            time_ms INTEGER NOT NULL,
            type TEXT NOT NULL,
            subject TEXT,
            event TEXT NOT NULL
        ) STRICT;
        CREATE TABLE history (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ms INTEGER NOT NULL,
            kind TEXT NOT NULL,
            subject TEXT,
            data TEXT NOT NULL
        ) STRICT;
        CREATE INDEX history_subject ON history (subject, id);
        CREATE TABLE kv (
            component TEXT NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (component, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE sequences (
            name TEXT PRIMARY KEY,
            reserved INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE pruned (
            name TEXT PRIMARY KEY,
            through INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
    ",
}];

/// Backups that migrations leave; older ones are removed.
const BACKUPS: usize = 5;

/// What this build's components want the schema to be.
pub(super) struct Plan {
    components: BTreeMap<&'static str, Vec<Migration>>,
}

impl Plan {
    pub(super) fn new(migrations: &[Migration]) -> Result<Self> {
        let mut components: BTreeMap<&'static str, Vec<Migration>> = BTreeMap::new();
        for migration in KERNEL.iter().chain(migrations) {
            let steps = components.entry(migration.component).or_default();
            if migration.version as usize != steps.len() + 1 {
                return Err(Error::internal(format!(
                    "migration {} of `{}` follows {}: versions count 1, 2, 3 …",
                    migration.version,
                    migration.component,
                    steps.len()
                )));
            }
            steps.push(*migration);
        }
        Ok(Self { components })
    }

    /// An error if a component's tables are newer than this build. Components that this build lacks keep
    /// their tables untouched.
    pub(super) fn refuse_newer(&self, connection: &Connection, path: &Path) -> Result<()> {
        for (component, found) in versions(connection)? {
            let Some(steps) = self.components.get(component.as_str()) else { continue };
            if found as usize > steps.len() {
                return Err(Error::new(
                    ErrorKind::StoreNewer,
                    format!(
                        "{}: written by a newer version: `{component}` is at schema {found}, this build knows {}",
                        path.display(),
                        steps.len()
                    ),
                )
                .hint("nothing was changed; use the newer version, or copy back a file from the folder `backups`"));
            }
        }
        Ok(())
    }

    /// Applies what is missing; `existing` names the file to back up first.
    pub(super) fn apply(
        &self,
        connection: &mut Connection,
        existing: Option<&Path>,
        now_ms: u64,
    ) -> Result<()> {
        let found = versions(connection)?;
        let missing: Vec<Migration> = self
            .components
            .iter()
            .flat_map(|(component, steps)| {
                let done = found.get(*component).copied().unwrap_or(0) as usize;
                steps.iter().skip(done).copied()
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(path) = existing.filter(|_| !found.is_empty()) {
            back_up(connection, path, found.get("kernel").copied().unwrap_or(0), now_ms)?;
        }
        let tx = connection.transaction()?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                component TEXT PRIMARY KEY, version INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;",
        )?;
        for migration in missing {
            let Migration { component, version, sql } = migration;
            tx.execute_batch(sql)
                .map_err(|e| Error::from(e).context(format!("migration {version} of `{component}`")))?;
            tx.execute("INSERT OR REPLACE INTO schema_version VALUES (?1, ?2)", params![component, version])?;
        }
        tx.commit()?;
        Ok(())
    }
}

/// The version of each component in the database; empty for a new one.
fn versions(connection: &Connection) -> Result<BTreeMap<String, u32>> {
    let any: Option<i64> = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'", [], |row| row.get(0))
        .optional()?;
    if any.is_none() {
        return Ok(BTreeMap::new());
    }
    let mut statement = connection.prepare("SELECT component, version FROM schema_version")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Copies the database to `backups/hms-<utc>-v<old>.db` beside it.
fn back_up(connection: &Connection, path: &Path, old: u32, now_ms: u64) -> Result<()> {
    let folder = backups(path)?;
    let target = free_name(&folder, &format!("hms-{}-v{old}", stamp(now_ms)));
    // Created first, so that nobody else may read it; SQLite fills an empty file.
    let copied = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&target)
        .map_err(|e| Error::io(format!("cannot create {}", target.display()), &e))
        .and_then(|_| {
            connection
                .execute("VACUUM INTO ?1", [target.to_string_lossy()])
                .map_err(|e| locate(e.into(), &target))
        });
    if let Err(e) = copied {
        let _ = fs::remove_file(&target);
        return Err(e.context("no backup, so the database was not migrated"));
    }
    remove_old(&folder)
}

/// The folder for backups beside the database, created for its owner alone.
pub(super) fn backups(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = path.parent().unwrap_or(Path::new("")).join("backups");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|e| Error::io(format!("cannot create {}", folder.display()), &e))?;
    Ok(folder)
}

/// `<folder>/<stem>.db`, or with a number when that is taken.
pub(super) fn free_name(folder: &Path, stem: &str) -> PathBuf {
    let plain = folder.join(format!("{stem}.db"));
    if !plain.exists() {
        return plain;
    }
    (2u32..).map(|n| folder.join(format!("{stem}.{n}.db"))).find(|name| !name.exists()).unwrap_or(plain)
}

/// UTC, sortable, without characters that a shell minds.
pub(super) fn stamp(now_ms: u64) -> String {
    jiff::Timestamp::from_millisecond(now_ms as i64)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string()
}

/// Keeps the newest backups of migrations; those of a reset are the user's to remove.
fn remove_old(folder: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("cannot list {}", folder.display()), &e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.strip_prefix("hms-").is_some_and(|rest| rest.contains("-v"));
        if ours && name.ends_with(".db") {
            let age = entry.metadata().and_then(|m| m.modified()).map_err(failed)?;
            found.push((age, name));
        }
    }
    found.sort();
    for (_, name) in found.iter().take(found.len().saturating_sub(BACKUPS)) {
        let old = folder.join(name);
        fs::remove_file(&old).map_err(|e| Error::io(format!("cannot remove {}", old.display()), &e))?;
    }
    Ok(())
}
