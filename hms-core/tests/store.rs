//! The store: what is acknowledged stays, what fails fails alone, and what is not ours is left as it is.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use hms_core::{
    Error, ErrorKind,
    clock::{ManualClock, Rng, SystemClock},
    event::{Bus, Data, Event, EventDraft, Subscribe},
    store::{
        Migration, Retention, Store, StoreOptions, agents,
        agents::{AgentRow, SnapshotRow},
        history,
        journal::{BLOCK, Journal, JournalRow},
        kv, reset,
    },
};
use rusqlite::Connection;
use serde_json::json;

const ITEMS: Migration = Migration {
    component: "test",
    version: 1,
    sql: "CREATE TABLE items (n INTEGER PRIMARY KEY, pad BLOB, time_ms INTEGER NOT NULL DEFAULT 0);",
};
const MORE: Migration =
    Migration { component: "test", version: 2, sql: "ALTER TABLE items ADD COLUMN more TEXT;" };

const LONG: Duration = Duration::from_secs(60);

fn insert(c: &Connection, n: i64) -> hms_core::Result<()> {
    c.execute("INSERT INTO items (n) VALUES (?1)", [n])?;
    Ok(())
}

fn count(c: &Connection) -> hms_core::Result<i64> {
    Ok(c.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?)
}

/// Holds the writer inside a job until told to go on, so that what follows queues up behind it.
fn hold(store: &Store) -> mpsc::Sender<()> {
    let (go, gate) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    store.post(move |_| {
        let _ = entered.send(());
        let _ = gate.recv_timeout(LONG);
        Ok(())
    });
    inside.recv_timeout(LONG).unwrap();
    go
}

#[tokio::test]
async fn a_group_shares_one_commit_and_an_error_undoes_its_job_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("hms.db"), &[ITEMS]).unwrap();
    let go = hold(&store);
    let commits = store.stats().commits;
    let good: Vec<_> = (0..100).map(|n| store.write(move |c| insert(c, n))).collect();
    let half = store.write(|c| {
        insert(c, 1000)?;
        Err::<(), _>(Error::argument("x", "no"))
    });
    let twice = store.write(|c| insert(c, 5));
    let panic = store.write(|c| -> hms_core::Result<()> {
        insert(c, 2000)?;
        panic!("boom");
    });
    let last = store.write(|c| {
        insert(c, 100)?;
        count(c)
    });
    go.send(()).unwrap();
    for outcome in good {
        outcome.await.unwrap();
    }
    assert_eq!(half.await.unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(twice.await.unwrap_err().kind, ErrorKind::AlreadyExists);
    let e = panic.await.unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Panic, "a store job panicked: boom"));
    assert_eq!(last.await.unwrap(), 101);
    assert_eq!(store.read(count).await.unwrap(), 101);
    // The held post and everything behind it: two transactions.
    assert_eq!(store.stats().commits, commits + 2);
    store.close().await.unwrap();
}

#[tokio::test]
async fn posts_are_dropped_when_full_and_kept_records_are_refused() {
    let options =
        StoreOptions { post_capacity: 3, kept_capacity: 2, write_capacity: 1, ..Default::default() };
    let store = Store::in_memory_with(&[ITEMS], options).unwrap();
    let go = hold(&store);
    for n in 0..5 {
        store.post(move |c| insert(c, n));
    }
    store.post_kept(|c| insert(c, 10)).unwrap();
    store.post_latest("a", |c| insert(c, 11)).unwrap();
    assert_eq!(store.post_kept(|c| insert(c, 12)).unwrap_err().kind, ErrorKind::QueueFull);
    store.post_latest("a", |c| insert(c, 13)).unwrap();
    let first = store.write(|c| insert(c, 20));
    let second = store.write(|c| insert(c, 21)).await;
    assert_eq!(second.unwrap_err().kind, ErrorKind::QueueFull);
    let stats = store.stats();
    assert_eq!((stats.queued, stats.dropped, stats.lost), (6, 2, 1));
    go.send(()).unwrap();
    first.await.unwrap();
    let found = store
        .read(|c| {
            let mut statement = c.prepare("SELECT n FROM items ORDER BY n")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<rusqlite::Result<Vec<i64>>>()?)
        })
        .await
        .unwrap();
    assert_eq!(found, [0, 1, 2, 10, 13, 20], "the newer of one key replaced the older");
}

#[tokio::test]
async fn a_kept_record_that_can_never_be_stored_is_given_up() {
    let store = Store::in_memory(&[ITEMS]).unwrap();
    store.post_kept(|c| insert(c, 1)).unwrap();
    store.post_kept(|c| insert(c, 1)).unwrap();
    store.post_kept(|c| insert(c, 2)).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.read(count).await.unwrap(), 2);
    let stats = store.stats();
    assert_eq!((stats.lost, stats.last_error.unwrap().kind), (1, ErrorKind::AlreadyExists));
}

#[tokio::test]
async fn a_full_disk_is_said_survived_and_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let clock = ManualClock::shared();
    let options = StoreOptions { clock: clock.clone(), ..Default::default() };
    let store = Store::open_with(&path, &[ITEMS], options).unwrap();
    store.write(|c| insert(c, 1)).await.unwrap();
    store
        .write(|c| {
            let pages: i64 = c.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            c.query_row(&format!("PRAGMA max_page_count = {}", pages + 1), [], |_| Ok(()))?;
            Ok(())
        })
        .await
        .unwrap();

    let big = |n: i64| {
        move |c: &Connection| {
            c.execute("INSERT INTO items (n, pad) VALUES (?1, zeroblob(100000))", [n])?;
            Ok(())
        }
    };
    let e = store.write(big(2)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::DiskFull);
    assert_eq!(e.message, format!("{}: cannot write, the disk is full", path.display()));
    assert!(e.hint.unwrap().contains("free space"));

    // A record to keep waits; others go on, and reads too.
    store.post_kept(big(3)).unwrap();
    assert_eq!(store.flush().await.unwrap_err().kind, ErrorKind::DiskFull);
    store.write(|c| insert(c, 4)).await.unwrap();
    assert_eq!(store.read(count).await.unwrap(), 2);

    // There is space again: what waited is stored without anybody asking twice.
    store
        .write(|c| {
            c.query_row("PRAGMA max_page_count = 100000", [], |_| Ok(()))?;
            Ok(())
        })
        .await
        .unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.read(count).await.unwrap(), 3);
    store.write(big(5)).await.unwrap();
    let stats = store.stats();
    assert_eq!((stats.failing, stats.lost, stats.queued), (false, 0, 0));
    store.close().await.unwrap();
}

#[tokio::test]
async fn close_writes_what_waits_and_leaves_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let store = Store::open(&path, &[ITEMS]).unwrap();
    for n in 0..1000 {
        store.post(move |c| insert(c, n));
    }
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.write(|c| insert(c, 1)).await.unwrap_err().kind, ErrorKind::InvalidState);
    assert_eq!(store.read(count).await.unwrap_err().kind, ErrorKind::InvalidState);
    assert_eq!(store.post_kept(|_| Ok(())).unwrap_err().kind, ErrorKind::InvalidState);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["hms.db"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = Store::open(&path, &[ITEMS]).unwrap();
    assert_eq!(again.read(count).await.unwrap(), 1000);
}

#[tokio::test]
async fn a_read_does_not_wait_for_the_writer_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("hms.db"), &[ITEMS]).unwrap();
    store.write(|c| insert(c, 1)).await.unwrap();
    let go = hold(&store);
    assert_eq!(store.read(count).await.unwrap(), 1);
    assert_eq!(store.read(|c| insert(c, 2)).await.unwrap_err().kind, ErrorKind::PermissionDenied);
    go.send(()).unwrap();
}

/// Opens a file that must be refused and left alone.
fn refused(path: &Path, migrations: &[Migration]) -> Error {
    let before = fs::read(path).unwrap();
    let e = Store::open(path, migrations).expect_err("refused");
    assert_eq!(fs::read(path).unwrap(), before, "untouched");
    assert!(e.message.contains(&path.display().to_string()), "names the file: {e}");
    assert!(!path.with_file_name("backups").exists());
    e
}

#[tokio::test]
async fn what_is_not_a_whole_database_of_ours_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");

    fs::write(&path, vec![0x5a; 20_000]).unwrap();
    let e = refused(&path, &[]);
    assert_eq!(e.kind, ErrorKind::StoreCorrupt);
    assert!(e.hint.unwrap().contains("system reset"));

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x);").unwrap();
    let e = refused(&path, &[]);
    assert_eq!(e.kind, ErrorKind::StoreCorrupt);
    assert!(e.message.ends_with("this is an SQLite database of another application"), "{e}");

    // The first page is whole, its table of contents is not.
    fs::remove_file(&path).unwrap();
    Store::open(&path, &[ITEMS]).unwrap().close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..200].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(refused(&path, &[ITEMS]).kind, ErrorKind::StoreCorrupt);
}

#[tokio::test]
async fn damage_is_looked_for_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let store = Store::open(&path, &[ITEMS]).unwrap();
    store
        .write(|c| {
            for n in 0..2000 {
                c.execute("INSERT INTO items (n, pad) VALUES (?1, randomblob(200))", [n])?;
            }
            Ok(())
        })
        .await
        .unwrap();
    store.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    // A log with content is what a killed host leaves; one with an invalid header says nothing more.
    fs::write(dir.path().join("hms.db-wal"), [0u8; 64]).unwrap();
    let e = refused(&path, &[ITEMS]);
    assert_eq!(e.kind, ErrorKind::StoreCorrupt, "{e}");
    assert_eq!(fs::read(dir.path().join("hms.db-wal")).unwrap(), [0u8; 64]);
}

#[tokio::test]
async fn a_newer_database_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    Store::open(&path, &[ITEMS, MORE]).unwrap().close().await.unwrap();
    let e = refused(&path, &[ITEMS]);
    assert_eq!(e.kind, ErrorKind::StoreNewer);
    assert!(e.message.ends_with("`test` is at schema 2, this build knows 1"), "{e}");
    // A build that lacks the component leaves its tables alone.
    Store::open(&path, &[]).unwrap().close().await.unwrap();
    let again = Store::open(&path, &[ITEMS, MORE]).unwrap();
    assert_eq!(again.read(count).await.unwrap(), 0);
}

#[tokio::test]
async fn a_migration_keeps_a_backup_and_few_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let store = Store::open(&path, &[ITEMS]).unwrap();
    store.write(|c| insert(c, 7)).await.unwrap();
    store.close().await.unwrap();
    assert!(!dir.path().join("backups").exists(), "a new database needs none");

    let wrong = Migration { component: "test", version: 2, sql: "ALTER TABLE absent ADD COLUMN more;" };
    let e = Store::open(&path, &[ITEMS, wrong]).expect_err("a migration that fails");
    assert!(e.message.contains("migration 2 of `test`"), "{e}");
    let store = Store::open(&path, &[ITEMS, MORE]).unwrap();
    assert_eq!(store.read(count).await.unwrap(), 1);
    store.write(|c| Ok(c.execute("UPDATE items SET more = 'x'", []).map(drop)?)).await.unwrap();
    store.close().await.unwrap();

    const OTHERS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    for component in OTHERS {
        let sql = "CREATE TABLE IF NOT EXISTS extra (x);";
        let migrations = [ITEMS, MORE, Migration { component, version: 1, sql }];
        Store::open(&path, &migrations).unwrap().close().await.unwrap();
    }
    let backups: Vec<_> =
        fs::read_dir(dir.path().join("backups")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(backups.len(), 5, "{backups:?}");
    for backup in backups {
        let name = backup.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("hms-") && name.contains("Z-v1"), "{name}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&backup).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let store = Store::open(&backup, &[ITEMS, MORE]).unwrap();
        assert_eq!(store.read(count).await.unwrap(), 1, "a backup is a whole database");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn reset_moves_the_database_aside() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(reset(dir.path(), 0).unwrap(), None);
    let store = Store::open(dir.path().join("hms.db"), &[ITEMS]).unwrap();
    store.write(|c| insert(c, 7)).await.unwrap();
    store.close().await.unwrap();
    let moved = reset(dir.path(), 1_700_000_000_000).unwrap().unwrap();
    assert_eq!(moved, dir.path().join("backups/hms-20231114T221320Z-reset.db"));
    assert!(!dir.path().join("hms.db").exists());
    let old = Store::open(&moved, &[ITEMS]).unwrap();
    assert_eq!(old.read(count).await.unwrap(), 1);
    fs::write(dir.path().join("hms.db"), "garbage").unwrap();
    let second = reset(dir.path(), 1_700_000_000_000).unwrap().unwrap();
    assert_eq!(fs::read(&second).unwrap(), b"garbage");
    assert_ne!(second, moved);
}

#[tokio::test]
async fn tables_are_bounded_by_count_and_age() {
    let clock = ManualClock::shared();
    let by = |max_rows, secs| Retention {
        table: "items",
        key: "n",
        time_ms: "time_ms",
        max_rows,
        max_age: Duration::from_secs(secs),
    };
    let options =
        StoreOptions { clock: clock.clone(), retention: vec![by(1000, 3600)], ..Default::default() };
    let store = Store::in_memory_with(&[ITEMS], options).unwrap();
    let fill = |from: i64, to: i64, time_ms: i64| {
        move |c: &Connection| {
            for n in from..to {
                c.execute("INSERT INTO items (n, time_ms) VALUES (?1, ?2)", [n, time_ms])?;
            }
            Ok(())
        }
    };
    store.write(fill(0, 5000, 0)).await.unwrap();
    // Pruning runs on the writer's thread after a batch, so the second answer comes after the first's pruning;
    // it goes on while nobody waits, hence what is asked is only that it ends.
    settle(&store, 1000).await;
    let oldest: i64 =
        store.read(|c| Ok(c.query_row("SELECT min(n) FROM items", [], |row| row.get(0))?)).await.unwrap();
    assert_eq!(oldest, 4000, "the oldest go");

    clock.advance(Duration::from_secs(7200));
    store.write(fill(5000, 5100, 7_200_000)).await.unwrap();
    store.write(fill(5100, 8000, 7_200_000)).await.unwrap();
    settle(&store, 1000).await;
    store.set_retention(vec![by(1_000_000, 60)]);
    clock.advance(Duration::from_secs(61));
    store.write(fill(8000, 11_000, 7_261_000)).await.unwrap();
    settle(&store, 3000).await;
}

/// Each write wakes the writer, which prunes afterwards: as many as it can take steps are enough.
async fn settle(store: &Store, expected: i64) {
    let mut found = -1;
    for _ in 0..100 {
        store.flush().await.unwrap();
        found = store.read(count).await.unwrap();
        if found == expected {
            return;
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn agents_snapshots_history_and_values_round_trip() {
    let store = Store::in_memory(&[]).unwrap();
    let agent = AgentRow {
        id: "a1".into(),
        name: "web".into(),
        spec: json!({"type": "process"}),
        desired: "running".into(),
        incarnation: 1,
        state: json!({"pid": 7}),
        created_ms: 5,
        updated_ms: 5,
    };
    let (row, same_name) = (agent.clone(), AgentRow { id: "a2".into(), ..agent.clone() });
    store.write(move |c| agents::insert(c, &row)).await.unwrap();
    let e = store.write(move |c| agents::insert(c, &same_name)).await.unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::AlreadyExists, "there is an agent `web` already"));
    let snapshot = SnapshotRow { state_version: 3, data: vec![1, 2], time_ms: 9 };
    let saved = snapshot.clone();
    store
        .write(move |c| {
            assert!(agents::update_spec(c, "a1", &json!({"type": "tcp"}), "stopped", 7)?);
            assert!(agents::update_state(c, "a1", 2, &json!({"pid": 9}), 8)?);
            assert!(!agents::update_state(c, "gone", 2, &json!({}), 8)?, "a destroyed agent is not revived");
            assert!(agents::save_snapshot(c, "a1", &saved)?);
            assert!(agents::save_snapshot(c, "a1", &saved)?);
            assert!(!agents::save_snapshot(c, "gone", &saved)?, "no agent, no snapshot, no error");
            Ok(())
        })
        .await
        .unwrap();
    let expected = AgentRow {
        spec: json!({"type": "tcp"}),
        desired: "stopped".into(),
        incarnation: 2,
        state: json!({"pid": 9}),
        updated_ms: 8,
        ..agent
    };
    assert_eq!(store.read(agents::list).await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(store.read(|c| agents::get(c, "a1")).await.unwrap(), Some(expected));
    assert_eq!(store.read(|c| agents::snapshot(c, "a1")).await.unwrap(), Some(snapshot));
    assert!(store.write(|c| agents::delete(c, "a1")).await.unwrap());
    assert_eq!(store.read(|c| agents::snapshot(c, "a1")).await.unwrap(), None, "it went with its agent");

    store
        .write(|c| {
            kv::set(c, "x", "k", &json!([1]))?;
            kv::set(c, "x", "k", &json!([2]))?;
            kv::set(c, "y", "k", &json!(0))?;
            history::append(c, 1, "config.changed", Some("healing.budget"), &json!({"new": 3}))?;
            history::append(c, 2, "reset", None, &json!({}))
        })
        .await
        .unwrap();
    assert_eq!(store.read(|c| kv::list(c, "x")).await.unwrap(), [("k".to_owned(), json!([2]))]);
    assert!(store.write(|c| kv::delete(c, "x", "k")).await.unwrap());
    assert_eq!(store.read(|c| kv::get(c, "x", "k")).await.unwrap(), None);
    let all = store.read(|c| history::list(c, None, None, 10)).await.unwrap();
    assert_eq!(all.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["reset", "config.changed"]);
    let one = store.read(|c| history::list(c, None, Some("healing.budget"), 10)).await.unwrap();
    assert_eq!(one[0].data, json!({"new": 3}));
}

fn row(sequence: u64, kind: &str) -> JournalRow {
    JournalRow { sequence, time_ms: 1, kind: kind.into(), subject: None, event: "{}".into() }
}

#[tokio::test]
async fn the_journal_replays_what_was_appended_and_numbers_go_on_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let store = Store::open(&path, &[]).unwrap();
    let journal = Journal::open(&store).await.unwrap();
    assert_eq!(journal.next_sequence(), 1);
    let stored = Arc::new(AtomicU64::new(0));
    for n in 1..=100 {
        let kind = if n % 2 == 0 { "even" } else { "odd" };
        let stored = Arc::clone(&stored);
        let ack = (n % 3 == 0).then(|| {
            Box::new(move |outcome: hms_core::Result<()>| {
                outcome.unwrap();
                stored.fetch_add(1, Ordering::SeqCst);
            }) as _
        });
        journal.append_row(row(n, kind), ack);
    }
    let found = journal.read_rows(90, |kind| kind == "even", 3).await.unwrap();
    assert_eq!(found.iter().map(|row| row.sequence).collect::<Vec<_>>(), [92, 94, 96]);
    assert_eq!(stored.load(Ordering::SeqCst), 33);
    journal.close().await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path, &[]).unwrap();
    assert_eq!(Journal::open(&store).await.unwrap().next_sequence(), 101, "no gap after a clean stop");
    store.close().await.unwrap();
    // A host that ended without giving its block back.
    let store = Store::open(&path, &[]).unwrap();
    assert_eq!(Journal::open(&store).await.unwrap().next_sequence(), 101 + BLOCK);
    store.close().await.unwrap();
}

#[tokio::test]
async fn numbers_are_reserved_long_before_they_are_used_up() {
    let store = Store::in_memory(&[]).unwrap();
    let journal = Journal::open(&store).await.unwrap();
    let reserved =
        || store.read(|c| Ok(c.query_row("SELECT reserved FROM sequences", [], |row| row.get::<_, i64>(0))?));
    for used in [1, BLOCK / 2 + 1, BLOCK + 5, 2 * BLOCK, 10 * BLOCK] {
        journal.append_row(row(used, "x"), None);
        store.flush().await.unwrap();
        let left = reserved().await.unwrap() as u64 - used;
        assert!((BLOCK / 2..=BLOCK).contains(&left), "{left} left after {used}");
    }
}

#[tokio::test]
async fn who_waits_for_an_event_is_told_when_the_disk_fails_and_the_event_is_stored_later() {
    let options = StoreOptions { clock: ManualClock::shared(), ..Default::default() };
    let store = Store::in_memory_with(&[], options).unwrap();
    let journal = Journal::open(&store).await.unwrap();
    let limit = |pages: i64| {
        move |c: &Connection| {
            let used: i64 = c.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            Ok(c.query_row(&format!("PRAGMA max_page_count = {}", used + pages), [], |_| Ok(()))?)
        }
    };
    store.write(limit(0)).await.unwrap();
    let (told, answer) = mpsc::channel();
    let ack = Box::new(move |outcome: hms_core::Result<()>| {
        let _ = told.send(outcome);
    });
    let big = JournalRow { event: "x".repeat(100_000), ..row(1, "x") };
    journal.append_row(big, Some(ack));
    assert_eq!(answer.recv_timeout(LONG).unwrap().unwrap_err().kind, ErrorKind::DiskFull);
    let replay = journal.read_rows(0, |_| true, 10).await;
    assert_eq!(replay.unwrap_err().kind, ErrorKind::DiskFull, "a replay does not leave it out");
    store.write(limit(1000)).await.unwrap();
    assert_eq!(journal.read_rows(0, |_| true, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_retention_removed_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let bounds = Retention { max_rows: 100, ..hms_core::store::journal::RETENTION };
    let options =
        || StoreOptions { clock: ManualClock::shared(), retention: vec![bounds], ..Default::default() };
    let store = Store::open_with(&path, &[], options()).unwrap();
    let journal = Journal::open(&store).await.unwrap();
    assert_eq!(journal.pruned_through(), 0);
    for n in 1..=5000 {
        journal.append_row(row(n, "x"), None);
    }
    // Pruning follows a batch, and a flush that finds nothing to do is one; what is written since the last
    // pruning may still be there.
    for _ in 0..100 {
        store.flush().await.unwrap();
    }
    let left = journal.read_rows(0, |_| true, 10_000).await.unwrap();
    let through = journal.pruned_through();
    assert!((100..=100 + 2048 + 512).contains(&left.len()), "{} left", left.len());
    assert_eq!(through + 1, left[0].sequence);
    store.close().await.unwrap();
    let store = Store::open_with(&path, &[], options()).unwrap();
    assert!(Journal::open(&store).await.unwrap().pruned_through() >= through);
}

#[tokio::test]
async fn a_subscription_goes_on_where_it_stopped_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hms.db");
    let seen = |batch: hms_core::event::Batch| -> Vec<(u64, String, Data)> {
        let fields = |e: Arc<Event>| (e.sequence.unwrap(), e.kind.as_str().to_owned(), e.data.clone());
        batch.events.into_iter().map(fields).collect()
    };
    let mut published = Vec::new();
    for round in 0..3u64 {
        let store = Store::open(&path, &[]).unwrap();
        let journal = Arc::new(Journal::open(&store).await.unwrap());
        let bus = Bus::new(SystemClock::shared(), Arc::new(Rng::seeded(round)));
        bus.set_journal(journal.clone(), &["agent.>"], journal.next_sequence()).unwrap();
        bus.publish_journaled(EventDraft::json("agent.started", json!({"round": round}))).await.unwrap();
        let bytes = EventDraft::bytes("agent.output", "text/plain", [round as u8]).subject("a1");
        published.push((2 * round + 1, "agent.started".to_owned(), Data::Json(json!({"round": round}))));
        let event = bus.publish(bytes);
        published.push((2 * round + 2, "agent.output".to_owned(), event.data.clone()));
        bus.publish(EventDraft::json("noise", json!(null)));

        let all = bus.subscribe(Subscribe::to(["agent.>"]).after(0)).unwrap();
        let mut found = Vec::new();
        while found.len() < published.len() {
            found.extend(seen(all.next_batch(100).await.unwrap()));
        }
        assert_eq!(found, published);
        let later = bus.subscribe(Subscribe::to(["agent.output"]).after(2 * round + 1)).unwrap();
        assert_eq!(seen(later.next_batch(100).await.unwrap()), published[published.len() - 1..]);
        bus.close();
        journal.close().await.unwrap();
        store.close().await.unwrap();
    }
}
