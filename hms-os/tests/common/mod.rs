//! What the tests share: scripts, and waiting for what they write.
#![allow(dead_code)]

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use hms_os::Spawn;

/// Long enough for a machine that is busy with something else.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(crate) fn args(script: &str) -> [OsString; 2] {
    ["-c".into(), script.into()]
}

pub(crate) fn sh(args: &[OsString]) -> Spawn<'_> {
    Spawn { args, ..Spawn::new("sh") }
}

/// The first line of a file, once it is complete.
pub(crate) fn await_line(path: &Path) -> String {
    await_some(|| {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_once('\n').map(|(line, _)| line.to_owned())
    })
}

/// Ask again until there is an answer.
pub(crate) fn await_some<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer in {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= (major, minor)
}

/// Write a line into a FIFO, once somebody reads it.
pub(crate) fn tell(fifo: &Path, line: &str) {
    let mut writer = await_some(|| hms_os::files::open_fifo_writer(fifo).ok());
    std::io::Write::write_all(&mut writer, format!("{line}\n").as_bytes()).expect("write");
}
