//! One process at a time, with real ones: spawn, exit, signals, adoption.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::{LONG, args, await_line, await_some, folder, kernel_at_least, sh, tell};
use hms_os::{Exit, Limit, Output, Process, ProcessId, Signal, Spawn, Stdin};

/// Run a shell script and say how it ended.
async fn run(script: &str) -> Exit {
    let process = Process::spawn(&sh(&args(script))).expect("spawn");
    wait(&process).await
}

async fn wait(process: &Process) -> Exit {
    tokio::time::timeout(LONG, process.wait()).await.expect("ends in time").expect("can be waited for")
}

fn exit_code(code: i32) -> Exit {
    Exit { code: Some(code), ..Exit::UNKNOWN }
}

fn ended_by(signal: Signal) -> Exit {
    Exit { signal: Some(signal.number()), ..Exit::UNKNOWN }
}

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    assert_eq!(run("exit 0").await, exit_code(0));
    assert_eq!(run("exit 3").await, exit_code(3));
    assert_eq!(run("kill -KILL $$").await, ended_by(Signal::KILL));

    let process = Process::spawn(&sh(&args("exec sleep 1000"))).expect("spawn");
    assert!(process.is_ours() && process.id().is_alive() && !process.has_ended());
    assert!(process.usage().expect("usage").threads >= 1);
    assert!(process.signal(Signal::TERM).expect("signal"));
    assert_eq!(wait(&process).await, ended_by(Signal::TERM));

    // It can be asked again, and is gone in every other way.
    assert_eq!(wait(&process).await, ended_by(Signal::TERM));
    assert!(process.has_ended() && !process.id().is_alive());
    assert!(!process.signal(Signal::TERM).expect("signal the dead"));
    assert!(!process.signal_group(Signal::TERM).expect("signal the dead"));
    assert_eq!(process.usage(), None);
    assert_eq!(ProcessId::of(process.pid()), None);
}

#[tokio::test]
async fn waiting_may_be_cancelled_and_shared() {
    let process = Process::spawn(&sh(&args("exec sleep 1000"))).expect("spawn");
    let cancelled = tokio::time::timeout(Duration::from_millis(1), process.wait()).await;
    assert!(cancelled.is_err());
    assert_eq!(process.wait_timeout(Duration::from_millis(1)).expect("asks"), None);

    let (one, two, sent) =
        tokio::join!(wait(&process), wait(&process), async { process.signal(Signal::KILL) });
    assert!(sent.expect("signal"));
    assert_eq!((one, two), (ended_by(Signal::KILL), ended_by(Signal::KILL)));
    assert_eq!(process.wait_timeout(LONG).expect("asks"), Some(ended_by(Signal::KILL)));
}

#[test]
fn an_ended_child_leaves_no_zombie_when_dropped() {
    let process = Process::spawn(&sh(&args("exit 0"))).expect("spawn");
    let pid = process.pid();
    await_some(|| process.has_ended().then_some(()));
    assert!(ProcessId::of(pid).is_some(), "a zombie until it is reaped");
    drop(process);
    assert_eq!(ProcessId::of(pid), None);
}

#[tokio::test]
async fn the_exit_of_a_stolen_child_is_known() {
    let process = Process::spawn(&sh(&args("read line; exit 5"))).expect("spawn");
    // The embedding program reaps what is not its own.
    let pid = rustix::process::Pid::from_raw(process.pid());
    let stolen = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
    assert!(stolen.expect("waitpid").is_some());
    let exit = wait(&process).await;
    if kernel_at_least(6, 15) {
        assert_eq!(exit, exit_code(5));
    } else {
        assert_eq!(exit, Exit::UNKNOWN);
    }
}

#[tokio::test]
async fn an_orphan_is_adopted_and_its_exit_known() {
    let folder = folder();
    let (fifo, pid_file) = (folder.path().join("fifo"), folder.path().join("pid"));
    hms_os::files::mkfifo(&fifo).expect("fifo");
    let script = format!(
        "(sh -c 'echo $$ >{pid}; read line <{fifo}; exit 7' & ) ; exit 0",
        pid = pid_file.display(),
        fifo = fifo.display()
    );
    assert_eq!(run(&script).await, exit_code(0));

    let pid: i32 = await_line(&pid_file).parse().expect("pid");
    let id = ProcessId::of(pid).expect("runs");
    let stored = ProcessId::parse(&id.to_line()).expect("stored");
    let process = Process::adopt(&stored).expect("adopt").expect("found");
    assert!(!process.is_ours() && process.id() == id);

    tell(&fifo, "go");
    let exit = wait(&process).await;
    if kernel_at_least(6, 15) {
        assert_eq!(exit, exit_code(7));
    } else {
        assert!(exit == exit_code(7) || exit == Exit::UNKNOWN, "{exit}");
    }
    assert!(Process::adopt(&stored).expect("adopt").is_none());
}

#[tokio::test]
async fn a_child_that_is_adopted_by_its_own_parent_is_reaped() {
    let first = Process::spawn(&Spawn { args: &["300".into()], ..Spawn::new("sleep") }).expect("spawn");
    let id = first.id();
    drop(first);
    let process = Process::adopt(&id).expect("adopt").expect("found");
    assert!(process.is_ours());
    process.signal(Signal::KILL).expect("kill");
    assert_eq!(wait(&process).await.signal, Some(9));
    assert!(ProcessId::of(id.pid).is_none_or(|now| now != id), "a zombie is left");
}

#[test]
fn another_process_with_the_same_pid_is_not_adopted() {
    let own = ProcessId::of(std::process::id() as i32).expect("own");
    let earlier = ProcessId { start_time: own.start_time + 1, ..own };
    let rebooted = ProcessId { boot_id: hms_os::BootId(own.boot_id.0 ^ 1), ..own };
    for other in [earlier, rebooted] {
        assert!(!other.is_alive());
        assert!(Process::adopt(&other).expect("adopt").is_none());
    }
    assert!(own.is_alive());
}

#[test]
fn what_cannot_be_started_is_named() {
    let folder = folder();
    let text = folder.path().join("text");
    fs::write(&text, "no program").expect("write");
    let script = folder.path().join("script");
    fs::write(&script, "#!/missing/interpreter\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");

    let fails = |spawn: &Spawn<'_>| {
        let e = Process::spawn(spawn).expect_err("must not start");
        (e.kind(), e.to_string())
    };
    let expect = |spawn: &Spawn<'_>, kind: ErrorKind, words: &[&str]| {
        let (got, message) = fails(spawn);
        assert_eq!(got, kind, "{message}");
        for word in words {
            assert!(message.contains(word), "{message} lacks {word}");
        }
    };

    let missing = Spawn::new("hms-no-such-program");
    expect(&missing, ErrorKind::NotFound, &["hms-no-such-program", "PATH"]);
    let missing = Spawn::new("/no/such/program");
    expect(&missing, ErrorKind::NotFound, &["/no/such/program"]);
    let not_executable = Spawn::new(&text);
    expect(&not_executable, ErrorKind::PermissionDenied, &["text", "not executable"]);
    let directory = Spawn::new("/usr/");
    expect(&directory, ErrorKind::PermissionDenied, &["not a file"]);
    let no_interpreter = Spawn::new(&script);
    expect(&no_interpreter, ErrorKind::NotFound, &["interpreter"]);

    let nowhere = Spawn { cwd: Some(Path::new("/no/such/folder")), ..Spawn::new("sh") };
    expect(&nowhere, ErrorKind::NotADirectory, &["working directory", "/no/such/folder", "does not exist"]);
    let file_as_cwd = Spawn { cwd: Some(&text), ..Spawn::new("sh") };
    expect(&file_as_cwd, ErrorKind::NotADirectory, &["working directory"]);

    let unwritable = Spawn { stdout: Output::Append(Path::new("/no/such/folder/log")), ..Spawn::new("sh") };
    expect(&unwritable, ErrorKind::Other, &["output file", "/no/such/folder/log"]);
    let no_fifo = Spawn { stdin: Stdin::Fifo(&text), ..Spawn::new("sh") };
    expect(&no_fifo, ErrorKind::InvalidInput, &["not a FIFO"]);
}

#[tokio::test]
async fn environment_folder_and_path_are_the_childs() {
    let folder = folder();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    let tool = bin.join("hms-test-tool");
    fs::write(&tool, "#!/bin/sh\necho \"$0 $ONE ${HOME-none} $(pwd)\"\n").expect("write");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("chmod");
    let log = folder.path().join("log");

    let path = OsString::from(format!("{}:/usr/bin:/bin", bin.display()));
    let env = [("PATH".into(), path), ("ONE".into(), "1".into())];
    let by_name = Spawn {
        clear_env: true,
        env: &env,
        cwd: Some(folder.path()),
        stdout: Output::Append(&log),
        ..Spawn::new("hms-test-tool")
    };
    let process = Process::spawn(&by_name).expect("spawn");
    assert_eq!(wait(&process).await, exit_code(0));

    // A relative path counts from the child's directory.
    let relative = Spawn { program: "bin/hms-test-tool".as_ref(), ..by_name };
    let process = Process::spawn(&relative).expect("spawn");
    assert_eq!(wait(&process).await, exit_code(0));

    let cwd = fs::canonicalize(folder.path()).expect("canonical");
    let line = format!("{} 1 none {}\n", tool.display(), cwd.display());
    assert_eq!(fs::read_to_string(&log).expect("log"), line.repeat(2));
    let mode = fs::metadata(&log).expect("meta").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_fifo_feeds_a_child_that_never_sees_its_end() {
    let folder = folder();
    let (fifo, log) = (folder.path().join("in"), folder.path().join("out"));
    hms_os::files::mkfifo(&fifo).expect("fifo");
    hms_os::files::mkfifo(&fifo).expect("again");
    assert!(hms_os::files::open_fifo_writer(&fifo).is_err(), "no reader");

    let script = args("while read line; do echo \"got $line\"; [ $line = end ] && exit 4; done");
    let spawn = Spawn { stdin: Stdin::Fifo(&fifo), stdout: Output::Append(&log), ..sh(&script) };
    let process = Process::spawn(&spawn).expect("spawn");
    for word in ["one", "end"] {
        // Each writer comes and goes, as hosts do.
        tell(&fifo, word);
    }
    assert_eq!(wait(&process).await, exit_code(4));
    assert_eq!(fs::read_to_string(&log).expect("log"), "got one\ngot end\n");
}

#[tokio::test]
async fn limits_are_set_or_the_child_does_not_run() {
    let folder = folder();
    let (fifo, log) = (folder.path().join("in"), folder.path().join("out"));
    hms_os::files::mkfifo(&fifo).expect("fifo");
    // Waits for a word, so that it looks at its limits after they were set.
    let script = args("read line; ulimit -n; ulimit -c");
    let spawn = Spawn {
        stdin: Stdin::Fifo(&fifo),
        stdout: Output::Append(&log),
        limits: &[(Limit::OpenFiles, 77, 88), (Limit::Core, 0, 0)],
        ..sh(&script)
    };
    let process = Process::spawn(&spawn).expect("spawn");
    tell(&fifo, "go");
    assert_eq!(wait(&process).await, exit_code(0));
    assert_eq!(fs::read_to_string(&log).expect("log"), "77\n0\n");

    let absurd = Spawn { limits: &[(Limit::OpenFiles, 9, 8)], ..sh(&script) };
    let e = Process::spawn(&absurd).expect_err("soft above hard");
    assert!(e.to_string().contains("open_files"), "{e}");
}

#[tokio::test]
async fn a_group_is_signalled_together() {
    let folder = folder();
    let pid_file = folder.path().join("pid");
    let script = args(&format!("sleep 1000 & echo $! >{}; wait", pid_file.display()));
    let process = Process::spawn(&sh(&script)).expect("spawn");
    let child: i32 = await_line(&pid_file).parse().expect("pid");
    let child = Process::adopt(&ProcessId::of(child).expect("runs")).expect("adopt").expect("found");
    let usage = hms_os::tree_usage([process.pid(), child.pid()]);
    assert!(usage.processes == 2 && usage.threads == 2 && usage.rss_bytes > 0);

    assert!(process.signal_group(Signal::KILL).expect("signal"));
    assert_eq!(wait(&process).await, ended_by(Signal::KILL));
    wait(&child).await;
    assert!(!child.id().is_alive());
}

#[tokio::test]
async fn root_can_run_a_child_as_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let log = folder.path().join("log");
    let script = args("id -u; id -g; id -G");
    let spawn = Spawn {
        user: Some((65534, 65533)),
        cwd: Some(Path::new("/")),
        stdout: Output::Append(&log),
        ..sh(&script)
    };
    let process = Process::spawn(&spawn).expect("spawn");
    assert_eq!(wait(&process).await, exit_code(0));
    assert_eq!(fs::read_to_string(&log).expect("log"), "65534\n65533\n65533\n");
}
