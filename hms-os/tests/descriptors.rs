//! What is known of processes when there is no descriptor left to look with. Alone in its file, because the limit
//! is the whole process's.
#![cfg(target_os = "linux")]

use std::time::Duration;

use hms_os::{Exit, Process, Signal, Spawn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_process_that_cannot_be_looked_at_is_not_taken_for_dead() {
    let child = Process::spawn(&Spawn { args: &["300".into()], ..Spawn::new("sleep") }).expect("spawn");
    let id = child.id();
    let given = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..given }).expect("limit");
    let adopted = Process::adopt(&id).map(|found| found.is_some());
    let signalled = child.signal_group(Signal::KILL);
    setrlimit(Resource::Nofile, given).expect("limit");

    let e = adopted.expect_err("nobody could look");
    assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()), "{e}");
    assert!(signalled.expect("signal"), "its pidfd is there");
    let exit = child.wait_timeout(Duration::from_secs(30)).expect("wait");
    assert_eq!(exit.and_then(|exit: Exit| exit.signal), Some(9));
    assert!(Process::adopt(&id).expect("it can be looked at").is_none());
}
