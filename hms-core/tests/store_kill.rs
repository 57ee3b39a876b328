//! `kill -9` at random moments: what was acknowledged is there, and no sequence number comes twice.
//!
//! The parent test starts this very test binary again as a child that opens the store, writes, and says on
//! stdout what was acknowledged and which numbers it handed out; then it kills it.

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hms_core::{
    clock::Rng,
    store::{
        Migration, Store,
        journal::{Journal, JournalRow},
    },
};

const HOME: &str = "HMS_STORE_KILL_HOME";
const ROUNDS: u64 = 20;

const ITEMS: Migration = Migration {
    component: "test",
    version: 1,
    sql: "CREATE TABLE items (n INTEGER PRIMARY KEY, pad BLOB NOT NULL);",
};

fn database(home: &Path) -> PathBuf {
    home.join("hms.db")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The pipe breaks when the parent has read enough.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Not a test of its own: what the parent starts, which ends only by being killed.
#[test]
#[ignore = "started by `what_was_acknowledged_survives_a_kill`"]
fn child() {
    let Some(home) = env::var_os(HOME).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(database(&home), &[ITEMS]).unwrap();
        let journal = Journal::open(&store).await.unwrap();
        let first = store
            .read(|c| Ok(c.query_row("SELECT ifnull(max(n), 0) + 1 FROM items", [], |row| row.get(0))?))
            .await
            .unwrap();
        for (sequence, n) in (journal.next_sequence()..).zip(first..i64::MAX) {
            // Handed out before it is stored, as a live subscriber sees it.
            say(&format!("\nseq {sequence}\n"));
            let event = "{}".to_owned();
            let row = JournalRow { sequence, time_ms: 0, kind: "x".into(), subject: None, event };
            journal.append_row(row, None);
            let stored = store.write(move |c| {
                c.execute("INSERT INTO items VALUES (?1, randomblob(300))", [n])?;
                Ok(())
            });
            if n % 4 == 0 {
                stored.await.unwrap();
                say(&format!("\nack {n}\n"));
            } else {
                tokio::spawn(async move {
                    stored.await.unwrap();
                    say(&format!("\nack {n}\n"));
                });
            }
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let home = tempfile::tempdir().unwrap();
    let seed = Rng::from_os().next_u64();
    let rng = Rng::seeded(seed);
    let mut acknowledged: HashSet<i64> = HashSet::new();
    let mut highest = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(HOME, home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let enough = 1 + rng.next_u64() % 2000;
        let (mut heard, mut numbers, mut line) = (0, Vec::new(), String::new());
        let mut killed = false;
        // What is in the pipe when the child dies was said by it, so it counts: read to the end.
        loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                break;
            }
            if !line.ends_with('\n') {
                break;
            }
            match line.trim_end().split_once(' ') {
                Some(("ack", n)) => {
                    acknowledged.insert(n.parse().unwrap());
                    heard += 1;
                }
                Some(("seq", n)) => numbers.push(n.parse::<u64>().unwrap()),
                _ => {}
            }
            if heard >= enough && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        let status = child.wait().unwrap();
        assert!(
            killed && !status.success(),
            "round {round}, seed {seed}: the child ended by itself: {status}"
        );
        let first = *numbers.first().unwrap();
        assert!(first > highest, "round {round}, seed {seed}: {first} after {highest}");
        highest = *numbers.iter().max().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(database(home.path()), &[ITEMS]).unwrap();
        let found: HashSet<i64> = store
            .read(|c| {
                let mut statement = c.prepare("SELECT n FROM items")?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
            .unwrap();
        let missing: Vec<_> = acknowledged.difference(&found).collect();
        assert!(acknowledged.len() as u64 >= ROUNDS && missing.is_empty(), "seed {seed}: lost {missing:?}");
        let whole: String =
            store.read(|c| Ok(c.query_row("PRAGMA integrity_check", [], |row| row.get(0))?)).await.unwrap();
        assert_eq!(whole, "ok");
        let next = Journal::open(&store).await.unwrap().next_sequence();
        assert!(next > highest, "seed {seed}: {next} after {highest}");
        store.close().await.unwrap();
    });
}
