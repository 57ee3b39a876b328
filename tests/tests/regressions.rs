//! What once went wrong, and must not again.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, processes, until};

/// A leftover of an earlier life is ended by the next host, and the life that goes on is not.
#[test]
fn a_leftover_is_swept_and_the_adopted_life_is_not() {
    let home = Home::new();
    let first = home.process("web", &[], &["sh", "-c", "sleep 6171 & wait"]);
    processes::kill(first);
    let second = until("the next life", PATIENCE, || {
        home.processes_of("web").iter().find(|t| t.pid != first && t.incarnation > 1).map(|t| t.pid)
    });
    // Before the sweep of what the first life left.
    processes::kill(home.host());
    for _ in 0..3 {
        home.ok(&["agent", "list"]);
        until("the leftover is gone", PATIENCE, || {
            home.processes_of("web").iter().all(|t| t.incarnation > 1).then_some(())
        });
        thread::sleep(Duration::from_millis(300)); // longer than any sweep is put off
        let row = home.agent("web");
        assert_eq!((row["pid"].as_i64(), row["restarts"].as_u64()), (Some(second.into()), Some(1)), "{row}");
        processes::kill(home.host());
    }
    home.ok(&["agent", "list"]);
    home.stop();
}

/// An update that cannot start changes nothing.
#[test]
fn an_update_that_cannot_start_leaves_what_runs() {
    let home = Home::new();
    let pid = home.process("web", &[], &["sleep", "1000"]);
    for (options, command) in [
        (vec![], "/no/such/program"),
        (vec!["--cwd", "/no/such/folder"], "sleep"),
        (vec!["--user", "no-such-user"], "sleep"),
        (vec!["--env-file", "/no/such/file"], "sleep"),
    ] {
        let mut line = vec!["agent", "create", "process", "--ensure", "--name", "web"];
        line.extend(options);
        line.extend(["--", command, "1000"]);
        home.fails(&line);
        let row = home.status("web", "running");
        assert_eq!(row["pid"], pid, "{line:?}");
        let detail = home.json(&["agent", "status", "web"]);
        assert_eq!(detail["config"]["command"][0], "sleep", "{line:?}");
    }
    home.stop();
}

/// Values of variables are nobody's to read over a shoulder, nor in the history of events.
#[test]
fn variables_are_hidden_where_they_are_shown() {
    let home = Home::new();
    home.process("web", &["--var", "API_KEY=hunter2"], &["sleep", "1000"]);
    let shown = home.ok(&["agent", "status", "web", "--json"]).out
        + &home.ok(&["monitor", "events", "--since-sequence", "0", "--limit", "1", "--json"]).out;
    assert!(shown.contains("API_KEY") && !shown.contains("hunter2"), "{shown}");
    home.stop();
}

/// A reader that goes ends a stream, on both sides.
#[test]
fn a_stream_ends_with_its_reader() {
    let home = Home::new();
    home.process("web", &[], &["sh", "-c", "while :; do echo line; sleep 0.01; done"]);
    let mut following = home
        .command(&["agent", "logs", "web", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(following.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let begun = Instant::now();
    let status = until("it ends", PATIENCE, || following.try_wait().expect("a child of ours"));
    assert!(status.success(), "{status} after {:?}", begun.elapsed());
    home.stop();
}
