//! Files, locks and watches, on a real file system.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use common::{LONG, args, await_line, folder, sh};
use hms_os::files::{append, data_start, mkfifo, punch_head, write_private};
use hms_os::{Change, Changes, FileWatch, HomeLock, Process, Signal, WatchId};

#[test]
fn a_punched_head_keeps_size_and_offsets() {
    let folder = folder();
    let path = folder.path().join("log");
    let mut log = append(&path).expect("open");
    let block = [b'x'; 64 * 1024];
    for _ in 0..4 {
        log.write_all(&block).expect("write");
    }
    log.sync_all().expect("sync");
    let before = log.metadata().expect("meta");
    assert_eq!(data_start(&log).expect("start"), 0);

    let cut = 128 * 1024;
    assert_eq!(punch_head(&log, 0).expect("nothing"), 0);
    assert_eq!(punch_head(&log, 100).expect("no whole block"), 0);
    assert_eq!(punch_head(&log, cut + 100).expect("punch"), cut);
    log.write_all(b"end").expect("append goes on");

    let after = log.metadata().expect("meta");
    assert_eq!(after.len(), 4 * 64 * 1024 + 3);
    assert!(after.blocks() < before.blocks(), "no block was given back");
    assert_eq!(data_start(&log).expect("start"), cut);
    let reader = fs::File::open(&path).expect("reader");
    let mut edge = [0u8; 4];
    reader.read_exact_at(&mut edge, cut - 2).expect("read");
    assert_eq!(&edge, b"\0\0xx");
    reader.read_exact_at(&mut edge[..3], after.len() - 3).expect("read");
    assert_eq!(&edge[..3], b"end");

    // All but the block that the child still writes to.
    let end = punch_head(&log, after.len()).expect("all");
    assert_eq!(end, 256 * 1024);
    assert_eq!(data_start(&log).expect("start"), end);

    // A file that is all hole begins at its end.
    let hole = append(&folder.path().join("hole")).expect("open");
    hole.set_len(1 << 20).expect("grow");
    assert_eq!(data_start(&hole).expect("start"), 1 << 20);
}

#[test]
fn a_lock_is_held_against_other_processes_and_ends_with_its_holder() {
    let folder = folder();
    let path = folder.path().join("lock");
    let lock = HomeLock::try_acquire(&path).expect("open").expect("free");
    assert!(HomeLock::try_acquire(&path).expect("open").is_none());
    assert_eq!(fs::metadata(&path).expect("meta").len(), 0);

    let test = args(&format!("flock -n {} true", path.display()));
    let in_another_process = || {
        let process = Process::spawn(&sh(&test)).expect("spawn");
        process.wait_timeout(LONG).expect("asks").expect("ends")
    };
    assert!(!in_another_process().success());
    drop(lock);
    assert!(in_another_process().success());

    // A holder that is killed holds no more.
    let ready = folder.path().join("ready");
    let hold =
        args(&format!("exec 9>>{}; flock 9; echo yes >{}; exec sleep 1000", path.display(), ready.display()));
    let holder = Process::spawn(&sh(&hold)).expect("spawn");
    await_line(&ready);
    assert!(HomeLock::try_acquire(&path).expect("open").is_none());
    holder.signal(Signal::KILL).expect("signal");
    holder.wait_timeout(LONG).expect("asks").expect("ends");
    assert!(HomeLock::try_acquire(&path).expect("open").is_some());
}

#[test]
fn a_lock_that_cannot_be_opened_is_an_error() {
    let folder = folder();
    assert!(HomeLock::try_acquire(&folder.path().join("no/lock")).is_err());
}

#[test]
fn private_files_are_replaced_in_one_step() {
    let folder = folder();
    let path = folder.path().join("env");
    write_private(&path, b"one").expect("write");
    let held = fs::File::open(&path).expect("held");
    write_private(&path, b"two").expect("replace");
    assert_eq!(fs::read(&path).expect("read"), b"two");
    let mut old = [0u8; 3];
    held.read_exact_at(&mut old, 0).expect("read");
    assert_eq!(&old, b"one");
    let mode = fs::metadata(&path).expect("meta").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A failure leaves nothing behind.
    fs::create_dir(folder.path().join("dir")).expect("dir");
    assert!(write_private(&folder.path().join("dir"), b"x").is_err());
    assert!(write_private(&folder.path().join("no/env"), b"x").is_err());
    assert!(write_private(std::path::Path::new("/"), b"x").is_err());
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2);
}

#[test]
fn a_fifo_takes_no_other_files_place() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "").expect("write");
    let e = mkfifo(&path).expect_err("a file is there");
    assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(hms_os::files::open_fifo_writer(&path).is_err());
}

async fn changes(watch: &FileWatch) -> Vec<Change> {
    let changed = tokio::time::timeout(LONG, watch.changed());
    match changed.await.expect("in time").expect("read") {
        Changes::Files(changes) => changes,
        Changes::Overflow => panic!("no overflow was caused"),
    }
}

/// The change of one file, after all changes that are there were merged.
async fn change_of(watch: &FileWatch, id: WatchId) -> Change {
    let all = changes(watch).await;
    *all.iter().find(|c| c.watch == id).expect("this one changed")
}

#[tokio::test]
async fn changes_are_told_once_a_file() {
    let folder = folder();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let mut log = append(&one).expect("one");
    append(&two).expect("two");
    let watch = FileWatch::new().expect("watch");
    let (first, second) = (watch.add(&one).expect("add"), watch.add(&two).expect("add"));
    assert_eq!(watch.add(&one).expect("again"), first);
    assert_ne!(first, second);
    assert!(watch.add(&folder.path().join("none")).is_err());

    for _ in 0..3 {
        log.write_all(b"line\n").expect("write");
    }
    fs::write(&two, "x").expect("write");
    let all = changes(&watch).await;
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|c| c.modified && !c.entries && !c.gone));

    // A change wakes one who waits already.
    let (change, ()) = tokio::join!(change_of(&watch, first), async {
        tokio::task::yield_now().await;
        log.write_all(b"line\n").expect("write");
    });
    assert!(change.modified);

    fs::rename(&one, folder.path().join("moved")).expect("rename");
    assert!(change_of(&watch, first).await.gone);
    fs::remove_file(&two).expect("remove");
    assert!(change_of(&watch, second).await.gone);

    watch.remove(first);
    watch.remove(first);
    assert!(change_of(&watch, first).await.gone);
    log.write_all(b"unseen\n").expect("write");

    let entries = watch.add(folder.path()).expect("add folder");
    append(&folder.path().join("new")).expect("new");
    let all = changes(&watch).await;
    assert_eq!(all.len(), 1);
    assert!(all[0].watch == entries && all[0].entries);
}

#[tokio::test]
async fn a_lost_event_is_reported() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("limit");
    let limit: usize = limit.trim().parse().expect("number");
    if limit > 100_000 {
        // It would take too long to fill the queue.
        return;
    }
    let folder = folder();
    let files = [folder.path().join("a"), folder.path().join("b")];
    let open = files.each_ref().map(|path| append(path).expect("open"));
    let watch = FileWatch::new().expect("watch");
    for path in &files {
        watch.add(path).expect("add");
    }
    // By turns, because equal events in a row are merged by the kernel.
    for n in 0..limit + 2 {
        (&open[n % 2]).write_all(b"x").expect("write");
    }
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let changed = tokio::time::timeout_at(deadline, watch.changed());
        if changed.await.expect("in time").expect("read") == Changes::Overflow {
            break;
        }
    }
}
