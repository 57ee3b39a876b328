//! Homes that cannot be used: not a folder, not ours to read, taken by another host, on a full disk, with a
//! database that is damaged or of another time. Each is told, and nothing in them is touched.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hms_tests::{Home, PATIENCE, processes, text, until};
use serde_json::json;

#[test]
fn a_home_that_is_no_folder_is_named() {
    let home = Home::new();
    fs::write(home.path(), "a file").expect("it can be written");
    for args in [&["agent", "list"][..], &["system", "run"], &["agent", "create", "process", "--", "true"]] {
        let failure = home.fails(args);
        assert_ne!(failure.kind, "internal", "{failure:?}");
        let words = [text(home.path()), "is not a folder"];
        failure.says(&failure.kind, failure.code, &words).hints(&["HMS_HOME", "--home"]);
    }
    assert_eq!(fs::read_to_string(home.path()).expect("it is there"), "a file");
}

#[test]
fn a_home_below_a_file_is_named() {
    let home = Home::new();
    let file = home.file("file");
    fs::write(&file, "").expect("it can be written");
    let below = file.join("home");
    let failure = home.fails(&["agent", "list", "--home", text(&below)]);
    failure.says(
        &failure.kind,
        failure.code,
        &[text(&below), &format!("{} is not a folder", file.display())],
    );
    home.fails(&["system", "status", "--home", text(&below)])
        .says(&failure.kind, failure.code, &["is not a folder"])
        .hints(&["--home"]);
    // Where nothing can be made.
    let failure = home.fails(&["agent", "list", "--home", "/proc/hms/home"]);
    failure.says(&failure.kind, failure.code, &["/proc/hms/home", "no folder can be made in /proc"]);
}

#[test]
fn a_home_of_somebody_else_is_refused() {
    let home = Home::new();
    fs::create_dir(home.path()).expect("it can be made");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o000)).expect("it is ours");
    if rustix::process::geteuid().is_root() {
        // Root reads everything; as anybody else, with the program where anybody can run it.
        let program = home.file("codex-hms");
        fs::copy(hms_tests::hms_program(), &program).expect("it can be copied");
        for path in [home.around(), &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program);
        command.args(["--json", "agent", "list", "--home"]).arg(home.path()).current_dir("/");
        let output = command.output().expect("setpriv is part of every Linux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("permission-denied") && said.contains(text(home.path())), "{said}");
    } else {
        home.fails(&["agent", "list"]).says("permission-denied", 7, &[text(home.path())]);
    }
    assert!(processes::hosts(home.path()).is_empty());
}

#[test]
fn a_second_host_is_refused_and_the_first_goes_on() {
    let home = Home::new();
    let child = home.process("web", &[], &["sleep", "1000"]);
    let host = home.host();
    home.fails(&["system", "run"])
        .says("home-busy", 6, &["another process owns", text(home.path())])
        .hints(&["attach"]);
    assert_eq!(home.host(), host);
    assert_eq!(home.pid("web"), Some(child));
    assert_eq!(processes::hosts(home.path()), [host]);

    // Twenty who start at once end up at one host.
    home.stop();
    let start = |_| home.command(&["agent", "list"]).stdout(Stdio::null()).spawn().expect("it starts");
    let all: Vec<_> = (0..20).map(start).collect();
    for mut one in all {
        assert!(one.wait().expect("it ends").success());
    }
    assert_eq!(processes::hosts(home.path()).len(), 1);
    assert_eq!(home.processes().len(), 1);
    home.stop();
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let home = Home::new();
    home.process("web", &[], &["sleep", "1000"]);
    home.stop();
    let database = home.path().join("hms.db");
    let good = fs::read(&database).expect("it is there");
    let mut torn = good.clone();
    torn[100..4096].fill(0xA5);
    let other = {
        let path = home.file("other.db");
        let db = rusqlite::Connection::open(&path).expect("it opens");
        db.execute_batch("CREATE TABLE songs (name TEXT)").expect("it can be made");
        drop(db);
        fs::read(path).expect("it is there")
    };
    for (bad, words) in [
        (b"this is not a database, and longer than its header".repeat(4), "not a database"),
        (torn, "malformed"),
        (good[..good.len() / 2].to_vec(), "malformed"),
        (other, "another application"),
    ] {
        fs::write(&database, &bad).expect("it can be written");
        for args in [&["agent", "list"][..], &["system", "run"]] {
            let failure = home.fails(args);
            failure.says("store-corrupt", 8, &[text(&database), words]).hints(&["backups", "system reset"]);
        }
        assert!(fs::read(&database).expect("it is there") == bad, "{words}: it was changed");
        until("the end of who tried", PATIENCE, || processes::hosts(home.path()).is_empty().then_some(()));
    }
    // What the hint says works: a reset puts the damaged file aside.
    let reset = home.json(&["system", "reset", "--yes"]);
    let backup = PathBuf::from(reset["backup"].as_str().expect("a backup"));
    assert!(backup.starts_with(home.path().join("backups")) && backup.is_file(), "{reset}");
    assert_eq!(home.json(&["agent", "list"]), json!([]));
    home.stop();
    // And so does the other way: the good one back in its place.
    fs::write(&database, &good).expect("it can be written");
    assert_eq!(home.agent("web")["name"], "web");
    home.stop();
}

#[test]
fn a_database_of_the_future_is_refused_and_left_as_it_is() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    home.stop();
    let database = home.path().join("hms.db");
    let table = {
        let db = rusqlite::Connection::open(&database).expect("it opens");
        let table: String = db
            .query_row(
                "SELECT name FROM sqlite_schema WHERE sql LIKE '%component%' AND sql LIKE '%version%'",
                [],
                |r| r.get(0),
            )
            .expect("versions are kept in a table");
        db.execute(&format!("UPDATE {table} SET version = 99 WHERE component = 'kernel'"), [])
            .expect("it can be changed");
        table
    };
    let before = fs::read(&database).expect("it is there");
    let failure = home.fails(&["agent", "list"]);
    failure.says("store-newer", 8, &[text(&database), "newer version", "schema 99"]);
    assert!(!failure.hint.is_empty(), "{table}: {failure:?}");
    assert!(fs::read(&database).expect("it is there") == before, "it was changed");
}

#[test]
fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let Some(disk) = SmallDisk::new("a_full_disk_is_told_and_nothing_acknowledged_is_lost") else { return };
    let home = Home::below(disk.path());
    let child = home.process("web", &["--healing", "verify_window=300ms"], &["sleep", "1000"]);
    let filler = disk.path().join("filler");
    fill(&filler);

    let folders = || fs::read_dir(home.path().join("agents")).expect("it is there").count();
    let before = folders();
    for _ in 0..3 {
        let failure = home.fails(&["agent", "create", "process", "--name", "late", "--", "sleep", "1000"]);
        failure.says("disk-full", 8, &[text(home.path())]).hints(&["free space"]);
    }
    assert_eq!(folders(), before, "a refused creation left something");
    assert_eq!(home.json(&["agent", "list"]).as_array().map(Vec::len), Some(1));

    // What lives is kept alive all the same: a respawn needs no disk.
    processes::kill(child);
    until("it is restarted on a full disk", PATIENCE, || {
        home.pid("web").filter(|pid| *pid != child && processes::lives(*pid))
    });

    fs::remove_file(&filler).expect("it is there");
    until("the store writes again", PATIENCE, || {
        home.run(&["agent", "create", "process", "--name", "late", "--", "sleep", "1000"])
            .code
            .filter(|code| *code == 0)
    });
    assert_eq!(home.closed_incident("web")["outcome"], "verified");
    home.ok(&["system", "restart"]);
    assert_eq!(
        home.agent("web")["restarts"],
        1,
        "what happened on the full disk was kept until there was room"
    );
    assert_eq!(home.processes().len(), 2);
    home.stop();

    // A host that has to start on a full disk says so, and starts when there is room.
    fill(&filler);
    home.fails(&["agent", "list"]).says("disk-full", 8, &["hms.db", "full"]).hints(&["free space"]);
    fs::remove_file(&filler).expect("it is there");
    assert_eq!(home.json(&["agent", "list"]).as_array().map(Vec::len), Some(2));
    home.stop();
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("it can be made");
    loop {
        match file.write(&[0; 512]) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::StorageFull => return,
            Err(e) => panic!("{e}"),
        }
    }
}

/// A file system of 1 MB.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one. Who may not mount here may in a namespace of their own: there `test` is run again, and
    /// this gives `None` when it passed.
    fn new(test: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("hms-disk-").tempdir().expect("a folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "hms-test"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        assert!(
            env::var_os("HMS_TEST_NAMESPACE").is_none(),
            "a namespace of its own, and no right to mount in it"
        );
        let mut again = Command::new("unshare");
        again.args(["--user", "--map-root-user", "--mount", "--"]).arg(env::current_exe().expect("a path"));
        again.args(["--exact", test, "--nocapture"]).env("HMS_TEST_NAMESPACE", "1");
        let status = again.status().expect("unshare is part of every Linux");
        assert!(
            status.success(),
            "this test needs the right to mount a tmpfs, as root or in a user namespace"
        );
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
